// SPDX-License-Identifier: GPL-2.0-or-later
//! Interrupts of a guest that leaves MSI-X off: the pin, the ISR and the PCI bits that go with them.

use anyhow::Result;
use qtest_harness::driver::Buffer;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, SimulatorBuilder, Stack, PATIENCE};
use qtest_tests::intx::Guest;
use qtest_tests::{counter, property, wait_for};
use serde_json::json;
use virtio_pci_spec::pci::header;

const STATUS_FEATURE: u32 = 1 << 16;

fn link(stack: &mut Stack, up: bool) -> Result<()> {
    stack
        .sim
        .control(&json!({"cmd": "link", "vf": 1, "up": up}))?;
    Ok(())
}

// Covers: IRQ-01, IRQ-02, IRQ-03, LIO-09
#[test]
fn a_used_buffer_raises_the_line_and_reading_the_isr_lowers_it() -> Result<()> {
    for machine in [Machine::Pc, Machine::Q35] {
        let stack = Stack::start(DeviceKind::Block, 1)?;
        let mut g = Guest::start(&stack, machine)?;
        let q = &g.qemu.qtest;
        assert_eq!(g.device.read(q, header::INTERRUPT_PIN, 1)?, 1);
        assert_eq!(g.device.read(q, header::INTERRUPT_LINE, 4)? >> 8 & 0xff, 1);
        g.device.write(q, header::INTERRUPT_LINE, 1, 11)?;
        assert_eq!(g.device.read(q, header::INTERRUPT_LINE, 2)?, 0x010b);
        let mut queue = g.disk()?;
        for round in 1..=20 {
            assert!(!g.line()?.level && !g.pending()?, "round {round}");
            g.start_read(&mut queue)?;
            let irq = g.wait_level(true)?;
            assert_eq!((irq.raised, irq.lowered), (round, round - 1));
            assert!(g.pending()?);
            // Nothing but the ISR lowers it.
            let q = &g.qemu.qtest;
            g.driver.read(q, 18, 1)?;
            g.driver.write(q, 19, 1, 0)?;
            g.driver.read(q, 20, 4)?;
            assert!(g.line()?.level);
            assert_eq!(g.isr()?, 1);
            assert!(!g.line()?.level && !g.pending()?);
            assert_eq!(g.isr()?, 0);
            g.finish_read(&mut queue)?;
        }
        assert_eq!(counter(&mut g.qemu.qmp, "intx-raised")?, 20);
        assert_eq!(counter(&mut g.qemu.qmp, "intx-interrupts")?, 20);
        assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    }
    Ok(())
}

// Covers: IRQ-01, IRQ-13
#[test]
fn configuration_changes_and_queues_have_a_bit_each() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let d = g.driver.clone();
    d.begin(&g.qemu.qtest, STATUS_FEATURE)?;
    let memory = &mut g.qemu.memory;
    let mut rx = d.queue(&g.qemu.qtest, memory, 0, 0)?;
    let mut tx = d.queue(&g.qemu.qtest, memory, 1, 0)?;
    d.set_status(&g.qemu.qtest, 7)?;
    let frame = || [Buffer::Out(vec![0; 10]), Buffer::Out(vec![0xff; 60])];
    // The configuration alone.
    link(&mut stack, false)?;
    g.wait_level(true)?;
    assert_eq!(d.config(&g.qemu.qtest, 6, 2)?, 0);
    assert_eq!(g.isr()?, 2);
    g.wait_level(false)?;
    // A queue alone.
    link(&mut stack, true)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 2);
    d.add(&g.qemu.qtest, &mut g.qemu.memory, &mut tx, &frame())?;
    d.kick(&g.qemu.qtest, &tx)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 1);
    d.wait_used(&g.qemu.qtest, &mut tx, PATIENCE)?;
    // Both, in either order, in one read: the line stays up between them.
    for queue_first in [true, false] {
        for part in [queue_first, !queue_first] {
            if part {
                d.add(&g.qemu.qtest, &mut g.qemu.memory, &mut tx, &frame())?;
                d.kick(&g.qemu.qtest, &tx)?;
                d.wait_used(&g.qemu.qtest, &mut tx, PATIENCE)?;
            } else {
                link(&mut stack, false)?;
                link(&mut stack, true)?;
            }
        }
        wait_for("both bits", PATIENCE, || {
            let isr = property(&mut g.qemu.qmp, "isr")?;
            Ok((isr == 3).then_some(()))
        })?;
        let irq = g.wait_level(true)?;
        assert_eq!(irq.raised, irq.lowered + 1);
        assert_eq!(g.isr()?, 3);
        assert!(!g.line()?.level);
        assert_eq!(g.isr()?, 0);
    }
    // Frames that arrive interrupt as well.
    d.add(
        &g.qemu.qtest,
        &mut g.qemu.memory,
        &mut rx,
        &[Buffer::In(10), Buffer::In(1514)],
    )?;
    d.kick(&g.qemu.qtest, &rx)?;
    let mut arp = vec![0xff; 6];
    arp.extend([0x52, 0x54, 0x00, 0x77, 0x01, 0x01]);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0x52, 0x54, 0x00, 0x77, 0x01, 0x01, 10, 0, 77, 11]);
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 77, 1]);
    arp.resize(60, 0);
    let request = [Buffer::Out(vec![0; 10]), Buffer::Out(arp)];
    d.add(&g.qemu.qtest, &mut g.qemu.memory, &mut tx, &request)?;
    d.kick(&g.qemu.qtest, &tx)?;
    d.wait_used(&g.qemu.qtest, &mut rx, PATIENCE)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 1);
    assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    Ok(())
}

