// SPDX-License-Identifier: GPL-2.0-or-later
//! The disk that firmware boots from: GRUB for a BIOS and for UEFI, Debian's kernel with the test
//! guest's file system, and data that the booted system reads.
//!
//! | Sectors | Content |
//! |---|---|
//! | 0 | master boot record: GRUB's first stage, partition table |
//! | from 1 | GRUB's core image |
//! | [`ESP_START`], [`ESP_SECTORS`] | partition 1: FAT with `EFI/BOOT/BOOTX64.EFI` and [`TEXT_FILE`] |
//! | behind | kernel, initial file system |
//! | behind | partition 2: the data |
//!
//! GRUB loads kernel and file system by their sectors, so that no file system is needed for them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use test_kit::digest::{self, Digest};
use test_kit::lock::Lock;
use test_kit::project::Project;
use test_kit::steps::{Step, Steps};
use test_kit::unpacked::Unpacked;

const SECTOR: usize = 512;
const ESP_START: usize = 2048;
const ESP_SECTORS: usize = 16 << 11;
const DATA_SECTORS: usize = 4 << 11;
/// A file of the FAT partition, in its root, and what it says.
pub(crate) const TEXT_FILE: &str = "MARKER.TXT";
pub(crate) const TEXT: &str = "VLVF-FILE read from the FAT partition of a VF\n";
/// Bytes of the second disk, which has only a boot loader.
const SMALL_DISK: usize = 2048 * SECTOR;
/// Partition types: EFI system, and data without file system.
const ESP_TYPE: u8 = 0xef;
const DATA_TYPE: u8 = 0xda;
/// To be raised when the way of making the disks changes.
const RECIPE: &str = "3";

/// The disks.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    /// Boots the test guest, which then runs `boot_data`.
    pub(crate) system: PathBuf,
    /// The system disk's data, and its first sector.
    pub(crate) data: Vec<u8>,
    pub(crate) data_start: usize,
    /// Only says that it was booted, by a BIOS.
    pub(crate) other: PathBuf,
    /// A program for PXE: GRUB, which shows [`TEXT_FILE`] of its server, by TFTP and by HTTP.
    pub(crate) network: PathBuf,
    /// The same for UEFI.
    pub(crate) network_efi: PathBuf,
}

impl Disks {
    /// SHA-256 of the system disk's data.
    pub(crate) fn data_sha256(&self) -> String {
        digest::of_bytes(&self.data)
    }
}

/// What GRUB says when it was started from the system disk, and when everything is loaded.
pub(crate) const SYSTEM_STARTED: &str = "VLVF-GRUB system disk";
pub(crate) const SYSTEM_LOADED: &str = "VLVF-GRUB loaded";
/// What GRUB says when it was started from the network.
pub(crate) const NETWORK_STARTED: &str = "VLVF-GRUB network";
/// What GRUB says when it was started from the other disk.
pub(crate) const OTHER_STARTED: &str = "VLVF-GRUB other disk";

