// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages whose files go into the guest: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::digest::Digest;
use crate::lock::Lock;
use crate::project::Project;
use crate::run::Cmd;
use crate::steps::{Step, Steps};

/// The package that depends on Debian's current kernel.
const KERNEL_META: &str = "linux-image-amd64";
/// What the guest has besides the kernel: a shell with its tools, and lspci with its libraries; and
/// the firmware that QEMU boots it with.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "libc6",
    "liblzma5",
    "libkmod2",
    "libpci3",
    "libssl3",
    "libudev1",
    "libzstd1",
    "pci.ids",
    "pciutils",
    "qemu-system-data",
    "seabios",
    "zlib1g",
];
/// To be raised when the way of unpacking changes.
const RECIPE: &str = "1";
/// Written when everything is there: the names of the package files.
const MANIFEST: &str = "manifest";

/// The unpacked packages.
#[derive(Debug, Clone)]
pub(crate) struct Debs {
    /// Their files, as on an installed system.
    pub(crate) root: PathBuf,
    /// Names and versions.
    pub(crate) manifest: String,
}

impl Debs {
    /// Gives the unpacked packages, from the cache if they are there.
    ///
    /// # Errors
    /// When apt has no such packages or they cannot be unpacked.
    pub(crate) fn ensure(project: &Project, steps: &mut Steps) -> Result<Self> {
        let mut digest = Digest::new();
        digest.field("recipe", RECIPE);
        for package in PACKAGES {
            digest.field("package", package);
        }
        let dir = project
            .cache()
            .join(format!("guest-packages-{}", digest.short()));
        let _lock = Lock::acquire(&dir.with_extension("lock"))?;
        if let Ok(debs) = Self::load(&dir) {
            return Ok(debs);
        }
        steps.run("get the guest's kernel and programs", |step| {
            let _ = fs::remove_dir_all(&dir);
            let files = download(step, &dir.join("debs"))?;
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
            if let Some(kernel) = names.iter().find(|name| name.starts_with("linux-image-")) {
                step.note(kernel.trim_end_matches("_amd64.deb").replacen('_', " ", 1));
            }
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

    /// Directories with the firmware, for QEMU's option -L.
    pub(crate) fn firmware(&self) -> [PathBuf; 2] {
        ["usr/share/seabios", "usr/share/qemu"].map(|dir| self.root.join(dir))
    }

    /// The kernel, and the directory of its modules.
    ///
    /// # Errors
    /// When the kernel's package is not laid out as expected.
    pub(crate) fn kernel(&self) -> Result<(PathBuf, PathBuf)> {
        let boot = self.root.join("boot");
        for entry in fs::read_dir(&boot).with_context(|| format!("no {}", boot.display()))? {
            let path = entry?.path();
            let version = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix("vmlinuz-"));
            if let Some(version) = version {
                for lib in ["lib/modules", "usr/lib/modules"] {
                    let modules = self.root.join(lib).join(version);
                    if modules.is_dir() {
                        return Ok((path, modules));
                    }
                }
                bail!("the kernel {version} came without modules");
            }
        }
        bail!("no kernel in {}", boot.display())
    }
}

/// Downloads the packages and gives their files.
fn download(step: &Step, dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let hint =
        "the package lists of apt may be missing or old: `apt-get update` as root renews them";
    let attempt = || -> Result<()> {
        let depends = Cmd::new("apt-cache")
            .args(["depends", "--important", KERNEL_META])
            .hint(hint)
            .output(step)?;
        let kernel = kernel_of(&depends)
            .with_context(|| format!("{KERNEL_META} depends on no kernel\n  way out: {hint}"))?;
        Cmd::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &kernel])
            .args(PACKAGES)
            .dir(dir)
            .hint(hint)
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
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            files.push(path);
        }
    }
    if files.len() <= PACKAGES.len() {
        bail!(
            "apt-get download gave {} of {} packages",
            files.len(),
            PACKAGES.len() + 1
        );
    }
    Ok(files)
}

/// The kernel's package in the output of `apt-cache depends`.
fn kernel_of(depends: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-9-amd64\n";
        assert_eq!(
            kernel_of(text).as_deref(),
            Some("linux-image-6.1.0-9-amd64")
        );
        assert_eq!(kernel_of("linux-image-amd64\n  Depends: something\n"), None);
        assert_eq!(kernel_of(""), None);
    }
}
