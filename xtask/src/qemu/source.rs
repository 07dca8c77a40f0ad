// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's source: the tarballs of Debian's source package, verified and unpacked.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use super::crates;
use test_kit::apt;
use test_kit::digest::{self, Digest};
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::{Step, Steps};

/// The version of QEMU the overlay is made for.
pub(crate) const VERSION: &str = "10.2.2";
/// Debian's version of the source package.
const DEBIAN_VERSION: &str = "1:10.2.2+ds-1";
/// QEMU's own tarball (without firmware) and Debian's changes to it.
const TARBALLS: [Tarball; 2] = [
    Tarball {
        name: "qemu_10.2.2+ds.orig.tar.xz",
        sha256: "be05230fe47a6937cd29f28f562932c8125f9c93c2a82c625198f7a4aa601dfb",
    },
    Tarball {
        name: "qemu_10.2.2+ds-1.debian.tar.xz",
        sha256: "ddf75aceab4f8f77374f3cb34fc97b41514895aeb293ce8b2ddd5e072bb0f5c0",
    },
];
/// Names a directory that has the tarballs, for machines without a mirror that has them.
const DISTFILES: &str = "VLVF_DISTFILES";
/// To be raised when the way of unpacking changes.
const RECIPE: &str = "1";

struct Tarball {
    name: &'static str,
    sha256: &'static str,
}

/// Key of the unpacked source: everything that goes into it.
pub(crate) fn key() -> String {
    let mut digest = Digest::new();
    digest.field("recipe", RECIPE);
    for tarball in &TARBALLS {
        digest.field("tarball", tarball.sha256);
    }
    digest.field("crates", crates::fingerprint());
    digest.short()
}

/// Where the unpacked source is (or will be).
pub(crate) fn place(project: &Project) -> PathBuf {
    project.cache().join(format!("source-{VERSION}-{}", key()))
}

/// Gives the unpacked source: QEMU with Debian's patches and the Rust crates it builds with. It is
/// shared and never changed; builds work on a copy.
///
/// # Errors
/// When the tarballs cannot be had from anywhere, do not verify, or do not unpack.
pub(crate) fn prepare(project: &Project, steps: &mut Steps) -> Result<PathBuf> {
    let place = place(project);
    if place.exists() {
        return Ok(place);
    }
    let _lock = Lock::acquire(&project.cache_dir("locks")?.join("source.lock"))?;
    if place.exists() {
        return Ok(place);
    }
    let distfiles = project.cache_dir("distfiles")?;
    steps.run(&format!("get QEMU {VERSION}'s source"), |step| {
        fetch(step, &distfiles)
    })?;
    let work = project.cache().join("source.tmp");
    steps.run("unpack it and apply Debian's patches", |step| {
        unpack(step, &distfiles, &work)
    })?;
    steps.run("add the Rust crates QEMU builds with", |step| {
        let vendor = work.join("vendor");
        crates::add(step, &work.join(format!("qemu-{VERSION}")), &vendor)
    })?;
    // Only a complete tree ever has the final name.
    fs::rename(work.join(format!("qemu-{VERSION}")), &place)
        .with_context(|| format!("cannot rename the unpacked source to {}", place.display()))?;
    let _ = fs::remove_dir_all(&work);
    Ok(place)
}

