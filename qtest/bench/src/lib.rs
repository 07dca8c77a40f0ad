// SPDX-License-Identifier: GPL-2.0-or-later
//! Measurements: pure code, the socket alone, the whole stack on the simulated PF, memory.
//!
//! `cargo bench -p qtest_bench` prints a table with the aim and the ratio of each figure;
//! `-- --json FILE` writes the same as JSON, `-- --quick` measures for a shorter time. The helper
//! and the simulator are those that were built with `cargo build --release` before.

#![forbid(unsafe_code)]

pub mod clients;
pub mod echo;
pub mod floods;
pub mod guest;
pub mod memory;
pub mod micro;
pub mod report;
pub mod rig;
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

/// Rates that are compared are each those of the best window of this length: what else the machine does hits
/// both alike, and quiet moments count.
pub const WINDOW: Duration = Duration::from_millis(20);

/// Seconds of one call of `f`, over at least `window`.
pub fn time_in_window(window: Duration, f: &mut dyn FnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0u32;
    let took = loop {
        for _ in 0..64 {
            f();
        }
        calls = calls.saturating_add(64);
        let took = begun.elapsed();
        if took >= window {
            break took;
        }
    };
    took.as_secs_f64() / f64::from(calls)
}

/// Seconds of one call of `f`, from the best round.
pub fn time_per_call(effort: Effort, mut f: impl FnMut()) -> f64 {
    (0..effort.rounds)
        .map(|_| time_in_window(effort.round, &mut f))
        .fold(f64::MAX, f64::min)
}

/// The same for two things that are to be compared: in turns and in many short windows, so that
/// what else the machine does hits both alike and quiet moments count.
pub fn compare(effort: Effort, mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let turns = effort.round * effort.rounds / 20;
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..turns.as_millis().max(5) {
        best.0 = best.0.min(time_in_window(WINDOW, &mut a));
        best.1 = best.1.min(time_in_window(WINDOW, &mut b));
    }
    best
}
