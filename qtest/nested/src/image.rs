// SPDX-License-Identifier: GPL-2.0-or-later
//! What the nested machine boots from: the test guest's file system with VFIO, KVM, the helper, QEMU
//! with the libraries and firmware both need, and a kernel and file system for a guest of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use test_kit::run::Cmd;
use test_kit::steps::Step;
use test_machine::image::{self, Addition, Image};
use test_machine::rig::Programs;

/// The kernel's VFIO; what they need is found out.
const VFIO: &[&str] = &["vfio_iommu_type1", "vfio_pci"];
/// The emulated processor is one of AMD's.
const KVM: &[&str] = &["kvm_amd"];
/// What QEMU loads to boot a PC without a display.
const FIRMWARE: [&str; 5] = [
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "multiboot_dma.bin",
    "pvh.bin",
];
/// Where the loader looks for libraries, with the setting in the script `l2`.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// Users, so that something can be run without rights.
const PASSWD: &str = "root:x:0:0::/:/bin/sh\nqemu-virtio-admin:x:990:990::/:/bin/sh\n\
    nobody:x:65534:65534::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nqemu-virtio-admin:x:990:\nnobody:x:65534:\n";

/// Makes it in `dir`. `outer` is the image of the machine, `inner` that of its guest.
///
/// # Errors
/// When something is missing.
pub(crate) fn make(
    step: &Step,
    programs: &Programs,
    outer: &Image,
    inner: &Image,
    dir: &Path,
) -> Result<Image> {
    let mut addition = Addition {
        modules: vec![("vfio", VFIO), ("kvm", KVM)],
        texts: vec![
            ("etc/passwd", PASSWD.to_owned()),
            ("etc/group", GROUP.to_owned()),
        ],
        ..Addition::default()
    };
    addition.program(&programs.probe)?;
    let mut libraries = BTreeSet::new();
    let strace = Cmd::new("sh")
        .args(["-c", "command -v strace"])
        .ask()
        .context("no strace: install the package strace")?;
    for (program, name) in [
        (&PathBuf::from(strace.trim()), "strace"),
        (&programs.helper, "qemu-virtio-admin-helper"),
        (&programs.tool, "virtio-legacy-vf"),
        (&programs.qemu, "qemu-system-x86_64"),
    ] {
        let stripped = dir.join(name);
        Cmd::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(program)
            .hint("install the package binutils")
            .run(step)?;
        libraries.extend(libraries_of(program)?);
        addition.program(&stripped)?;
    }
    for path in libraries {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name", path.display()))?;
        // The loader has its place in every program.
        let place = if name.starts_with("ld-linux") {
            format!("lib64/{name}")
        } else {
            format!("{LIBRARIES}/{name}")
        };
        addition.files.push((place, path, true));
    }
    for name in FIRMWARE {
        let path = inner
            .firmware
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.exists())
            .with_context(|| format!("no firmware {name} in the guest's packages"))?;
        addition
            .files
            .push((format!("usr/share/qemu/{name}"), path, false));
    }
    addition
        .files
        .push(("l2/kernel".to_owned(), inner.kernel.clone(), false));
    addition
        .files
        .push(("l2/initrd".to_owned(), inner.initrd.clone(), false));
    let initrd = dir.join("nested.cpio");
    image::extend(outer, &initrd, &addition)?;
    step.note(format!("{} MiB", fs::metadata(&initrd)?.len() >> 20));
    Ok(Image {
        initrd,
        ..outer.clone()
    })
}

/// The shared libraries that a program loads, and the loader.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = Cmd::new("ldd")
        .arg(program)
        .ask()
        .with_context(|| format!("ldd cannot read {}", program.display()))?;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{} lacks a library: {}", program.display(), line.trim());
        }
        found.extend(library(line));
    }
    Ok(found)
}

/// The file in a line of ldd: "name => /path (0x...)", or "/path (0x...)" for the loader.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split("=>").last()?.split_whitespace().next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f17)"), None);
        assert_eq!(
            library("\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f17)"),
            Some("/lib/x/libz.so.1".into())
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f17)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library("\tstatically linked"), None);
        assert_eq!(library(""), None);
    }

    #[test]
    fn this_program_has_libraries() {
        let found = libraries_of(&std::env::current_exe().unwrap()).unwrap();
        let has = |word: &str| {
            found
                .iter()
                .any(|path| path.to_string_lossy().contains(word))
        };
        assert!(has("libc.so") && has("ld-linux"), "{found:?}");
    }
}
