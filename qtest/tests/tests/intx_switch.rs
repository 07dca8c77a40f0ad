// SPDX-License-Identifier: GPL-2.0-or-later
//! MSI-X switched on and off under a running driver, resets with the pin raised, and a helper that is
//! slow, refuses or is gone while vectors change hands.

use std::time::Duration;

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, Machine, Msix, Stack, PATIENCE};
use qtest_tests::intx::Guest;
use qtest_tests::{counter, wait_for, wait_link};
use serde_json::json;

fn msix(g: &mut Guest) -> Result<Msix> {
    let mut msix = g.device.msix(&g.qemu.qtest)?;
    msix.program(&g.qemu.qtest, &mut g.qemu.memory)?;
    Ok(msix)
}

fn switch(g: &mut Guest, msix: &Msix, on: bool) -> Result<()> {
    g.driver.msix = on;
    msix.enable(&g.qemu.qtest, &g.device, on)
}

fn wait_fired(g: &Guest, msix: &Msix, vector: u16) -> Result<()> {
    wait_for("message", PATIENCE, || {
        Ok(msix.fired(&g.qemu.qtest, vector)?.then_some(()))
    })
}

/// The vectors of the queues and of the configuration as the guest sees them with MSI-X on.
fn vectors(g: &Guest, queues: u32) -> Result<Vec<u32>> {
    let (q, d) = (&g.qemu.qtest, &g.driver);
    let mut out = vec![d.read(q, 20, 2)?];
    for queue in 0..queues {
        d.write(q, 14, 2, queue)?;
        out.push(d.read(q, 22, 2)?);
    }
    Ok(out)
}

/// A network driver with queues 0 and 1 mapped to vectors 2 and 1 (if MSI-X is on), configuration
/// to 0. Gives the transmit queue.
fn net(g: &mut Guest) -> Result<Queue> {
    let (q, d) = (&g.qemu.qtest, &g.driver);
    d.begin(q, 1 << 16)?;
    if d.msix {
        d.write(q, 20, 2, 0)?;
    }
    d.queue(q, &mut g.qemu.memory, 0, 2)?;
    let tx = d.queue(q, &mut g.qemu.memory, 1, 1)?;
    d.set_status(q, 7)?;
    Ok(tx)
}

fn send(g: &mut Guest, tx: &mut Queue) -> Result<()> {
    let (q, d) = (&g.qemu.qtest, &g.driver);
    let frame = [Buffer::Out(vec![0; 10]), Buffer::Out(vec![0xff; 60])];
    d.add(q, &mut g.qemu.memory, tx, &frame)?;
    d.kick(q, tx)
}

fn sent(g: &mut Guest, tx: &mut Queue) -> Result<()> {
    g.driver.wait_used(&g.qemu.qtest, tx, PATIENCE)?;
    Ok(())
}

// Covers: IRQ-03, IRQ-04, IRQ-06
#[test]
fn msix_may_go_off_and_on_under_a_running_driver() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    let mut tx = net(&mut g)?;
    for round in 0..5 {
        let raised = g.line()?.raised;
        send(&mut g, &mut tx)?;
        wait_fired(&g, &table, 1)?;
        sent(&mut g, &mut tx)?;
        assert_eq!(vectors(&g, 2)?, [0, 2, 1], "round {round}");
        assert_eq!(g.line()?.raised, raised, "MSI-X is on");
        assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0);
        switch(&mut g, &table, false)?;
        assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 2);
        // Buffers may have been used on the way, with nobody told: one interrupt for all of them.
        g.wait_level(true)?;
        assert_eq!(g.isr()? & 1, 1);
        g.wait_level(false)?;
        send(&mut g, &mut tx)?;
        g.wait_level(true)?;
        assert_eq!(g.isr()?, 1);
        sent(&mut g, &mut tx)?;
        stack
            .sim
            .control(&json!({"cmd": "link", "vf": 1, "up": round % 2 == 1}))?;
        g.wait_level(true)?;
        assert_eq!(g.isr()?, 2);
        for vector in 0..table.vectors {
            assert!(!table.fired(&g.qemu.qtest, vector)?, "MSI-X is off");
        }
        switch(&mut g, &table, true)?;
        // The same the other way round, for every vector that is mapped.
        for vector in 0..3 {
            wait_fired(&g, &table, vector)?;
        }
        assert!(!g.pending()?);
    }
    assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    Ok(())
}

