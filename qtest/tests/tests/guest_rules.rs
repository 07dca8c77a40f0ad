// SPDX-License-Identifier: GPL-2.0-or-later
//! What old guests rely on: order, resets of every kind, bus mastering, both ISR bits, and few
//! admin commands.

use anyhow::{Context, Result};
use qtest_harness::driver::Buffer;
use qtest_harness::stack::SLOT;
use qtest_harness::{
    DeviceKind, LegacyDriver, Machine, PciDevice, Qtest, Simulator, Stack, PATIENCE,
};
use qtest_tests::{commands, wait_for};
use serde_json::{json, Value};
use virtio_pci_spec::pci::CAP_ID_EXPRESS;

/// Register commands in the simulator's log from record `since` on, as (opcode, offset), and the
/// number of the next record.
fn log(sim: &mut Simulator, since: u64) -> Result<(Vec<(u64, u64)>, u64)> {
    let answer = sim.control(&json!({"cmd": "events", "since": since, "max": 10_000}))?;
    let records = answer
        .get("events")
        .and_then(Value::as_array)
        .context("no events")?;
    let number = |r: &Value, name: &str| r.get(name).and_then(Value::as_u64);
    let list = records
        .iter()
        .filter(|r| r.get("event").is_some_and(|e| e == "command"))
        .filter_map(|r| Some((number(r, "opcode")?, number(r, "offset")?)))
        .collect();
    let next = answer
        .get("next")
        .and_then(Value::as_u64)
        .context("no next")?;
    Ok((list, next))
}

// Covers: LEG-14, LEG-03
#[test]
fn commands_come_in_the_guests_order() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    // With INTx the device has commands of its own, and answers the ISR.
    let mut vf = stack.device(1);
    vf["intx"] = "off".into();
    let (qemu, device) = stack.mapped_with(Machine::Pc, &vf)?;
    let (q, d) = (&qemu.qtest, LegacyDriver::new(&device)?);
    let (_, start) = log(&mut stack.sim, 0)?;
    let mut want = Vec::new();
    for round in 0..40u16 {
        d.write(q, 4, 4, u32::from(round) << 5)?;
        d.write(q, 20 + round % 6, 1, u32::from(round))?;
        d.read(q, 18, 1)?;
        d.write(q, 18, 1, 1)?;
        d.read(q, 20 + round % 6, 1)?;
        d.write(q, 14, 2, u32::from(round % 2))?;
        d.write(q, 8, 4, 0x100 + u32::from(round))?;
        d.read(q, 19, 1)?;
        let byte = u64::from(round % 6);
        want.extend([
            (2, 4),
            (4, byte),
            (3, 18),
            (2, 18),
            (5, byte),
            (2, 14),
            (2, 8),
            (3, 19),
        ]);
    }
    let (got, _) = log(&mut stack.sim, start)?;
    assert_eq!(got, want);
    // Bytes arrive in little-endian order.
    d.write(q, 4, 4, 0x0102_8020)?;
    let bytes: Vec<u32> = (0..4).map(|_| d.read(q, 4, 1)).collect::<Result<_>>()?;
    assert_eq!(bytes, [0x20; 4]);
    Ok(())
}

/// One queue as Linux sets it up; `vector` 0xffff: without one.
fn linux_queue(q: &Qtest, d: &LegacyDriver, index: u32, vector: u32) -> Result<()> {
    d.write(q, 14, 2, index)?;
    assert_ne!(d.read(q, 12, 2)?, 0, "queue {index}");
    d.write(q, 14, 2, index)?;
    assert_eq!(d.read(q, 8, 4)?, 0);
    d.write(q, 14, 2, index)?;
    d.write(q, 8, 4, 0x200 + 16 * index)?;
    if vector != 0xffff {
        d.write(q, 14, 2, index)?;
        d.write(q, 22, 2, vector)?;
        assert_eq!(d.read(q, 22, 2)?, vector);
    }
    Ok(())
}

/// The accesses of Linux's legacy driver for a network card with receive, transmit and control
/// queue; the window's own test explains them one by one.
#[test]
fn one_boot_costs_28_admin_commands() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let q = &qemu.qtest;
    let mut d = LegacyDriver::new(&device)?;
    let msix = device.msix(q)?;
    let sum = |sim: &mut Simulator| -> Result<u64> { Ok(commands(sim)?.iter().sum()) };
    for want in [28, 27] {
        d.msix = false;
        msix.enable(q, &device, false)?;
        // What the VF is told about its vectors is told by now; it is not part of a boot.
        d.status(q)?;
        let before = sum(&mut stack.sim)?;
        d.set_status(q, 0)?;
        assert_eq!(d.status(q)?, 0);
        for bit in [1, 2] {
            let old = d.status(q)?;
            d.set_status(q, old | bit)?;
        }
        let features = d.read(q, 0, 4)? & (1 << 5 | 1 << 16 | 1 << 17);
        d.write(q, 4, 4, features)?;
        for i in 0..6 {
            d.config(q, i, 1)?;
        }
        msix.enable(q, &device, true)?;
        d.msix = true;
        d.write(q, 20, 2, 0)?;
        assert_eq!(d.read(q, 20, 2)?, 0);
        linux_queue(q, &d, 0, 1)?;
        linux_queue(q, &d, 1, 2)?;
        linux_queue(q, &d, 2, 0xffff)?;
        d.config(q, 6, 1)?;
        d.config(q, 7, 1)?;
        let old = d.status(q)?;
        d.set_status(q, old | 4)?;
        assert_eq!(sum(&mut stack.sim)? - before, want);
    }
    Ok(())
}

