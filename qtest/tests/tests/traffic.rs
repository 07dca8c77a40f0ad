// SPDX-License-Identifier: GPL-2.0-or-later
//! Queues, doorbells and interrupts.

use std::time::Duration;

use anyhow::{Context, Result};
use qtest_harness::driver::Buffer;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Msix, PciDevice, Qemu, Stack, PATIENCE};
use qtest_tests::{arp_request, commands, counter, wait_for, PEER_MAC as PEER, VF1_MAC as OWN};
use serde_json::json;

const MAC_FEATURE: u32 = 1 << 5;

struct Guest {
    qemu: Qemu,
    device: PciDevice,
    driver: LegacyDriver,
    msix: Option<Msix>,
}

fn guest(stack: &Stack, msix: bool) -> Result<Guest> {
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let mut driver = LegacyDriver::new(&device)?;
    let mut table = None;
    if msix {
        let mut m = device.msix(&qemu.qtest)?;
        m.program(&qemu.qtest, &mut qemu.memory)?;
        m.enable(&qemu.qtest, &device, true)?;
        driver.msix = true;
        table = Some(m);
    }
    Ok(Guest {
        qemu,
        device,
        driver,
        msix: table,
    })
}

impl Guest {
    fn fired(&self, vector: u16) -> Result<bool> {
        self.msix
            .as_ref()
            .context("no MSI-X")?
            .fired(&self.qemu.qtest, vector)
    }

    fn wait_fired(&self, vector: u16) -> Result<()> {
        wait_for("interrupt", PATIENCE, || {
            Ok(self.fired(vector)?.then_some(()))
        })
    }
}

/// One frame out and the answer in, through legacy rings.
fn arp(g: &mut Guest, stack: &mut Stack) -> Result<()> {
    let q = &g.qemu.qtest;
    let memory = &mut g.qemu.memory;
    let d = &g.driver;
    d.begin(q, MAC_FEATURE)?;
    let mut rx = d.queue(q, memory, 0, 1)?;
    let mut tx = d.queue(q, memory, 1, 2)?;
    d.set_status(q, 7)?;
    d.add(q, memory, &mut rx, &[Buffer::In(10), Buffer::In(1514)])?;
    d.kick(q, &rx)?;
    let before = commands(&mut stack.sim)?;
    d.add(
        q,
        memory,
        &mut tx,
        &[Buffer::Out(vec![0; 10]), Buffer::Out(arp_request())],
    )?;
    d.kick(q, &tx)?;
    d.wait_used(q, &mut tx, PATIENCE)?;
    let frame = d.wait_used(q, &mut rx, PATIENCE)?;
    let frame = frame.get(10..).context("short frame")?;
    assert_eq!(frame.get(..6), Some(&OWN[..]), "to us");
    assert_eq!(frame.get(6..12), Some(&PEER[..]), "from the peer");
    assert_eq!(
        frame.get(12..22),
        Some(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2][..]),
        "ARP reply"
    );
    assert_eq!(
        commands(&mut stack.sim)?,
        before,
        "traffic needs no admin command"
    );
    Ok(())
}

// Covers: LIO-06, LIO-07, IRQ-04, INI-10, NTF-06
#[test]
fn frames_go_out_and_come_in_with_msix() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = guest(&stack, true)?;
    g.driver.begin(&g.qemu.qtest, 0)?;
    arp(&mut g, &mut stack)?;
    g.wait_fired(1)?;
    g.wait_fired(2)?;
    assert!(!g.fired(0)?, "no configuration interrupt");
    // With MSI-X no INTx: the Interrupt Status bit stays clear.
    assert_eq!(g.device.read(&g.qemu.qtest, 6, 2)? & 8, 0);
    Ok(())
}

// Covers: LIO-07, INI-12
#[test]
fn a_driver_that_polls_needs_no_interrupts() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = guest(&stack, false)?;
    arp(&mut g, &mut stack)
}