// Covers: IRQ-03, IRQ-04
#[test]
fn what_is_pending_is_told_after_the_switch() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    let mut tx = net(&mut g)?;
    switch(&mut g, &table, false)?;
    g.wait_level(true)?;
    g.isr()?;
    // Raised, not read: the message takes its place.
    send(&mut g, &mut tx)?;
    g.wait_level(true)?;
    switch(&mut g, &table, true)?;
    let irq = g.line()?;
    assert!(!irq.level && !g.pending()?, "{irq:?}");
    wait_fired(&g, &table, 1)?;
    sent(&mut g, &mut tx)?;
    // A message that a mask holds back is delivered when the mask goes, even after MSI-X was off.
    table.mask_all(&g.qemu.qtest, &g.device, true)?;
    send(&mut g, &mut tx)?;
    sent(&mut g, &mut tx)?;
    switch(&mut g, &table, false)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()? & 1, 1, "the buffer used while masked");
    // The mask is MSI-X's alone.
    send(&mut g, &mut tx)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 1);
    sent(&mut g, &mut tx)?;
    switch(&mut g, &table, true)?;
    assert!(!table.fired(&g.qemu.qtest, 1)?, "masked");
    table.mask_all(&g.qemu.qtest, &g.device, false)?;
    wait_fired(&g, &table, 1)?;
    send(&mut g, &mut tx)?;
    wait_fired(&g, &table, 1)?;
    sent(&mut g, &mut tx)
}

/// The same as for what the VF itself holds back.
// Covers: IRQ-08
#[test]
fn a_message_held_back_does_not_outlive_a_reset() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    for again in [false, true] {
        let mut g = Guest::start(&stack, Machine::Q35)?;
        let table = msix(&mut g)?;
        switch(&mut g, &table, true)?;
        net(&mut g)?;
        switch(&mut g, &table, false)?;
        table.mask_all(&g.qemu.qtest, &g.device, true)?;
        switch(&mut g, &table, true)?;
        if again {
            g.driver.set_status(&g.qemu.qtest, 0)?;
        }
        table.mask_all(&g.qemu.qtest, &g.device, false)?;
        for vector in 0..3 {
            if again {
                let fired = table.fired(&g.qemu.qtest, vector)?;
                assert!(!fired, "vector {vector} after a reset");
            } else {
                // The main loop may only now come to tell of it.
                wait_fired(&g, &table, vector)?;
            }
        }
    }
    Ok(())
}

/// What was told into a mask is not forgotten by the write that takes the mask away.
// Covers: IRQ-03, IRQ-04
#[test]
fn a_message_held_back_is_sent_when_the_mask_goes() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    net(&mut g)?;
    switch(&mut g, &table, false)?;
    table.mask_all(&g.qemu.qtest, &g.device, true)?;
    switch(&mut g, &table, true)?;
    assert_eq!(vectors(&g, 2)?, [0, 2, 1], "written to the VF");
    // The main loop has told of them by now: it answers this after what was there before.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0);
    for mask in [true, false] {
        table.mask_all(&g.qemu.qtest, &g.device, mask)?;
        for vector in 0..3 {
            if mask {
                assert!(!table.fired(&g.qemu.qtest, vector)?, "vector {vector}");
            } else {
                wait_fired(&g, &table, vector)?;
            }
        }
    }
    Ok(())
}

/// Linux tries MSI-X, gives up, and goes on with INTx, without a reset in between.
// Covers: IRQ-04, IRQ-06
#[test]
fn a_driver_that_gives_up_msix_gets_intx() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let table = msix(&mut g)?;
    g.driver.begin(&g.qemu.qtest, 0)?;
    switch(&mut g, &table, true)?;
    g.driver.write(&g.qemu.qtest, 20, 2, 1)?;
    assert_eq!(g.driver.read(&g.qemu.qtest, 20, 2)?, 1);
    g.driver.write(&g.qemu.qtest, 20, 2, 0xffff)?;
    switch(&mut g, &table, false)?;
    assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0, "no queue yet");
    let mut queue = g.driver.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 0)?;
    g.driver.set_status(&g.qemu.qtest, 7)?;
    assert_eq!(g.line()?.raised, 0, "nothing has happened yet");
    assert_eq!(g.read_by_interrupt(&mut queue)?, 1);
    Ok(())
}

