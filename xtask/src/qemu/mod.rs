// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU with the overlay.
//!
//! Pieces, in the order they are used: [`source`] (tarballs, verified and unpacked) with [`apt`] and
//! [`crates`]; [`tools`] (meson and bindgen); [`series`] (patches to QEMU's files) and [`overlay`]
//! (our crates); [`configure`]; [`build`].
//!
//! In the cache: `distfiles/`, `source-*`, `python-*` and `bindgen-*` are shared by all checkouts.
//! `qemu-*` is one build: its name is a key over everything that asks for a fresh configure (source,
//! options, tools) and the checkout. The crates below `rust/` and the patch series are not in the
//! key: a change of theirs touches only files that differ, and is an incremental build.

mod apt;
mod build;
pub(crate) mod command;
mod configure;
mod crates;
mod lint;
mod overlay;
mod series;
mod source;
mod tools;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{bail, Context, Result};

use self::overlay::Overlay;
use self::series::Series;
use self::tools::Tools;
use crate::digest::Digest;
use crate::lock::Lock;
use crate::packages;
use crate::project::Project;
use crate::run::Cmd;
use crate::steps::Steps;

/// The overlay's file whose presence means that the program must know [`DEVICE`].
const DEVICE_BUILD: &str = "rust/hw/virtio/legacy-vf/meson.build";
const DEVICE: &str = "virtio-legacy-vf-user";
/// Names a QEMU built elsewhere, to be used as it is.
const GIVEN: &str = "VLVF_QEMU";
/// In a build's directory: the checkout it is for.
const CHECKOUT: &str = "checkout";
/// Builds of one checkout that are kept besides the current one.
const KEPT: usize = 1;

/// The build of one checkout in one configuration.
struct Build {
    dir: PathBuf,
    overlay: Overlay,
    series: Series,
    tools: Tools,
}

impl Build {
    /// Finds out which build belongs to the checkout as it is; changes nothing.
    fn plan(project: &Project) -> Result<Self> {
        let overlay = Overlay::collect(project.root())?;
        let series = Series::collect(project.root())?;
        let tools = Tools::plan(project);
        let mut digest = Digest::new();
        digest.field("checkout", project.checkout_key());
        digest.field("source", source::key());
        for option in configure::OPTIONS {
            digest.field("option", option);
        }
        digest.field("tools", &tools.identity);
        let dir = project
            .cache()
            .join(format!("qemu-{}-{}", source::VERSION, digest.short()));
        Ok(Self {
            dir,
            overlay,
            series,
            tools,
        })
    }

    fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    fn build(&self) -> PathBuf {
        self.dir.join("build")
    }

    fn program(&self) -> PathBuf {
        build::program(&self.build())
    }

    fn stale(&self) -> Option<String> {
        build::stale(&self.dir, &self.build(), &self.digest())
    }

    /// What the program is built from, besides what is in the build's key.
    fn digest(&self) -> String {
        let mut digest = Digest::new();
        digest
            .field("overlay", self.overlay.digest())
            .field("series", self.series.digest());
        digest.full()
    }

    /// The device that the built program must know.
    fn device(&self) -> Option<&'static str> {
        self.overlay.has(DEVICE_BUILD).then_some(DEVICE)
    }

    fn lock(&self, project: &Project) -> Result<PathBuf> {
        lock_path(project, &self.dir)
    }

    /// Copies the pristine source; under its final name only when complete.
    fn make_tree(&self, steps: &mut Steps, pristine: &Path) -> Result<()> {
        if self.source().exists() {
            return Ok(());
        }
        let work = self.dir.join("source.tmp");
        steps.run("copy the source", |step| {
            if work.exists() {
                fs::remove_dir_all(&work)?;
            }
            Cmd::new("cp")
                .args(["--archive", "--reflink=auto"])
                .args([pristine, &work])
                .run(step)?;
            fs::rename(&work, self.source())?;
            Ok(())
        })
    }
}

