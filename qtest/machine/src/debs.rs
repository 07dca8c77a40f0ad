// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages whose files go into the guest: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use test_kit::apt::{Kind, Private};
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::{Step, Steps};
use test_kit::unpacked::{debs_in, download_packages, Unpacked, LISTS};

/// The package that depends on Debian's current kernel.
const KERNEL_META: &str = "linux-image-amd64";
/// How the names of the kernels' own packages begin.
const IMAGE: &str = "linux-image-";
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

/// Suites of the newer kernel: what it needs, and itself.
const NEWER: [&str; 2] = ["trixie", "trixie-backports"];

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Release {
    /// The one of the release that the machine's own package lists name: 6.1 in Debian 12.
    #[value(name = "6.1")]
    Stable,
    /// The newest one made for Debian 13.
    #[value(name = "new")]
    Newer,
}

/// Packages of the suites with the newer kernel.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What the step is called.
    pub title: &'a str,
    /// A word for the directory's name.
    pub name: &'a str,
    /// Their names.
    pub packages: &'a [&'a str],
    /// With everything they depend on, so that programs run in a chroot of the result. Directories
    /// such as `bin` are links to those in `usr` then.
    pub dependencies: bool,
}

/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Debs {
    /// Their files, as on an installed system.
    pub root: PathBuf,
    /// Names and versions.
    pub manifest: String,
}

impl Debs {
    /// Gives the unpacked packages, from the cache if they are there.
    ///
    /// # Errors
    /// When apt has no such packages or they cannot be unpacked.
    pub fn ensure(project: &Project, steps: &mut Steps) -> Result<Self> {
        let title = "get the guest's kernel and programs";
        Self::cached(
            project,
            steps,
            title,
            "guest-packages",
            PACKAGES,
            |step, dir| download(step, &dir.join("debs")),
        )
    }

    /// The newer kernel alone, with its modules; which one it is says [`Debs::kernel_version`].
    ///
    /// # Errors
    /// As [`Debs::ensure`].
    pub fn newer_kernel(project: &Project, steps: &mut Steps) -> Result<Self> {
        let title = "get Debian's newer kernel";
        Self::cached(
            project,
            steps,
            title,
            "newer-kernel",
            &NEWER,
            |step, dir| {
                let apt = Private::new(step, &dir.join("apt"), Kind::Binary, &NEWER)?;
                let depends = |package: &str| {
                    apt.apt("apt-cache")
                        .args(["depends", "--important", package])
                        .output(step)
                };
                let kernel = kernel_of(&depends(KERNEL_META)?)
                    .with_context(|| format!("{KERNEL_META} depends on no kernel"))?;
                let parts = parts_of(&kernel, &depends(&kernel)?);
                let debs = dir.join("debs");
                fs::create_dir_all(&debs)?;
                apt.apt("apt-get")
                    .args(["-q", "download"])
                    .args(&parts)
                    .dir(&debs)
                    .run(step)?;
                let _ = fs::remove_dir_all(dir.join("apt"));
                debs_in(&debs)
            },
        )
    }

    /// Packages of the suites that the newer kernel is from, for instance its headers.
    ///
    /// # Errors
    /// As [`Debs::ensure`].
    pub fn newer(project: &Project, steps: &mut Steps, wanted: &Wanted<'_>) -> Result<Self> {
        let mut key: Vec<&str> = wanted.packages.to_vec();
        key.push(if wanted.dependencies { "all" } else { "" });
        Self::cached(
            project,
            steps,
            wanted.title,
            wanted.name,
            &key,
            |step, dir| {
                let apt = Private::new(step, &dir.join("apt"), Kind::Binary, &NEWER)?;
                let debs = dir.join("debs");
                fs::create_dir_all(&debs)?;
                if wanted.dependencies {
                    apt.apt("apt-get")
                        .args(["-q", "--yes", "--download-only", "install"])
                        .args(wanted.packages)
                        .run(step)?;
                    for file in debs_in(&dir.join("apt/cache/archives"))? {
                        let name = file.file_name().context("a package without a name")?;
                        fs::rename(&file, debs.join(name))?;
                    }
                    fs::create_dir_all(dir.join("root"))?;
                    for link in ["bin", "sbin", "lib", "lib64"] {
                        let target = format!("usr/{link}");
                        fs::create_dir_all(dir.join("root").join(&target))?;
                        std::os::unix::fs::symlink(&target, dir.join("root").join(link))?;
                    }
                } else {
                    apt.apt("apt-get")
                        .args(["-q", "download"])
                        .args(wanted.packages)
                        .dir(&debs)
                        .run(step)?;
                }
                let _ = fs::remove_dir_all(dir.join("apt"));
                debs_in(&debs)
            },
        )
    }

    /// Gives what is in the cache under this name and key, or unpacks the package files that
    /// `download` puts below a directory.
    fn cached(
        project: &Project,
        steps: &mut Steps,
        title: &str,
        name: &str,
        key: &[&str],
        download: impl FnOnce(&Step, &Path) -> Result<Vec<PathBuf>>,
    ) -> Result<Self> {
        let unpacked = Unpacked::cached(project, steps, title, name, key, |step, dir| {
            let files = download(step, dir)?;
            note_kernel(step, &files);
            Ok(files)
        })?;
        let Unpacked { root, manifest } = unpacked;
        Ok(Self { root, manifest })
    }

