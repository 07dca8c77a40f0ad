// SPDX-License-Identifier: GPL-2.0-or-later
//! Modules for the nested machine's kernel: `virtio-vfio-pci`, and VFIO with iommufd.
//!
//! Debian leaves both out of its kernels, but has their source in `linux-source-*`. They are built out of
//! tree with the headers and the compiler of that very kernel, which want newer libraries than this
//! machine has; so those are unpacked, with everything they need, into a directory that serves as root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use test_kit::digest::Digest;
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::{Step, Steps};
use test_machine::debs::{Debs, Wanted};

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
/// Modules that are built together.
struct Set {
    /// Directory for its work, and name of its result.
    name: &'static str,
    /// Files and directories in the kernel's tree, and where they go.
    sources: &'static [(&'static str, &'static str)],
    kbuild: &'static str,
    /// What comes of it.
    modules: &'static [&'static str],
}

/// Linux's own legacy support for VFs, with which it is worth anything.
const VIRTIO: Set = Set {
    name: "virtio",
    sources: &[("drivers/vfio/pci/virtio", ".")],
    kbuild: "obj-m += virtio-vfio-pci.o\n\
        virtio-vfio-pci-y := main.o migrate.o legacy_io.o\n\
        ccflags-y += -DCONFIG_VIRTIO_VFIO_PCI_ADMIN_LEGACY=1\n",
    modules: &["virtio-vfio-pci"],
};

/// VFIO with a device file for each function, and iommufd. `span` are functions that the kernel has only
/// together with iommufd; the others in that file it has and exports.
const IOMMUFD: Set = Set {
    name: "iommufd",
    sources: &[
        ("drivers/iommu/iommufd", "iommufd"),
        ("drivers/vfio", "vfio"),
        ("drivers/iommu/iommu-priv.h", "iommu-priv.h"),
        ("lib/interval_tree.c", "iommufd/span.c"),
    ],
    kbuild: "obj-m += iommufd.o vfio.o vfio_iommu_type1.o vfio-pci-core.o vfio-pci.o\n\
        iommufd-y := $(addprefix iommufd/, device.o driver.o eventq.o hw_pagetable.o io_pagetable.o \\\n\
        ioas.o main.o pages.o span.o vfio_compat.o viommu.o)\n\
        vfio-y := $(addprefix vfio/, vfio_main.o device_cdev.o group.o iommufd.o container.o virqfd.o)\n\
        vfio_iommu_type1-y := vfio/vfio_iommu_type1.o\n\
        vfio-pci-core-y := $(addprefix vfio/pci/, vfio_pci_core.o vfio_pci_intrs.o vfio_pci_rdwr.o \\\n\
        vfio_pci_config.o vfio_pci_dmabuf.o)\n\
        vfio-pci-y := vfio/pci/vfio_pci.o vfio/pci/vfio_pci_igd.o\n\
        ccflags-y += -DCONFIG_IOMMUFD=1 -DCONFIG_IOMMUFD_DRIVER_CORE=1 -DCONFIG_VFIO_DEVICE_CDEV=1\n\
        ccflags-y += -DCONFIG_INTERVAL_TREE_SPAN_ITER=1\n\
        CFLAGS_iommufd/span.o := -D__DISABLE_EXPORTS\n",
    modules: &[
        "iommufd",
        "vfio",
        "vfio_iommu_type1",
        "vfio-pci-core",
        "vfio-pci",
    ],
};
const SETS: [&Set; 2] = [&VIRTIO, &IOMMUFD];
/// To be raised when the way of building changes.
const RECIPE: &str = "2";
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

/// The built modules.
#[derive(Debug, Clone)]
pub struct Modules {
    /// `virtio-vfio-pci.ko` and the others are in it.
    pub dir: PathBuf,
}

impl Modules {
    /// Linux's own legacy support for VFs.
    pub fn virtio(&self) -> PathBuf {
        self.dir.join("virtio-vfio-pci.ko")
    }

