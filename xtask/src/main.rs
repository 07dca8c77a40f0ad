// SPDX-License-Identifier: GPL-2.0-or-later
//! The project's build and test steps: `cargo xtask <subcommand>`.
//!
//! This file is the command line only; each subcommand is a module. To add one:
//!
//! 1. write `src/name.rs` with a `pub(crate) fn run(project: &Project, ...) -> anyhow::Result<()>`,
//! 2. add a variant with its options to [`Command`] and its call to [`dispatch`].
//!
//! What a subcommand has at hand: [`test_kit`] (the tree and the cache, named steps with progress and a log,
//! commands into it, Debian packages), [`qemu::ensure`] (QEMU with the overlay), [`programs::build`]
//! (helper and simulator). Steps report on standard error; standard output is for a subcommand's result.
//! Tests of whole machines are crates below `qtest/`, which are given what is built here.

mod bench;
mod conformance;
mod docs;
mod guest_test;
mod meson;
mod programs;
mod qemu;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::programs::Profile;
use test_kit::project::Project;
use test_kit::steps::Steps;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Build and test steps of the project"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get QEMU's source, lay the overlay over it and build it.
    Qemu(qemu::command::Options),
    /// Lay the overlay (patches and crates) over a QEMU source tree, without building it.
    Overlay(qemu::command::OverlayOptions),
    /// Build the helper, the simulated PF and QEMU with the overlay.
    Build {
        /// Without QEMU: only what cargo builds.
        #[arg(long)]
        no_qemu: bool,
        /// Copy the helper and the simulator there.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Build without optimization.
        #[arg(long)]
        debug: bool,
    },
    /// Boot a guest that has only the legacy driver on two simulated VFs and show what happened.
    Demo(guest_tests::demo::Options),
    /// Boot Debian's kernel on simulated VFs and test what its drivers do.
    GuestTest {
        /// Only these scenarios (repeat the option for several).
        #[arg(long = "scenario", value_name = "NAME")]
        scenarios: Vec<String>,
    },
    /// Boot Debian's kernel with simulated PFs and their VFs on its PCIe bus behind an emulated
    /// IOMMU; use them through the kernel's own VFIO and drivers, and in guests of that machine.
    Nested(nested_tests::Options),
    /// Build Linux's virtio-vfio-pci for the nested machine's kernel and print where it is.
    Peer,
    /// Make what the test guest boots from and print where it is.
    Guest,
    /// Measure: codec, register window, admin commands against a bare socket echo, throughput, memory.
    Bench(bench::Options),
    /// Run the checks and tests.
    Test(test::Options),
    /// Write docs/conformance.md from the rows and the tests that name them.
    Conformance {
        /// Only verify that the page is current and that no row is without test and reason.
        #[arg(long)]
        check: bool,
    },
    /// Remove what was built.
    Clean {
        /// Only this checkout's builds of QEMU.
        #[arg(long)]
        qemu: bool,
        /// The whole cache as well, with downloads and the builds of other checkouts.
        #[arg(long, conflicts_with = "qemu")]
        all: bool,
    },
}

fn dispatch(args: Args) -> Result<()> {
    let project = Project::find()?;
    match args.command {
        Command::Qemu(options) => qemu::command::run(&project, &options),
        Command::Overlay(options) => qemu::command::overlay(&project, &options),
        Command::Build {
            no_qemu,
            out,
            debug,
        } => {
            let profile = if debug {
                Profile::Debug
            } else {
                Profile::Release
            };
            let steps = &mut Steps::new(&project, "build")?;
            let programs = programs::build(&project, steps, profile, out.as_deref())?;
            let mut built = vec![programs.helper, programs.tool, programs.simulator];
            if !no_qemu {
                built.push(qemu::ensure(&project, steps)?);
            }
            steps.finish("everything is built");
            for program in built {
                println!("{}", program.display());
            }
            Ok(())
        }
        Command::Demo(options) => {
            let steps = &mut Steps::new(&project, "demo")?;
            let programs = programs::for_machines(&project, steps)?;
            guest_tests::demo::run(&project, steps, programs, options)
        }
        Command::GuestTest { scenarios } => guest_test::run(&project, &scenarios),
        Command::Nested(options) => {
            // Before anything is built for a name that is wrong.
            options.scenarios()?;
            let steps = &mut Steps::new(&project, "nested")?;
            let programs = programs::for_machines(&project, steps)?;
            nested_tests::run(&project, steps, programs, &options)
        }
        Command::Peer => nested_tests::peer::run(&project),
        Command::Guest => guest_test::image(&project),
        Command::Bench(options) => bench::run(&project, options),
        Command::Test(options) => test::run(&project, &options),
        Command::Conformance { check } => conformance::run(project.root(), check),
        Command::Clean { qemu: true, .. } => qemu::clean(&project),
        Command::Clean { all, .. } => programs::clean(&project, all),
    }
}

fn main() -> ExitCode {
    match dispatch(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<test::Reported>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
