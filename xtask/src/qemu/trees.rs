// SPDX-License-Identifier: GPL-2.0-or-later
//! The overlay in QEMU trees and build directories that a packager gives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use super::overlay::{self, Overlay};
use super::series::Series;
use super::tidy::lock_path;
use super::{build, configure, crates, source, Build};
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::steps::Steps;

const WAY_OUT: &str = "`ninja qemu-system-x86_64` in that directory shows it alone";

/// Puts the overlay onto a QEMU tree given by a packager: patches, crates, and QEMU's own Rust
/// crates where the tree lacks them. What only tests need is laid over it if asked for.
///
/// # Errors
/// When the tree is not QEMU's, has another version of the patches, or cannot be written.
pub(crate) fn overlay_tree(
    project: &Project,
    steps: &mut Steps,
    tree: &Path,
    for_tests: bool,
) -> Result<()> {
    let tree = tree
        .canonicalize()
        .with_context(|| format!("no directory {}", tree.display()))?;
    let _lock = Lock::acquire(&lock_path(project, &tree)?)?;
    let overlay = if for_tests {
        Overlay::collect_for_tests(project.root())?
    } else {
        Overlay::collect(project.root())?
    };
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
/// As [`super::ensure`] and [`overlay_tree`].
pub(crate) fn build_tree(
    project: &Project,
    steps: &mut Steps,
    tree: &Path,
    directory: &Path,
) -> Result<PathBuf> {
    overlay_tree(project, steps, tree, false)?;
    let tree = tree.canonicalize()?;
    let directory = std::path::absolute(directory)?;
    let planned = Build::plan(project)?;
    planned.tools.prepare(project, steps)?;
    let _lock = Lock::acquire(&lock_path(project, &directory)?)?;
    steps.run("configure QEMU", |step| {
        configure::configure(step, &tree, &directory, &planned.tools)
    })?;
    steps.run("build QEMU", |step| {
        build::build(step, &directory, &planned.tools, planned.device(), WAY_OUT)
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
    let source = source_of(&directory)?;
    // A tree that was made for tests stays one.
    let for_tests = Overlay::is_for_tests(&source)?;
    overlay_tree(project, steps, &source, for_tests)?;
    let planned = Build::plan(project)?;
    let _lock = Lock::acquire(&lock_path(project, &directory)?)?;
    steps.run("build QEMU", |step| {
        build::build(step, &directory, &planned.tools, planned.device(), WAY_OUT)
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
