// SPDX-License-Identifier: GPL-2.0-or-later
//! SeaBIOS and OVMF load an operating system from a disk at a scsi VF.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use super::ovmf;
use crate::firmware::disks::{SYSTEM_LOADED, SYSTEM_STARTED};
use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{check_text, device, Interface, Kit, LoggedPf};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const SEABIOS_SCSI: Scenario<Run> = Scenario {
    name: "seabios-scsi",
    shows: "SeaBIOS does",
    run: Run::Firmware(seabios),
};

pub(in crate::scenarios) const OVMF_SCSI: Scenario<Run> = Scenario {
    name: "ovmf-scsi",
    shows: "OVMF loads Linux from a disk at a scsi VF",
    run: Run::Firmware(ovmf),
};

const START: Duration = Duration::from_secs(120);
const LOAD: Duration = Duration::from_secs(60);

/// With the legacy interface alone; it asks for neither features nor configuration.
pub(super) fn seabios(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "seabios-scsi";
    let (vm, text) = load(bench, kit, name, &Firmware::SeaBios, Interface::Legacy, &[])?;
    check_text(
        &vm.firmware_said()?,
        "SeaBIOS's log",
        &[
            "found virtio-scsi at",
            "using legacy (0.9.5) virtio mode",
            "product='SIMULATED DISK'",
        ],
    )?;
    Ok(format!("SeaBIOS {text}"))
}

/// Its driver is one of the legacy interface, whatever else there is.
pub(super) fn ovmf(bench: &Bench, kit: &Kit) -> Result<String> {
    // Number of queues, largest target, largest unit.
    let config = [0, 30, 32];
    let firmware = ovmf::firmware(kit)?;
    let (_, text) = load(bench, kit, "ovmf-scsi", &firmware, Interface::Both, &config)?;
    Ok(format!("OVMF {} {text}", kit.packages.version("ovmf")))
}

fn load(
    bench: &Bench,
    kit: &Kit,
    name: &str,
    firmware: &Firmware,
    interface: Interface,
    config: &[u8],
) -> Result<(Vm, String)> {
    let disk = kit.disks.system.to_str().context("no UTF-8")?;
    let options = ["--scsi-file", disk, "--scsi-read-only"];
    let pf = LoggedPf::start(bench, name, "scsi", 1, &options)?;
    let more = [("bootindex", json!(1))];
    let devices = [device(&pf.pf.function(1), "vf0", interface, &more)?];
    let mut vm = Vm::start(bench, name, firmware, &devices, &[])?;
    vm.expect(SYSTEM_STARTED, START)?;
    vm.expect(SYSTEM_LOADED, LOAD)?;
    let seen = pf.seen(1)?;
    seen.check_legacy_driver(config)?;
    ensure!(
        seen.doorbells_legacy > 10,
        "kernel and file system came with few requests; {seen}"
    );
    Ok((
        vm,
        format!(
            "loads Linux from the disk of the VF; {} legacy commands, {} doorbells",
            seen.legacy_commands(),
            seen.doorbells_legacy
        ),
    ))
}