// Covers: IRQ-03, LIO-08
#[test]
fn resets_lower_the_line_and_let_go_of_the_vectors() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let mut done = 0;
    for reset in ["status", "address", "flr", "system"] {
        let mut queue = g.disk()?;
        g.start_read(&mut queue)?;
        g.wait_level(true)?;
        done += 1;
        match reset {
            "status" => g.driver.set_status(&g.qemu.qtest, 0)?,
            "address" => g.driver.write(&g.qemu.qtest, 8, 4, 0)?,
            "flr" => {
                let q = &g.qemu.qtest;
                let caps = g.device.capabilities(q)?;
                let express = caps.iter().find(|c| c.0 == 0x10).context("Express")?.1;
                let control = g.device.read(q, express + 8, 2)?;
                g.device.write(q, express + 8, 2, control | 0x8000)?;
            }
            _ => {
                g.qemu.qmp.system_reset()?;
            }
        }
        let irq = g.line()?;
        assert_eq!(
            (irq.level, irq.raised, irq.lowered),
            (false, done, done),
            "{reset}"
        );
        assert!(!g.pending()?, "{reset}");
        assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0, "{reset}");
        assert_eq!(counter(&mut g.qemu.qmp, "isr")?, 0, "{reset}");
        g.device.map(&g.qemu.qtest)?;
        assert_eq!(g.isr()?, 0, "{reset}");
        let mut queue = g.disk()?;
        assert_eq!(g.read_by_interrupt(&mut queue)?, 1, "after {reset}");
        g.driver.set_status(&g.qemu.qtest, 0)?;
        done += 1;
    }
    Ok(())
}

/// After a function level reset under MSI-X nobody drives the device, whatever the guest does with
/// MSI-X before it touches a register: the VF's vectors stay as the reset left them.
// Covers: IRQ-03
#[test]
fn a_driver_does_not_outlive_a_function_level_reset() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    net(&mut g)?;
    let q = &g.qemu.qtest;
    let caps = g.device.capabilities(q)?;
    let express = caps.iter().find(|c| c.0 == 0x10).context("Express")?.1;
    let control = g.device.read(q, express + 8, 2)?;
    g.device.write(q, express + 8, 2, control | 0x8000)?;
    let commands = counter(&mut g.qemu.qmp, "commands")?;
    for on in [true, false] {
        switch(&mut g, &table, on)?;
        assert_eq!(counter(&mut g.qemu.qmp, "intx-vectors")?, 0);
    }
    assert_eq!(counter(&mut g.qemu.qmp, "commands")?, commands);
    // A driver that starts from there has its interrupts.
    g.device.map(&g.qemu.qtest)?;
    let mut tx = net(&mut g)?;
    send(&mut g, &mut tx)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()? & 1, 1);
    sent(&mut g, &mut tx)
}

#[test]
fn unplugging_lowers_the_line() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    for _ in 0..3 {
        let mut queue = g.disk()?;
        g.start_read(&mut queue)?;
        g.wait_level(true)?;
        g.qemu.qmp.command("device_del", json!({"id": DEVICE_ID}))?;
        // The guest's part of ACPI hot plug.
        g.qemu.qtest.port_write(0xae10, 4, 0)?;
        g.qemu.qtest.port_write(0xae08, 4, 1 << SLOT)?;
        g.qemu.qmp.event("DEVICE_DELETED", PATIENCE, |data| {
            data.get("device").is_some_and(|d| d == DEVICE_ID)
        })?;
        assert!(!g.line()?.level);
        g.qemu.qmp.command("device_add", stack.device(1))?;
        g.device.map(&g.qemu.qtest)?;
    }
    Ok(())
}

