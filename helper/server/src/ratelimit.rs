// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines that a client or the device can trigger come at most once a second per kind and per
//! client or VF; the number of those left out is part of the next one.

use std::collections::HashMap;
use std::time::Instant;

use virtio_pf::{RateLimit, INTERVAL};

use crate::peer::Account;

/// Kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
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

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// A client.
    Peer(Account),
    /// A VF.
    Vf(u16),
    /// The helper itself, or any that is one too many to be told apart.
    Any,
}

/// Most limiters. When all are in use, those who come later share one for each kind.
const MOST: usize = 4096;

/// A limiter for each.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    limits: HashMap<(Kind, About), (Instant, RateLimit)>,
    /// Left out by limiters that are gone.
    forgotten: u64,
}

impl RateLimits {
    /// Whether such a line may be written now; if so, how many were left out before it.
    pub fn allow(&mut self, kind: Kind, about: About, now: Instant) -> Option<u64> {
        let mut key = (kind, about);
        if self.limits.len() >= MOST && !self.limits.contains_key(&key) {
            let mut forgotten = 0;
            self.limits.retain(|_, (used, limit)| {
                let stays = now.saturating_duration_since(*used) < INTERVAL;
                forgotten += if stays { 0 } else { limit.pending() };
                stays
            });
            self.forgotten += forgotten;
            if self.limits.len() >= MOST {
                key.1 = About::Any;
            }
        }
        let (used, limit) = self
            .limits
            .entry(key)
            .or_insert((now, RateLimit::default()));
        *used = now;
        limit.allow(now)
    }

    /// Lines left out that no later line has told yet.
    pub fn pending(&self) -> u64 {
        let waiting: u64 = self.limits.values().map(|(_, limit)| limit.pending()).sum();
        self.forgotten + waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(pid: i32) -> About {
        About::Peer(Account { uid: 1, pid })
    }

    #[test]
    fn one_line_a_second_of_each_kind_and_client_and_the_rest_counted() {
        let mut r = RateLimits::default();
        let t = Instant::now();
        assert_eq!(r.allow(Kind::Device, About::Vf(1), t), Some(0));
        for ms in 1..1000 {
            let t = t + Duration::from_millis(ms);
            assert_eq!(r.allow(Kind::Device, About::Vf(1), t), None);
        }
        assert_eq!(r.pending(), 999);
        // Others are heard.
        assert_eq!(r.allow(Kind::Device, About::Vf(2), t), Some(0));
        assert_eq!(r.allow(Kind::Slow, peer(1), t), Some(0));
        assert_eq!(r.allow(Kind::Slow, peer(2), t), Some(0));
        assert_eq!(r.allow(Kind::Device, About::Vf(1), t + INTERVAL), Some(999));
        assert_eq!(r.pending(), 0);
    }

    #[test]
    fn many_clients_need_no_more_memory_than_some() {
        let mut r = RateLimits::default();
        let t = Instant::now();
        let told = (0..10_000).filter(|pid| r.allow(Kind::Slow, peer(*pid), t).is_some());
        assert_eq!(told.count(), MOST + 1);
        assert_eq!(r.limits.len(), MOST + 1);
        let left_out = 10_000 - MOST as u64 - 1;
        assert_eq!(r.pending(), left_out);
        assert_eq!(r.allow(Kind::Slow, peer(-1), t + INTERVAL), Some(0));
        assert_eq!((r.limits.len(), r.pending()), (1, left_out));
    }
}