    /// Directories with the firmware, for QEMU's option -L.
    pub fn firmware(&self) -> [PathBuf; 2] {
        ["usr/share/seabios", "usr/share/qemu"].map(|dir| self.root.join(dir))
    }

    /// The kernel, and the directory of its modules.
    ///
    /// # Errors
    /// When the kernel's package is not laid out as expected.
    pub fn kernel(&self) -> Result<(PathBuf, PathBuf)> {
        let version = self.kernel_version()?;
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|dir| self.root.join(dir).join(&version))
            .into_iter()
            .find(|dir| dir.join("kernel").is_dir())
            .with_context(|| format!("the kernel {version} came without modules"))?;
        // Newer packages have it beside its modules.
        let kernel = [
            self.root.join(format!("boot/vmlinuz-{version}")),
            modules.join("vmlinuz"),
        ]
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no kernel {version} in {}", self.root.display()))?;
        Ok((kernel, modules))
    }

    /// The kernel's own version, as in the names of its packages.
    ///
    /// # Errors
    /// When there is no kernel among the packages.
    pub fn kernel_version(&self) -> Result<String> {
        self.manifest
            .lines()
            .find_map(|name| name.strip_prefix(IMAGE)?.split('_').next())
            .map(str::to_owned)
            .with_context(|| format!("no kernel among the packages in {}", self.root.display()))
    }
}

/// Downloads the packages and gives their files.
fn download(step: &Step, dir: &Path) -> Result<Vec<PathBuf>> {
    download_packages(step, dir, PACKAGES.len() + 1, || {
        let depends = Cmd::new("apt-cache")
            .args(["depends", "--important", KERNEL_META])
            .hint(LISTS)
            .output(step)?;
        let kernel = kernel_of(&depends)
            .with_context(|| format!("{KERNEL_META} depends on no kernel\n  way out: {LISTS}"))?;
        let mut packages = vec![kernel];
        packages.extend(PACKAGES.iter().map(|package| (*package).to_owned()));
        Ok(packages)
    })
}

/// Shows which kernel is among the package files.
fn note_kernel(step: &Step, files: &[PathBuf]) {
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    if let Some(kernel) = names.filter(|name| name.starts_with(IMAGE)).min() {
        step.note(kernel.trim_end_matches("_amd64.deb").replacen('_', " ", 1));
    }
}

/// The kernel's package in the output of `apt-cache depends`.
fn kernel_of(depends: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with(IMAGE).then(|| name.to_owned())
    })
}

/// A kernel's package and those it is split into, which end in the same version, by the output of
/// `apt-cache depends` for it.
fn parts_of(kernel: &str, depends: &str) -> Vec<String> {
    let version = kernel.strip_prefix(IMAGE).unwrap_or(kernel);
    let mut parts = vec![kernel.to_owned()];
    for line in depends.lines() {
        let name = line.trim().strip_prefix("Depends: ").unwrap_or_default();
        let ends = name
            .strip_suffix(version)
            .is_some_and(|rest| rest.starts_with("linux-") && rest.ends_with('-'));
        if ends && !parts.iter().any(|part| part == name) {
            parts.push(name.to_owned());
        }
    }
    parts
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

    #[test]
    fn a_kernel_can_come_in_parts() {
        let text = "linux-image-7.2+x-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  \
                    Depends: linux-base-7.2+x-amd64\n  Depends: linux-modules-7.2+x-amd64\n    \
                    linux-other\n  Depends: linux-modules-7.2+x-amd64\n  Depends: firmware-7.2+x-amd64\n";
        assert_eq!(
            parts_of("linux-image-7.2+x-amd64", text),
            [
                "linux-image-7.2+x-amd64",
                "linux-base-7.2+x-amd64",
                "linux-modules-7.2+x-amd64"
            ]
        );
        let whole = "linux-image-6.1\n  Depends: kmod\n";
        assert_eq!(parts_of("linux-image-6.1", whole), ["linux-image-6.1"]);
    }

    #[test]
    fn the_kernel_is_found_where_either_package_has_it() {
        for (kernel, modules) in [
            ("boot/vmlinuz-1-x", "lib/modules/1-x"),
            ("usr/lib/modules/1-x/vmlinuz", "usr/lib/modules/1-x"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().to_owned();
            let debs = Debs {
                root: root.clone(),
                manifest: "libc6_2_amd64.deb\nlinux-image-1-x_1.0_amd64.deb\n".to_owned(),
            };
            assert!(debs.kernel().is_err());
            fs::create_dir_all(root.join(modules).join("kernel")).unwrap();
            assert!(debs.kernel().is_err());
            fs::create_dir_all(root.join(kernel).parent().unwrap()).unwrap();
            fs::write(root.join(kernel), "").unwrap();
            assert_eq!(
                debs.kernel().unwrap(),
                (root.join(kernel), root.join(modules))
            );
        }
    }
}
