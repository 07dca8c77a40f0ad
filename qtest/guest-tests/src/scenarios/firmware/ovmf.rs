// SPDX-License-Identifier: GPL-2.0-or-later
//! OVMF, whose driver for transitional devices is one of the legacy interface: it boots from a blk
//! VF and from the network by a net VF, although the modern interface is there as well.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use super::seabios::system;
use crate::firmware::disks::{NETWORK_STARTED, SYSTEM_LOADED, SYSTEM_STARTED, TEXT, TEXT_FILE};
use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{device, Interface, Kit, LoggedPf};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const OVMF_DISK: Scenario<Run> = Scenario {
    name: "ovmf-disk",
    shows: "OVMF boots from a blk VF",
    run: Run::Firmware(disk),
};

pub(in crate::scenarios) const OVMF_NETWORK: Scenario<Run> = Scenario {
    name: "ovmf-network",
    shows: "OVMF boots from the network",
    run: Run::Firmware(network),
};

/// Until the boot loader runs.
const START: Duration = Duration::from_secs(120);
/// From there until it has read what it boots.
const LOAD: Duration = Duration::from_secs(60);

pub(super) fn firmware(kit: &Kit) -> Result<Firmware> {
    Ok(Firmware::Flash(
        kit.packages.file("usr/share/OVMF/OVMF_CODE_4M.fd")?,
        kit.packages.file("usr/share/OVMF/OVMF_VARS_4M.fd")?,
    ))
}

/// Boots the system disk.
pub(super) fn disk(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "ovmf-disk";
    let disk = kit.disks.system.to_str().context("no UTF-8")?;
    let pf = LoggedPf::start(bench, name, "blk", 1, &["--blk-file", disk, "--read-only"])?;
    let more = [("bootindex", json!(1))];
    let devices = [device(&pf.pf.function(1), "vf0", Interface::Both, &more)?];
    let mut vm = Vm::start(bench, name, &firmware(kit)?, &devices, &[])?;
    vm.expect(SYSTEM_STARTED, START)?;
    vm.expect(SYSTEM_LOADED, LOAD)?;
    let seen = pf.seen(1)?;
    // The capacity, in two halves.
    seen.check_legacy_driver(&[0, 4])?;
    let linux = system(&mut vm, &kit.disks.data_sha256())?;
    pf.seen(1)?.check_well()?;
    Ok(format!(
        "OVMF {}, GRUB and Linux boot from the VF; {} legacy commands and {} doorbells until Linux runs; \
         it read {} bytes with the right SHA-256",
        kit.packages.version("ovmf"),
        seen.legacy_commands(),
        seen.doorbells_legacy,
        linux.get("data_bytes")?,
    ))
}

/// Boots GRUB from the network.
pub(super) fn network(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "ovmf-network";
    let dir = bench.run.path().join("boot");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    fs::copy(&kit.disks.network_efi, dir.join("boot.efi"))?;
    fs::write(dir.join(TEXT_FILE), TEXT)?;
    let served = dir.to_str().context("no UTF-8")?;
    let pf = LoggedPf::start(bench, name, "net", 1, &["--boot-dir", served])?;
    let more = [("bootindex", json!(1))];
    let devices = [device(&pf.pf.function(1), "vf0", Interface::Both, &more)?];
    let mut vm = Vm::start(bench, name, &firmware(kit)?, &devices, &[])?;
    vm.expect("Station IP address is 10.0.77.100", START)?;
    vm.expect("NBP file downloaded successfully", LOAD)?;
    vm.expect(NETWORK_STARTED, LOAD)?;
    for _ in ["TFTP", "HTTP"] {
        vm.expect(TEXT.trim_end(), LOAD)?;
    }
    let seen = pf.seen(1)?;
    // The configuration begins with the MAC address; the link status is polled.
    seen.check_legacy_driver(&[0, 1, 2, 3, 4, 5, 6])?;
    ensure!(seen.queues >= 2, "not both queues were set up; {seen}");
    Ok(format!(
        "OVMF {} has 10.0.77.100 and boots GRUB by TFTP, which loads a text by TFTP and HTTP; {} legacy \
         commands, {} doorbells",
        kit.packages.version("ovmf"),
        seen.legacy_commands(),
        seen.doorbells_legacy
    ))
}
