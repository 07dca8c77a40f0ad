// SPDX-License-Identifier: GPL-2.0-or-later
//! How often something may happen for each of many: so many at once, then one per interval.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Most that are told apart. Further ones are not limited while all of these are busy.
const MOST: usize = 1024;

/// The pace of each `K`.
#[derive(Clone, Debug)]
pub struct Paces<K> {
    interval: Duration,
    ahead: Duration,
    /// When the next is due that would come at the plain interval. What is over says nothing.
    due: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Paces<K> {
    /// `burst` at once, then one per `interval`.
    pub fn new(interval: Duration, burst: u32) -> Self {
        Paces {
            interval,
            ahead: interval * burst.saturating_sub(1),
            due: HashMap::new(),
        }
    }

    /// How long the next of this key has to wait. `None`, and it does not count, if that is longer
    /// than `longest`.
    pub fn wait(&mut self, key: K, now: Instant, longest: Duration) -> Option<Duration> {
        let due = self.due.get(&key).map_or(now, |due| (*due).max(now));
        let wait = due
            .saturating_duration_since(now)
            .saturating_sub(self.ahead);
        if wait > longest {
            return None;
        }
        if self.due.len() >= MOST && !self.due.contains_key(&key) {
            self.due.retain(|_, due| *due > now);
            if self.due.len() >= MOST {
                return Some(Duration::ZERO);
            }
        }
        self.due.insert(key, due + self.interval);
        Some(wait)
    }

    /// Whether it may happen now; if not, it does not count.
    pub fn allow(&mut self, key: K, now: Instant) -> bool {
        self.wait(key, now, Duration::ZERO).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_interval_for_each_key() {
        let ms = Duration::from_millis;
        let mut p = Paces::new(ms(10), 3);
        let t = Instant::now();
        for _ in 0..3 {
            assert_eq!(p.wait(1, t, ms(15)), Some(ms(0)));
        }
        assert_eq!(p.wait(1, t, ms(15)), Some(ms(10)));
        assert_eq!(p.wait(1, t, ms(15)), None, "20 ms would be too long");
        assert_eq!(p.wait(2, t, ms(15)), Some(ms(0)), "another key");
        assert!(!p.allow(1, t + ms(10)));
        assert!(p.allow(1, t + ms(20)));
        // After a while there is a burst again, and no larger one.
        let t = t + ms(1000);
        assert_eq!((0..9).filter(|_| p.allow(1, t)).count(), 3);
    }

    #[test]
    fn many_keys_need_no_more_memory_than_some() {
        let mut p = Paces::new(Duration::from_secs(1), 1);
        let mut t = Instant::now();
        for key in 0..10_000 {
            assert!(p.allow(key, t));
        }
        assert_eq!(p.due.len(), MOST);
        assert!(!p.allow(0, t), "known ones stay limited");
        t += Duration::from_secs(1);
        assert!(p.allow(20_000, t));
        assert_eq!(p.due.len(), 1, "what is over is forgotten");
    }
}
