// SPDX-License-Identifier: GPL-2.0-or-later
//! The suites, and how those are run that are one thing after the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;

use super::counts::Counts;
use super::deny;
use crate::docs;
use crate::meson;
use crate::programs::{self, Profile};
use crate::qemu;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;

/// The package of the tests of everything together, and its test that needs no QEMU.
const QTESTS: &str = "qtest_tests";
const LAYERING: &str = "layering";

/// A part of the checks that can be run alone; in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Formatting of the Rust sources, those that build inside QEMU included.
    Fmt,
    /// Clippy over the workspace, warnings denied.
    Clippy,
    /// Rustdoc over the workspace, warnings denied.
    Rustdoc,
    /// Tests of the workspace that need no QEMU.
    Unit,
    /// Which crate may depend on which.
    Layering,
    /// QEMU builds with the overlay and knows its devices.
    Qemu,
    /// Clippy over the crates that build inside QEMU, and QEMU's checkpatch over the patches.
    QemuClippy,
    /// Tests of QEMU, helper and simulator together.
    Qtest,
    /// Debian's kernel in a guest, with its legacy and its modern drivers, and in the nested machine.
    Guest,
    /// Links, licence lines, the conformance page.
    Docs,
    /// Licences, duplicates and sources of the crates that are built in; skipped without cargo-deny.
    Deny,
    /// The packager's door: meson.build, its installation and its tests.
    Meson,
    /// A short run of every fuzz target.
    Fuzz,
}

impl Suite {
    /// Whether it is made of jobs that can run beside each other.
    pub(super) fn has_jobs(self) -> bool {
        matches!(self, Self::Meson | Self::Guest | Self::Fuzz)
    }

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Rustdoc => "rustdoc",
            Self::Unit => "unit",
            Self::Layering => "layering",
            Self::Qemu => "qemu",
            Self::QemuClippy => "qemu-clippy",
            Self::Qtest => "qtest",
            Self::Guest => "guest",
            Self::Docs => "docs",
            Self::Deny => "deny",
            Self::Meson => "meson",
            Self::Fuzz => "fuzz",
        }
    }

    /// Whether meson.build has it as a test, for those who give it a QEMU only or for all.
    fn in_meson(self) -> InMeson {
        match self {
            Self::Qemu | Self::Qtest | Self::Guest => InMeson::WithQemu,
            // Itself, what works only in a build of QEMU that this program made, and what is no
            // affair of a packager's.
            Self::Meson | Self::QemuClippy | Self::Deny => InMeson::Never,
            _ => InMeson::Always,
        }
    }
}

/// When meson.build has a suite as a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InMeson {
    Always,
    WithQemu,
    Never,
}

/// What meson.build has to know.
pub(super) fn meson_expects() -> meson::Expected<'static> {
    meson::Expected {
        always: suites_in_meson(InMeson::Always),
        with_qemu: suites_in_meson(InMeson::WithQemu),
    }
}

/// The names of the suites that meson.build has under a condition.
fn suites_in_meson(when: InMeson) -> BTreeSet<&'static str> {
    Suite::value_variants()
        .iter()
        .filter(|suite| suite.in_meson() == when)
        .map(|suite| suite.name())
        .collect()
}

