// SPDX-License-Identifier: GPL-2.0-or-later
//! How long to poll before waiting. A device that answers within microseconds is faster polled
//! than waited for; one that does not should cost no processor time.

use std::time::Duration;

/// Polls lost in a row before polling stops.
const MAX_LOST: u32 = 8;
/// Then, one of this many opportunities is tried again.
const PROBE_EVERY: u32 = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Spinner {
    max: Duration,
    lost: u32,
    skipped: u32,
    won: bool,
}

impl Spinner {
    /// Polls for at most `max` at a time; zero for never.
    pub(super) fn new(max: Duration) -> Self {
        Spinner {
            max,
            lost: 0,
            skipped: 0,
            won: false,
        }
    }

    /// How long to poll now.
    pub(super) fn budget(&mut self) -> Duration {
        if self.lost >= MAX_LOST {
            self.skipped += 1;
            if self.skipped < PROBE_EVERY {
                return Duration::ZERO;
            }
            self.skipped = 0;
        }
        self.max
    }

    pub(super) fn won(&mut self) {
        self.lost = 0;
        self.skipped = 0;
        self.won = true;
    }

    pub(super) fn lost(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.won = false;
    }

    /// Whether the last poll gave something: look for new work without waiting first.
    pub(super) fn busy(&mut self) -> bool {
        std::mem::take(&mut self.won)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_is_polled_rarely_and_a_fast_one_again() {
        let max = Duration::from_micros(50);
        let mut s = Spinner::new(max);
        for _ in 0..MAX_LOST {
            assert_eq!(s.budget(), max);
            s.lost();
        }
        let polled = (0..PROBE_EVERY * 10)
            .filter(|_| {
                let polls = s.budget() > Duration::ZERO;
                if polls {
                    s.lost();
                }
                polls
            })
            .count();
        assert_eq!(polled, 10);
        s.won();
        assert!(s.busy());
        assert!(!s.busy());
        assert_eq!(s.budget(), max);
    }
}
