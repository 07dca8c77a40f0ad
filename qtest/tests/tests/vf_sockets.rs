// SPDX-License-Identifier: GPL-2.0-or-later
//! `socket=` and `vf=` that do not name the same VF, and sockets that are no VF's at all.

use std::path::Path;

use anyhow::{bail, Context, Result};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, HelperClient, LegacyDriver, Machine, PciDevice, Qtest, Stack};
use qtest_tests::refusal::refused_by;
use qtest_tests::transitional::violations;
use serde_json::{json, Value};

const KINDS: [DeviceKind; 7] = [
    DeviceKind::Net,
    DeviceKind::Block,
    DeviceKind::Console,
    DeviceKind::Rng,
    DeviceKind::Balloon,
    DeviceKind::Scsi,
    DeviceKind::P9,
];
/// What every text about a wrong vfio-user socket ends with.
const ADVICE: &str =
    "; socket= must be the socket of the VF itself (for virtio-pf-sim: vf1.sock for \
                      vf=1), not that of its PF or a control socket";

/// The device with the vfio-user socket of one VF and the number of another.
fn mixed(stack: &Stack, socket: u16, vf: u16) -> Value {
    let mut device = stack.device(socket);
    device["vf"] = json!(vf);
    device
}

fn refused(stack: &Stack, device: &Value, texts: &[&str]) -> Result<String> {
    refused_by(QemuBuilder::new(Machine::Pc), stack.dir(), device, texts)
}

fn with_socket(stack: &Stack, path: &Path) -> Value {
    let mut device = stack.device(1);
    device["socket"] = json!({"type": "unix", "path": path});
    device
}

/// A VF that nobody has touched since its reset.
fn is_untouched(stack: &Stack, vf: u16) -> Result<()> {
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    if client.open(vf)?.is_err() {
        bail!("VF {vf} cannot be opened");
    }
    let status = client.read(legacy_vf_proto::Space::Common, 18, 1)?;
    assert_eq!(status, Ok(0), "status of VF {vf}");
    Ok(())
}

#[test]
fn a_vf_with_the_number_of_another_is_refused() -> Result<()> {
    for kind in KINDS {
        let mut stack = Stack::start(kind, 3)?;
        for (socket, vf) in [(1, 2), (2, 1), (3, 1)] {
            let number = format!("vf={vf}");
            let device = mixed(&stack, socket, vf);
            refused(&stack, &device, &[&number, "socket="])
                .with_context(|| format!("{kind:?}: vf{socket}.sock with vf={vf}"))?;
        }
        // Neither of the two was left with anything of the trial.
        for vf in 1..=3 {
            is_untouched(&stack, vf)?;
        }
        assert_eq!(violations(&mut stack.sim)?, [""; 0], "{kind:?}");
    }
    Ok(())
}

/// The VF with the same number, of another PF that looks the same.
#[test]
fn a_vf_of_a_twin_is_refused() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 2)?;
    let twin = SimulatorBuilder::new(DeviceKind::Block, 2).name("twin");
    let twin = Stack::start_with(&twin, 2, &[])?;
    let device = with_socket(&stack, &twin.sim.vf_socket(1));
    refused(&stack, &device, &["VF 1", "socket="])?;
    is_untouched(&stack, 1)?;
    is_untouched(&twin, 1)
}

/// Another guest that runs on the VF whose number was given by mistake does not notice.
#[test]
fn the_vf_that_is_named_by_mistake_goes_on() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let (qemu, device) = stack.mapped_with(Machine::Pc, &stack.device(2))?;
    let driver = LegacyDriver::new(&device)?;
    driver.begin(&qemu.qtest, 1 << 5)?;
    refused(&stack, &mixed(&stack, 1, 2), &["VF 2"])?;
    assert_eq!(driver.status(&qemu.qtest)?, 3);
    assert_eq!(driver.read(&qemu.qtest, 4, 4)?, 1 << 5);
    Ok(())
}

