// SPDX-License-Identifier: GPL-2.0-or-later
//! What the scenarios have at hand, and the scripts of their guests.

use std::path::PathBuf;

use anyhow::Result;
use test_machine::bench::Bench;
use test_machine::rig::Programs;
use xtask_kit::project::Project;
use xtask_kit::steps::Steps;

/// The scripts with what these scenarios ask of a guest, in the project's tree.
const SCRIPTS: &str = "qtest/guest-tests/guest";

/// The directories with scripts for the guests of these scenarios, besides those that every guest has.
#[must_use]
pub fn scripts(project: &Project) -> Vec<PathBuf> {
    vec![project.root().join(SCRIPTS)]
}

/// All that the scenarios need but firmware. Logs go to where those of `command` do.
///
/// # Errors
/// When something cannot be made or downloaded.
pub fn bench(
    project: &Project,
    steps: &mut Steps,
    command: &str,
    programs: Programs,
) -> Result<Bench> {
    Bench::new(project, steps, command, programs, &scripts(project))
}
