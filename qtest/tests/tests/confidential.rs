// SPDX-License-Identifier: GPL-2.0-or-later
//! Confidential guests, whose memory the VF cannot read: QEMU gives its own virtio devices no legacy
//! interface there, and neither does this one.

use anyhow::Result;
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::{DeviceKind, Machine, Stack};
use qtest_tests::refusal::refused_by;
use serde_json::json;

/// Made without the hardware. An accelerator that cannot do it refuses it too, but only after devices are made.
const GUARD: &str = "sev-guest,id=guard,cbitpos=47,reduced-phys-bits=1";

fn machine(kind: Machine) -> QemuBuilder {
    QemuBuilder::new(kind)
        .arg("-object")
        .arg(GUARD)
        .arg("-machine")
        .arg("confidential-guest-support=guard")
}

#[test]
fn a_confidential_guest_is_refused() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for kind in [Machine::Pc, Machine::Q35] {
        for hidden in [false, true] {
            let mut device = stack.device(1);
            device["disable-modern"] = json!(hidden);
            refused_by(
                machine(kind),
                stack.dir(),
                &device,
                &["VF 1", "confidential", "vfio-user-pci"],
            )?;
        }
    }
    Ok(())
}
