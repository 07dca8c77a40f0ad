// SPDX-License-Identifier: GPL-2.0-or-later
//! U-Boot reads a blk VF and uses the network by a net VF, with its driver of the legacy interface.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use super::seabios::CAPACITY;
use crate::firmware::disks::{TEXT, TEXT_FILE};
use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{device, Interface, Kit, LoggedPf};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const U_BOOT: Scenario<Run> = Scenario {
    name: "u-boot",
    shows: "U-Boot reads a blk VF and uses the network by a net VF",
    run: Run::Firmware(boot),
};

const START: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(30);
const PROMPT: &str = "\n=> ";
/// Where files are loaded to.
const MEMORY: &str = "0x1000000";
/// U-Boot reads every byte of the device configuration at offset 0 and so takes the first byte of
/// the MAC address for all six. With this PF, VF 1 has the address that it believes in.
const PF_MAC: &str = "52:52:52:52:52:51";

pub(super) fn boot(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "u-boot";
    let disk = kit.disks.system.to_str().context("no UTF-8")?;
    let dir = bench.run.path().join("boot");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let file = kit.disks.data.get(..300_001).context("no data")?;
    fs::write(dir.join("file"), file)?;
    let served = dir.to_str().context("no UTF-8")?;
    let blk = LoggedPf::start(bench, name, "blk", 1, &["--blk-file", disk, "--read-only"])?;
    let options = ["--boot-dir", served, "--mac", PF_MAC];
    let net = LoggedPf::start(bench, name, "net", 1, &options)?;
    // Its device tree has something of its own at slot 1.
    let devices = [
        device(
            &blk.pf.function(1),
            "vf0",
            Interface::Both,
            &[("addr", json!("5"))],
        )?,
        device(
            &net.pf.function(1),
            "vf1",
            Interface::Both,
            &[("addr", json!("6"))],
        )?,
    ];
    let image = kit.packages.file("usr/lib/u-boot/qemu-x86/u-boot.rom")?;
    let mut vm = Vm::start(bench, name, &Firmware::Bios(image), &devices, &[])?;
    vm.expect("Hit any key to stop autoboot", START)?;
    vm.send(" ")?;
    vm.expect(PROMPT, COMMAND)?;
    let mut ask = |command: &str, answers: &[&str]| -> Result<()> {
        vm.send(&format!("{command}\n"))?;
        for answer in answers {
            vm.expect(answer, COMMAND)
                .with_context(|| format!("\"{command}\""))?;
        }
        vm.expect(PROMPT, COMMAND)
    };
    ask("virtio scan", &[])?;
    ask("virtio info", &["Device 0: 1af4 VirtIO Block Device"])?;
    let size = TEXT.len();
    ask(
        &format!("fatload virtio 0:1 {MEMORY} {TEXT_FILE}"),
        &[&format!("{size} bytes read")],
    )?;
    let sum = |data: &[u8]| format!("==> {:08x}", crc32(data));
    ask(
        &format!("crc32 {MEMORY} {size:x}"),
        &[&sum(TEXT.as_bytes())],
    )?;
    let data = &kit.disks.data;
    let (start, count) = (kit.disks.data_start, data.len() / 512);
    ask(
        &format!("virtio read {MEMORY} {start:x} {count:x}"),
        &[&format!("{count} blocks read: OK")],
    )?;
    ask(&format!("crc32 {MEMORY} {:x}", data.len()), &[&sum(data)])?;
    ask("setenv autoload no", &[])?;
    ask("dhcp", &["DHCP client bound to address 10.0.77.100"])?;
    ask("ping 10.0.77.1", &["host 10.0.77.1 is alive"])?;
    ask(
        &format!("tftpboot {MEMORY} 10.0.77.1:file"),
        &[&format!("Bytes transferred = {} ", file.len())],
    )?;
    ask(&format!("crc32 {MEMORY} {:x}", file.len()), &[&sum(file)])?;
    let (disk, card) = (blk.seen(1)?, net.seen(1)?);
    disk.check_legacy_driver(&CAPACITY)?;
    card.check_legacy_driver(&[0])?;
    ensure!(card.queues >= 2, "not both queues were set up; {card}");
    Ok(format!(
        "U-Boot {} reads a file and {} bytes from the disk and {} bytes by TFTP, with the right CRC-32; \
         doorbells: disk {}, card {}",
        kit.packages.version("u-boot-qemu"),
        data.len(),
        file.len(),
        disk.doorbells_legacy,
        card.doorbells_legacy
    ))
}

/// The CRC-32 of Ethernet and of U-Boot's command.
fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry != 0 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sum_is_the_usual_one() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
