// SPDX-License-Identifier: GPL-2.0-or-later
//! Licences, duplicates and sources of the crates that are built in, by cargo-deny and `deny.toml`.

use std::path::PathBuf;

use anyhow::Result;

use super::counts::Counts;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;

const PROGRAM: &str = "cargo-deny";
/// The one that is installed where there is none.
const VERSION: &str = "0.20.2";
/// What is checked; advisories would need their database.
const CHECKS: [&str; 4] = ["check", "bans", "licenses", "sources"];

/// Checks them, or says why not and counts nothing.
///
/// # Errors
/// When something is not as `deny.toml` wants it.
pub(super) fn run(project: &Project, steps: &mut Steps) -> Result<Counts> {
    let Some(program) = program(project, steps)? else {
        eprintln!(
            "{PROGRAM} is not here and cannot be installed, so licences, duplicates and sources \
             are not checked: cargo install --locked {PROGRAM} --version {VERSION}"
        );
        return Ok(Counts::default());
    };
    steps.run("licences, duplicates and sources of crates", |step| {
        step.note("advisories are not checked: cargo deny check advisories");
        Cmd::new(&program)
            .args(["--locked", "--workspace"])
            .args(CHECKS)
            .dir(project.root())
            .hint("deny.toml says what is allowed, and why")
            .run(step)
    })?;
    Ok(Counts::one("deny", true))
}

/// The one on the PATH, or that in the cache, which is made if it is not there and can be.
fn program(project: &Project, steps: &mut Steps) -> Result<Option<PathBuf>> {
    if Cmd::new(PROGRAM).arg("--version").ask().is_some() {
        return Ok(Some(PROGRAM.into()));
    }
    let root = project.cache().join(format!("{PROGRAM}-{VERSION}"));
    let program = root.join("bin").join(PROGRAM);
    if program.exists() {
        return Ok(Some(program));
    }
    let target = project.cache().join(format!("{PROGRAM}.tmp"));
    let installed = steps.run("install cargo-deny into the cache", |step| {
        // cargo puts the program in its place only when it is complete.
        let status = Cmd::cargo()
            .args(["install", PROGRAM, "--locked", "--version", VERSION])
            .arg("--root")
            .arg(&root)
            .env("CARGO_TARGET_DIR", &target)
            .dir(project.cache())
            .status(step)?;
        Ok(status.success())
    })?;
    let _ = std::fs::remove_dir_all(&target);
    Ok(installed.then_some(program))
}