/// Gets, overlays and builds QEMU; gives the program's path. With [`GIVEN`] that one is taken.
///
/// # Errors
/// When a step fails; the text says which, why, and what can be done.
pub(crate) fn ensure(project: &Project, steps: &mut Steps) -> Result<PathBuf> {
    if let Some(program) = given(env::var_os(GIVEN))? {
        return Ok(program);
    }
    packages::ensure(steps, "building QEMU", packages::QEMU_BUILD)?;
    let planned = Build::plan(project)?;
    // Packages may bring other tools, so the plan is made after them.
    let pristine = source::prepare(project, steps)?;
    planned.tools.prepare(project, steps)?;
    fs::create_dir_all(&planned.dir)?;
    let _lock = Lock::acquire(&planned.lock(project)?)?;
    overlay::write_atomically(
        &planned.dir.join(CHECKOUT),
        project.root().as_os_str().as_encoded_bytes(),
    )?;
    planned.make_tree(steps, &pristine)?;
    let (tree, directory) = (planned.source(), planned.build());
    steps.run("apply rust/qemu-series", |step| {
        planned.series.sync(step, &pristine, &tree)
    })?;
    steps.run("lay the project's crates over QEMU", |step| {
        let summary = planned.overlay.lay(&tree)?;
        step.note(summary.text());
        Ok(())
    })?;
    steps.run("configure QEMU", |step| {
        configure::configure(step, &tree, &directory, &planned.tools)
    })?;
    steps.run("build QEMU", |step| {
        build::build(step, &directory, &planned.tools, planned.device())?;
        build::record(&planned.dir, &directory, &planned.digest())
    })?;
    prune(project, &planned.dir)?;
    Ok(planned.program())
}

/// The program the environment names, made sure to be one.
fn given(value: Option<OsString>) -> Result<Option<PathBuf>> {
    let Some(path) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let help = Cmd::new(&path)
        .args(["-device", "help"])
        .ask()
        .with_context(|| format!("{GIVEN}={} is not a QEMU that runs here", path.display()))?;
    if !build::knows(&help, DEVICE) {
        bail!(
            "{GIVEN}={} does not know the device {DEVICE}",
            path.display()
        );
    }
    Ok(Some(std::path::absolute(path)?))
}

/// Where the program of this checkout is.
///
/// # Errors
/// When it was not built.
pub(crate) fn program(project: &Project) -> Result<PathBuf> {
    if let Some(program) = given(env::var_os(GIVEN))? {
        return Ok(program);
    }
    let planned = Build::plan(project)?;
    let path = planned.program();
    if !path.exists() {
        bail!("QEMU is not built for this checkout as it is\n  way out: cargo xtask qemu");
    }
    if let Some(why) = planned.stale() {
        eprintln!("warning: QEMU is not current: {why}; `cargo xtask qemu` builds it");
    }
    Ok(path)
}

/// Verifies that the build is current; builds nothing.
///
/// # Errors
/// When it is not, with the reason.
pub(crate) fn check(project: &Project) -> Result<PathBuf> {
    let planned = Build::plan(project)?;
    match planned.stale() {
        None => Ok(planned.program()),
        Some(why) => bail!("QEMU is not current: {why}\n  way out: cargo xtask qemu"),
    }
}

/// Runs clippy over the crates that only build inside QEMU, in the current build.
///
/// # Errors
/// When QEMU is not built, or clippy finds something.
pub(crate) fn clippy(project: &Project, steps: &mut Steps) -> Result<()> {
    let planned = Build::plan(project)?;
    if let Some(why) = planned.stale() {
        bail!("QEMU is not current: {why}\n  way out: cargo xtask qemu");
    }
    let _lock = Lock::acquire(&planned.lock(project)?)?;
    steps.run("clippy inside QEMU's build", |step| {
        lint::clippy(
            step,
            &planned.source(),
            &planned.build(),
            &planned.tools,
            &planned.overlay,
        )
    })
}

