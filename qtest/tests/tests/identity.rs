// SPDX-License-Identifier: GPL-2.0-or-later
//! What the guest sees of the function: IDs, BARs, capabilities.

use anyhow::Result;
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Stack};
use serde_json::json;

const BOTH: [(DeviceKind, u32, u32, u32, u32); 2] = [
    // Kind, PCI device ID, subsystem ID, class, bytes of BAR0.
    (DeviceKind::Net, 0x1000, 1, 0x0200, 64),
    (DeviceKind::Block, 0x1001, 2, 0x0100, 128),
];

// Covers: PCI-01, PCI-02, PCI-03, PCI-04
#[test]
fn ids_are_those_of_a_transitional_device() -> Result<()> {
    for (kind, id, subsystem, class, _) in BOTH {
        let stack = Stack::start(kind, 1)?;
        for machine in [Machine::Pc, Machine::Q35] {
            let qemu = stack.qemu(machine)?;
            let device = PciDevice::find(&qemu.qtest, SLOT)?;
            let read = |at, width| device.read(&qemu.qtest, at, width);
            assert_eq!(read(0x00, 2)?, 0x1af4, "vendor");
            assert_eq!(read(0x02, 2)?, id, "device");
            assert_eq!(read(0x08, 1)?, 0, "revision");
            assert_eq!(read(0x0a, 2)?, class, "class");
            assert_eq!(read(0x2c, 2)?, 0x1af4, "subsystem vendor");
            assert_eq!(read(0x2e, 2)?, subsystem, "subsystem");
            // The same bytes at other widths.
            assert_eq!(read(0x00, 4)?, id << 16 | 0x1af4);
            assert_eq!(read(0x03, 1)?, id >> 8);
            // They are read-only.
            device.write(&qemu.qtest, 0, 4, 0)?;
            device.write(&qemu.qtest, 0x2c, 4, 0)?;
            device.write(&qemu.qtest, 8, 1, 0xff)?;
            assert_eq!(read(0x00, 4)?, id << 16 | 0x1af4);
            assert_eq!(read(0x2c, 4)?, subsystem << 16 | 0x1af4);
            assert_eq!(read(0x08, 1)?, 0);
        }
    }
    Ok(())
}

// Covers: PCI-07, LIO-10
#[test]
fn bar0_is_io_and_holds_header_and_configuration() -> Result<()> {
    for (kind, _, _, _, size) in BOTH {
        let mut stack = Stack::start(kind, 1)?;
        let (qemu, device) = stack.mapped(Machine::Pc)?;
        let q = &qemu.qtest;
        assert_eq!(device.size_bar(q, 0)?, !(size - 1) | 1);
        let bar = device.bar(0)?;
        assert!(bar.io);
        assert_eq!(bar.size, size);
        for other in 1..6 {
            if let Ok(bar) = device.bar(other) {
                assert!(!bar.io, "BAR0 is the first and only I/O BAR");
            }
        }
        // The last byte: nothing there, no error, no command.
        let base = device.io()?;
        let before = qtest_tests::commands(&mut stack.sim)?;
        for width in [1u16, 2, 4] {
            let at = base + u16::try_from(size)? - width;
            q.port_write(at, u8::try_from(width)?, 0xa5a5_a5a5)?;
            assert_eq!(q.port_read(at, u8::try_from(width)?)?, 0);
        }
        assert_eq!(qtest_tests::commands(&mut stack.sim)?, before);
    }
    Ok(())
}

// Covers: PCI-08
#[test]
fn modern_capabilities_stay_unless_switched_off() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    for hidden in [false, true] {
        let mut config = stack.device(1);
        if hidden {
            config["disable-modern"] = json!(true);
        }
        let qemu = stack.qemu_with(Machine::Q35, &config)?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let capabilities = device.capabilities(&qemu.qtest)?;
        let mut kinds = Vec::new();
        for (_, at) in capabilities.iter().filter(|c| c.0 == 0x09) {
            kinds.push(device.read(&qemu.qtest, at + 3, 1)?);
        }
        kinds.sort_unstable();
        if hidden {
            assert!(kinds.is_empty(), "{kinds:?}");
        } else {
            for kind in [1, 2, 3, 4] {
                assert!(kinds.contains(&kind), "no capability of type {kind}");
            }
        }
        assert!(capabilities.iter().any(|c| c.0 == 0x11), "MSI-X stays");
        device.msix(&qemu.qtest)?;
    }
    Ok(())
}

