// SPDX-License-Identifier: GPL-2.0-or-later
//! Drivers that never set the bus master bit of their function, as is enough for QEMU's own legacy
//! device, and write the status in the ways of the field. A VF does no DMA without that bit.

use anyhow::Result;
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE};
use qtest_tests::arp_request;
use qtest_tests::transitional::violations;
use virtio_pci_spec::pci::{header, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY};
use virtio_pci_spec::status::DEVICE_NEEDS_RESET;

/// What is written to the status one after the other; queues get their addresses before DRIVER_OK.
const SEQUENCES: [(&str, &[u8]); 6] = [
    ("MINIX 3: bits are cleared, no reset", &[1, 2, 4]),
    ("Solo5: the same after a reset", &[0, 1, 2, 4]),
    ("all bits in one write", &[0, 7]),
    ("a bit that nobody knows", &[0, 0x40, 0x43, 0x47]),
    ("Linux", &[0, 1, 3, 7]),
    ("after a failure", &[0x80, 0, 1, 3, 7]),
];
const DRIVER_OK: u8 = 4;
const NOT_MASTER: u16 = COMMAND_IO | COMMAND_MEMORY;

/// A machine whose firmware has placed the BARs and left bus mastering off.
fn start(stack: &Stack) -> Result<(Qemu, PciDevice, LegacyDriver)> {
    let qemu = stack.qemu(Machine::Pc)?;
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    device.set_command(&qemu.qtest, NOT_MASTER)?;
    let driver = LegacyDriver::new(&device)?;
    Ok((qemu, device, driver))
}

fn is_master(qemu: &Qemu, device: &PciDevice) -> Result<bool> {
    let command = device.read(&qemu.qtest, header::COMMAND, 2)?;
    Ok(command & u32::from(COMMAND_MASTER) != 0)
}

/// Writes a sequence, with that many queues.
fn write_statuses(
    qemu: &mut Qemu,
    driver: &LegacyDriver,
    statuses: &[u8],
    queues: u16,
) -> Result<Vec<Queue>> {
    let mut made = Vec::new();
    for status in statuses {
        if status & DRIVER_OK != 0 && made.is_empty() {
            for index in 0..queues {
                made.push(driver.queue(&qemu.qtest, &mut qemu.memory, index, 0)?);
            }
        }
        driver.set_status(&qemu.qtest, *status)?;
        // NEEDS_RESET is the device's alone.
        assert_eq!(driver.status(&qemu.qtest)?, *status & !DEVICE_NEEDS_RESET);
    }
    Ok(made)
}

fn read_sector(qemu: &mut Qemu, driver: &LegacyDriver, queue: &mut Queue) -> Result<()> {
    let q = &qemu.qtest;
    let sector = Buffer::In(512);
    let (data, status) = driver.block_request(q, &mut qemu.memory, queue, 0, 0, &sector)?;
    assert_eq!((data.len(), status), (512, 0));
    Ok(())
}

fn no_dma_was_refused(stack: &mut Stack, what: &str) -> Result<()> {
    let broken = violations(&mut stack.sim)?;
    assert!(!broken.contains(&"bus_master_off".to_owned()), "{what}");
    Ok(())
}

// Covers: SRV-02, PCI-09
#[test]
fn a_disk_works_whatever_way_the_status_is_written() -> Result<()> {
    for (what, statuses) in SEQUENCES {
        let mut stack = Stack::start(DeviceKind::Block, 1)?;
        let (mut qemu, device, driver) = start(&stack)?;
        assert!(!is_master(&qemu, &device)?, "{what}: before the driver");
        let mut queues = write_statuses(&mut qemu, &driver, statuses, 1)?;
        assert!(is_master(&qemu, &device)?, "{what}: the bit is not set");
        for queue in &mut queues {
            read_sector(&mut qemu, &driver, queue)?;
        }
        no_dma_was_refused(&mut stack, what)?;
    }
    Ok(())
}

// Covers: SRV-02, PCI-09
#[test]
fn a_network_card_sends_and_receives_whatever_way_the_status_is_written() -> Result<()> {
    for (what, statuses) in SEQUENCES {
        let mut stack = Stack::start(DeviceKind::Net, 1)?;
        let (mut qemu, device, driver) = start(&stack)?;
        let queues = write_statuses(&mut qemu, &driver, statuses, 2)?;
        assert!(is_master(&qemu, &device)?, "{what}: the bit is not set");
        let Ok([mut rx, mut tx]) = <[Queue; 2]>::try_from(queues) else {
            anyhow::bail!("{what}: not two queues");
        };
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        let room = [Buffer::In(10), Buffer::In(1514)];
        driver.add(q, memory, &mut rx, &room)?;
        driver.kick(q, &rx)?;
        let frame = [Buffer::Out(vec![0; 10]), Buffer::Out(arp_request())];
        driver.add(q, memory, &mut tx, &frame)?;
        driver.kick(q, &tx)?;
        driver.wait_used(q, &mut tx, PATIENCE)?;
        let answer = driver.wait_used(q, &mut rx, PATIENCE)?;
        assert!(answer.len() >= 10 + 42, "{what}: {} bytes", answer.len());
        no_dma_was_refused(&mut stack, what)?;
    }
    Ok(())
}

/// The bit is the driver's from then on.
// Covers: PCI-09
#[test]
fn a_driver_that_switches_bus_mastering_off_later_is_obeyed() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (mut qemu, device, driver) = start(&stack)?;
    let mut queues = write_statuses(&mut qemu, &driver, &[0, 1, 3, 7], 1)?;
    device.set_command(&qemu.qtest, NOT_MASTER)?;
    // No bit of these is new but FAILED.
    for status in [7, 7, 0x87, 7] {
        driver.set_status(&qemu.qtest, status)?;
        driver.status(&qemu.qtest)?;
        assert!(!is_master(&qemu, &device)?, "after status {status:#x}");
    }
    device.set_command(&qemu.qtest, NOT_MASTER | COMMAND_MASTER)?;
    for queue in &mut queues {
        read_sector(&mut qemu, &driver, queue)?;
    }
    no_dma_was_refused(&mut stack, "switched off and on")?;
    // Off without a reset of the device, then the next driver, which again does not ask for it.
    device.set_command(&qemu.qtest, NOT_MASTER)?;
    let mut queues = write_statuses(&mut qemu, &driver, &[0, 1, 2, 4], 1)?;
    assert!(is_master(&qemu, &device)?);
    for queue in &mut queues {
        read_sector(&mut qemu, &driver, queue)?;
    }
    no_dma_was_refused(&mut stack, "a second driver")
}

/// Nothing is set where no driver takes the device.
// Covers: PCI-09
#[test]
fn looking_at_the_device_sets_nothing() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let (qemu, device, driver) = start(&stack)?;
    for status in [0, 1, 0x80, 0x81, 0x40, 0] {
        driver.set_status(&qemu.qtest, status)?;
        driver.read(&qemu.qtest, 0, 4)?;
        driver.config(&qemu.qtest, 0, 1)?;
        assert!(!is_master(&qemu, &device)?, "after status {status:#x}");
    }
    Ok(())
}
