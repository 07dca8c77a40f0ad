// SPDX-License-Identifier: GPL-2.0-or-later
//! The programs cargo builds: the helper and the simulated PF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::project::Project;
use crate::qemu;
use crate::run::Cmd;
use crate::steps::Steps;

/// The packages that have them.
const PACKAGES: [&str; 2] = ["qemu_virtio_admin_helper", "virtio_pf_sim"];

/// Cargo's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

/// Builds the programs, copies them to `out` if there is one, and gives their paths.
///
/// # Errors
/// When cargo fails or a program cannot be copied.
pub(crate) fn build(
    project: &Project,
    steps: &mut Steps,
    profile: Profile,
    out: Option<&Path>,
) -> Result<Vec<PathBuf>> {
    steps.run("build the helper and the simulated PF", |step| {
        let mut cargo = Cmd::cargo()
            .args([
                "build",
                "--locked",
                "--bins",
                "--message-format=json-render-diagnostics",
            ])
            .dir(project.root());
        for package in PACKAGES {
            cargo = cargo.args(["--package", package]);
        }
        if profile == Profile::Release {
            cargo = cargo.arg("--release");
        }
        let built = executables(&cargo.output(step)?);
        let Some(out) = out else { return Ok(built) };
        built.iter().map(|path| install(path, out)).collect()
    })
}

/// Paths of the programs in cargo's JSON messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect()
}

/// Copies a program into a directory, where an older one may be running.
fn install(path: &Path, out: &Path) -> Result<PathBuf> {
    let name = path.file_name().context("a program without a name")?;
    let copy = out.join(name);
    let temporary = out.join(format!(
        ".{}.{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    fs::create_dir_all(out)
        .and_then(|()| fs::copy(path, &temporary))
        .and_then(|_| fs::rename(&temporary, &copy))
        .with_context(|| format!("cannot copy {} to {}", path.display(), copy.display()))?;
    Ok(copy)
}

/// Removes this checkout's builds; with `all` the whole cache.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn clean(project: &Project, all: bool) -> Result<()> {
    if all {
        project.remove_cache()?;
    } else {
        qemu::clean(project)?;
    }
    let status = std::process::Command::new("cargo")
        .arg("clean")
        .current_dir(project.root())
        .status()
        .context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "cargo clean failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_those_cargo_names() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/x\"}\n\
            not json\n{\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executables(messages), [PathBuf::from("/t/release/x")]);
    }

    #[test]
    fn a_program_replaces_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("x"), dir.path().join("a/b"));
        for text in ["old", "new"] {
            fs::write(&from, text).unwrap();
            let copy = install(&from, &out).unwrap();
            assert_eq!(fs::read_to_string(copy).unwrap(), text);
        }
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }
}