/// Gives the disks, from the cache if they are current.
///
/// # Errors
/// When the tools are missing or fail, or a file cannot be written.
pub(crate) fn ensure(
    project: &Project,
    steps: &mut Steps,
    packages: &Unpacked,
    kernel: &Path,
    initrd: &Path,
) -> Result<Disks> {
    let mut key = Digest::new();
    key.field("recipe", RECIPE)
        .field("packages", &packages.manifest)
        // Its name has the digest of the content; the kernel's has the version.
        .field("initrd", initrd.as_os_str().as_encoded_bytes())
        .field("kernel", kernel.as_os_str().as_encoded_bytes());
    let dir = project.cache_dir("firmware-disks")?;
    let file = |name: &str| dir.join(format!("{name}-{}.img", key.short()));
    let start = |path: &Path| -> Result<usize> {
        let data = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
        Ok(usize::try_from(data.len())?.div_ceil(SECTOR))
    };
    let disks = Disks {
        system: file("system"),
        data: data(),
        data_start: ESP_START + ESP_SECTORS + start(kernel)? + start(initrd)?,
        other: file("other"),
        network: file("network"),
        network_efi: file("network-efi"),
    };
    let _lock = Lock::acquire(&dir.join("lock"))?;
    let files = [
        &disks.system,
        &disks.other,
        &disks.network,
        &disks.network_efi,
    ];
    if files.iter().all(|file| file.exists()) {
        return Ok(disks);
    }
    steps.run("make the disks that firmware boots from", |step| {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end != "lock") {
                let _ = fs::remove_file(path);
            }
        }
        let work = dir.join("work");
        fs::create_dir_all(&work)?;
        let maker = Maker {
            step,
            packages,
            work: &work,
        };
        maker.other(&disks.other)?;
        maker.network(&disks.network, "i386-pc-pxe", "pxe")?;
        maker.network(&disks.network_efi, "x86_64-efi", "efinet")?;
        maker.system(&disks, kernel, initrd)?;
        fs::remove_dir_all(&work)?;
        Ok(())
    })?;
    Ok(disks)
}

/// The data: 64-bit words of a fixed pseudo-random sequence (SplitMix64), so that no two sectors
/// are equal.
fn data() -> Vec<u8> {
    let mut state = 0_u64;
    let mut bytes = Vec::with_capacity(DATA_SECTORS * SECTOR);
    while bytes.len() < DATA_SECTORS * SECTOR {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes
}

struct Maker<'a> {
    step: &'a Step,
    packages: &'a Unpacked,
    work: &'a Path,
}