fn starts_new(qtest: &Qtest, slot: u8) -> Result<()> {
    let mut device = PciDevice::find(qtest, slot)?;
    device.map(qtest)?;
    let driver = LegacyDriver::new(&device)?;
    assert_eq!(driver.status(qtest)?, 0, "slot {slot}");
    assert_eq!(driver.read(qtest, 4, 4)?, 0, "features, slot {slot}");
    driver.begin(qtest, 0)?;
    assert_eq!(driver.status(qtest)?, 3, "slot {slot}");
    Ok(())
}

/// Nothing of the trial is left in a VF that is the right one.
#[test]
fn right_pairs_work_cold_and_plugged() -> Result<()> {
    for kind in KINDS {
        for plugged in [false, true] {
            let mut stack = Stack::start(kind, 4)?;
            let mut builder = QemuBuilder::new(Machine::Pc);
            let mut devices = Vec::new();
            for vf in 1..=4u16 {
                let mut device = stack.device(vf);
                device["id"] = json!(format!("vf{vf}"));
                device["addr"] = json!(format!("{:#x}", u16::from(SLOT) + vf));
                if plugged {
                    devices.push(device);
                } else {
                    builder = builder.device(&device);
                }
            }
            let mut qemu = builder.spawn(stack.dir())?;
            for device in devices {
                qemu.qmp.command("device_add", device)?;
            }
            for vf in 1..=4u8 {
                starts_new(&qemu.qtest, SLOT + vf).with_context(|| format!("{kind:?}"))?;
            }
            assert_eq!(violations(&mut stack.sim)?, [""; 0], "{kind:?}");
        }
    }
    Ok(())
}

#[test]
fn at_hot_plug_a_wrong_number_leaves_the_machine_running() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 2)?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    for _ in 0..2 {
        match qemu.qmp.command("device_add", mixed(&stack, 1, 2)) {
            Ok(_) => bail!("it was taken"),
            Err(e) => assert!(e.to_string().contains("vf=2"), "{e}"),
        }
    }
    qemu.qmp.command("device_add", stack.device(1))?;
    starts_new(&qemu.qtest, SLOT)
}

/// Each of these is where somebody looks first, and none is a VF's.
#[test]
fn sockets_that_are_no_vfs_are_told_apart() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let control = stack.sim.dir().join("ctl.sock");
    let nobody = stack.dir().join("nobody.sock");
    let sockets = [
        // The helper has it.
        stack.sim.pf_socket(),
        // Says nothing that vfio-user understands.
        control,
        stack.helper.socket().to_owned(),
        nobody,
    ];
    for path in sockets {
        refused(&stack, &with_socket(&stack, &path), &["VF 1", ADVICE])
            .with_context(|| format!("{}", path.display()))?;
    }
    // A VF that another QEMU has.
    let _first = stack.qemu(Machine::Pc)?;
    refused(&stack, &stack.device(1), &["VF 1", ADVICE])?;
    Ok(())
}

/// QEMU's own words for the short form, which the guide explains.
#[test]
fn the_short_form_of_the_command_line_is_refused_by_qemu() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let path = stack.sim.vf_socket(1);
    let (path, helper) = (path.display(), stack.helper.socket().display());
    for (form, text) in [
        (
            format!("virtio-legacy-vf-user,socket={path},helper={helper},vf=1"),
            "Invalid parameter type for 'socket', expected: object",
        ),
        (
            format!(
                "virtio-legacy-vf-user,socket.type=unix,socket.path={path},helper={helper},vf=1"
            ),
            "socket.type' not found",
        ),
        (
            format!("virtio-legacy-vf-user,path={path},helper={helper},vf=1"),
            "path' not found",
        ),
    ] {
        let builder = QemuBuilder::new(Machine::Pc).name("refused");
        let (status, log) = builder
            .arg("-device")
            .arg(&form)
            .spawn_refused(stack.dir())?;
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(text), "{form}: {log}");
    }
    Ok(())
}
