// SPDX-License-Identifier: GPL-2.0-or-later
//! The test of the packager's door, `meson.build`: set up, build and install into an empty root as a
//! packager does, and compare what is there with what must be there.
//!
//! Cargo's target directory is the one in use, so only meson's part takes time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::qemu;
use test_kit::packages;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::{Step, Steps};
use test_machine::rig::RunDir;

/// What an installation has besides documentation, relative to its root, with permissions.
const INSTALLED: [(&str, u32); 8] = [
    ("usr/bin/virtio-legacy-vf", 0o755),
    ("usr/bin/virtio-pf-sim", 0o755),
    ("usr/lib/sysusers.d/qemu-virtio-admin.conf", 0o644),
    (UNIT, 0o644),
    ("usr/libexec/qemu-virtio-admin-helper", 0o755),
    ("usr/share/man/man1/qemu-virtio-admin-helper.1", 0o644),
    ("usr/share/man/man1/virtio-legacy-vf.1", 0o644),
    ("usr/share/man/man1/virtio-pf-sim.1", 0o644),
];
/// The helper's systemd unit, and the line in it with the program.
const UNIT: &str = "usr/lib/systemd/system/qemu-virtio-admin-helper@.service";
const UNIT_START: &str = "ExecStart=!/usr/libexec/qemu-virtio-admin-helper --pf ";
/// Documentation that an installation has; there may be more.
const DOCS: &str = "usr/share/doc/virtio-legacy-vf";
const PAGES: [&str; 2] = ["README.md", "system/virtio-legacy-vf.md"];

/// The suites that meson must know, without and with a QEMU.
pub(crate) struct Expected<'a> {
    pub(crate) always: BTreeSet<&'a str>,
    pub(crate) with_qemu: BTreeSet<&'a str>,
}

/// Tests the door; a QEMU that is built already takes part.
///
/// # Errors
/// With the first thing that is wrong.
pub(crate) fn check(project: &Project, steps: &mut Steps, expected: &Expected<'_>) -> Result<()> {
    packages::ensure(steps, "the meson build", packages::MESON)?;
    let meson = qemu::meson(project, steps)?;
    let dir = RunDir::new()?;
    let door = Door {
        meson,
        root: project.root(),
        // Packagers have such paths too.
        dir: dir.path().join("a packager's"),
    };
    fs::create_dir(&door.dir)?;
    steps.run("meson: set up, build, install", |step| {
        let build = door.setup(step, "build", &[])?;
        door.suites(step, &build, &expected.always)?;
        door.build(step, &build)?;
        door.install(step, &build)
    })?;
    steps.run("meson: options that are refused", |step| {
        door.refused(
            step,
            &["-Dqemu_source=/a", "-Dqemu_build=/b"],
            "exclude each other",
        )?;
        door.refused(step, &["-Dqemu_source=none"], "is not a QEMU source tree")?;
        door.refused(step, &["-Dqemu_build=~/none"], "is not a configured build")
    })?;
    let Some(qemu_build) = qemu::build_directory(project) else {
        eprintln!("QEMU is not built, so meson's -Dqemu_build is not tested: cargo xtask qemu");
        return Ok(());
    };
    steps.run("meson: with a build of QEMU", |step| {
        let option = format!("-Dqemu_build={}", qemu_build.path().display());
        let build = door.setup(step, "with-qemu", &[&option])?;
        let all = expected.always.union(&expected.with_qemu).copied();
        door.suites(step, &build, &all.collect())?;
        if !qemu_build.is_current() {
            step.note("not built: it is not this checkout's, or not current");
            return Ok(());
        }
        let _lock = qemu_build.lock(project)?;
        door.build(step, &build)?;
        let path = fs::read_to_string(build.join("qemu-path.txt"))?;
        ensure!(
            Path::new(path.trim()).parent() == Some(qemu_build.path()),
            "qemu-path.txt has {path}"
        );
        ensure!(qemu_build.is_current(), "a build by meson made it outdated");
        Ok(())
    })
}

/// The directories of one test.
struct Door<'a> {
    meson: PathBuf,
    root: &'a Path,
    dir: PathBuf,
}