impl Maker<'_> {
    fn other(&self, out: &Path) -> Result<()> {
        let core = self.core("i386-pc", &script(OTHER_STARTED, None), &["biosdisk"])?;
        let mut disk = self.boot_sectors(&core, &[])?;
        disk.resize(SMALL_DISK, 0);
        write_new(out, &[(0, &disk)], SMALL_DISK)
    }

    fn network(&self, out: &Path, platform: &str, card: &str) -> Result<()> {
        let show = format!("cat (tftp)/{TEXT_FILE}\ncat (http)/{TEXT_FILE}\nhalt\n");
        let script = script(NETWORK_STARTED, Some(&show));
        let modules = [card, "net", "tftp", "http", "cat"];
        let program = self.core(platform, &script, &modules)?;
        write_new(out, &[(0, &program)], program.len())
    }

    fn system(&self, disks: &Disks, kernel: &Path, initrd: &Path) -> Result<()> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let (kernel, initrd) = (read(kernel)?, read(initrd)?);
        let kernel_start = ESP_START + ESP_SECTORS;
        let initrd_start = kernel_start + sectors(&kernel);
        let data_start = disks.data_start;
        ensure!(
            data_start == initrd_start + sectors(&initrd),
            "the kernel or its file system has just changed"
        );
        let end = data_start + DATA_SECTORS;
        let load = format!(
            "linux (hd0){kernel_start}+{} console=ttyS0 quiet panic=-1 no_timer_check virtio_pci.force_legacy=1 \
             vlvf.port=ttyS0 vlvf.data={data_start}+{DATA_SECTORS} vlvf.test=info,boot_data\n\
             initrd (hd0){initrd_start}+{}\n\
             echo \"{SYSTEM_LOADED}\"\n\
             boot\n",
            sectors(&kernel),
            sectors(&initrd),
        );
        let script = script(SYSTEM_STARTED, Some(&load));
        let bios = self.core("i386-pc", &script, &["biosdisk", "linux", "boot"])?;
        let efi = self.core(
            "x86_64-efi",
            &script,
            &["linux", "boot", "part_msdos", "fat"],
        )?;
        let table = [
            (ESP_TYPE, ESP_START, ESP_SECTORS),
            (DATA_TYPE, data_start, DATA_SECTORS),
        ];
        let boot = self.boot_sectors(&bios, &table)?;
        let esp = self.esp(&efi)?;
        let parts = [
            (0, boot.as_slice()),
            (ESP_START, &esp),
            (kernel_start, &kernel),
            (initrd_start, &initrd),
            (data_start, &disks.data),
        ];
        // Firmware that rounds to cylinders must not lose the end.
        let size = (end * SECTOR).next_multiple_of(16 << 20);
        write_new(&disks.system, &parts, size)
    }

    /// GRUB's core image for a platform, with a script inside.
    fn core(&self, platform: &str, script: &str, modules: &[&str]) -> Result<Vec<u8>> {
        // The program for PXE has the modules of a BIOS.
        let modules_of = platform.trim_end_matches("-pxe");
        let (config, out) = (
            self.work.join("grub.cfg"),
            self.work.join(format!("{platform}.img")),
        );
        fs::write(&config, script)?;
        self.packages
            .program("usr/bin/grub-mkimage")?
            .arg("--directory")
            .arg(self.packages.file(&format!("usr/lib/grub/{modules_of}"))?)
            .args(["--format", platform, "--prefix", "/", "--config"])
            .arg(&config)
            .arg("--output")
            .arg(&out)
            .args(["serial", "terminal", "echo", "halt"])
            .args(modules)
            .run(self.step)?;
        Ok(fs::read(out)?)
    }

    /// Master boot record and core image.
    fn boot_sectors(&self, core: &[u8], table: &[(u8, usize, usize)]) -> Result<Vec<u8>> {
        let first = fs::read(self.packages.file("usr/lib/grub/i386-pc/boot.img")?)?;
        ensure!(first.len() == SECTOR, "GRUB's boot.img is no sector");
        ensure!(
            core.len() <= (ESP_START - 1) * SECTOR,
            "GRUB's core image has {} bytes and does not fit before the first partition",
            core.len()
        );
        let mut boot = with_table(first, table)?;
        boot.extend_from_slice(core);
        Ok(boot)
    }

    /// The FAT partition.
    fn esp(&self, grub: &[u8]) -> Result<Vec<u8>> {
        let (fat, program, text) = (
            self.work.join("esp.img"),
            self.work.join("BOOTX64.EFI"),
            self.work.join(TEXT_FILE),
        );
        fs::write(&program, grub)?;
        fs::write(&text, TEXT)?;
        let _ = fs::remove_file(&fat);
        let tool = |name: &str| {
            // Without it the user's own drive letters count.
            let program = self.packages.program(&format!("usr/bin/{name}"))?;
            Ok::<_, anyhow::Error>(program.env("MTOOLSRC", "/dev/null").arg("-i").arg(&fat))
        };
        let size = ESP_SECTORS.to_string();
        let hidden = ESP_START.to_string();
        // A fixed serial number: equal content gives an equal image.
        tool("mformat")?
            .args(["-C", "-T", &size, "-h", "16", "-s", "63", "-H", &hidden])
            .args(["-v", "VLVF", "-N", "0x564c5646", "::"])
            .run(self.step)?;
        tool("mmd")?.args(["::EFI", "::EFI/BOOT"]).run(self.step)?;
        tool("mcopy")?
            .arg(&program)
            .arg("::EFI/BOOT")
            .run(self.step)?;
        tool("mcopy")?.arg(&text).arg("::").run(self.step)?;
        let esp = fs::read(&fat)?;
        ensure!(
            esp.len() <= ESP_SECTORS * SECTOR,
            "the FAT partition has {} bytes",
            esp.len()
        );
        Ok(esp)
    }
}

/// GRUB's script: says where it is, then loads something or stops.
fn script(marker: &str, load: Option<&str>) -> String {
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_output serial\n\
         echo \"{marker}, root $root\"\n\
         {}",
        load.unwrap_or("halt\n")
    )
}