/// Puts the overlay onto a QEMU tree given by a packager: patches, crates, and QEMU's own Rust
/// crates where the tree lacks them.
///
/// # Errors
/// When the tree is not QEMU's, has another version of the patches, or cannot be written.
pub(crate) fn overlay_tree(project: &Project, steps: &mut Steps, tree: &Path) -> Result<()> {
    let tree = tree
        .canonicalize()
        .with_context(|| format!("no directory {}", tree.display()))?;
    let _lock = Lock::acquire(&lock_path(project, &tree)?)?;
    let overlay = Overlay::collect(project.root())?;
    let series = Series::collect(project.root())?;
    check_version(&tree)?;
    if !tree.join("subprojects/packagefiles/syn-2-rs").exists() {
        steps.run("add the Rust crates QEMU builds with", |step| {
            crates::add(step, &tree, &tree.join(overlay::RECORD_DIR).join("vendor"))
        })?;
    }
    steps.run("apply rust/qemu-series", |step| series.apply(step, &tree))?;
    steps.run("lay the project's crates over QEMU", |step| {
        let summary = overlay.lay(&tree)?;
        step.note(summary.text());
        Ok(())
    })
}

/// Overlays, configures and builds in directories given by a packager; gives the program's path.
///
/// # Errors
/// As [`ensure`] and [`overlay_tree`].
pub(crate) fn build_tree(
    project: &Project,
    steps: &mut Steps,
    tree: &Path,
    directory: &Path,
) -> Result<PathBuf> {
    overlay_tree(project, steps, tree)?;
    let tree = tree.canonicalize()?;
    let directory = std::path::absolute(directory)?;
    let planned = Build::plan(project)?;
    planned.tools.prepare(project, steps)?;
    let _lock = Lock::acquire(&lock_path(project, &directory)?)?;
    steps.run("configure QEMU", |step| {
        configure::configure(step, &tree, &directory, &planned.tools)
    })?;
    steps.run("build QEMU", |step| {
        build::build(step, &directory, &planned.tools, planned.device())
    })?;
    Ok(build::program(&directory))
}

/// Builds in a QEMU build directory that somebody else configured; gives the program's path.
///
/// # Errors
/// When it is not a build directory, and as [`overlay_tree`].
pub(crate) fn rebuild(project: &Project, steps: &mut Steps, directory: &Path) -> Result<PathBuf> {
    let directory = directory
        .canonicalize()
        .with_context(|| format!("no directory {}", directory.display()))?;
    overlay_tree(project, steps, &source_of(&directory)?)?;
    let planned = Build::plan(project)?;
    let _lock = Lock::acquire(&lock_path(project, &directory)?)?;
    steps.run("build QEMU", |step| {
        build::build(step, &directory, &planned.tools, planned.device())
    })?;
    Ok(build::program(&directory))
}

/// The source tree of a meson build directory.
///
/// # Errors
/// When meson did not configure it.
fn source_of(directory: &Path) -> Result<PathBuf> {
    let info = directory.join("meson-info/meson-info.json");
    let text = fs::read_to_string(&info)
        .with_context(|| format!("{} is not a configured build of QEMU", directory.display()))?;
    let info: serde_json::Value = serde_json::from_str(&text)?;
    info.pointer("/directories/source")
        .and_then(serde_json::Value::as_str)
        .map(PathBuf::from)
        .with_context(|| format!("{} names no source directory", directory.display()))
}