/// Reads and writes sectors, with a kick before DRIVER_OK as old drivers do.
fn disk(machine: Machine, layout: &[&str]) -> Result<Stack> {
    let sim = SimulatorBuilder::new(DeviceKind::Block, 1).args(layout);
    let stack = Stack::start_with(&sim, 1, &[])?;
    let (mut qemu, device) = stack.mapped(machine)?;
    let d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    let memory = &mut qemu.memory;
    d.begin(q, 0)?;
    let mut queue = d.queue(q, memory, 0, 0)?;
    let data: Vec<u8> = (0..4096u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    let (_, status) = d.block_request(q, memory, &mut queue, 1, 8, &Buffer::Out(data.clone()))?;
    assert_eq!(status, 0, "write");
    d.set_status(q, 7)?;
    let (back, status) = d.block_request(q, memory, &mut queue, 0, 8, &Buffer::In(4096))?;
    assert_eq!(status, 0, "read");
    assert_eq!(back, data);
    Ok(stack)
}

// Covers: LIO-06, LIO-07, INI-12, NTF-05
#[test]
fn a_disk_works_on_both_machines() -> Result<()> {
    disk(Machine::Pc, &[])?;
    disk(Machine::Q35, &[])?;
    Ok(())
}

// Covers: NTF-05, NTF-06
#[test]
fn notifications_fall_back_to_the_helper() -> Result<()> {
    for (layout, opcode_2) in [("absent", true), ("owner", false)] {
        let mut stack = disk(Machine::Pc, &["--notify", layout])?;
        let counters = stack.sim.counters()?;
        let count = |name: &str| {
            let path = format!("/hardware/functions/vf1/doorbells_{name}");
            counters.pointer(&path).and_then(|v| v.as_u64())
        };
        let (command, owner) = if opcode_2 { (2, 0) } else { (0, 2) };
        assert_eq!(
            count("command"),
            Some(command),
            "layout {layout}: {counters}"
        );
        assert_eq!(count("owner"), Some(owner), "layout {layout}");
        assert_eq!(count("member"), Some(0), "layout {layout}");
    }
    Ok(())
}

// Covers: LIO-07
#[test]
fn a_kick_of_any_width_is_a_kick_and_nothing_else() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = guest(&stack, false)?;
    let q = &g.qemu.qtest;
    let memory = &mut g.qemu.memory;
    let d = &g.driver;
    d.begin(q, 0)?;
    let mut queue = d.queue(q, memory, 0, 0)?;
    d.set_status(q, 7)?;
    // The upper half of a 4-byte kick would be status 0 and a reset.
    for (width, value) in [(1u8, 0u32), (2, 0), (4, 0), (4, 0x00ff_0000)] {
        let mut header = vec![0; 16];
        header.resize(16, 0);
        d.add(
            q,
            memory,
            &mut queue,
            &[Buffer::Out(header), Buffer::In(512), Buffer::In(1)],
        )?;
        d.write(q, 16, width, value)?;
        let bytes = d.wait_used(q, &mut queue, PATIENCE)?;
        assert_eq!(bytes.last(), Some(&0), "width {width}");
        assert_eq!(d.status(q)?, 7);
    }
    let before = counter(&mut g.qemu.qmp, "notifies")?;
    let q = &g.qemu.qtest;
    assert_eq!(d.read(q, 16, 2)?, 0xffff);
    assert_eq!(d.read(q, 16, 1)?, 0xff);
    assert_eq!(d.read(q, 16, 4)?, 0xffff_ffff);
    // Queues that do not exist, and a byte inside the field.
    d.write(q, 16, 2, 77)?;
    d.write(q, 17, 1, 0)?;
    assert_eq!(d.status(q)?, 7);
    assert_eq!(counter(&mut g.qemu.qmp, "notifies")?, before + 1);
    Ok(())
}

// Covers: IRQ-06
#[test]
fn vectors_read_back_and_those_outside_the_table_do_not() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let g = guest(&stack, true)?;
    let (q, d) = (&g.qemu.qtest, &g.driver);
    let table = u32::from(g.msix.as_ref().context("MSI-X")?.vectors);
    d.begin(q, MAC_FEATURE)?;
    assert_eq!(d.read(q, 20, 2)?, 0xffff);
    for vector in [0, table - 1, 0xffff] {
        d.write(q, 20, 2, vector)?;
        assert_eq!(d.read(q, 20, 2)?, vector);
        for queue in 0..2 {
            d.write(q, 14, 2, queue)?;
            d.write(q, 22, 2, vector)?;
            assert_eq!(d.read(q, 22, 2)?, vector);
        }
    }
    for vector in [table, 0x7ff, 0xfffe] {
        d.write(q, 20, 2, 0)?;
        d.write(q, 20, 2, vector)?;
        assert_eq!(d.read(q, 20, 2)?, 0xffff, "vector {vector} of {table}");
        d.write(q, 22, 2, vector)?;
        assert_eq!(d.read(q, 22, 2)?, 0xffff);
    }
    d.write(q, 20, 2, 1)?;
    d.set_status(q, 0)?;
    assert_eq!(d.read(q, 20, 2)?, 0xffff, "unmapped after a reset");
    Ok(())
}

