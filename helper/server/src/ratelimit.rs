// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines that a client or the device can trigger come at most once a second per kind; the
//! number of those left out is part of the next one.

use std::time::{Duration, Instant};

/// Time between two lines of a kind.
pub const INTERVAL: Duration = Duration::from_secs(1);

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

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    last: Option<Instant>,
    suppressed: u64,
}

/// One limiter for all kinds.
#[derive(Clone, Debug)]
pub struct RateLimit {
    slots: Vec<Slot>,
}

impl Default for RateLimit {
    fn default() -> Self {
        RateLimit {
            slots: vec![Slot::default(); Kind::ALL.len()],
        }
    }
}

impl RateLimit {
    /// Whether a line of this kind may be written now; if so, how many were left out before it.
    pub fn allow(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        let slot = self.slots.get_mut(kind as usize)?;
        if slot
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < INTERVAL)
        {
            slot.suppressed += 1;
            return None;
        }
        slot.last = Some(now);
        Some(std::mem::take(&mut slot.suppressed))
    }

    /// Lines left out that no later line has told yet.
    pub fn pending(&self) -> u64 {
        self.slots.iter().map(|s| s.suppressed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_per_kind_and_the_rest_counted() {
        let mut r = RateLimit::default();
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
