// SPDX-License-Identifier: GPL-2.0-or-later
//! The test guest: Debian's kernel and an initial file system with busybox, lspci, the virtio
//! drivers and the scripts of the tests. The image is in the cache under a key of everything that
//! goes into it.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::debs::{Debs, Release};
use crate::{kernel, modules};
use test_kit::digest::Digest;
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;

/// Drivers the guest loads; what they need is found out.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "virtio_blk"];
/// Libraries of lspci, under the names the loader looks for.
const LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libcrypto.so.3",
    "libkmod.so.2",
    "liblzma.so.5",
    "libpci.so.3",
    "libresolv.so.2",
    "libudev.so.1",
    "libz.so.1",
    "libzstd.so.1",
];
/// Where Debian has libraries.
const LIBRARY_DIRS: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// The scripts that every guest has, in the project's tree.
const SCRIPTS: &str = "qtest/machine/guest";
/// To be raised when the way of making the image changes.
const RECIPE: &str = "1";

/// Age of images that nobody is about to boot from.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// What a guest boots from.
#[derive(Debug, Clone)]
pub struct Image {
    /// Unpacked if that was possible.
    pub kernel: PathBuf,
    /// As the package has it, which is how hardware boots it.
    pub packed_kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
    /// Directories for QEMU's option -L.
    pub firmware: [PathBuf; 2],
    /// Directory with the kernel's modules.
    pub modules: PathBuf,
}

/// Gives the image with the stable kernel, from the cache if it is current.
///
/// # Errors
/// When packages cannot be had or the image cannot be written.
pub fn ensure(project: &Project, steps: &mut Steps, scripts: &[PathBuf]) -> Result<Image> {
    ensure_release(project, steps, Release::Stable, scripts)
}

/// Gives the image with one of Debian's kernels, from the cache if it is current.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_release(
    project: &Project,
    steps: &mut Steps,
    release: Release,
    scripts: &[PathBuf],
) -> Result<Image> {
    let debs = Debs::ensure(project, steps)?;
    let kernel_debs = match release {
        Release::Stable => debs.clone(),
        Release::Newer => Debs::newer_kernel(project, steps)?,
    };
    let scripts = read_scripts(project, scripts)?;
    let mut digest = Digest::new();
    digest
        .field("recipe", RECIPE)
        .field("packages", &debs.manifest)
        .field("kernel", &kernel_debs.manifest);
    for name in MODULES.iter().chain(LIBRARIES) {
        digest.field("content", name);
    }
    for (name, data) in &scripts {
        digest.field(name, data);
    }
    let dir = project.cache_dir("guest")?;
    let prefix = match release {
        Release::Stable => "initrd-",
        Release::Newer => "newer-initrd-",
    };
    let initrd = dir.join(format!("{prefix}{}.cpio", digest.short()));
    let (kernel, modules) = kernel_debs.kernel()?;
    let _lock = Lock::acquire(&dir.join("lock"))?;
    if !initrd.exists() {
        steps.run("make the guest's file system", |step| {
            remove_old(&dir, prefix);
            let temporary = initrd.with_extension("new");
            write(&temporary, &debs.root, &modules, &scripts)?;
            let size = fs::metadata(&temporary)?.len();
            fs::rename(&temporary, &initrd)?;
            step.note(format!("{} MiB", size >> 20));
            Ok(())
        })?;
    }
    // Beside the packages it comes from: it changes with them.
    let unpacked = kernel_debs.root.join("vmlinux");
    if !unpacked.exists() {
        let done = steps.run("unpack the guest's kernel", |step| {
            let temporary = kernel_debs.root.join("vmlinux.new");
            kernel::unpack(step, &kernel, &temporary)?;
            fs::rename(&temporary, &unpacked)?;
            Ok(())
        });
        if let Err(error) = done {
            eprintln!("the guest unpacks its kernel itself, which takes longer: {error:#}");
        }
    }
    Ok(Image {
        kernel: match unpacked.exists() {
            true => unpacked,
            false => kernel.clone(),
        },
        packed_kernel: kernel,
        initrd,
        firmware: debs.firmware(),
        modules,
    })
}

/// Scripts by name: those that every guest has, and those of more directories.
fn read_scripts(project: &Project, more: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>> {
    let own = project.root().join(SCRIPTS);
    let mut scripts = Vec::new();
    for dir in std::iter::once(&own).chain(more) {
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                scripts.push((name, fs::read(entry.path())?));
            }
        }
    }
    scripts.sort();
    Ok(scripts)
}