fn sectors(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(SECTOR)
}

/// Puts a partition table into a boot sector. Each entry is (type, first sector, sectors); the
/// first one is active.
fn with_table(mut sector: Vec<u8>, table: &[(u8, usize, usize)]) -> Result<Vec<u8>> {
    const TABLE: usize = 0x1be;
    // GRUB's first stage has code there, for floppy disks.
    sector
        .get_mut(TABLE..TABLE + 4 * 16)
        .context("no boot sector")?
        .fill(0);
    for (index, (kind, start, count)) in table.iter().enumerate() {
        let mut entry = [0_u8; 16];
        let active = if index == 0 { 0x80 } else { 0 };
        // The cylinder, head and sector of what lies beyond their reach.
        let beyond = [0xfe, 0xff, 0xff];
        let fields: [(usize, &[u8]); 5] = [
            (0, &[active]),
            (1, &beyond),
            (4, &[*kind]),
            (5, &beyond),
            (
                8,
                &[
                    u32::try_from(*start)?.to_le_bytes(),
                    u32::try_from(*count)?.to_le_bytes(),
                ]
                .concat(),
            ),
        ];
        for (at, bytes) in fields {
            entry
                .get_mut(at..at + bytes.len())
                .context("no partition entry")?
                .copy_from_slice(bytes);
        }
        let at = TABLE + index * entry.len();
        sector
            .get_mut(at..at + entry.len())
            .filter(|_| index < 4)
            .context("no room in the partition table")?
            .copy_from_slice(&entry);
    }
    Ok(sector)
}

/// Writes a file of this size, with parts at the given sectors; it appears when it is complete.
fn write_new(path: &Path, parts: &[(usize, &[u8])], size: usize) -> Result<()> {
    let temporary = path.with_extension("new");
    let file = File::create(&temporary)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    file.set_len(size as u64)?;
    for (start, bytes) in parts {
        ensure!(
            start * SECTOR + bytes.len() <= size,
            "a part ends behind the disk"
        );
        file.write_all_at(bytes, (start * SECTOR) as u64)?;
    }
    fs::rename(&temporary, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_table_is_as_firmware_reads_it() {
        let mut boot = vec![0xcc; SECTOR];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let sector = with_table(boot, &[(0xef, 2048, 0x8000), (0xda, 0x12345, 1)]).unwrap();
        assert_eq!(sector.len(), SECTOR);
        let entry = |n: usize| &sector[0x1be + 16 * n..][..16];
        assert_eq!((entry(0)[0], entry(0)[4]), (0x80, 0xef));
        assert_eq!(entry(0)[8..], [0, 8, 0, 0, 0, 0x80, 0, 0]);
        assert_eq!((entry(1)[0], entry(1)[4]), (0, 0xda));
        assert_eq!(entry(1)[8..], [0x45, 0x23, 1, 0, 1, 0, 0, 0]);
        assert_eq!((entry(2), entry(3)), (&[0; 16][..], &[0; 16][..]));
        assert_eq!(sector[0x1bd], 0xcc);
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert!(with_table(vec![0; SECTOR], &[(1, 1, 1); 5]).is_err());
    }

    #[test]
    fn parts_lie_where_they_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        write_new(&path, &[(0, b"one"), (2, b"two")], 4 * SECTOR).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4 * SECTOR);
        assert_eq!(
            (&bytes[..3], &bytes[1024..1027]),
            (&b"one"[..], &b"two"[..])
        );
        assert!(write_new(&path, &[(3, &[0; SECTOR + 1])], 4 * SECTOR).is_err());
    }

    #[test]
    fn no_two_sectors_of_the_data_are_equal() {
        let data = data();
        assert_eq!(data.len(), DATA_SECTORS * SECTOR);
        let mut seen: Vec<&[u8]> = data.chunks(SECTOR).collect();
        seen.sort();
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
