// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages in the cache: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use crate::digest::Digest;
use crate::lock::Lock;
use crate::project::Project;
use crate::run::Cmd;
use crate::steps::{Step, Steps};

/// To be raised when the way of unpacking changes.
const RECIPE: &str = "1";
/// Written when everything is there: the names of the package files.
const MANIFEST: &str = "manifest";
/// Where programs find their libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// The way out when apt knows no package of a name.
pub const LISTS: &str =
    "the package lists of apt may be missing or old: `apt-get update` as root renews them";

/// Unpacked packages.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Their files, as on an installed system.
    pub root: PathBuf,
    /// Names and versions of the package files, one per line.
    pub manifest: String,
}

impl Unpacked {
    /// Gives what is in the cache under this name and key, or unpacks the package files that
    /// `download` puts into `debs` below a directory; what it puts into `root` there stays.
    ///
    /// # Errors
    /// When `download` fails or a package cannot be unpacked.
    pub fn cached(
        project: &Project,
        steps: &mut Steps,
        title: &str,
        name: &str,
        key: &[&str],
        download: impl FnOnce(&Step, &Path) -> Result<Vec<PathBuf>>,
    ) -> Result<Self> {
        let mut digest = Digest::new();
        digest.field("recipe", RECIPE);
        for package in key {
            digest.field("package", package);
        }
        let dir = project
            .cache_dir("")?
            .join(format!("{name}-{}", digest.short()));
        let _lock = Lock::acquire(&dir.with_extension("lock"))?;
        if let Ok(found) = Self::load(&dir) {
            return Ok(found);
        }
        steps.run(title, |step| {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir)?;
            let files = download(step, &dir)?;
            let root = dir.join("root");
            fs::create_dir_all(&root)?;
            let mut names = Vec::new();
            for file in &files {
                Cmd::new("dpkg-deb")
                    .arg("--extract")
                    .arg(file)
                    .arg(&root)
                    .run(step)?;
                names.extend(
                    file.file_name()
                        .and_then(|name| name.to_str())
                        .map(str::to_owned),
                );
            }
            names.sort();
            fs::remove_dir_all(dir.join("debs"))?;
            fs::write(dir.join(MANIFEST), names.join("\n") + "\n")?;
            Self::load(&dir)
        })
    }

    fn load(dir: &Path) -> Result<Self> {
        let manifest = fs::read_to_string(dir.join(MANIFEST))
            .with_context(|| format!("{} is not complete", dir.display()))?;
        Ok(Self {
            root: dir.join("root"),
            manifest,
        })
    }

    /// A file of the packages.
    ///
    /// # Errors
    /// When no package has it.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let full = self.root.join(path);
        ensure!(full.exists(), "no package has /{path}");
        Ok(full)
    }

    /// A program of the packages as a command, which finds its libraries.
    ///
    /// # Errors
    /// When no package has it.
    pub fn program(&self, path: &str) -> Result<Cmd> {
        let libraries: Vec<String> = LIBRARIES
            .iter()
            .map(|dir| self.root.join(dir).to_string_lossy().into_owned())
            .collect();
        Ok(Cmd::new(self.file(path)?).env("LD_LIBRARY_PATH", libraries.join(":")))
    }

    /// Version of a package.
    pub fn version(&self, package: &str) -> &str {
        version_in(&self.manifest, package).unwrap_or("?")
    }
}

/// The version in a list of package files, whose names are `package_version_architecture.deb`.
fn version_in<'a>(manifest: &'a str, package: &str) -> Option<&'a str> {
    manifest.lines().find_map(|line| {
        let mut parts = line.split('_');
        (parts.next() == Some(package)).then(|| parts.next())?
    })
}

/// Downloads the packages that `packages` names, by the machine's own package lists, and gives
/// their files, which are at least `count`. Root's lists are renewed if something is not found.
///
/// # Errors
/// When `packages` fails, or what apt says.
pub fn download_packages(
    step: &Step,
    dir: &Path,
    count: usize,
    packages: impl Fn() -> Result<Vec<String>>,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let attempt = || {
        Cmd::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .args(packages()?)
            .dir(dir)
            .hint(LISTS)
            .run(step)
    };
    if let Err(error) = attempt() {
        if !rustix::process::geteuid().is_root() {
            return Err(error);
        }
        step.write(&format!("{error:#}\nrenewing apt's package lists"))?;
        Cmd::new("apt-get").args(["-q", "update"]).run(step)?;
        attempt()?;
    }
    let files = debs_in(dir)?;
    if files.len() < count {
        bail!("apt-get download gave {} of {count} packages", files.len());
    }
    Ok(files)
}

/// The package files in a directory.
///
/// # Errors
/// When it cannot be read.
pub fn debs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_names_of_package_files() {
        let manifest = "grub-pc-bin_2.06-13_amd64.deb\nseabios_1.16.2-1_all.deb\n";
        assert_eq!(version_in(manifest, "seabios"), Some("1.16.2-1"));
        assert_eq!(version_in(manifest, "grub-pc-bin"), Some("2.06-13"));
        assert_eq!(version_in(manifest, "grub-pc"), None);
    }
}
