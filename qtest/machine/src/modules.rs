// SPDX-License-Identifier: GPL-2.0-or-later
//! Kernel modules: which ones a module needs, in the order they must be loaded.
//!
//! Debian's package has no `modules.dep` (depmod makes it when the package is installed), but each
//! module says in its `.modinfo` section what it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use virtio_pci_spec::bytes::{get_u16, get_u32, get_u64};

/// A module to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// As the kernel has it: with `_`, without `.ko`.
    pub name: String,
    /// The module itself, unpacked.
    pub data: Vec<u8>,
}

/// Finds `wanted` and everything they need below `dir` (a kernel's module directory); what is built
/// into the kernel is left out. The result is in loading order.
///
/// # Errors
/// When a module is neither there nor built in, or cannot be read.
pub(crate) fn closure(dir: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(&dir.join("kernel"), &mut files)?;
    let builtin = builtin(&fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default());
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        visit(name, &files, &builtin, &mut seen, &mut found)?;
    }
    Ok(found)
}

fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    found: &mut Vec<Module>,
) -> Result<()> {
    let name = normal(name);
    if !seen.insert(name.clone()) || builtin.contains(&name) {
        return Ok(());
    }
    let Some(path) = files.get(&name) else {
        bail!("the kernel's package has no module {name}");
    };
    let bytes = read(path)?;
    let needs = depends(&bytes)
        .with_context(|| format!("{} is not a module that can be read", path.display()))?;
    for need in needs {
        visit(&need, files, builtin, seen, found)?;
    }
    found.push(Module { name, data: bytes });
    Ok(())
}

/// Reads a module, which newer packages have packed.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|end| end == "ko") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .context("cannot start xz")?;
    ensure!(
        output.status.success(),
        "xz cannot unpack {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(output.stdout)
}

/// File names use `-` and `_`, the kernel only `_`.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.strip_suffix(".xz").unwrap_or(n).strip_suffix(".ko"))
        {
            files.insert(normal(name), path);
        }
    }
    Ok(())
}

fn builtin(list: &str) -> BTreeSet<String> {
    list.lines()
        .filter_map(|line| line.rsplit('/').next()?.strip_suffix(".ko"))
        .map(normal)
        .collect()
}

/// The names in `depends=` of a module's `.modinfo` section; `None` if this is not a 64-bit ELF file
/// with that section.
fn depends(elf: &[u8]) -> Option<Vec<String>> {
    let info = section(elf, ".modinfo")?;
    let text = info
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    let text = std::str::from_utf8(text).ok()?;
    Some(
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

/// Content of a section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let at = |value: u64| usize::try_from(value).ok();
    let table = at(get_u64(elf, 0x28)?)?;
    let size = usize::from(get_u16(elf, 0x3a)?);
    let count = usize::from(get_u16(elf, 0x3c)?);
    let names_index = usize::from(get_u16(elf, 0x3e)?);
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(size)?)?..);
    let content = |header: &[u8]| {
        let start = at(get_u64(header, 0x18)?)?;
        elf.get(start..start.checked_add(at(get_u64(header, 0x20)?)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let text = names.get(get_u32(header, 0)? as usize..)?;
        let text = text.split(|byte| *byte == 0).next()?;
        if text == name.as_bytes() {
            content(header)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF file with the sections "", ".shstrtab" and ".modinfo".
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = file.len();
        file.extend(names);
        let info_at = file.len();
        file.extend(modinfo);
        let table = file.len();
        for (name, offset, size) in [
            (0, 0, 0),
            (1, names_at, names.len()),
            (11, info_at, modinfo.len()),
        ] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend(header);
        }
        file[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        file[0x3c..0x3e].copy_from_slice(&3u16.to_le_bytes());
        file[0x3e..0x40].copy_from_slice(&1u16.to_le_bytes());
        file
    }

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel/drivers")).unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/lib/crc-x.ko\n").unwrap();
        for (name, needs) in modules {
            let info = format!("license=GPL\0depends={needs}\0intree=Y\0");
            let path = dir.path().join(format!("kernel/drivers/{name}.ko"));
            fs::write(path, elf(info.as_bytes())).unwrap();
        }
        dir
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn needs_come_first_and_once() {
        let dir = tree(&[
            ("virtio", ""),
            ("virtio_ring", "virtio"),
            ("net-failover", "failover"),
            ("failover", ""),
            ("virtio_net", "virtio,virtio_ring,net_failover,crc_x"),
        ]);
        let found = closure(dir.path(), &["virtio_ring", "virtio_net"]).unwrap();
        assert_eq!(
            names(&found),
            [
                "virtio",
                "virtio_ring",
                "failover",
                "net_failover",
                "virtio_net"
            ]
        );
        assert_eq!(depends(&found[3].data).unwrap(), ["failover"]);
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let dir = tree(&[("a", "b-c"), ("b-c", "")]);
        let status = Command::new("xz")
            .arg(dir.path().join("kernel/drivers/b-c.ko"))
            .status()
            .unwrap();
        assert!(status.success());
        let found = closure(dir.path(), &["a"]).unwrap();
        assert_eq!(names(&found), ["b_c", "a"]);
        assert!(found[0].data.starts_with(b"\x7fELF"));
        fs::write(dir.path().join("kernel/drivers/b-c.ko.xz"), "text").unwrap();
        let text = format!("{:#}", closure(dir.path(), &["a"]).unwrap_err());
        assert!(text.contains("xz cannot unpack"), "{text}");
    }

    #[test]
    fn a_circle_ends() {
        let dir = tree(&[("a", "b"), ("b", "a")]);
        assert_eq!(names(&closure(dir.path(), &["a"]).unwrap()), ["b", "a"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tree(&[("a", "gone")]);
        let text = format!("{:#}", closure(dir.path(), &["a"]).unwrap_err());
        assert!(text.contains("no module gone"), "{text}");
        fs::write(dir.path().join("kernel/drivers/bad.ko"), "text").unwrap();
        let text = format!("{:#}", closure(dir.path(), &["bad"]).unwrap_err());
        assert!(text.contains("bad.ko is not a module"), "{text}");
    }

    #[test]
    fn cut_off_files_give_nothing() {
        let whole = elf(b"depends=x\0");
        assert_eq!(depends(&whole).unwrap(), ["x"]);
        for len in 0..whole.len() - 64 {
            let _ = depends(&whole[..len]);
        }
        assert_eq!(depends(&whole[..63]), None);
    }
}
