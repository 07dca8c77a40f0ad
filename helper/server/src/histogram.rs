// SPDX-License-Identifier: GPL-2.0-or-later
//! Latencies in buckets of constant relative width: four per doubling, so that any quantile is
//! exact to a quarter.

use std::time::Duration;

/// log2 of the buckets per doubling.
const SUB_BITS: u32 = 2;
const SUB: usize = 1 << SUB_BITS;
/// Smallest latency told apart, as a power of two of nanoseconds (256 ns).
const FIRST: u32 = 8;
/// Doublings covered: up to 256 ns * 2^28, about 68 s; longer ones fall into the last bucket.
const OCTAVES: usize = 28;
const BUCKETS: usize = 1 + OCTAVES * SUB;

/// Counts of latencies.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: [0; BUCKETS],
            total: 0,
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }
}

fn bucket(latency: Duration) -> usize {
    let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    if ns < 1 << FIRST {
        return 0;
    }
    let log = ns.ilog2();
    let sub = (ns >> (log - SUB_BITS)) as usize & (SUB - 1);
    (1 + (log - FIRST) as usize * SUB + sub).min(BUCKETS - 1)
}

/// Upper end of a bucket.
fn upper(bucket: usize) -> Duration {
    let Some(i) = bucket.checked_sub(1) else {
        return Duration::from_nanos(1 << FIRST);
    };
    let base = 1u64 << (FIRST as usize + i / SUB);
    Duration::from_nanos(base + base / SUB as u64 * (i % SUB + 1) as u64)
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        if let Some(count) = self.counts.get_mut(bucket(latency)) {
            *count = count.saturating_add(1);
        }
        self.total += 1;
        self.sum = self.sum.saturating_add(latency);
        self.max = self.max.max(latency);
    }

    /// Latencies counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How many were shorter than 2^`exponent` nanoseconds; exact from 2^8 on.
    pub fn shorter_than(&self, exponent: u32) -> u64 {
        let end = 1 + (exponent.saturating_sub(FIRST) as usize).min(OCTAVES) * SUB;
        let counted = self.counts.iter().take(end);
        counted.map(|count| u64::from(*count)).sum()
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `permille` of 1000 are at or below, rounded up to its bucket's end; zero
    /// if nothing was counted.
    pub fn quantile(&self, permille: u64) -> Duration {
        let counted: u64 = self.counts.iter().map(|c| u64::from(*c)).sum();
        let want = (counted * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= want {
                return upper(i).min(self.max);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_tight() {
        let mut last = 0;
        for exp in 0..34 {
            for step in 0..8u64 {
                let ns = (1u64 << exp) + step * (1 << exp) / 8;
                let b = bucket(Duration::from_nanos(ns));
                assert!(b >= last && b < BUCKETS, "{ns}");
                last = b;
                if b > 0 && b < BUCKETS - 1 {
                    let up = upper(b).as_nanos() as u64;
                    assert!(ns < up && up <= ns + ns / 4 + 1, "{ns} in bucket to {up}");
                }
            }
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(500), Duration::ZERO);
        for us in 1..=1000 {
            h.record(Duration::from_micros(us));
        }
        let p50 = h.quantile(500).as_micros();
        assert!((500..=625).contains(&p50), "{p50}");
        let p99 = h.quantile(990).as_micros();
        assert!((990..=1000).contains(&p99), "{p99}");
        assert_eq!(h.max(), Duration::from_millis(1));
        assert_eq!(h.total(), 1000);
        assert_eq!(h.sum(), Duration::from_micros(500_500));
        assert_eq!(h.shorter_than(8), 0);
        assert_eq!(h.shorter_than(10), 1, "1024 ns");
        assert_eq!(h.shorter_than(16), 65, "65.536 us");
        assert_eq!(h.shorter_than(20), 1000);
        assert_eq!(h.shorter_than(u32::MAX), 1000);
    }
}