// Covers: IRQ-02
#[test]
fn intx_disable_blocks_the_line_but_not_the_status() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let mut queue = g.disk()?;
    g.disable_intx(true)?;
    g.start_read(&mut queue)?;
    g.finish_read(&mut queue)?;
    wait_for("interrupt status", PATIENCE, || {
        Ok(g.pending()?.then_some(()))
    })?;
    assert_eq!(g.line()?.raised, 0, "disabled");
    g.disable_intx(false)?;
    assert_eq!(g.line()?.raised, 1, "pending when enabled");
    g.disable_intx(true)?;
    let irq = g.line()?;
    assert!(!irq.level && g.pending()?, "{irq:?}");
    assert_eq!(g.isr()?, 1);
    assert!(!g.pending()?);
    g.disable_intx(false)?;
    let irq = g.line()?;
    assert_eq!((irq.level, irq.raised), (false, 1));
    assert_eq!(g.read_by_interrupt(&mut queue)?, 1);
    Ok(())
}

// Covers: IRQ-04
#[test]
fn with_msix_the_line_stays_down() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let (qemu, driver) = (&mut g.qemu, &mut g.driver);
    let msix = driver.use_msix(&qemu.qtest, &g.device, &mut qemu.memory)?;
    let before = qtest_tests::commands(&mut stack.sim)?;
    let mut queue = g.disk()?;
    let used: u64 = qtest_tests::commands(&mut stack.sim)?.iter().sum();
    for _ in 0..10 {
        g.start_read(&mut queue)?;
        g.finish_read(&mut queue)?;
        wait_for("message", PATIENCE, || {
            Ok(msix.fired(&g.qemu.qtest, 0)?.then_some(()))
        })?;
        assert!(!g.pending()?);
    }
    assert_eq!(g.line()?.raised, 0);
    assert_eq!(counter(&mut g.qemu.qmp, "intx-raised")?, 0);
    assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0);
    // Whoever has MSI-X on pays nothing for INTx: reset and its check, ACKNOWLEDGE, DRIVER,
    // features read and written, size, address read and written, vector written and read,
    // DRIVER_OK; the selected queue is the one after a reset, written once.
    let sum: u64 = before.iter().sum();
    assert_eq!(used - sum, 12);
    Ok(())
}

// Covers: IRQ-02
#[test]
fn the_property_decides_about_the_pin() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    for (intx, pin) in [("off", 0), ("on", 1), ("auto", 1)] {
        let mut vf = stack.device(1);
        vf["intx"] = intx.into();
        let mut g = Guest::start_with(&stack, Machine::Q35, &vf)?;
        let seen = g.device.read(&g.qemu.qtest, header::INTERRUPT_PIN, 1)?;
        assert_eq!(seen, pin, "intx={intx}");
        let mut queue = g.disk()?;
        g.start_read(&mut queue)?;
        g.finish_read(&mut queue)?;
        if pin == 1 {
            g.wait_level(true)?;
        }
        // A driver that polls sees the ISR either way; without the pin it is the VF's.
        assert_eq!(g.isr()?, 1, "intx={intx}");
        assert_eq!(g.line()?.raised, u64::from(pin == 1));
        assert!(!g.pending()?);
        let vectors = counter(&mut g.qemu.qmp, "intx-vectors")?;
        assert_eq!(vectors, 2 * u64::from(pin));
    }
    Ok(())
}