// Covers: PCI-09
#[test]
fn io_enable_gates_bar0_and_can_be_read_back() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let base = device.io()?;
    let q = &qemu.qtest;
    let features = q.port_read(base, 4)?;
    assert_ne!(features, u32::MAX);
    for (command, there) in [(7u32, true), (6, false), (0, false), (1, true), (7, true)] {
        device.write(q, 4, 2, command)?;
        assert_eq!(device.read(q, 4, 2)?, command, "the bits read back");
        let want = if there { features } else { u32::MAX };
        assert_eq!(q.port_read(base, 4)?, want, "command {command}");
    }
    // Moved, and back after a reset of the machine.
    device.write(q, 0x10, 4, 0xd000)?;
    assert_eq!(q.port_read(0xd000, 4)?, features);
    assert_eq!(q.port_read(base, 4)?, u32::MAX);
    qemu.qmp.system_reset()?;
    let q = &qemu.qtest;
    assert_eq!(
        device.read(q, 4, 2)? & 7,
        0,
        "a reset clears the command register"
    );
    assert_eq!(q.port_read(0xd000, 4)?, u32::MAX);
    assert_eq!(device.read(q, 0x02, 2)?, 0x1000, "the IDs stay");
    assert_eq!(device.read(q, 0x08, 1)?, 0);
    let mut device = device;
    device.map(q)?;
    assert_eq!(q.port_read(device.io()?, 4)?, features);
    Ok(())
}

// Covers: PCI-09
#[test]
fn the_header_keeps_the_rules_of_pci() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let (qemu, device) = stack.mapped(Machine::Q35)?;
    let q = &qemu.qtest;
    assert_eq!(device.read(q, 0x0e, 1)? & 0x7f, 0, "header type 0");
    assert_eq!(
        device.read(q, 0x06, 2)? & 0x10,
        0x10,
        "it has a capability list"
    );
    // Capabilities lie where they may and do not overlap their neighbours' first bytes.
    let mut at: Vec<usize> = device.capabilities(q)?.iter().map(|c| c.1).collect();
    let count = at.len();
    at.sort_unstable();
    at.dedup();
    assert_eq!(at.len(), count);
    assert!(at.iter().all(|a| *a >= 0x40 && a % 4 == 0));
    // All memory BARs keep what is written, below their size they are zero.
    for bar in 0..6 {
        if let Ok(b) = device.bar(bar) {
            let flags = if b.io { 3 } else { 15 };
            let value = device.read(q, 0x10 + 4 * usize::from(bar), 4)?;
            assert_eq!(value & !flags, b.base);
            assert!(b.size.is_power_of_two());
        }
    }
    assert_eq!(device.size_bar(q, 5)?, 0);
    Ok(())
}

// Covers: PCI-07, PCI-09
#[test]
fn behind_a_root_port_it_works_as_on_the_root_bus() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut config = stack.device(1);
    config["bus"] = json!("rp1");
    config["addr"] = json!("0x0");
    let port = json!({"driver": "pcie-root-port", "id": "rp1", "addr": "0x6", "chassis": 1});
    let qemu = QemuBuilder::new(Machine::Q35)
        .device(&port)
        .device(&config)
        .spawn(stack.dir())?;
    let q = &qemu.qtest;
    let bridge = PciDevice::find(q, 6)?;
    // Bus numbers, then windows: I/O 0xc000 to 0xcfff, memory 0xe0000000 to 0xe07fffff.
    bridge.write(q, 0x18, 4, 0x0001_0100)?;
    bridge.write(q, 0x1c, 2, 0xc0c0)?;
    bridge.write(q, 0x30, 4, 0)?;
    bridge.write(q, 0x20, 4, 0xe070_e000)?;
    bridge.set_command(q, 7)?;
    let mut device = PciDevice::find_on(q, 1, 0)?;
    assert_eq!(device.read(q, 0, 4)?, 0x1000_1af4);
    device.map(q)?;
    let driver = LegacyDriver::new(&device)?;
    driver.begin(q, 1 << 5)?;
    assert_eq!(driver.config(q, 0, 4)?, 0x7700_5452);
    assert_eq!(driver.status(q)?, 3);
    // The window closes with the port's I/O enable.
    bridge.set_command(q, 6)?;
    assert_eq!(driver.status(q)?, 0xff);
    bridge.set_command(q, 7)?;
    assert_eq!(driver.status(q)?, 3);
    Ok(())
}

// Covers: LIO-10
#[test]
fn a_configuration_that_the_vf_rounds_up_is_cut_to_its_type() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1).args(&[
        "--knob=device_structure_len=4096",
        "--knob=bogus_capabilities=true",
    ]);
    let stack = Stack::start_with(&sim, 1, &[])?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    assert_eq!(device.bar(0)?.size, 64);
    let driver = LegacyDriver::new(&device)?;
    assert_eq!(driver.config(&qemu.qtest, 0, 4)?, 0x7700_5452);
    assert_eq!(driver.config(&qemu.qtest, 28, 4)?, 0);
    Ok(())
}
