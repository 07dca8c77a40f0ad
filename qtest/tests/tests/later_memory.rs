// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that is plugged into a running machine: the VF of another process reaches it only if it is
//! shared, and a request in memory that it does not reach stops the VF.

use anyhow::{Context, Result};
use qtest_harness::driver::Buffer;
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{
    DeviceKind, GuestMemory, LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE,
};
use serde_json::{json, Value};

const SIZE: u64 = 128 << 20;

/// A machine with room for memory.
fn machine() -> QemuBuilder {
    QemuBuilder::new(Machine::Pc)
        .arg("-m")
        .arg("128M,slots=4,maxmem=1G")
}

/// Plugs a DIMM; gives its address.
fn plug(qemu: &mut Qemu, dimm: &str, backend: &str, more: &Value) -> Result<u64> {
    let mut object = json!({"id": backend, "size": SIZE});
    if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
        object.extend(more.clone());
    }
    qemu.qmp.command("object-add", object)?;
    let device = json!({"driver": "pc-dimm", "id": dimm, "memdev": backend});
    qemu.qmp.command("device_add", device)?;
    let list = qemu.qmp.command("query-memory-devices", json!({}))?;
    let found = list.as_array().context("no list")?.iter().find_map(|one| {
        let data = one.get("data")?;
        (data.get("id")? == dimm).then(|| data.get("addr")?.as_u64())?
    });
    found.with_context(|| format!("no {dimm} in {list}"))
}

fn private(qom_type: &str) -> Value {
    json!({"qom-type": qom_type, "share": false})
}

fn shared() -> Value {
    json!({"qom-type": "memory-backend-memfd", "share": true})
}

/// The lines of QEMU's log about a DIMM.
fn lines_about(qemu: &Qemu, dimm: &str) -> Vec<String> {
    let log = qemu.process.log();
    let lines = log.lines().filter(|line| line.contains(dimm));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_dimm_that_the_vf_cannot_reach_is_warned_of() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for (n, kind) in ["memory-backend-ram", "memory-backend-memfd"]
        .into_iter()
        .enumerate()
    {
        let mut qemu = machine().device(&stack.device(1)).spawn(stack.dir())?;
        let (dimm, backend) = (format!("dimm-{n}"), format!("backend-{n}"));
        plug(&mut qemu, &dimm, &backend, &private(kind))?;
        qemu.process.wait_log(&dimm, PATIENCE)?;
        let lines = lines_about(&qemu, &dimm);
        assert_eq!(lines.len(), 1, "{lines:?}");
        for text in ["warning", &backend, "VF 1", "share=on"] {
            assert!(
                lines.iter().all(|line| line.contains(text)),
                "{kind}: no \"{text}\" in {lines:?}"
            );
        }
        // It is the guest's all the same, and what is in other memory goes on.
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let driver = LegacyDriver::new(&device)?;
        driver.begin(&qemu.qtest, 0)?;
        let mut queue = driver.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
        driver.set_status(&qemu.qtest, 7)?;
        let (q, sector) = (&qemu.qtest, Buffer::In(512));
        let (_, status) = driver.block_request(q, &mut qemu.memory, &mut queue, 0, 0, &sector)?;
        assert_eq!(status, 0);
    }
    Ok(())
}

#[test]
fn a_shared_dimm_is_used_and_nothing_is_said() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut qemu = machine().device(&stack.device(1)).spawn(stack.dir())?;
    let said = qemu.process.log();
    let at = plug(&mut qemu, "dimm-0", "backend-0", &shared())?;
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    let driver = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    driver.begin(q, 0)?;
    // Ring and buffers, all in the new memory.
    let mut memory = GuestMemory::new(at + SIZE);
    memory.take(at, 1)?;
    let mut queue = driver.queue(q, &mut memory, 0, 0)?;
    driver.set_status(q, 7)?;
    assert!(queue.used_ring() > at);
    let sector = Buffer::In(512);
    let (data, status) = driver.block_request(q, &mut memory, &mut queue, 0, 0, &sector)?;
    assert_eq!((data.len(), status), (512, 0));
    assert_eq!(driver.status(q)?, 7);
    assert_eq!(qemu.process.log(), said);
    Ok(())
}

/// Whoever comes later looks at all that is there.
#[test]
fn a_vf_that_is_plugged_after_the_memory_is_refused() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut qemu = machine().spawn(stack.dir())?;
    plug(
        &mut qemu,
        "dimm-0",
        "backend-0",
        &private("memory-backend-ram"),
    )?;
    match qemu.qmp.command("device_add", stack.device(1)) {
        Ok(_) => anyhow::bail!("it was taken"),
        Err(e) => {
            let text = e.to_string();
            for part in ["backend-0", "share=on", "VF 1"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }
    Ok(())
}

/// A DIMM that comes twice is told of twice, and no more once the VF is gone.
#[test]
fn each_plug_is_told_of_and_none_without_a_vf() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut qemu = machine().device(&stack.device(1)).spawn(stack.dir())?;
    for (dimm, backend) in [("dimm-0", "backend-0"), ("dimm-1", "backend-1")] {
        plug(&mut qemu, dimm, backend, &private("memory-backend-ram"))?;
        qemu.process.wait_log(dimm, PATIENCE)?;
    }
    let mut without = machine().name("without").spawn(stack.dir())?;
    plug(
        &mut without,
        "dimm-0",
        "backend-0",
        &private("memory-backend-ram"),
    )?;
    without.qmp.command("query-status", json!({}))?;
    assert_eq!(lines_about(&without, "dimm-0"), [""; 0]);
    Ok(())
}
