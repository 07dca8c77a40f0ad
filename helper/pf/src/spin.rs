// SPDX-License-Identifier: GPL-2.0-or-later
//! How long a busy wait is worth while.

use std::time::Duration;

/// One in this many operations is spun on although the mean says no, to notice that the device
/// became fast again.
const PROBE: u32 = 64;
/// A new sample counts for one in this many.
const WEIGHT: u32 = 8;

/// A moving mean of the time to an answer.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    mean: Option<Duration>,
    samples: u32,
}

impl Spin {
    /// Notes a time from giving a command to the device to its answer.
    pub(crate) fn sample(&mut self, latency: Duration) {
        self.samples = self.samples.wrapping_add(1);
        self.mean = Some(match self.mean {
            None => latency,
            Some(mean) => mean - mean / WEIGHT + latency / WEIGHT,
        });
    }

    /// How long to spin: twice the mean, if that is not more than `max`.
    pub(crate) fn hint(&self, max: Duration) -> Duration {
        match self.mean {
            None => max,
            Some(mean) if mean <= max => (mean * 2).min(max),
            Some(_) if self.samples % PROBE == 0 => max,
            Some(_) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_is_not_spun_on_and_a_fast_one_is() {
        let max = Duration::from_micros(50);
        let mut s = Spin::default();
        assert_eq!(s.hint(max), max);
        for _ in 0..40 {
            s.sample(Duration::from_micros(10));
        }
        assert!(s.hint(max) <= Duration::from_micros(20));
        assert!(s.hint(max) > Duration::from_micros(10));
        for _ in 0..100 {
            s.sample(Duration::from_millis(5));
        }
        assert_eq!(s.hint(max), Duration::ZERO);
        while s.samples % PROBE != 0 {
            s.sample(Duration::from_millis(5));
        }
        assert_eq!(s.hint(max), max, "probe");
        assert_eq!(s.hint(Duration::ZERO), Duration::ZERO);
    }
}
