// SPDX-License-Identifier: GPL-2.0-or-later
//! A hundred thousand interrupts, counted at both ends.
//!
//! A level tells less than a message: two events before the ISR is read are one rise of the line. So
//! the counts are compared where they are exact. What the VF sent and what arrived must agree to
//! the last message. For the line, each round makes one event more only after the line and the ISR
//! have told of the one before, so each must be one rise and one fall.

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Simulator, Stack};
use qtest_tests::counter;
use qtest_tests::intx::Guest;

const ROUNDS: u64 = 100_000;

fn sent(sim: &mut Simulator) -> Result<u64> {
    let counters = sim.counters()?;
    let at = "/hardware/functions/vf1/interrupts";
    counters
        .pointer(at)
        .and_then(serde_json::Value::as_u64)
        .with_context(|| format!("no {at} in {counters}"))
}

/// A driver with one frame in its transmit queue, sent again and again: only the index of the ring
/// moves.
fn repeating(g: &mut Guest) -> Result<(LegacyDriver, Queue)> {
    let d = g.driver.clone();
    let (q, memory) = (&g.qemu.qtest, &mut g.qemu.memory);
    d.begin(q, 0)?;
    d.queue(q, memory, 0, 0)?;
    let mut tx = d.queue(q, memory, 1, 0)?;
    d.set_status(q, 7)?;
    let frame = [Buffer::Out(vec![0; 10]), Buffer::Out(vec![0xff; 60])];
    d.add(q, memory, &mut tx, &frame)?;
    d.repeat_first(q, &tx)?;
    Ok((d, tx))
}

// Covers: IRQ-01, IRQ-03, IRQ-12
#[test]
fn a_hundred_thousand_interrupts_and_none_lost() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let (d, tx) = repeating(&mut g)?;
    let before = sent(&mut stack.sim)?;
    let (mut reads, mut early) = (0u64, 0u64);
    for round in 1..=ROUNDS {
        let q = &g.qemu.qtest;
        d.publish(q, &tx, (round & 0xffff) as u16)?;
        d.kick(q, &tx)?;
        let mut isr = 0;
        for _ in 0..1_000_000 {
            reads += 1;
            isr = d.read(q, 19, 1)?;
            if isr != 0 {
                break;
            }
        }
        assert_eq!(isr, 1, "round {round}");
        let used = d.used_index(q, &tx)?;
        assert_eq!(u64::from(used), round & 0xffff, "round {round}");
        if round % 1000 == 0 {
            // The line has fallen with the read, each time.
            let irq = g.line()?;
            assert_eq!(
                (irq.level, irq.raised, irq.lowered),
                (false, round, round),
                "round {round}"
            );
        }
        early += u64::from(reads == round);
    }
    assert_eq!(g.isr()?, 0);
    let irq = g.line()?;
    assert_eq!((irq.raised, irq.lowered), (ROUNDS, ROUNDS));
    assert_eq!(sent(&mut stack.sim)? - before, ROUNDS, "sent by the VF");
    assert_eq!(
        counter(&mut g.qemu.qmp, "intx-interrupts")?,
        ROUNDS,
        "arrived"
    );
    assert_eq!(counter(&mut g.qemu.qmp, "intx-raised")?, ROUNDS);
    println!("{ROUNDS} interrupts, {reads} reads of the ISR, {early} at the first try");
    Ok(())
}

/// Without waiting for the ISR: the VF sends as fast as it can, and the guest reads the ISR when it
/// likes. Every message arrives; the last is followed by a raised line.
// Covers: IRQ-01, IRQ-03
#[test]
fn messages_that_the_level_merges_are_all_counted() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let (d, tx) = repeating(&mut g)?;
    let before = sent(&mut stack.sim)?;
    let mut seen = 0u64;
    for round in 1..=10_000u64 {
        let q = &g.qemu.qtest;
        d.publish(q, &tx, round as u16)?;
        d.kick(q, &tx)?;
        if round % 16 == 0 {
            seen += u64::from(d.read(q, 19, 1)?);
        }
        if round % 64 == 0 {
            // No more in flight than the ring holds.
            qtest_tests::wait_for("used buffers", qtest_harness::PATIENCE, || {
                let used = d.used_index(q, &tx)?;
                Ok((u64::from(used) == round).then_some(()))
            })?;
        }
    }
    qtest_tests::wait_for("the last buffer", qtest_harness::PATIENCE, || {
        let used = d.used_index(&g.qemu.qtest, &tx)?;
        Ok((used == 10_000).then_some(()))
    })?;
    let total = sent(&mut stack.sim)? - before;
    qtest_tests::wait_for("all messages", qtest_harness::PATIENCE, || {
        let got = counter(&mut g.qemu.qmp, "intx-interrupts")?;
        Ok((got == total).then_some(()))
    })?;
    seen += u64::from(g.isr()?);
    let irq = g.line()?;
    assert!(!irq.level);
    assert_eq!(irq.raised, irq.lowered);
    assert_eq!(irq.raised, seen, "each rise was answered by one ISR");
    assert_eq!(counter(&mut g.qemu.qmp, "intx-raised")?, seen);
    assert!(total >= seen && seen > 0);
    println!("{total} messages became {seen} interrupts");
    Ok(())
}