// Covers: IRQ-01, IRQ-07, IRQ-09, IRQ-13
#[test]
fn one_vector_serves_queues_and_configuration() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1).args(&["--vectors", "1"]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let d = g.driver.clone();
    d.begin(&g.qemu.qtest, STATUS_FEATURE)?;
    d.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 0)?;
    let mut tx = d.queue(&g.qemu.qtest, &mut g.qemu.memory, 1, 0)?;
    d.set_status(&g.qemu.qtest, 7)?;
    assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 1);
    let frame = [Buffer::Out(vec![0; 10]), Buffer::Out(vec![0xff; 60])];
    for _ in 0..3 {
        d.add(&g.qemu.qtest, &mut g.qemu.memory, &mut tx, &frame)?;
        d.kick(&g.qemu.qtest, &tx)?;
        g.wait_level(true)?;
        assert_eq!(g.isr()?, 1, "no change of the configuration");
        d.wait_used(&g.qemu.qtest, &mut tx, PATIENCE)?;
        link(&mut stack, false)?;
        g.wait_level(true)?;
        // Used buffers cannot be told from the vector; the configuration bit is exact.
        assert_eq!(g.isr()?, 3);
        link(&mut stack, true)?;
        g.wait_level(true)?;
        assert_eq!(g.isr()?, 3);
    }
    assert_eq!(g.isr()?, 0);
    // Without the helper it cannot be told either, and nothing may be lost.
    stack.helper.process.kill()?;
    qtest_tests::wait_link(&mut g.qemu.qmp, "lost", PATIENCE)?;
    link(&mut stack, false)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 3);
    Ok(())
}

// Covers: IRQ-06, IRQ-07
#[test]
fn a_vf_that_maps_nothing_is_told_of() -> Result<()> {
    let sim =
        SimulatorBuilder::new(DeviceKind::Block, 1).args(&["--knob", "vector-mapping-fails=true"]);
    let stack = Stack::start_with(&sim, 1, &[])?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let mut queue = g.disk()?;
    g.start_read(&mut queue)?;
    g.finish_read(&mut queue)?;
    assert_eq!(
        counter(&mut g.qemu.qmp, "intx-unmapped")?,
        2,
        "queue and configuration"
    );
    // A driver that waits for the first interrupt has to see that none will come.
    assert_eq!(counter(&mut g.qemu.qmp, "setup-failures")?, 1);
    assert_eq!(g.isr()?, 0);
    let log = g.qemu.process.log();
    assert!(
        log.contains("gives no interrupt vector to queue 0, so the device shows no queues")
            || log.contains(
                "gives no interrupt vector to configuration changes, so the device shows no queues"
            ),
        "{log}"
    );
    Ok(())
}

/// Vectors are written behind the guest's back, which finds its queue selected as it left it.
// Covers: IRQ-01, LIO-06
#[test]
fn the_selected_queue_stays_selected() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let d: LegacyDriver = g.driver.clone();
    let q = &g.qemu.qtest;
    d.begin(q, 0)?;
    // A driver that relies on queue 0 being selected after a reset.
    let base = g.qemu.memory.take(0x4000, 4096)?;
    d.write(q, 8, 4, u32::try_from(base / 4096)?)?;
    assert_eq!(d.read(q, 14, 2)?, 0);
    d.write(q, 14, 2, 1)?;
    let base = g.qemu.memory.take(0x4000, 4096)?;
    d.write(q, 8, 4, u32::try_from(base / 4096)?)?;
    assert_eq!(d.read(q, 14, 2)?, 1);
    d.write(q, 14, 2, 7)?;
    assert_eq!(d.read(q, 12, 2)?, 0, "no such queue");
    d.set_status(q, 7)?;
    assert_eq!(d.read(q, 14, 2)?, 7);
    assert_eq!(d.read(q, 8, 4)?, 0);
    // Neither does the configuration move: it starts at 20.
    assert_eq!(d.config(q, 0, 1)?, 0x52);
    assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    Ok(())
}