impl Door<'_> {
    fn meson(&self, command: &str) -> Cmd {
        Cmd::new(&self.meson).arg(command).dir(self.root)
    }

    /// Sets a build directory up, with cargo's target directory as it is here.
    fn setup(&self, step: &Step, name: &str, options: &[&str]) -> Result<PathBuf> {
        let build = self.dir.join(name);
        self.setup_command(step, &build, options)?.run(step)?;
        Ok(build)
    }

    fn setup_command(&self, step: &Step, build: &Path, options: &[&str]) -> Result<Cmd> {
        let target = target_directory(step, self.root)?;
        Ok(self
            .meson("setup")
            .args(["--prefix=/usr", "--buildtype=debug"])
            .arg(format!("-Dcargo_target_dir={}", target.display()))
            .args(options)
            .arg(build))
    }

    fn build(&self, step: &Step, build: &Path) -> Result<()> {
        self.meson("compile").arg("-C").arg(build).run(step)
    }

    /// Compares the names of meson's tests.
    fn suites(&self, step: &Step, build: &Path, expected: &BTreeSet<&str>) -> Result<()> {
        let text = self
            .meson("introspect")
            .arg("--tests")
            .arg(build)
            .output(step)?;
        let tests: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let names: BTreeSet<&str> = tests
            .iter()
            .filter_map(|test| test["name"].as_str())
            .collect();
        ensure!(
            names == *expected,
            "meson.build has the tests {names:?}, the suites of cargo xtask test are {expected:?}"
        );
        Ok(())
    }

    /// Installs into an empty root and looks at every file there.
    fn install(&self, step: &Step, build: &Path) -> Result<()> {
        let dest = self.dir.join("dest dir");
        self.meson("install")
            .arg("-C")
            .arg(build)
            .env("DESTDIR", &dest)
            .run(step)?;
        let (mut found, mut docs) = (BTreeSet::new(), BTreeSet::new());
        for path in files(&dest)? {
            let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
            let path = path.strip_prefix(&dest)?;
            let Ok(page) = path.strip_prefix(DOCS) else {
                found.insert((path.to_string_lossy().into_owned(), mode));
                continue;
            };
            ensure!(mode == 0o644, "{} has mode {mode:o}", path.display());
            docs.insert(page.to_string_lossy().into_owned());
        }
        let expected = INSTALLED.map(|(path, mode)| (path.to_owned(), mode));
        ensure!(
            found == BTreeSet::from(expected),
            "installed, with modes, were: {found:?}"
        );
        let unit = fs::read_to_string(dest.join(UNIT))?;
        ensure!(
            unit.lines().any(|line| line.starts_with(UNIT_START)),
            "the systemd unit has another program: {unit}"
        );
        for page in PAGES {
            ensure!(docs.contains(page), "no {page} in {docs:?}");
        }
        for (program, _) in INSTALLED.iter().filter(|(_, mode)| *mode == 0o755) {
            let version = Cmd::new(dest.join(program)).arg("--version").output(step)?;
            ensure!(
                version.contains(env!("CARGO_PKG_VERSION")),
                "{program} has the version {version}"
            );
        }
        Ok(())
    }

    /// Options with which setup must fail, saying so.
    fn refused(&self, step: &Step, options: &[&str], text: &str) -> Result<()> {
        let build = self.dir.join("refused");
        let command = self.setup_command(step, &build, options)?;
        let Err(error) = command.run(step) else {
            anyhow::bail!("meson setup takes {}", options.join(" "));
        };
        let error = error.to_string();
        ensure!(error.contains(text), "{} gives: {error}", options.join(" "));
        Ok(())
    }
}

/// Where cargo builds.
fn target_directory(step: &Step, root: &Path) -> Result<PathBuf> {
    let text = Cmd::cargo()
        .args(["metadata", "--no-deps", "--locked", "--format-version=1"])
        .dir(root)
        .output(step)?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let directory = metadata["target_directory"].as_str();
    Ok(directory.context("cargo tells no target directory")?.into())
}

/// All files below a directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}