    /// VFIO with iommufd, in the order in which they are loaded: (name in `/sys/module`, file).
    pub fn iommufd(&self) -> Vec<(String, PathBuf)> {
        let modules = IOMMUFD.modules.iter();
        modules
            .map(|name| (name.replace('-', "_"), self.dir.join(format!("{name}.ko"))))
            .collect()
    }
}

/// Gives the modules for the newer of Debian's kernels, from the cache if they were built before.
///
/// # Errors
/// When packages cannot be had, or a module does not build.
pub fn ensure(project: &Project, steps: &mut Steps) -> Result<Modules> {
    let kernel = Debs::newer_kernel(project, steps)?;
    let names = Names::of(&kernel)?;
    let dir = project.cache_dir("peer")?;
    let mut digest = Digest::new();
    digest
        .field("recipe", RECIPE)
        .field("version", &names.version);
    for set in SETS {
        digest.field("kbuild", set.kbuild);
        for (source, place) in set.sources {
            digest.field(source, place);
        }
    }
    let modules = Modules {
        dir: dir.join(format!("{}-{}", names.release, digest.short())),
    };
    let _lock = Lock::acquire(&dir.join("lock"))?;
    if modules.dir.exists() {
        return Ok(modules);
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
    let built = steps.run("build virtio-vfio-pci, VFIO and iommufd", |step| {
        build(step, &names, &debs.root, &modules.dir)
    });
    // Half a gigabyte that is got again within a minute is not worth to be kept, and after a failure
    // its files may be what is wrong.
    if let Some(dir) = debs.root.parent() {
        let _ = fs::remove_dir_all(dir);
    }
    built?;
    Ok(modules)
}

/// Builds all modules and puts them into `out`, which is there only if all went well.
fn build(step: &Step, names: &Names, root: &Path, out: &Path) -> Result<()> {
    let archive = root.join(format!("usr/src/{}.tar.xz", names.source));
    let place = root.join("src");
    let unpacked = place.join("unpacked");
    // A run that was killed may have left something.
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&unpacked)?;
    let sources = SETS.iter().flat_map(|set| set.sources);
    Cmd::new("tar")
        .args(["--extract", "--xz", "--directory"])
        .arg(&unpacked)
        .arg("--file")
        .arg(&archive)
        .args(sources.map(|(source, _)| format!("{}/{source}", names.source)))
        .run(step)?;
    make_root(root)?;
    let temporary = out.with_file_name("new");
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(&temporary)?;
    for set in SETS {
        let work = place.join(set.name);
        arrange(set, &unpacked.join(&names.source), &work)?;
        make(step, names, root, set)?;
        for name in set.modules {
            let file = format!("{name}.ko");
            let stripped = temporary.join(&file);
            Cmd::new("strip")
                .args(["--strip-debug", "-o"])
                .arg(&stripped)
                .arg(work.join(&file))
                .hint("install the package binutils")
                .run(step)?;
            let text = fs::read(&stripped).with_context(|| format!("the build gave no {file}"))?;
            let magic = format!("vermagic={} ", names.release);
            ensure!(
                text.windows(magic.len())
                    .any(|part| part == magic.as_bytes()),
                "{file} is not for Linux {}",
                names.release
            );
        }
    }
    fs::rename(&temporary, out)?;
    Ok(())
}

/// Puts a set's sources into a directory of its own: `make` writes into it.
fn arrange(set: &Set, tree: &Path, work: &Path) -> Result<()> {
    for (source, place) in set.sources {
        let to = match *place {
            "." => work.to_owned(),
            place => work.join(place),
        };
        if let Some(above) = to.parent() {
            fs::create_dir_all(above)?;
        }
        fs::rename(tree.join(source), &to)
            .with_context(|| format!("no {source} in the kernel's source"))?;
    }
    for file in ["Makefile", "Kconfig"] {
        let _ = fs::remove_file(work.join(file));
    }
    fs::write(work.join("Kbuild"), set.kbuild)?;
    Ok(())
}

fn make(step: &Step, names: &Names, root: &Path, set: &Set) -> Result<()> {
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
        .args([headers, format!("/src/{}", set.name)])
        .hint("as somebody else than root this needs user namespaces (sysctl kernel.unprivileged_userns_clone)")
        .run(step)
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