// Covers: PCI-09, SRV-02
#[test]
fn old_drivers_get_bus_mastering_with_their_status() -> Result<()> {
    for fixup in [true, false] {
        let stack = Stack::start(DeviceKind::Block, 1)?;
        let mut config = stack.device(1);
        config["x-bus-master-fixup"] = json!(fixup);
        let mut qemu = stack.qemu_with(Machine::Pc, &config)?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let q = &qemu.qtest;
        // I/O enable is the device's own: VFs have none.
        device.set_command(q, 3)?;
        assert_eq!(device.read(q, 4, 2)? & 7, 3);
        let d = LegacyDriver::new(&device)?;
        d.begin(q, 0)?;
        let master = device.read(q, 4, 2)? & 4 != 0;
        assert_eq!(master, fixup);
        let mut queue = d.queue(q, &mut qemu.memory, 0, 0)?;
        d.set_status(q, 7)?;
        if !fixup {
            device.set_command(q, 7)?;
        }
        let (_, status) =
            d.block_request(q, &mut qemu.memory, &mut queue, 0, 0, &Buffer::In(512))?;
        assert_eq!(status, 0);
    }
    Ok(())
}

// Covers: LIO-08
#[test]
fn a_function_level_reset_by_the_guest_is_noticed() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Q35)?;
    let (q, d) = (&qemu.qtest, LegacyDriver::new(&device)?);
    let express = device
        .capabilities(q)?
        .into_iter()
        .find(|c| c.0 == CAP_ID_EXPRESS)
        .context("no PCI Express capability")?
        .1;
    assert_ne!(
        device.read(q, express + 4, 4)? & 1 << 28,
        0,
        "FLR is offered"
    );
    d.begin(q, 1 << 5)?;
    d.write(q, 14, 2, 1)?;
    let size = d.read(q, 12, 2)?;
    d.write(q, 8, 4, 0x123)?;
    assert_eq!(d.read(q, 8, 4)?, 0x123);
    let control = device.read(q, express + 8, 2)?;
    device.write(q, express + 8, 2, control | 0x8000)?;
    assert_eq!(device.read(q, 0, 4)?, 0x1000_1af4, "the IDs stay");
    device.set_command(q, 7)?;
    device.write(q, 0x10, 4, device.bar(0)?.base)?;
    assert_eq!(d.status(q)?, 0);
    assert_eq!(d.read(q, 4, 4)?, 0);
    d.write(q, 14, 2, 1)?;
    assert_eq!((d.read(q, 8, 4)?, d.read(q, 12, 2)?), (0, size));
    assert_eq!(
        qtest_tests::property(&mut qemu.qmp, "link-state")?,
        "connected"
    );
    Ok(())
}

// Covers: IRQ-13
#[test]
fn both_isr_bits_come_in_one_read() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let q = &qemu.qtest;
    let d = LegacyDriver::new(&device)?;
    d.begin(q, 0)?;
    let mut queue = d.queue(q, &mut qemu.memory, 0, 0)?;
    d.set_status(q, 7)?;
    d.read(q, 19, 1)?;
    d.block_request(q, &mut qemu.memory, &mut queue, 0, 0, &Buffer::In(512))?;
    stack
        .sim
        .control(&json!({"cmd": "resize", "vf": 1, "sectors": 4096}))?;
    // The used ring shows the request before the ISR bit may be set; the resize came after both.
    assert_eq!(d.read(q, 19, 1)?, 3);
    assert_eq!(d.read(q, 19, 1)?, 0);
    Ok(())
}

// Covers: BLK-09, INI-15, IRQ-04
#[test]
fn a_new_capacity_is_seen_at_once() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let mut msix = device.msix(&qemu.qtest)?;
    msix.program(&qemu.qtest, &mut qemu.memory)?;
    let q = &qemu.qtest;
    msix.enable(q, &device, true)?;
    let mut d = LegacyDriver::new(&device)?;
    d.msix = true;
    d.begin(q, 0)?;
    d.write(q, 20, 2, 0)?;
    assert_eq!(d.read(q, 20, 2)?, 0);
    d.queue(q, &mut qemu.memory, 0, 1)?;
    d.set_status(q, 7)?;
    for sectors in [8192u32, 100, 70_000] {
        stack
            .sim
            .control(&json!({"cmd": "resize", "vf": 1, "sectors": sectors}))?;
        assert_eq!(d.config(q, 0, 4)?, sectors);
        assert_eq!(d.config(q, 4, 4)?, 0);
        wait_for("configuration interrupt", PATIENCE, || {
            Ok(msix.fired(q, 0)?.then_some(()))
        })?;
    }
    Ok(())
}

// Covers: NET-02
#[test]
fn a_legacy_driver_may_write_the_mac() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let (q, d) = (&qemu.qtest, LegacyDriver::new(&device)?);
    d.begin(q, 1 << 5)?;
    d.set_status(q, 7)?;
    for (i, byte) in [0x02u32, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]
        .into_iter()
        .enumerate()
    {
        d.write(q, 20 + u16::try_from(i)?, 1, byte)?;
    }
    assert_eq!(
        (d.config(q, 0, 4)?, d.config(q, 4, 2)?),
        (0xccbb_aa02, 0xeedd)
    );
    let modern = qtest_tests::modern::device_config(q, &device)?;
    assert_eq!(
        modern.get(..6),
        Some(&[0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee][..])
    );
    Ok(())
}
