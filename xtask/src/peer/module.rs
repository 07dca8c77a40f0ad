// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-vfio-pci.ko` for the nested machine's kernel.
//!
//! Debian leaves the driver out of its kernels, but has its source in `linux-source-*`. It is built out of
//! tree with the headers and the compiler of that very kernel, which want newer libraries than this
//! machine has; so they are unpacked, with everything they need, into a directory that serves as root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::digest::Digest;
use crate::guest::debs::{Debs, Wanted};
use crate::lock::Lock;
use crate::project::Project;
use crate::run::Cmd;
use crate::steps::{Step, Steps};

/// Tools that building a module calls, besides the compiler that the headers bring.
const TOOLS: [&str; 14] = [
    "bash",
    "binutils",
    "coreutils",
    "cpio",
    "diffutils",
    "findutils",
    "gawk",
    "grep",
    "libcap2",
    "make",
    "perl-base",
    "sed",
    "tar",
    "xz-utils",
];
/// Names that packages' scripts would have made: no script runs here.
const LINKS: [(&str, &str); 2] = [("sh", "bash"), ("awk", "gawk")];
/// The driver's sources in the kernel's tree.
const SOURCES: &str = "drivers/vfio/pci/virtio";
/// How the driver is put together when its legacy support is on, which is what this is about.
const KBUILD: &str = "obj-m += virtio-vfio-pci.o\n\
    virtio-vfio-pci-y := main.o migrate.o legacy_io.o\n\
    ccflags-y += -DCONFIG_VIRTIO_VFIO_PCI_ADMIN_LEGACY=1\n";
/// To be raised when the way of building changes.
const RECIPE: &str = "1";
/// Runs make in the root, which gets the few device files that a compiler asks for. The mounts are
/// this process's own, so nothing of them is left whatever happens.
const BUILD: &str = r#"set -e
for file in null zero; do mount --bind "/dev/$file" "$1/dev/$file"; done
mount --rbind /proc "$1/proc"
exec chroot "$1" /usr/bin/env -i PATH=/usr/bin:/usr/sbin LC_ALL=C make -C "$2" M="$3" modules"#;

/// A kernel by the names Debian gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    /// As `uname -r` tells it.
    release: String,
    /// Version of the packages.
    version: String,
    /// Of the package with the whole source, also the directory in it.
    source: String,
}

impl Names {
    fn of(debs: &Debs) -> Result<Self> {
        let release = debs.kernel_version()?;
        let file = debs
            .manifest
            .lines()
            .find(|file| file.starts_with(&format!("linux-image-{release}_")))
            .context("no kernel among the packages")?;
        let version = file
            .split('_')
            .nth(1)
            .with_context(|| format!("{file} has no version"))?;
        let mut numbers = release.split('.');
        let (major, minor) = (numbers.next(), numbers.next());
        let (Some(major), Some(minor)) = (major, minor) else {
            anyhow::bail!("{release} is no kernel's release");
        };
        Ok(Self {
            source: format!("linux-source-{major}.{minor}"),
            version: version.to_owned(),
            release,
        })
    }
}

/// Gives the module for the newer of Debian's kernels, from the cache if it was built before.
///
/// # Errors
/// When packages cannot be had, or the module does not build.
pub(crate) fn ensure(project: &Project, steps: &mut Steps) -> Result<PathBuf> {
    let kernel = Debs::newer_kernel(project, steps)?;
    let names = Names::of(&kernel)?;
    let dir = project.cache_dir("peer")?;
    let mut digest = Digest::new();
    digest
        .field("recipe", RECIPE)
        .field("kbuild", KBUILD)
        .field("version", &names.version);
    let module = dir.join(format!(
        "virtio-vfio-pci-{}-{}.ko",
        names.release,
        digest.short()
    ));
    let _lock = Lock::acquire(&dir.join("lock"))?;
    if module.exists() {
        return Ok(module);
    }
    let versioned = format!("{}={}", names.source, names.version);
    let headers = format!("linux-headers-{}={}", names.release, names.version);
    let mut packages = TOOLS.to_vec();
    packages.extend([versioned.as_str(), headers.as_str()]);
    let debs = Debs::newer(
        project,
        steps,
        &Wanted {
            title: "get the kernel's source, headers and compiler",
            name: "peer-packages",
            packages: &packages,
            dependencies: true,
        },
    )?;
    let built = steps.run("build virtio-vfio-pci", |step| {
        build(step, &names, &debs.root, &module)
    });
    // Half a gigabyte that is got again within a minute is not worth to be kept, and after a failure
    // its files may be what is wrong.
    if let Some(dir) = debs.root.parent() {
        let _ = fs::remove_dir_all(dir);
    }
    built?;
    Ok(module)
}

