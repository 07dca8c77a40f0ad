// SPDX-License-Identifier: GPL-2.0-or-later
//! Plugging and unplugging, of this device and of QEMU's own vfio-user-pci (which needs the fixes
//! of the patch series).

use std::time::Duration;

use anyhow::Result;
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{
    DeviceKind, HelperClient, LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE,
};
use qtest_tests::wait_for;
use serde_json::json;

/// Registers of ACPI PCI hot plug on the i440FX machine.
const EJECT: u16 = 0xae08;
const SELECT_BUS: u16 = 0xae10;

/// What a guest does when asked to give the device back.
fn unplug(qemu: &mut Qemu) -> Result<()> {
    qemu.qmp.command("device_del", json!({"id": DEVICE_ID}))?;
    qemu.qtest.port_write(SELECT_BUS, 4, 0)?;
    qemu.qtest.port_write(EJECT, 4, 1 << SLOT)?;
    qemu.qmp.event("DEVICE_DELETED", PATIENCE, |data| {
        data.get("device").is_some_and(|d| d == DEVICE_ID)
    })?;
    Ok(())
}

#[test]
fn plugged_and_unplugged_again_and_again() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    for round in 0..5 {
        qemu.qmp.command("device_add", stack.device(1))?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let driver = LegacyDriver::new(&device)?;
        driver.begin(&qemu.qtest, 1 << 5)?;
        driver.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
        driver.set_status(&qemu.qtest, 7)?;
        if round % 2 == 1 {
            let mut msix = device.msix(&qemu.qtest)?;
            msix.program(&qemu.qtest, &mut qemu.memory)?;
            msix.enable(&qemu.qtest, &device, true)?;
        }
        unplug(&mut qemu)?;
        assert!(PciDevice::find(&qemu.qtest, SLOT).is_err(), "it is gone");
        // Another client may have the VF now.
        let mut client = HelperClient::connect(stack.helper.socket())?;
        client.hello()?;
        wait_for("the VF to be free", PATIENCE, || {
            Ok(client.open(1).ok().and_then(Result::ok).map_or_else(
                || {
                    client = HelperClient::connect(stack.helper.socket()).ok()?;
                    client.hello().ok()?;
                    None
                },
                Some,
            ))
        })?;
    }
    assert!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}

#[test]
fn unplugged_without_helper() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut qemu = stack.qemu(Machine::Pc)?;
    stack.helper.process.kill()?;
    unplug(&mut qemu)?;
    assert!(qemu.process.is_running()?);
    Ok(())
}

fn stock(stack: &Stack) -> serde_json::Value {
    json!({
        "driver": "vfio-user-pci",
        "id": DEVICE_ID,
        "addr": format!("{SLOT:#x}"),
        "socket": {"type": "unix", "path": stack.sim.vf_socket(1)},
    })
}

#[test]
fn stock_vfio_user_pci_can_be_unplugged() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    for round in 0..4 {
        qemu.qmp.command("device_add", stock(&stack))?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        assert_eq!(device.read(&qemu.qtest, 2, 2)?, 0x1041);
        device.map(&qemu.qtest)?;
        if round % 2 == 1 {
            let mut msix = device.msix(&qemu.qtest)?;
            msix.program(&qemu.qtest, &mut qemu.memory)?;
            msix.enable(&qemu.qtest, &device, true)?;
        }
        unplug(&mut qemu)?;
    }
    assert!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}

/// The process behind the function dies; QEMU and its management go on.
#[test]
fn a_dead_simulator_does_not_take_qemu_with_it() -> Result<()> {
    for own in [false, true] {
        let mut stack = Stack::start(DeviceKind::Net, 1)?;
        let config = if own { stack.device(1) } else { stock(&stack) };
        let mut qemu = stack.qemu_with(Machine::Pc, &config)?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        // Stopped first, so that unread requests are in its socket when it dies.
        stack.sim.process.stop()?;
        let bar = device.bar(2)?;
        for i in 0..4 {
            qemu.qtest.write(u64::from(bar.base) + 0x14, 1, i)?;
        }
        stack.sim.process.kill()?;
        std::thread::sleep(Duration::from_millis(200));
        device.read(&qemu.qtest, 0, 4)?;
        qemu.qmp.command("query-status", json!({}))?;
        assert!(qemu.process.is_running()?, "{}", qemu.process.log());
        unplug(&mut qemu)?;
        qemu.qmp.command("query-status", json!({}))?;
    }
    Ok(())
}

#[test]
fn migration_and_snapshots_are_refused_with_a_reason() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut qemu = stack.qemu(Machine::Pc)?;
    let to = format!("file:{}", stack.dir().join("state").display());
    let migration = match qemu.qmp.command("migrate", json!({"uri": to})) {
        Ok(_) => anyhow::bail!("migration was accepted"),
        Err(e) => e.to_string(),
    };
    let snapshot = qemu.qmp.monitor("savevm one")?;
    for text in [migration, snapshot] {
        for part in ["VF 1", "cannot be migrated", "unplug"] {
            assert!(text.contains(part), "{text}");
        }
    }
    unplug(&mut qemu)?;
    qemu.qmp.command("migrate", json!({"uri": to}))?;
    Ok(())
}

#[test]
fn two_devices_in_one_guest() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 2)?;
    let mut second = stack.device(2);
    second["id"] = json!("second");
    second["addr"] = json!("0x5");
    let qemu = QemuBuilder::new(Machine::Q35)
        .device(&stack.device(1))
        .device(&second)
        .spawn(stack.dir())?;
    let q = &qemu.qtest;
    let mut drivers = Vec::new();
    for slot in [SLOT, 5] {
        let mut device = PciDevice::find(q, slot)?;
        device.map(q)?;
        drivers.push(LegacyDriver::new(&device)?);
    }
    for (i, d) in drivers.iter().enumerate() {
        assert_eq!(d.config(q, 5, 1)?, u32::try_from(i)? + 1, "its own MAC");
        d.set_status(q, 1)?;
    }
    if let [a, b] = drivers.as_slice() {
        a.set_status(q, 3)?;
        assert_eq!((a.status(q)?, b.status(q)?), (3, 1));
        b.set_status(q, 0)?;
        assert_eq!((a.status(q)?, b.status(q)?), (3, 0));
    }
    Ok(())
}
