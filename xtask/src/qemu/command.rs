// SPDX-License-Identifier: GPL-2.0-or-later
//! The options of `cargo xtask qemu` and `cargo xtask overlay`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use test_kit::project::Project;
use test_kit::steps::Steps;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only print where the built program is.
    #[arg(long, conflicts_with = "check")]
    print_path: bool,
    /// Only verify that the built program is current.
    #[arg(long)]
    check: bool,
    /// Use this QEMU source tree (and change it) instead of the one in the cache.
    #[arg(long, value_name = "DIR", requires = "build_dir", conflicts_with_all = ["check", "print_path"])]
    source: Option<PathBuf>,
    /// Build in this directory; without --source it must be a configured build of QEMU.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "print_path"])]
    build_dir: Option<PathBuf>,
    /// Write the program's path into this file when it is built.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "print_path"])]
    path_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OverlayOptions {
    /// The QEMU source tree; it is changed.
    #[arg(long, value_name = "DIR")]
    qemu_source: PathBuf,
    /// With the devices and checks that only tests need; configure anew if the tree was without.
    #[arg(long)]
    for_tests: bool,
}

/// `cargo xtask qemu`: prints the program's path.
///
/// # Errors
/// When a step fails, or the program is not there or not current where only that was asked.
pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    if options.print_path {
        println!("{}", super::program(project)?.display());
        return Ok(());
    }
    if options.check {
        println!("{} is current", super::check(project)?.display());
        return Ok(());
    }
    let steps = &mut Steps::new(project, "qemu")?;
    let program = match (&options.source, &options.build_dir) {
        (Some(source), Some(dir)) => super::build_tree(project, steps, source, dir)?,
        (None, Some(dir)) => super::rebuild(project, steps, dir)?,
        (_, None) => super::ensure(project, steps)?,
    };
    if let Some(file) = &options.path_file {
        fs::write(file, format!("{}\n", program.display()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    steps.finish("QEMU is ready");
    println!("{}", program.display());
    Ok(())
}

/// `cargo xtask overlay`: patches and crates onto a tree, nothing built.
///
/// # Errors
/// When the tree is not the right QEMU, or cannot be changed.
pub(crate) fn overlay(project: &Project, options: &OverlayOptions) -> Result<()> {
    let steps = &mut Steps::new(project, "overlay")?;
    super::overlay_tree(project, steps, &options.qemu_source, options.for_tests)?;
    steps.finish("the overlay is in place");
    Ok(())
}