/// Puts verified tarballs into `distfiles`: already there, from apt, or from the directory that
/// the environment names.
fn fetch(step: &Step, distfiles: &Path) -> Result<()> {
    if verify_all(distfiles).is_ok() {
        step.note("already downloaded");
        return Ok(());
    }
    let partial = distfiles.join("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let from_apt = apt::download_source(step, "qemu", DEBIAN_VERSION, &partial)
        .and_then(|()| verify_all(&partial));
    let origin = match from_apt {
        Ok(()) => "from apt".to_owned(),
        Err(apt_error) => {
            step.write(&format!("apt: {apt_error:#}"))?;
            copy_from_env(&partial, &apt_error)?
        }
    };
    for tarball in &TARBALLS {
        fs::rename(partial.join(tarball.name), distfiles.join(tarball.name))?;
    }
    let _ = fs::remove_dir_all(&partial);
    step.note(origin);
    Ok(())
}

/// The second source of the tarballs; `apt_error` is why the first one failed.
fn copy_from_env(partial: &Path, apt_error: &anyhow::Error) -> Result<String> {
    let names = TARBALLS.map(|tarball| tarball.name).join(" and ");
    let Some(dir) = env::var_os(DISTFILES).filter(|dir| !dir.is_empty()) else {
        bail!(
            "the source package qemu {DEBIAN_VERSION} could not be had from apt:\n{apt_error:#}\n  \
             way out: put {names} into a directory and name it in {DISTFILES}"
        );
    };
    let dir = PathBuf::from(dir);
    for tarball in &TARBALLS {
        let from = dir.join(tarball.name);
        fs::copy(&from, partial.join(tarball.name)).with_context(|| {
            format!(
                "apt failed ({apt_error:#}),\nand {} cannot be copied",
                from.display()
            )
        })?;
    }
    verify_all(partial).with_context(|| format!("in {DISTFILES}={}", dir.display()))?;
    Ok(format!(
        "from {DISTFILES}={}; apt did not have it",
        dir.display()
    ))
}

fn verify_all(dir: &Path) -> Result<()> {
    TARBALLS.iter().try_for_each(|tarball| verify(dir, tarball))
}

fn verify(dir: &Path, tarball: &Tarball) -> Result<()> {
    let path = dir.join(tarball.name);
    let found = digest::of_file(&path)?;
    if found != tarball.sha256 {
        bail!(
            "{} is not the file it should be: its SHA-256 is {found}, expected {}",
            path.display(),
            tarball.sha256
        );
    }
    Ok(())
}

/// Unpacks as `dpkg-source` does: QEMU, Debian's directory into it, then the patches.
fn unpack(step: &Step, distfiles: &Path, work: &Path) -> Result<()> {
    if work.exists() {
        // An interrupted run left it.
        fs::remove_dir_all(work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(work)?;
    let tree = work.join(format!("qemu-{VERSION}"));
    let [qemu, debian] = TARBALLS.map(|tarball| distfiles.join(tarball.name));
    let tar = |file: &Path, into: &Path| {
        Cmd::new("tar")
            .args(["--extract", "--no-same-owner", "--file"])
            .arg(file)
            .dir(into)
    };
    tar(&qemu, work).run(step)?;
    tar(&debian, &tree).run(step)?;
    let patches = tree.join("debian/patches");
    let series = fs::read_to_string(patches.join("series"))
        .context("Debian's tarball has no debian/patches/series")?;
    for name in quilt_series(&series) {
        apply(
            step,
            &tree,
            &patches.join(name),
            "the tarballs and their order",
        )?;
    }
    Ok(())
}

/// Names in a quilt series file, in order.
fn quilt_series(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        // Options such as -p1 could follow; all of Debian's are -p1.
        .filter_map(|line| line.split_whitespace().next())
}

/// Applies one patch with `-p1`; `blame` tells where to look when it does not apply.
///
/// # Errors
/// When it does not apply exactly.
pub(crate) fn apply(step: &Step, tree: &Path, patch: &Path, blame: &str) -> Result<()> {
    Cmd::new("patch")
        .args([
            "--strip=1",
            "--forward",
            "--batch",
            "--no-backup-if-mismatch",
            "--fuzz=0",
            "--reject-file=-",
        ])
        .arg("--directory")
        .arg(tree)
        .arg("--input")
        .arg(patch)
        .hint(format!(
            "check {blame}: this patch does not apply to {}",
            tree.display()
        ))
        .run(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_kit::steps::Steps;

    #[test]
    fn series_lines() {
        let names: Vec<&str> = quilt_series("a.patch\n# no\n\n b.diff -p1 # why\n").collect();
        assert_eq!(names, ["a.patch", "b.diff"]);
    }

    #[test]
    fn a_wrong_tarball_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tarball = Tarball {
            name: "t.tar",
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        };
        std::fs::write(dir.path().join("t.tar"), "abc").unwrap();
        verify(dir.path(), &tarball).unwrap();
        std::fs::write(dir.path().join("t.tar"), "abd").unwrap();
        let text = verify(dir.path(), &tarball).unwrap_err().to_string();
        assert!(
            text.contains("t.tar is not the file it should be"),
            "{text}"
        );
    }

    #[test]
    fn a_patch_applies_once_and_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("f"), "one\ntwo\n").unwrap();
        let patch = dir.path().join("p.patch");
        fs::write(
            &patch,
            "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n",
        )
        .unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let mut steps = Steps::at(&logs);
        steps
            .run("once", |step| apply(step, &tree, &patch, "x"))
            .unwrap();
        assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "one\n2\n");
        let error = steps.run("twice", |step| apply(step, &tree, &patch, "the series"));
        assert!(format!("{:#}", error.unwrap_err()).contains("check the series"));
        assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "one\n2\n");
    }
}
