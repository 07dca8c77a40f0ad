// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask bench`: the benchmarks with programs that are current.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::programs::{self, Profile};
use crate::qemu;
use test_kit::project::Project;
use test_kit::steps::Steps;

/// What to measure and where to put it.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Shorter rounds: figures to look at, not to compare.
    #[arg(long)]
    quick: bool,
    /// Only the parts without I/O (codec and register window).
    #[arg(long)]
    pure: bool,
    /// Only what so many clients get of one helper, beside a bare round trip: numbers with commas.
    #[arg(long, value_name = "LIST", conflicts_with_all = ["pure", "guest", "json"])]
    clients: Option<String>,
    /// Also what a guest's CPUs get through QEMU (that of this checkout, or VLVF_QEMU).
    #[arg(long)]
    guest: bool,
    /// The same of this QEMU, in turns with the other.
    #[arg(long, value_name = "QEMU", requires = "guest")]
    against: Option<PathBuf>,
    /// Write the figures as JSON there, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds the programs with optimization and runs the benchmarks; the table goes to standard output.
///
/// # Errors
/// When something cannot be built or a benchmark fails.
pub(crate) fn run(project: &Project, options: Options) -> Result<()> {
    let mut steps = Steps::new(project, "bench")?;
    let programs = programs::build(project, &mut steps, Profile::Release, None)?;
    let mut args: Vec<OsString> = Vec::new();
    if options.quick {
        args.push("--quick".into());
    }
    if options.pure {
        args.push("--pure".into());
    }
    if let Some(list) = options.clients {
        args.extend(["--clients".into(), list.into()]);
    }
    if options.guest {
        args.extend(["--qemu".into(), qemu::program(project)?.into_os_string()]);
    }
    if let Some(other) = options.against {
        args.extend([
            "--against".into(),
            std::path::absolute(other)?.into_os_string(),
        ]);
    }
    if let Some(file) = options.json {
        // Cargo runs benchmarks in their package's directory.
        let file = std::path::absolute(file)?;
        args.extend(["--json".into(), file.into_os_string()]);
    }
    // Not as a step: the table is the result and is meant to be seen.
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "bench",
            "--quiet",
            "--locked",
            "--package",
            "qtest_bench",
            "--",
        ])
        .args(args)
        .env("VLVF_HELPER", programs.helper)
        .env("VLVF_SIM", programs.simulator)
        .current_dir(project.root())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the benchmarks failed: {status}");
    }
    Ok(())
}