/// Images of other content that were made long ago; another checkout that wants one makes it again
/// within a second.
fn remove_old(dir: &Path, prefix: &str) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let unused = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNUSED));
        if unused && entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write(out: &Path, root: &Path, modules: &Path, scripts: &[(String, Vec<u8>)]) -> Result<()> {
    let file = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for dir in ["dev", "proc", "sys", "tmp"] {
        archive.directory(dir)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    let busybox = first(root, &["bin/busybox", "usr/bin/busybox"])?;
    archive.file("bin/busybox", true, &fs::read(&busybox)?)?;
    for applet in applets(&busybox)? {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.link("sbin", "bin")?;
    archive.file(
        "bin/lspci",
        true,
        &fs::read(first(root, &["usr/bin/lspci", "bin/lspci"])?)?,
    )?;
    let ids = first(root, &["usr/share/misc/pci.ids"])?;
    archive.file("usr/share/misc/pci.ids", false, &fs::read(ids)?)?;
    let loader = first(
        root,
        &[
            "lib64/ld-linux-x86-64.so.2",
            "usr/lib64/ld-linux-x86-64.so.2",
            "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        ],
    )?;
    archive.file("lib64/ld-linux-x86-64.so.2", true, &fs::read(loader)?)?;
    for library in LIBRARIES {
        let places: Vec<String> = LIBRARY_DIRS
            .iter()
            .map(|dir| format!("{dir}/{library}"))
            .collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let path = first(root, &places)?;
        archive.file(
            &format!("lib/x86_64-linux-gnu/{library}"),
            false,
            &fs::read(path)?,
        )?;
    }
    let mut order = String::new();
    for module in modules::closure(modules, MODULES)? {
        archive.file(
            &format!("lib/modules/{}.ko", module.name),
            false,
            &module.data,
        )?;
        order += &format!("{}\n", module.name);
    }
    archive.file("lib/modules/order", false, order.as_bytes())?;
    for (name, data) in scripts {
        if name == "init" {
            archive.file("init", true, data)?;
        } else {
            archive.file(&format!("lib/vlvf/{name}"), false, data)?;
        }
    }
    archive.finish()?;
    Ok(())
}

/// What [`extend`] adds to an initial file system.
#[derive(Debug, Default)]
pub struct Addition {
    /// Modules with what they need go to `lib/modules/DIR` with their loading order: (DIR, modules).
    pub modules: Vec<(&'static str, &'static [&'static str])>,
    /// Files: (name in the guest, where it is here, whether it can be executed).
    pub files: Vec<(String, PathBuf, bool)>,
    /// Files: (name in the guest, content).
    pub texts: Vec<(&'static str, String)>,
}

impl Addition {
    /// A program for `bin`.
    ///
    /// # Errors
    /// When the path has no name.
    pub fn program(&mut self, path: &Path) -> Result<()> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .context("a program without a name")?;
        self.files
            .push((format!("bin/{name}"), path.to_owned(), true));
        Ok(())
    }
}

/// Writes `out`, the image's initial file system with more in it. What has the name of something
/// that is there replaces it.
///
/// # Errors
/// When something is missing or cannot be written.
pub fn extend(image: &Image, out: &Path, addition: &Addition) -> Result<()> {
    let mut bytes = fs::read(&image.initrd)
        .with_context(|| format!("cannot read {}", image.initrd.display()))?;
    // Linux takes several archives behind each other, each at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut archive = Archive::new(bytes);
    for (dir, wanted) in &addition.modules {
        let mut order = String::new();
        for module in modules::closure(&image.modules, wanted)? {
            archive.file(
                &format!("lib/modules/{dir}/{}.ko", module.name),
                false,
                &module.data,
            )?;
            order += &format!("{}\n", module.name);
        }
        archive.file(&format!("lib/modules/{dir}/order"), false, order.as_bytes())?;
    }
    for (name, path, executable) in &addition.files {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.file(name, *executable, &data)?;
    }
    for (name, text) in &addition.texts {
        archive.file(name, false, text.as_bytes())?;
    }
    fs::write(out, archive.finish()?).with_context(|| format!("cannot write {}", out.display()))
}

/// The first of some places that exists; links below `root` are resolved by the file system, which
/// works as Debian's are relative.
fn first(root: &Path, places: &[&str]) -> Result<PathBuf> {
    places
        .iter()
        .map(|place| root.join(place))
        .find(|path| path.exists())
        .with_context(|| format!("none of {} in the guest's packages", places.join(", ")))
}

/// The names under which busybox can be called.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let list = Cmd::new(busybox)
        .arg("--list")
        .ask()
        .with_context(|| format!("{} does not run on this machine", busybox.display()))?;
    // It has an lspci of its own in some versions; ours is the real one.
    Ok(list
        .lines()
        .filter(|name| !["busybox", "lspci"].contains(name))
        .map(str::to_owned)
        .collect())
}
