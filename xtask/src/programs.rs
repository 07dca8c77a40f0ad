// SPDX-License-Identifier: GPL-2.0-or-later
//! The programs cargo builds: the helper, the program that asks it, and the simulated PF.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::qemu;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;
use test_machine::rig;

/// The packages that have them, and their names.
const PACKAGES: [&str; 3] = [
    "qemu_virtio_admin_helper",
    "legacy_vf_tool",
    "virtio_pf_sim",
];
const HELPER: &str = "qemu-virtio-admin-helper";
const TOOL: &str = "virtio-legacy-vf";
const SIMULATOR: &str = "virtio-pf-sim";
const PROBE: &str = "vlvf-vfio-probe";
const KEXEC: &str = "vlvf-kexec";

/// Paths of the built programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) helper: PathBuf,
    pub(crate) tool: PathBuf,
    pub(crate) simulator: PathBuf,
}

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
) -> Result<Programs> {
    steps.run("build the helper, its tool and the simulated PF", |step| {
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
        let built = Programs::of(&cargo.output(step)?)?;
        let Some(out) = out else { return Ok(built) };
        Ok(Programs {
            helper: install(&built.helper, out)?,
            tool: install(&built.tool, out)?,
            simulator: install(&built.simulator, out)?,
        })
    })
}

/// Builds everything that tests of whole machines run; what is current is not built again. `VLVF_QEMU`,
/// and `VLVF_HELPER` together with `VLVF_TOOL` and `VLVF_SIM`, name programs that are to be used
/// instead.
///
/// # Errors
/// When something cannot be built.
pub(crate) fn for_machines(project: &Project, steps: &mut Steps) -> Result<rig::Programs> {
    let qemu = qemu::ensure(project, steps)?;
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let all = (given("VLVF_HELPER"), given("VLVF_TOOL"), given("VLVF_SIM"));
    let built = match all {
        (Some(helper), Some(tool), Some(simulator)) => Programs {
            helper,
            tool,
            simulator,
        },
        _ => build(project, steps, Profile::Release, None)?,
    };
    Ok(rig::Programs {
        qemu,
        helper: built.helper,
        tool: built.tool,
        simulator: built.simulator,
        kexec: build_static(project, steps, "guest_kexec", KEXEC)?,
        probe: build_static(project, steps, "vfio_probe", PROBE)?,
    })
}

/// Builds a program that needs no shared libraries: it runs in a guest that has few.
///
/// # Errors
/// When cargo fails.
fn build_static(
    project: &Project,
    steps: &mut Steps,
    package: &str,
    binary: &str,
) -> Result<PathBuf> {
    steps.run(&format!("build {binary}"), |step| {
        let messages = Cmd::cargo()
            .args([
                "rustc",
                "--locked",
                "--release",
                "--message-format=json-render-diagnostics",
                "--package",
                package,
                "--bin",
                binary,
                "--",
                "-Ctarget-feature=+crt-static",
                "-Cstrip=symbols",
            ])
            .dir(project.root())
            .output(step)?;
        program(&messages, binary)
    })
}

/// The program of this name in cargo's JSON messages.
fn program(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|file| file == name))
        .with_context(|| format!("cargo built no program {name}"))
}

impl Programs {
    /// The programs that cargo's JSON messages name.
    fn of(messages: &str) -> Result<Self> {
        Ok(Self {
            helper: program(messages, HELPER)?,
            tool: program(messages, TOOL)?,
            simulator: program(messages, SIMULATOR)?,
        })
    }
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
        let line = |path: &str| {
            format!("{{\"reason\":\"compiler-artifact\",\"executable\":\"{path}\"}}\n")
        };
        let mut messages = "{\"executable\":null}\nnot json\n".to_owned();
        messages += &line("/t/release/virtio-pf-sim");
        assert!(Programs::of(&messages).is_err());
        messages += &line("/t/release/virtio-legacy-vf");
        assert!(Programs::of(&messages).is_err());
        messages += &line("/t/release/qemu-virtio-admin-helper");
        let programs = Programs::of(&messages).unwrap();
        assert_eq!(
            programs.helper,
            Path::new("/t/release/qemu-virtio-admin-helper")
        );
        assert_eq!(programs.tool, Path::new("/t/release/virtio-legacy-vf"));
        assert_eq!(programs.simulator, Path::new("/t/release/virtio-pf-sim"));
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