fn build(step: &Step, names: &Names, root: &Path, module: &Path) -> Result<()> {
    let archive = root.join(format!("usr/src/{}.tar.xz", names.source));
    let place = root.join("src");
    let unpacked = place.join("unpacked");
    // A run that was killed may have left something.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&unpacked)?;
    Cmd::new("tar")
        .args(["--extract", "--xz", "--directory"])
        .arg(&unpacked)
        .arg("--file")
        .arg(&archive)
        .arg(format!("{}/{SOURCES}", names.source))
        .run(step)?;
    // A directory of its own: `make` may write into it.
    let sources = unpacked.join(&names.source).join(SOURCES);
    let work = place.join("module");
    fs::rename(&sources, &work).with_context(|| format!("no {SOURCES} in the kernel's source"))?;
    for file in ["Makefile", "Kconfig"] {
        let _ = fs::remove_file(work.join(file));
    }
    fs::write(work.join("Kbuild"), KBUILD)?;
    make_root(root)?;
    let mut command = Cmd::new("unshare").args(["--mount"]);
    if !rustix::process::geteuid().is_root() {
        command = command.arg("--map-root-user");
    }
    let headers = ["usr/lib/modules", "lib/modules"]
        .map(|dir| format!("/{dir}/{}/build", names.release))
        .into_iter()
        .find(|dir| {
            root.join(dir.trim_start_matches('/'))
                .symlink_metadata()
                .is_ok()
        });
    let headers = headers.unwrap_or_else(|| format!("/usr/src/linux-headers-{}", names.release));
    command
        .args(["--", "sh", "-c", BUILD, "sh"])
        .arg(root)
        .args([headers.as_str(), "/src/module"])
        .hint("as somebody else than root this needs user namespaces (sysctl kernel.unprivileged_userns_clone)")
        .run(step)?;
    let built = work.join("virtio-vfio-pci.ko");
    let text = fs::read(&built).context("the build gave no virtio-vfio-pci.ko")?;
    let magic = format!("vermagic={} ", names.release);
    ensure!(
        text.windows(magic.len())
            .any(|part| part == magic.as_bytes()),
        "the module is not for Linux {}",
        names.release
    );
    let temporary = module.with_extension("new");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, module)?;
    Ok(())
}

/// What maintainer scripts would have done, as far as it is needed, and places for the mounts.
fn make_root(root: &Path) -> Result<()> {
    let bin = root.join("usr/bin");
    let link = |name: &str, target: &str| -> Result<()> {
        if bin.join(name).symlink_metadata().is_err() && bin.join(target).exists() {
            symlink(target, bin.join(name))
                .with_context(|| format!("cannot link {name} to {target}"))?;
        }
        Ok(())
    };
    for (name, target) in LINKS {
        link(name, target)?;
    }
    // Tools by the names without the machine's, and the compiler without its version.
    for entry in fs::read_dir(&bin)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(short) = name.strip_prefix("x86_64-linux-gnu-") {
            link(short, name)?;
            if let Some((tool, version)) = short.rsplit_once('-') {
                if version.bytes().all(|byte| byte.is_ascii_digit()) {
                    link(tool, name)?;
                }
            }
        }
    }
    for dir in ["dev", "proc", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for file in ["null", "zero"] {
        fs::write(root.join("dev").join(file), "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_a_kernel_have_its_version() {
        let debs = |manifest: &str| Debs {
            root: PathBuf::new(),
            manifest: manifest.to_owned(),
        };
        let names = Names::of(&debs(
            "linux-base-7.2.12+deb13-amd64_7.2.12-1~bpo13+1_amd64.deb\n\
             linux-image-7.2.12+deb13-amd64_7.2.12-1~bpo13+1_amd64.deb\n",
        ))
        .unwrap();
        assert_eq!(names.release, "7.2.12+deb13-amd64");
        assert_eq!(names.version, "7.2.12-1~bpo13+1");
        assert_eq!(names.source, "linux-source-7.2");
        assert!(Names::of(&debs("linux-image-x_1_amd64.deb\n")).is_err());
        assert!(Names::of(&debs("")).is_err());
    }

    #[test]
    fn a_root_gets_the_names_that_scripts_would_make() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["bash", "x86_64-linux-gnu-as", "x86_64-linux-gnu-gcc-14"] {
            fs::write(bin.join(name), "").unwrap();
        }
        make_root(dir.path()).unwrap();
        make_root(dir.path()).unwrap();
        for (name, target) in [
            ("sh", "bash"),
            ("as", "x86_64-linux-gnu-as"),
            ("gcc", "x86_64-linux-gnu-gcc-14"),
            ("gcc-14", "x86_64-linux-gnu-gcc-14"),
        ] {
            assert_eq!(fs::read_link(bin.join(name)).unwrap(), Path::new(target));
        }
        assert!(!bin.join("awk").exists());
    }
}
