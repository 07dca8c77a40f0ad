// SPDX-License-Identifier: GPL-2.0-or-later
//! The real helper and the simulated PF, each a process of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use qtest_harness::{DeviceKind, Helper, Simulator, SimulatorBuilder};

/// A helper and its PF.
#[derive(Debug)]
pub struct Stack {
    /// The helper.
    pub helper: Helper,
    /// The PF.
    pub sim: Simulator,
    /// How long the simulator took to listen.
    pub sim_start: Duration,
    /// How long the helper took to serve.
    pub helper_start: Duration,
}

impl Stack {
    /// Starts both; the simulator with `options` besides.
    ///
    /// # Errors
    /// If one does not come up.
    pub fn start(dir: &Path, vfs: u16, options: &[&str]) -> Result<Self> {
        let dir: PathBuf = dir.join(format!("vfs{vfs}"));
        std::fs::create_dir_all(&dir)?;
        let begun = Instant::now();
        let sim = SimulatorBuilder::new(DeviceKind::Net, vfs)
            // Hardware keeps no log.
            .args(&["--events", "none"])
            .args(options)
            .spawn(&dir)?;
        let sim_start = begun.elapsed();
        let begun = Instant::now();
        let helper = Helper::spawn(&dir, "helper", &sim.pf_socket(), vfs, &[])?;
        let helper_start = begun.elapsed();
        Ok(Stack {
            helper,
            sim,
            sim_start,
            helper_start,
        })
    }
}
