// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines that a client or the device can trigger come at most once a second per kind; the
//! number of those left out is part of the next one.

use std::time::Instant;

use virtio_pf::RateLimit;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Kinds of lines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];
        }
    };
}

kinds! {
    /// A client connected.
    Connect,
    /// A client left.
    Disconnect,
    /// A client opened a VF.
    Open,
    /// An OPEN, HELLO or TOKEN was refused.
    Refused,
    /// Bytes that are not a request.
    BadMessage,
    /// A client does not read, or says nothing.
    Slow,
    /// The device refused a command.
    Device,
    /// A command timed out.
    TimedOut,
    /// Any other failed access.
    Access,
    /// A socket call failed.
    Socket,
    /// A limit was reached.
    TooMany,
}

/// A limiter for each kind.
#[derive(Clone, Debug)]
pub struct RateLimits {
    by_kind: Vec<RateLimit>,
}

impl Default for RateLimits {
    fn default() -> Self {
        RateLimits {
            by_kind: vec![RateLimit::default(); Kind::ALL.len()],
        }
    }
}

impl RateLimits {
    /// Whether a line of this kind may be written now; if so, how many were left out before it.
    pub fn allow(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        self.by_kind.get_mut(kind as usize)?.allow(now)
    }

    /// Lines left out that no later line has told yet.
    pub fn pending(&self) -> u64 {
        self.by_kind.iter().map(RateLimit::pending).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use virtio_pf::INTERVAL;

    #[test]
    fn one_line_a_second_per_kind_and_the_rest_counted() {
        let mut r = RateLimits::default();
        let t = Instant::now();
        for kind in Kind::ALL {
            assert_eq!(r.allow(*kind, t), Some(0));
        }
        for ms in 1..1000 {
            assert_eq!(r.allow(Kind::Device, t + Duration::from_millis(ms)), None);
        }
        assert_eq!(r.pending(), 999);
        assert_eq!(r.allow(Kind::Device, t + INTERVAL), Some(999));
        assert_eq!(r.allow(Kind::TimedOut, t + INTERVAL), Some(0));
        assert_eq!(r.pending(), 0);
    }
}
