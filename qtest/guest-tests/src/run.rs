// SPDX-License-Identifier: GPL-2.0-or-later
//! How scenarios are run.

use anyhow::{Context as _, Result};
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

use crate::firmware::Kit;

/// How a scenario is run; all give figures to be shown.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// A guest that QEMU boots directly.
    Guest(fn(&Bench) -> Result<String>),
    /// With firmware and disks.
    Firmware(fn(&Bench, &Kit) -> Result<String>),
}

/// Firmware and disks, if one of the scenarios needs them.
///
/// # Errors
/// When something cannot be made or downloaded.
pub fn kit(
    project: &Project,
    steps: &mut Steps,
    bench: &Bench,
    scenarios: &[&Scenario<Run>],
) -> Result<Option<Kit>> {
    if scenarios
        .iter()
        .any(|one| matches!(one.run, Run::Firmware(_)))
    {
        return Kit::ensure(project, steps, &bench.image).map(Some);
    }
    Ok(None)
}

/// Runs one scenario and gives its figures.
///
/// # Errors
/// When it shows a fault, or there is no kit and it needs one.
pub fn run(scenario: &Scenario<Run>, bench: &Bench, kit: Option<&Kit>) -> Result<String> {
    match scenario.run {
        Run::Guest(run) => run(bench),
        Run::Firmware(run) => run(bench, kit.context("firmware was not made ready")?),
    }
}
