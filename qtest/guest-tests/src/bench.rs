// SPDX-License-Identifier: GPL-2.0-or-later
//! What the scenarios have at hand, and the scripts of their guests.

use std::path::PathBuf;

use anyhow::Result;
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::bench::Bench;
use test_machine::rig::Programs;

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