/// Runs one suite; what fails is shown here and counted. Those made of jobs are not run here: see
/// [`Suite::has_jobs`].
pub(super) fn run(project: &Project, steps: &mut Steps, suite: Suite) -> Counts {
    let checked = match suite {
        Suite::Unit => {
            let args = ["--workspace", "--exclude", QTESTS];
            return tests(project, steps, "workspace tests", &args, &[]);
        }
        Suite::Layering => {
            let args = ["--package", QTESTS, "--test", LAYERING];
            return tests(project, steps, "layering", &args, &[]);
        }
        Suite::Qtest => {
            return qtest(project, steps).unwrap_or_else(|error| not_run(suite, &error))
        }
        Suite::Deny => {
            return deny::run(project, steps).unwrap_or_else(|error| not_run(suite, &error))
        }
        Suite::Docs => steps.run("documentation", |_| docs::check(project.root())),
        Suite::Meson | Suite::Guest | Suite::Fuzz => return Counts::default(),
        Suite::Fmt => fmt(project, steps),
        Suite::Clippy => cargo(
            project,
            steps,
            "clippy",
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--keep-going",
                "--",
                "--deny",
                "warnings",
            ],
        ),
        Suite::Rustdoc => steps.run("rustdoc", |step| {
            Cmd::cargo()
                .args([
                    "doc",
                    "--keep-going",
                    "--locked",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .env("RUSTDOCFLAGS", "--deny warnings")
                .dir(project.root())
                .run(step)
        }),
        Suite::Qemu => qemu::ensure(project, steps).map(|_| ()),
        Suite::QemuClippy => qemu::lint(project, steps),
    };
    report(&checked);
    Counts::one(suite.name(), checked.is_ok())
}

/// Shows why a suite could not be run.
fn not_run(suite: Suite, error: &anyhow::Error) -> Counts {
    eprintln!("error: {error:#}");
    Counts::one(suite.name(), false)
}

/// Shows why something failed, at once and not only at the end.
pub(super) fn report<T>(result: &Result<T>) {
    if let Err(error) = result {
        eprintln!("error: {error:#}");
    }
}

fn cargo(project: &Project, steps: &mut Steps, name: &str, args: &[&str]) -> Result<()> {
    steps.run(name, |step| {
        Cmd::cargo().args(args).dir(project.root()).run(step)
    })
}

/// The workspace by cargo; the crates that only QEMU builds are outside of it, so they are listed.
fn fmt(project: &Project, steps: &mut Steps) -> Result<()> {
    let hint = "cargo fmt --all; for rust/hw and qtest/qemu: rustfmt --edition 2021 FILE";
    steps.run("formatting", |step| {
        Cmd::cargo()
            .args(["fmt", "--all", "--check"])
            .dir(project.root())
            .hint(hint)
            .run(step)?;
        let mut files = rust_files(&project.root().join("rust/hw"))?;
        files.extend(rust_files(&project.root().join("qtest/qemu"))?);
        if files.is_empty() {
            return Ok(());
        }
        Cmd::new("rustfmt")
            .args(["--check", "--edition", "2021"])
            .args(["--config-path", "rustfmt.toml"])
            .args(files)
            .dir(project.root())
            .hint(hint)
            .run(step)
    })
}

/// Rust source files below a directory, if it exists.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        if !dir.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Names of the tests of a package, as cargo finds them: a file each, or a directory with its `main.rs`.
fn test_targets(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let file = path.extension().is_some_and(|end| end == "rs");
        if file || path.join("main.rs").is_file() {
            let name = path.file_stem().unwrap_or_default();
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds what the tests run and runs them; a failed build is an error, failed tests are counted.
fn qtest(project: &Project, steps: &mut Steps) -> Result<Counts> {
    let qemu = qemu::ensure(project, steps)?;
    let programs = programs::build(project, steps, Profile::Debug, None)?;
    let mut args = vec![
        "--package".to_owned(),
        QTESTS.to_owned(),
        "--lib".to_owned(),
    ];
    let targets = test_targets(&project.root().join("qtest/tests/tests"))?;
    for name in targets.iter().filter(|name| *name != LAYERING) {
        args.extend(["--test".to_owned(), name.clone()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let env = [
        ("VLVF_QEMU", qemu),
        ("VLVF_HELPER", programs.helper),
        ("VLVF_SIM", programs.simulator),
    ];
    Ok(tests(project, steps, "qtests", &args, &env))
}

/// Runs `cargo test`, its tests counted one by one.
fn tests(
    project: &Project,
    steps: &mut Steps,
    name: &str,
    args: &[&str],
    env: &[(&str, PathBuf)],
) -> Counts {
    let mut log = None;
    let result = steps.run(name, |step| {
        log = Some(step.log().to_owned());
        let mut cargo = Cmd::cargo()
            .args(["test", "--locked", "--no-fail-fast"])
            .args(args)
            .dir(project.root());
        for (name, value) in env {
            cargo = cargo.env(name, value);
        }
        cargo.run(step)
    });
    report(&result);
    let text = log.and_then(|log| fs::read(log).ok()).unwrap_or_default();
    let mut counts = Counts::of_harness(&String::from_utf8_lossy(&text));
    if result.is_err() && counts.failed == 0 {
        // It did not even get to run: a test binary does not compile, or one was killed.
        counts.add(Counts::one(name, false));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_files_are_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/src")).unwrap();
        for name in ["a/src/lib.rs", "a/build.rs", "a/meson.build"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let files = rust_files(dir.path()).unwrap();
        assert_eq!(
            files,
            [
                dir.path().join("a/build.rs"),
                dir.path().join("a/src/lib.rs")
            ]
        );
        assert!(rust_files(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn every_test_of_everything_together_is_run() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let names = test_targets(&root.join("qtest/tests/tests")).unwrap();
        for name in ["isolation", "layering", "registers"] {
            assert!(names.iter().any(|one| one == name), "{names:?}");
        }
        // One of cargo's own would be left out.
        let manifest = fs::read_to_string(root.join("qtest/tests/Cargo.toml")).unwrap();
        assert!(!manifest.contains("[[test]]"));
    }

    #[test]
    fn suites_have_the_names_of_the_command_line() {
        for suite in Suite::value_variants() {
            assert_eq!(Suite::from_str(suite.name(), false), Ok(*suite));
        }
    }

    #[test]
    fn meson_knows_the_suites_and_the_version() {
        let meson =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../meson.build")).unwrap();
        for (start, when) in [
            ("suites = ", InMeson::Always),
            ("suites += ", InMeson::WithQemu),
        ] {
            let line = meson
                .lines()
                .find_map(|line| line.trim().strip_prefix(start))
                .unwrap();
            let names: BTreeSet<&str> = line.split('\'').skip(1).step_by(2).collect();
            assert_eq!(names, suites_in_meson(when));
        }
        assert!(meson.contains(concat!("  version: '", env!("CARGO_PKG_VERSION"), "',\n")));
    }
}