// Covers: IRQ-04, LIO-09
#[test]
fn configuration_changes_interrupt_and_set_the_isr() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = guest(&stack, true)?;
    {
        let (q, d) = (&g.qemu.qtest, &g.driver);
        d.begin(q, MAC_FEATURE | 1 << 16)?;
        d.write(q, 20, 2, 0)?;
        assert_eq!(d.read(q, 20, 2)?, 0);
        d.queue(q, &mut g.qemu.memory, 0, 1)?;
        d.set_status(q, 7)?;
        d.read(q, 19, 1)?;
    }
    stack
        .sim
        .control(&json!({"cmd": "link", "vf": 1, "up": false}))?;
    g.wait_fired(0)?;
    assert!(!g.fired(1)?);
    let (q, d) = (&g.qemu.qtest, &g.driver);
    assert_eq!(d.config(q, 6, 2)? & 1, 0);
    assert_eq!(d.read(q, 19, 1)? & 2, 2, "the configuration bit");
    assert_eq!(d.read(q, 19, 1)?, 0, "reading clears it");
    // A masked vector is delivered when it is unmasked.
    let msix = g.msix.as_ref().context("MSI-X")?;
    msix.mask_all(q, &g.device, true)?;
    stack
        .sim
        .control(&json!({"cmd": "link", "vf": 1, "up": true}))?;
    std::thread::sleep(Duration::from_millis(100));
    assert!(!g.fired(0)?, "masked");
    msix.mask_all(q, &g.device, false)?;
    g.wait_fired(0)
}

// Covers: LIO-09
#[test]
fn the_isr_is_cleared_by_reading_it_and_by_nothing_else() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = guest(&stack, false)?;
    let q = &g.qemu.qtest;
    let memory = &mut g.qemu.memory;
    let d = &g.driver;
    d.begin(q, 0)?;
    let mut queue = d.queue(q, memory, 0, 0)?;
    d.set_status(q, 7)?;
    d.block_request(q, memory, &mut queue, 0, 0, &Buffer::In(512))?;
    wait_for("ISR bit", PATIENCE, || {
        // These reads start before the ISR and must not touch it.
        for (offset, width) in [(18, 1), (18, 2), (16, 4), (17, 1), (14, 2), (12, 4)] {
            d.read(q, offset, width)?;
        }
        d.write(q, 19, 1, 0xff)?;
        Ok((d.read(q, 19, 1)? == 1).then_some(()))
    })?;
    assert_eq!(d.read(q, 19, 1)?, 0);
    Ok(())
}

// Covers: LIO-08
#[test]
fn a_machine_reset_stops_the_device() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = guest(&stack, true)?;
    g.driver.begin(&g.qemu.qtest, 0)?;
    g.driver.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 1)?;
    g.driver.set_status(&g.qemu.qtest, 7)?;
    for _ in 0..3 {
        g.qemu.qmp.system_reset()?;
        g.device.map(&g.qemu.qtest)?;
        let (q, d) = (&g.qemu.qtest, &mut g.driver);
        d.msix = false;
        assert_eq!(d.status(q)?, 0);
        d.write(q, 14, 2, 0)?;
        assert_eq!(d.read(q, 8, 4)?, 0);
        d.begin(q, 0)?;
        let mut queue = d.queue(q, &mut g.qemu.memory, 0, 0)?;
        d.set_status(q, 7)?;
        let (_, status) =
            d.block_request(q, &mut g.qemu.memory, &mut queue, 0, 0, &Buffer::In(512))?;
        assert_eq!(status, 0);
    }
    drop(commands(&mut stack.sim)?);
    Ok(())
}