/// Interrupts do not need the helper; neither does the ISR.
// Covers: IRQ-03
#[test]
fn interrupts_go_on_without_the_helper() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let mut queue = g.disk()?;
    for _ in 0..2 {
        stack.helper.process.kill()?;
        wait_link(&mut g.qemu.qmp, "lost", PATIENCE)?;
        for _ in 0..20 {
            assert_eq!(g.read_by_interrupt(&mut queue)?, 1);
        }
        assert_eq!(g.driver.status(&g.qemu.qtest)?, 0xff);
        stack.helper.restart()?;
        wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
        assert_eq!(g.driver.status(&g.qemu.qtest)?, 7);
        for _ in 0..20 {
            assert_eq!(g.read_by_interrupt(&mut queue)?, 1);
        }
    }
    Ok(())
}

/// MSI-X is switched off while nobody can write vectors; they are written when the helper is back,
/// and what was missed is told.
// Covers: IRQ-03, IRQ-06
#[test]
fn vectors_are_written_when_the_helper_is_back() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    let mut tx = net(&mut g)?;
    stack.helper.process.kill()?;
    wait_link(&mut g.qemu.qmp, "lost", PATIENCE)?;
    switch(&mut g, &table, false)?;
    for _ in 0..3 {
        send(&mut g, &mut tx)?;
        sent(&mut g, &mut tx)?;
    }
    stack.helper.restart()?;
    wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()? & 1, 1);
    send(&mut g, &mut tx)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 1);
    sent(&mut g, &mut tx)?;
    // And the other way round.
    stack.helper.process.kill()?;
    wait_link(&mut g.qemu.qmp, "lost", PATIENCE)?;
    switch(&mut g, &table, true)?;
    stack.helper.restart()?;
    wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
    assert_eq!(vectors(&g, 2)?, [0, 2, 1]);
    send(&mut g, &mut tx)?;
    wait_fired(&g, &table, 1)?;
    sent(&mut g, &mut tx)
}

/// A PF that refuses for a while, or does not answer in time.
// Covers: IRQ-06
#[test]
fn vectors_that_could_not_be_written_are_tried_again() -> Result<()> {
    let stack = Stack::start_with(
        &qtest_harness::SimulatorBuilder::new(DeviceKind::Block, 1),
        1,
        &["--command-timeout", "200ms"],
    );
    let mut stack = stack?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let (q, d) = (&g.qemu.qtest, &g.driver);
    d.begin(q, 0)?;
    stack.sim.add_fault(&json!({
        "opcode": "LEGACY_COMMON_CFG_WRITE", "offset": 22, "do": "drop", "first": 2,
    }))?;
    let mut queue = d.queue(q, &mut g.qemu.memory, 0, 0)?;
    d.set_status(q, 7)?;
    g.start_read(&mut queue)?;
    g.finish_read(&mut queue)?;
    // The VF had no vector for the queue, so the interrupt comes with the vector.
    g.wait_level(true)?;
    assert_eq!(g.isr()? & 1, 1);
    assert_eq!(g.read_by_interrupt(&mut queue)?, 1);
    assert_eq!(counter(&mut g.qemu.qmp, "intx-unmapped")?, 0);
    Ok(())
}

/// Switching as fast as it goes, while buffers are used all the time: each switch, or the interrupt
/// after it, tells of every buffer.
// Covers: IRQ-03, IRQ-04, IRQ-06
#[test]
fn no_interrupt_is_lost_between_two_hundred_switches() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let table = msix(&mut g)?;
    switch(&mut g, &table, true)?;
    let mut tx = net(&mut g)?;
    for round in 0..200u32 {
        let on = round % 2 == 0;
        // In flight while the vectors change hands.
        send(&mut g, &mut tx)?;
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_micros(u64::from(round * 7 % 400)));
        }
        switch(&mut g, &table, !on)?;
        let mut told = false;
        wait_for("the buffer, and word of it", PATIENCE, || {
            if on {
                // INTx now.
                if g.line()?.level {
                    told |= g.isr()? & 1 == 1;
                }
            } else {
                told |= table.fired(&g.qemu.qtest, 1)?;
            }
            // A handler looks at the queue each time it is told, and only then.
            if told {
                told = false;
                return Ok(g.driver.used(&g.qemu.qtest, &mut tx)?.map(|_| ()));
            }
            Ok(None)
        })?;
    }
    assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    Ok(())
}
