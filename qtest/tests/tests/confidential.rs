// SPDX-License-Identifier: GPL-2.0-or-later
//! Confidential guests, whose memory the VF cannot read: QEMU gives its own virtio devices no legacy
//! interface there, and neither does this one.
//!
//! No accelerator here can run such a guest, and QEMU says so, but only after the devices are made. For
//! a device that is plugged later a running machine is given what makes its guest confidential.

use anyhow::{bail, Result};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Stack};
use qtest_tests::refusal::refused_by;
use serde_json::{json, Value};

/// What the refusal says.
const TEXTS: [&str; 3] = ["VF 1", "confidential", "modern driver"];

/// Makes the guest of a running machine confidential, or not.
fn guard(qemu: &mut Qemu, value: &str) -> Result<()> {
    let link = json!({
        "path": "/machine",
        "property": "confidential-guest-support",
        "value": value,
    });
    qemu.qmp.command("qom-set", link).map(drop)
}

/// A running machine that was made so.
fn confidential(stack: &Stack) -> Result<Qemu> {
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    let object = json!({
        "qom-type": "sev-guest",
        "id": "guard",
        "cbitpos": 47,
        "reduced-phys-bits": 1,
    });
    qemu.qmp.command("object-add", object)?;
    guard(&mut qemu, "/objects/guard")?;
    Ok(qemu)
}

fn device(stack: &Stack, hidden: bool) -> Value {
    let mut device = stack.device(1);
    device["disable-modern"] = json!(hidden);
    device
}

#[test]
fn a_machine_with_a_confidential_guest_does_not_start() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for machine in [Machine::Pc, Machine::Q35] {
        for hidden in [false, true] {
            let builder = QemuBuilder::new(machine)
                .arg("-object")
                .arg("sev-guest,id=guard,cbitpos=47,reduced-phys-bits=1")
                .arg("-machine")
                .arg("confidential-guest-support=guard");
            refused_by(builder, stack.dir(), &device(&stack, hidden), &TEXTS)?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_plugged_into_a_confidential_guest() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut qemu = confidential(&stack)?;
    for hidden in [false, true] {
        match qemu.qmp.command("device_add", device(&stack, hidden)) {
            Ok(_) => bail!("it was taken, disable-modern={hidden}"),
            Err(e) => {
                let text = e.to_string();
                for part in TEXTS {
                    assert!(text.contains(part), "no \"{part}\" in: {text}");
                }
            }
        }
        assert!(qemu.process.is_running()?);
    }
    Ok(())
}

/// It is the link that counts: the same object without it makes no difference.
#[test]
fn an_object_that_guards_nothing_is_no_reason() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut qemu = confidential(&stack)?;
    guard(&mut qemu, "")?;
    qemu.qmp.command("device_add", stack.device(1))?;
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    LegacyDriver::new(&device)?.begin(&qemu.qtest, 0)?;
    Ok(())
}