fn check_version(tree: &Path) -> Result<()> {
    let found = fs::read_to_string(tree.join("VERSION"))
        .with_context(|| format!("{} is not a QEMU source tree", tree.display()))?;
    let minor = |version: &str| {
        version
            .trim()
            .split('.')
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if minor(&found) != minor(source::VERSION) {
        bail!(
            "{} is QEMU {}, the overlay is made for {}",
            tree.display(),
            found.trim(),
            source::VERSION
        );
    }
    Ok(())
}

/// The lock for a build directory; kept outside of it, so that it can be removed.
fn lock_path(project: &Project, directory: &Path) -> Result<PathBuf> {
    let mut digest = Digest::new();
    digest.field("directory", directory.as_os_str().as_encoded_bytes());
    Ok(project
        .cache_dir("locks")?
        .join(format!("{}.lock", digest.short())))
}

/// Removes builds that nobody will come back to: those of checkouts that are gone, and all but the
/// newest of this checkout's older ones.
fn prune(project: &Project, current: &Path) -> Result<()> {
    let mut older = Vec::new();
    for dir in builds(project)? {
        if dir == current {
            continue;
        }
        let checkout = fs::read_to_string(dir.join(CHECKOUT)).unwrap_or_default();
        if checkout.is_empty() || !Path::new(&checkout).is_dir() {
            remove_unused(project, &dir)?;
        } else if Path::new(&checkout) == project.root() {
            let time = fs::metadata(dir.join(CHECKOUT)).and_then(|data| data.modified());
            older.push((time.unwrap_or(SystemTime::UNIX_EPOCH), dir));
        }
    }
    older.sort();
    let excess = older.len().saturating_sub(KEPT);
    for (_, dir) in older.iter().take(excess) {
        remove_unused(project, dir)?;
    }
    Ok(())
}

/// All builds in the cache.
fn builds(project: &Project) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    if !project.cache().is_dir() {
        return Ok(dirs);
    }
    for entry in fs::read_dir(project.cache())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("qemu-") && path.is_dir() {
            dirs.push(path);
        }
    }
    Ok(dirs)
}

/// Removes a build that no run holds.
fn remove_unused(project: &Project, dir: &Path) -> Result<()> {
    if let Some(_lock) = Lock::try_acquire(&lock_path(project, dir)?)? {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        eprintln!("     removed the unused build {}", dir.display());
    }
    Ok(())
}

/// Removes all builds of this checkout.
///
/// # Errors
/// When one cannot be removed.
pub(crate) fn clean(project: &Project) -> Result<()> {
    for dir in builds(project)? {
        let checkout = fs::read_to_string(dir.join(CHECKOUT)).unwrap_or_default();
        if Path::new(&checkout) == project.root() {
            remove_unused(project, &dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_build_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert!(source_of(dir.path()).is_err());
        fs::create_dir(dir.path().join("meson-info")).unwrap();
        let info = r#"{"directories": {"source": "/q", "build": "/b"}}"#;
        fs::write(dir.path().join("meson-info/meson-info.json"), info).unwrap();
        assert_eq!(source_of(dir.path()).unwrap(), Path::new("/q"));
    }

    #[test]
    fn a_given_program_must_know_the_device() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        let program = |text: &str| {
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            given(Some(path.clone().into()))
        };
        assert_eq!(given(None).unwrap(), None);
        assert_eq!(given(Some(OsString::new())).unwrap(), None);
        let text = program("echo 'name \"vfio-user-pci\", bus PCI'")
            .unwrap_err()
            .to_string();
        assert!(text.contains("does not know the device"), "{text}");
        assert!(program("exit 1")
            .unwrap_err()
            .to_string()
            .contains("is not a QEMU"));
        let known = program("echo 'name \"virtio-legacy-vf-user\", bus PCI'").unwrap();
        assert_eq!(known.as_deref(), Some(path.as_path()));
    }

    #[test]
    fn another_qemu_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let version = |text: &str| {
            fs::write(dir.path().join("VERSION"), text).unwrap();
            check_version(dir.path())
        };
        version("10.2.2\n").unwrap();
        version("10.2.3\n").unwrap();
        assert!(version("10.1.2\n")
            .unwrap_err()
            .to_string()
            .contains("is QEMU 10.1.2"));
        assert!(version("110.2.2\n").is_err());
    }
}
