// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines that a device or a client can provoke: at most one a second of each kind, the rest
//! counted.

use std::time::{Duration, Instant};

/// Time between two lines of a kind.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A limiter for one kind of line.
#[derive(Clone, Debug, Default)]
pub struct RateLimit {
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// Whether to log now; if so, how many lines were left out since the last one.
    pub fn allow(&mut self, now: Instant) -> Option<u64> {
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if due {
            self.last = Some(now);
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed += 1;
            None
        }
    }

    /// Lines left out that no later line has told yet.
    pub fn pending(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second() {
        let mut l = RateLimit::default();
        let t = Instant::now();
        assert_eq!(l.allow(t), Some(0));
        assert_eq!(l.allow(t), None);
        assert_eq!(l.allow(t + Duration::from_millis(999)), None);
        assert_eq!(l.allow(t + INTERVAL), Some(2));
    }
}
