// SPDX-License-Identifier: GPL-2.0-or-later
//! SeaBIOS and GRUB's `biosdisk` boot an operating system from a blk VF.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::firmware::disks::{OTHER_STARTED, SYSTEM_LOADED, SYSTEM_STARTED};
use crate::firmware::vm::{Firmware, Vm};
use crate::firmware::{check_text, device, linux, Interface, Kit, LoggedPf};
use crate::run::Run;
use test_machine::answer::Answer;
use test_machine::bench::Bench;
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const SEABIOS_LEGACY: Scenario<Run> = Scenario {
    name: "seabios-legacy",
    shows: "SeaBIOS, GRUB and then Linux boot from a blk VF that shows the legacy interface only; Linux's data on it has the right digest",
    run: Run::Firmware(|bench, kit| boot(bench, kit, Interface::Legacy)),
};

pub(in crate::scenarios) const SEABIOS_MODERN: Scenario<Run> = Scenario {
    name: "seabios-modern",
    shows: "the same with both interfaces",
    run: Run::Firmware(|bench, kit| boot(bench, kit, Interface::Both)),
};

pub(in crate::scenarios) const SEABIOS_BOOTINDEX: Scenario<Run> = Scenario {
    name: "seabios-bootindex",
    shows: "of two VFs the one that `bootindex` names is booted, and the other is not read",
    run: Run::Firmware(order),
};

/// Until the boot loader runs, and until it has read what it boots.
const LOAD: Duration = Duration::from_secs(90);
/// Capacity, in the device configuration of blk, byte by byte.
pub(super) const CAPACITY: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Boots the system disk.
pub(super) fn boot(bench: &Bench, kit: &Kit, interface: Interface) -> Result<String> {
    let name = match interface {
        Interface::Legacy => "seabios-legacy",
        Interface::Both => "seabios-modern",
    };
    let disk = kit.disks.system.to_str().context("no UTF-8")?;
    let pf = LoggedPf::start(bench, name, "blk", 1, &["--blk-file", disk, "--read-only"])?;
    let devices = [device(
        &pf.pf.function(1),
        "vf0",
        interface,
        &[("bootindex", json!(1))],
    )?];
    let mut vm = Vm::start(bench, name, &Firmware::SeaBios, &devices, &[])?;
    vm.expect(SYSTEM_STARTED, LOAD)?;
    vm.expect(SYSTEM_LOADED, LOAD)?;
    // Until here everything was read by SeaBIOS; Linux needs a second until it has drivers.
    let firmware = pf.seen(1)?;
    let log = vm.firmware_said()?;
    check_text(
        &log,
        "SeaBIOS's log",
        &["boot order:", "1: /pci@i0cf8/", "found virtio-blk at"],
    )?;
    let mode = match interface {
        Interface::Legacy => "legacy (0.9.5)",
        Interface::Both => "modern (1.0)",
    };
    let line = format!("using {mode} virtio mode");
    check_text(&log, "SeaBIOS's log", &[&line])?;
    match interface {
        Interface::Legacy => firmware.check_legacy_driver(&CAPACITY)?,
        Interface::Both => firmware.check_modern_driver(&[])?,
    }
    let linux = system(&mut vm, &kit.disks.data_sha256())?;
    let all = pf.seen(1)?;
    all.check_well()?;
    ensure!(
        all.doorbells_legacy > firmware.doorbells_legacy,
        "Linux's legacy driver rang no doorbell; {all}"
    );
    Ok(format!(
        "SeaBIOS in {} mode, GRUB and Linux boot from the VF; {} legacy commands and {} doorbells until Linux \
         runs; it read {} bytes with the right SHA-256 after {} s",
        mode,
        firmware.legacy_commands(),
        firmware.doorbells_legacy + firmware.doorbells_modern,
        linux.get("data_bytes")?,
        linux.get("uptime")?,
    ))
}

/// Waits until the booted Linux has read the disk's data, and checks what it says.
pub(super) fn system(vm: &mut Vm, sha256: &str) -> Result<Answer> {
    let answer = linux::wait(vm, "boot_data")?;
    ensure!(
        answer.get("blk.virtio_driver")? == "virtio_blk",
        "the disk has another driver: {}",
        answer.text()
    );
    let found = answer.get("data_sha256")?;
    ensure!(
        found == sha256,
        "Linux read other data from the disk: SHA-256 {found}, not {sha256}"
    );
    Ok(answer)
}

/// The second VF comes first in the boot order, although it is behind the first on the bus.
pub(super) fn order(bench: &Bench, kit: &Kit) -> Result<String> {
    // VF 1 has the system disk, VF 2 the other one: FILE.vf2 is how the simulator finds it.
    let first = bench.run.path().join("boot.img");
    let second = bench.run.path().join("boot.img.vf2");
    for (disk, link) in [(&kit.disks.system, &first), (&kit.disks.other, &second)] {
        let _ = std::fs::remove_file(link);
        std::os::unix::fs::symlink(disk, link)?;
    }
    let file = first.to_str().context("no UTF-8")?;
    let options = ["--blk-file", file, "--read-only"];
    let mut found = Vec::new();
    for (name, indexes, marker) in [
        ("seabios-first", [1, 2], SYSTEM_STARTED),
        ("seabios-second", [2, 1], OTHER_STARTED),
    ] {
        let pf = LoggedPf::start(bench, name, "blk", 2, &options)?;
        let mut devices = Vec::new();
        for (vf, index) in (1..).zip(indexes) {
            let more = [("bootindex", json!(index))];
            let id = format!("vf{vf}");
            devices.push(device(&pf.pf.function(vf), &id, Interface::Legacy, &more)?);
        }
        let mut vm = Vm::start(bench, name, &Firmware::SeaBios, &devices, &[])?;
        let which = vm.expect_any(&[SYSTEM_STARTED, OTHER_STARTED], LOAD)?;
        ensure!(
            [SYSTEM_STARTED, OTHER_STARTED].get(which) == Some(&marker),
            "with bootindex={} and {} the wrong disk was booted",
            indexes[0],
            indexes[1]
        );
        let (booted, other) = match which {
            0 => (pf.seen(1)?, pf.seen(2)?),
            _ => (pf.seen(2)?, pf.seen(1)?),
        };
        booted.check_legacy_driver(&CAPACITY)?;
        other.check_legacy_set_up(&CAPACITY)?;
        ensure!(
            other.doorbells_legacy == 0,
            "the disk that comes second was read; {other}"
        );
        found.push(format!("bootindex {indexes:?}: {marker}"));
    }
    Ok(found.join("; "))
}
