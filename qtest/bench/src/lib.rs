// SPDX-License-Identifier: GPL-2.0-or-later
//! Measurements: pure code, the socket alone, the whole stack on the simulated PF, memory.
//!
//! `cargo bench -p qtest_bench` prints a table with the aim and the ratio of each figure;
//! `-- --json FILE` writes the same as JSON, `-- --quick` measures for a shorter time. The helper
//! and the simulator are those that were built with `cargo build --release` before.

#![forbid(unsafe_code)]

pub mod echo;
pub mod memory;
pub mod micro;
pub mod report;
pub mod socket;
pub mod stack;

use std::time::{Duration, Instant};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time of one round.
    pub round: Duration,
    /// Rounds; the best one counts, since anything else on the machine only makes it worse.
    pub rounds: u32,
}

/// Time of one call of `f`, from the best round.
pub fn time_per_call(effort: Effort, mut f: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        let mut calls = 0u32;
        let took = loop {
            for _ in 0..64 {
                f();
            }
            calls = calls.saturating_add(64);
            let took = begun.elapsed();
            if took >= effort.round {
                break took;
            }
        };
        best = best.min(took / calls);
    }
    best
}
