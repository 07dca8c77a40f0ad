// SPDX-License-Identifier: GPL-2.0-or-later
//! Whose a build in the cache is, its lock, and the removal of those that nobody uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use test_kit::digest::Digest;
use test_kit::lock::Lock;
use test_kit::project::Project;

/// In a build's directory: the checkout it is for.
pub(super) const CHECKOUT: &str = "checkout";
/// Builds of one checkout that are kept besides the current one.
const KEPT: usize = 1;

/// The lock for a build directory; kept outside of it, so that it can be removed.
///
/// # Errors
/// When the cache cannot be written.
pub(super) fn lock_path(project: &Project, directory: &Path) -> Result<PathBuf> {
    let mut digest = Digest::new();
    digest.field("directory", directory.as_os_str().as_encoded_bytes());
    Ok(project
        .cache_dir("locks")?
        .join(format!("{}.lock", digest.short())))
}

/// Removes builds that nobody will come back to: those of checkouts that are gone, and all but the
/// newest of this checkout's older ones.
///
/// # Errors
/// When one cannot be removed.
pub(super) fn prune(project: &Project, current: &Path) -> Result<()> {
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
///
/// # Errors
/// When it cannot be read.
pub(super) fn builds(project: &Project) -> Result<Vec<PathBuf>> {
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
    fn only_builds_nobody_comes_back_to_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("other"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&other).unwrap();
        let project = Project::at(&root, &dir.path().join("cache"));
        let build = |name: &str, checkout: &Path, age: u64| {
            let build = project.cache_dir(name).unwrap();
            let file = build.join(CHECKOUT);
            fs::write(&file, checkout.as_os_str().as_encoded_bytes()).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(time)
                .unwrap();
            build
        };
        let current = build("qemu-current", &root, 900);
        build("qemu-before", &root, 10);
        build("qemu-long-before", &root, 20);
        build("qemu-held", &root, 30);
        build("qemu-other", &other, 40);
        build("qemu-gone", &dir.path().join("gone"), 50);
        build("source-x", &root, 60);
        let held = project.cache().join("qemu-held");
        let lock = Lock::acquire(&lock_path(&project, &held).unwrap()).unwrap();
        let names = || {
            let mut names: Vec<String> = builds(&project)
                .unwrap()
                .iter()
                .map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        prune(&project, &current).unwrap();
        assert_eq!(
            names(),
            ["qemu-before", "qemu-current", "qemu-held", "qemu-other"]
        );
        drop(lock);
        clean(&project).unwrap();
        assert_eq!(names(), ["qemu-other"]);
        assert!(project.cache().join("source-x").exists());
    }
}
