// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory of processes.

use anyhow::{Context, Result};

/// Resident memory of a process in KiB: what is its own, and all of it. Pages of files, such as
/// its program, are shared with other processes of the same program and belong to the second only.
///
/// # Errors
/// If the process is gone.
pub fn resident_kib(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("no process {pid}"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| {
                l.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0.0)
    };
    let all: f64 = field("VmRSS:");
    Ok((all - field("RssFile:"), all))
}
