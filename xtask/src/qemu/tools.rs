// SPDX-License-Identifier: GPL-2.0-or-later
//! Build tools that are not packages: a Python environment with meson, and bindgen. Both live in
//! the cache; nothing is installed for the whole machine or user.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use test_kit::digest::Digest;
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;

/// Pinned with hashes; pip verifies them.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The bindgen that is installed where there is none.
const BINDGEN_VERSION: &str = "0.72.1";
/// The oldest one that QEMU's build gets the right options for.
const BINDGEN_OLDEST: (u32, u32) = (0, 66);

/// The tools, ready to be used.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Python of the environment that has meson.
    pub(crate) python: PathBuf,
    /// The directory bindgen is in, if it is not on the PATH.
    bindgen_dir: Option<PathBuf>,
    /// What identifies these tools.
    pub(crate) identity: String,
}

impl Tools {
    /// The tools as they will be; needs no network and changes nothing.
    pub(crate) fn plan(project: &Project) -> Self {
        let python = system_python();
        let version = Cmd::new(&python).arg("--version").ask().unwrap_or_default();
        let mut digest = Digest::new();
        // The licence line on top asks for no other environment.
        let requirements = REQUIREMENTS
            .split_once('\n')
            .map_or(REQUIREMENTS, |(_, rest)| rest);
        digest.field("requirements", requirements);
        digest.field("python", python.as_os_str().as_encoded_bytes());
        digest.field("version", &version);
        let venv = project.cache().join(format!("python-{}", digest.short()));

        let mut bindgen_dir = None;
        let mut bindgen = Cmd::new("bindgen")
            .arg("--version")
            .ask()
            .unwrap_or_default();
        if parse_version(&bindgen).is_none_or(|version| version < BINDGEN_OLDEST) {
            bindgen = BINDGEN_VERSION.to_owned();
            bindgen_dir = Some(
                project
                    .cache()
                    .join(format!("bindgen-{BINDGEN_VERSION}/bin")),
            );
        }
        digest.field("bindgen", bindgen.trim());
        digest.field(
            "rustc",
            Cmd::new("rustc").arg("-vV").ask().unwrap_or_default(),
        );
        Self {
            python: venv.join("bin/python3"),
            bindgen_dir,
            identity: digest.full(),
        }
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// When pip or cargo cannot get or build it.
    pub(crate) fn prepare(&self, project: &Project, steps: &mut Steps) -> Result<()> {
        let _lock = Lock::acquire(&project.cache_dir("locks")?.join("tools.lock"))?;
        self.prepare_python(steps)?;
        self.prepare_bindgen(project, steps)
    }

    /// Makes the Python environment alone and gives its meson.
    ///
    /// # Errors
    /// When pip cannot get it.
    pub(crate) fn meson(&self, project: &Project, steps: &mut Steps) -> Result<PathBuf> {
        let _lock = Lock::acquire(&project.cache_dir("locks")?.join("tools.lock"))?;
        self.prepare_python(steps)?;
        Ok(self.python.with_file_name("meson"))
    }

    fn prepare_python(&self, steps: &mut Steps) -> Result<()> {
        let venv = self
            .python
            .ancestors()
            .nth(2)
            .context("no place for the Python environment")?;
        // Scripts in it hold its path, so it is made in place; the mark says that it is complete.
        let mark = venv.join(".complete");
        if mark.exists() {
            return Ok(());
        }
        steps.run("make a Python environment with meson", |step| {
            if venv.exists() {
                fs::remove_dir_all(venv)?;
            }
            Cmd::new(system_python())
                .args(["-m", "venv"])
                .arg(venv)
                .hint("the package python3-venv is needed")
                .run(step)?;
            let list = venv.join("requirements.txt");
            fs::write(&list, REQUIREMENTS)?;
            Cmd::new(&self.python)
                .args(["-m", "pip", "--disable-pip-version-check", "--no-input", "install"])
                .args(["--require-hashes", "--only-binary", ":all:", "--no-deps", "--requirement"])
                .arg(&list)
                .hint("pip must be able to reach the Python package registry (or PIP_INDEX_URL or PIP_FIND_LINKS name another place)")
                .run(step)?;
            fs::write(&mark, "")?;
            Ok(())
        })
    }

    fn prepare_bindgen(&self, project: &Project, steps: &mut Steps) -> Result<()> {
        let Some(dir) = &self.bindgen_dir else {
            return Ok(());
        };
        if dir.join("bindgen").exists() {
            return Ok(());
        }
        let root = dir.parent().context("no place for bindgen")?;
        let target = project.cache().join("bindgen.tmp");
        steps.run("install bindgen into the cache", |step| {
            // cargo puts the program in its place only when it is complete.
            Cmd::cargo()
                .args(["install", "bindgen-cli", "--locked", "--force", "--version"])
                .arg(BINDGEN_VERSION)
                .arg("--root")
                .arg(root)
                .env("CARGO_TARGET_DIR", &target)
                .dir(project.cache())
                .hint("cargo must be able to reach the Rust package registry; or install bindgen-cli yourself")
                .run(step)?;
            let _ = fs::remove_dir_all(&target);
            Ok(())
        })
    }

    /// The PATH with which QEMU's build finds them.
    pub(crate) fn path(&self) -> OsString {
        let old = env::var_os("PATH").unwrap_or_default();
        match &self.bindgen_dir {
            None => old,
            Some(dir) => {
                let mut path = dir.clone().into_os_string();
                path.push(":");
                path.push(old);
                path
            }
        }
    }
}

/// Debian's Python where it is there, since that is the one python3-venv belongs to.
fn system_python() -> PathBuf {
    let debian = Path::new("/usr/bin/python3");
    if debian.exists() {
        debian.into()
    } else {
        "python3".into()
    }
}

/// Major and minor number in a line such as `bindgen 0.72.1`.
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("bindgen 0.72.1\n"), Some((0, 72)));
        assert!(parse_version("bindgen 0.60.1").unwrap() < BINDGEN_OLDEST);
        assert_eq!(parse_version("bindgen"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn every_requirement_has_a_hash() {
        let lines: Vec<&str> = REQUIREMENTS
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.contains(" --hash=sha256:")));
    }
}
