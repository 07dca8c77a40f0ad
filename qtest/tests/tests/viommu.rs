// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine whose guest may translate the addresses of its devices. A legacy driver gives
//! guest-physical ones and knows of nothing else: behind a virtual IOMMU that translates, the VF
//! reaches other memory than meant, or none.

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Stack};
use qtest_tests::refusal::refused_by;
use serde_json::{json, Value};

/// Virtual IOMMUs that a VF can be behind.
const IOMMUS: [&str; 3] = [
    "intel-iommu",
    "intel-iommu,caching-mode=on",
    "virtio-iommu-pci,addr=0x8",
];
/// The way out.
const BYPASS: &str = "default-bus-bypass-iommu=on";

fn machine(iommu: &str) -> QemuBuilder {
    QemuBuilder::new(Machine::Q35).arg("-device").arg(iommu)
}

fn around(builder: QemuBuilder) -> QemuBuilder {
    builder.arg("-machine").arg(BYPASS)
}

fn legacy_only(stack: &Stack) -> Value {
    let mut device = stack.device(1);
    device["disable-modern"] = json!(true);
    device
}

fn map(qemu: &Qemu) -> Result<(PciDevice, LegacyDriver)> {
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    let driver = LegacyDriver::new(&device)?;
    Ok((device, driver))
}

fn disk(qemu: &mut Qemu, driver: &LegacyDriver) -> Result<Queue> {
    driver.begin(&qemu.qtest, 0)?;
    let queue = driver.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
    driver.set_status(&qemu.qtest, 7)?;
    Ok(queue)
}

fn read_sector(qemu: &mut Qemu, driver: &LegacyDriver, queue: &mut Queue) -> Result<()> {
    let sector = Buffer::In(512);
    let q = &qemu.qtest;
    let (data, status) = driver.block_request(q, &mut qemu.memory, queue, 0, 0, &sector)?;
    assert_eq!((data.len(), status), (512, 0));
    Ok(())
}

/// Where only a legacy driver can be.
#[test]
fn without_the_modern_interface_it_is_refused() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for iommu in IOMMUS {
        let texts = ["VF 1", "physical addresses", "IOMMU", BYPASS];
        let log = refused_by(machine(iommu), stack.dir(), &legacy_only(&stack), &texts)?;
        assert!(log.contains("virtio-legacy-vf"), "{iommu}: {log}");
    }
    // The VF is free again, and as it was.
    let (qemu, device) = stack.mapped(Machine::Q35)?;
    assert_eq!(LegacyDriver::new(&device)?.status(&qemu.qtest)?, 0);
    Ok(())
}

/// A modern driver takes the IOMMU into account, so the device is of use.
#[test]
fn with_the_modern_interface_it_is_warned_of() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for iommu in IOMMUS {
        let mut qemu = machine(iommu).device(&stack.device(1)).spawn(stack.dir())?;
        let log = qemu.process.log();
        let line = log.lines().find(|line| line.contains(BYPASS));
        let line = line.with_context(|| format!("{iommu}: no warning in:\n{log}"))?;
        for text in ["warning", "VF 1", "IOMMU"] {
            assert!(line.contains(text), "{iommu}: no \"{text}\" in: {line}");
        }
        // Nothing translates yet: firmware and early drivers work.
        let (_, driver) = map(&qemu)?;
        let mut queue = disk(&mut qemu, &driver)?;
        read_sector(&mut qemu, &driver, &mut queue)?;
        assert!(qemu.process.is_running()?);
    }
    Ok(())
}

/// Registers of the Intel IOMMU, and commands whose state Global Status shows in the same bits.
const GLOBAL_COMMAND: u64 = 0xfed9_0018;
const GLOBAL_STATUS: u64 = 0xfed9_001c;
const ROOT_TABLE: u64 = 0xfed9_0020;
const SET_ROOT_TABLE: u32 = 1 << 30;
const TRANSLATE: u32 = 1 << 31;

/// A root table that lets no function through, and translation.
fn translate(qemu: &mut Qemu) -> Result<()> {
    let q = &qemu.qtest;
    let root = qemu.memory.take(4096, 4096)?;
    q.set_memory(root, &[0; 4096])?;
    q.write(ROOT_TABLE, 4, u32::try_from(root)?)?;
    q.write(ROOT_TABLE + 4, 4, 0)?;
    q.write(GLOBAL_COMMAND, 4, SET_ROOT_TABLE)?;
    q.write(GLOBAL_COMMAND, 4, TRANSLATE)?;
    assert_ne!(q.read(GLOBAL_STATUS, 4)? & TRANSLATE, 0, "it translates");
    Ok(())
}

/// Neither message, and the guest's IOMMU does not touch the VF.
#[test]
fn a_bus_that_goes_round_the_iommu_is_taken_in_silence() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for device in [stack.device(1), legacy_only(&stack)] {
        for iommu in IOMMUS {
            let builder = around(machine(iommu)).device(&device);
            let mut qemu = builder.spawn(stack.dir())?;
            if iommu.starts_with("intel") {
                translate(&mut qemu)?;
            }
            let (_, driver) = map(&qemu)?;
            let mut queue = disk(&mut qemu, &driver)?;
            read_sector(&mut qemu, &driver, &mut queue)?;
            let log = qemu.process.log();
            for text in [BYPASS, "IOMMU"] {
                assert!(!log.contains(text), "{iommu}: {log}");
            }
        }
    }
    Ok(())
}

/// Without an IOMMU there is nothing to say.
#[test]
fn a_machine_without_iommu_is_taken_in_silence() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for device in [stack.device(1), legacy_only(&stack)] {
        for machine in [Machine::Pc, Machine::Q35] {
            let qemu = stack.qemu_with(machine, &device)?;
            let log = qemu.process.log();
            assert!(!log.contains("IOMMU"), "{log}");
        }
    }
    Ok(())
}

/// Behind a root port, plugged while the machine runs.
#[test]
fn hot_plug_is_judged_in_the_same_way() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let port = json!({"driver": "pcie-root-port", "id": "root", "chassis": 1, "addr": "0x3"});
    for bypass in [false, true] {
        let mut builder = machine("intel-iommu");
        if bypass {
            builder = around(builder);
        }
        let mut qemu = builder.device(&port).spawn(stack.dir())?;
        let mut device = legacy_only(&stack);
        device["bus"] = json!("root");
        device["addr"] = json!("0x0");
        match qemu.qmp.command("device_add", device) {
            Ok(_) => assert!(bypass, "it was taken behind the IOMMU"),
            Err(e) => {
                assert!(!bypass, "{e}");
                assert!(e.to_string().contains(BYPASS), "{e}");
            }
        }
        assert!(qemu.process.is_running()?);
    }
    Ok(())
}
