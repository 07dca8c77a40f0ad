// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is a memory balloon.

use anyhow::Result;
use qtest_harness::driver::Buffer;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, SimulatorBuilder, Stack, PATIENCE};
use qtest_tests::transitional::{
    check_configuration, check_identity, type_number, violations, CommandLog, Expected,
};
use serde_json::json;
use virtio_pci_spec::DeviceType;

const BALLOON: Expected = Expected {
    kind: DeviceKind::Balloon,
    device: DeviceType::Balloon,
    id: 0x1002,
    subsystem: 5,
    class: 0x00ff,
    bar0: 64,
    config: 16,
};

// Covers: PCI-01, PCI-02, PCI-03, PCI-04, PCI-07
#[test]
fn it_is_a_transitional_balloon() -> Result<()> {
    check_identity(&BALLOON)
}

// Covers: LIO-04, LIO-05, LIO-10
#[test]
fn accesses_to_its_configuration_are_cut_at_fields() -> Result<()> {
    check_configuration(&BALLOON)
}

// Covers: BAL-02, BAL-03, BAL-04, INI-16
#[test]
fn actual_goes_through_as_it_is_written() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Balloon, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    let msix = device.msix(q)?;
    let mut log = CommandLog::new(&mut stack.sim)?;
    for on in [false, true] {
        msix.enable(q, &device, on)?;
        d.msix = on;
        let actual = if on { 28 } else { 24 };
        let mut seen = |stack: &mut Stack| log.writes(&mut stack.sim);
        d.write(q, actual, 4, 0x0102_0304)?;
        // One command, so that the device never sees half of it.
        assert_eq!(seen(&mut stack)?, [(4, 4, 0x0102_0304)]);
        assert_eq!(type_number(&mut stack.sim, "actual")?, 0x0102_0304);
        assert_eq!(d.config(q, 4, 4)?, 0x0102_0304);
        assert_eq!(d.config(q, 4, 1)?, 0x04);
        // Byte by byte, as Linux writes it: it counts with the last one.
        for (i, byte) in [0x44u32, 0x33, 0x22, 0x11].into_iter().enumerate() {
            assert_eq!(type_number(&mut stack.sim, "actual")?, 0x0102_0304);
            d.write(q, actual + u16::try_from(i)?, 1, byte)?;
        }
        assert_eq!(
            seen(&mut stack)?,
            [(4, 1, 0x44), (5, 1, 0x33), (6, 1, 0x22), (7, 1, 0x11)]
        );
        assert_eq!(type_number(&mut stack.sim, "actual")?, 0x1122_3344);
        // Over the border of num_pages: only the part that may be written is.
        d.write(q, actual - 2, 4, 0xaabb_ccdd)?;
        assert_eq!(seen(&mut stack)?, [(4, 2, 0xaabb)]);
        d.set_status(q, 0)?;
        assert_eq!(d.config(q, 4, 4)?, 0);
        seen(&mut stack)?;
    }
    Ok(())
}

// Covers: BAL-01, BAL-06, IRQ-04
#[test]
fn pages_are_counted_in_and_out() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Balloon, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    let msix = d.use_msix(q, &device, memory)?;
    // MUST_TELL_HOST is not accepted.
    assert_eq!(d.begin(q, 0)?, 0);
    d.write(q, 20, 2, 0)?;
    let mut inflate = d.queue(q, memory, 0, 1)?;
    let mut deflate = d.queue(q, memory, 1, 2)?;
    d.set_status(q, 7)?;
    stack
        .sim
        .control(&json!({"cmd": "balloon", "vf": 1, "pages": 300}))?;
    qtest_tests::wait_for("configuration interrupt", PATIENCE, || {
        Ok(msix.fired(q, 0)?.then_some(()))
    })?;
    assert_eq!(d.config(q, 0, 4)?, 300);
    let base = memory.take(300 * 4096, 4096)? / 4096;
    let numbers = |range: std::ops::Range<u64>| -> Result<Buffer> {
        let mut bytes = Vec::new();
        for page in range {
            bytes.extend(u32::try_from(base + page)?.to_le_bytes());
        }
        Ok(Buffer::Out(bytes))
    };
    for range in [0..256, 256..300] {
        d.add(q, memory, &mut inflate, &[numbers(range)?])?;
        d.kick(q, &inflate)?;
        assert_eq!(d.wait_used(q, &mut inflate, PATIENCE)?, [0; 0]);
    }
    assert_eq!(type_number(&mut stack.sim, "pages")?, 300);
    d.add(q, memory, &mut deflate, &[numbers(10..50)?])?;
    d.kick(q, &deflate)?;
    d.wait_used(q, &mut deflate, PATIENCE)?;
    assert_eq!(type_number(&mut stack.sim, "pages")?, 260);
    assert_eq!(type_number(&mut stack.sim, "deflated")?, 40);
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    // A driver that gives the same page twice is found out, and nothing else happens.
    d.add(q, memory, &mut inflate, &[numbers(0..1)?])?;
    d.kick(q, &inflate)?;
    d.wait_used(q, &mut inflate, PATIENCE)?;
    assert_eq!(violations(&mut stack.sim)?, ["balloon_page_given_twice"]);
    assert_eq!(d.status(q)?, 7);
    Ok(())
}

// Covers: BAL-05
#[test]
fn statistics_are_answered_when_asked() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Balloon, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    const STATS_VQ: u32 = 1 << 1;
    assert_eq!(d.begin(q, STATS_VQ)?, STATS_VQ);
    let mut stats = d.queue(q, memory, 2, 0)?;
    d.set_status(q, 7)?;
    for value in [1u64, 0x1234_5678_9abc] {
        let mut bytes = 4u16.to_le_bytes().to_vec();
        bytes.extend(value.to_le_bytes());
        d.add(q, memory, &mut stats, &[Buffer::Out(bytes)])?;
        d.kick(q, &stats)?;
        let ask = json!({"cmd": "balloon-stats", "vf": 1});
        // The kick is on its way while the question is asked.
        qtest_tests::wait_for("statistics buffer", PATIENCE, || {
            Ok(stack.sim.control(&ask).ok())
        })?;
        d.wait_used(q, &mut stats, PATIENCE)?;
    }
    // What was in the first buffer did not count.
    assert_eq!(type_number(&mut stack.sim, "stats_updates")?, 1);
    let free = type_number(&mut stack.sim, "stat_free_memory")?;
    assert_eq!(free, 0x1234_5678_9abc);
    Ok(())
}

// Covers: BAL-01, LIO-06
#[test]
fn without_statistics_there_is_no_third_queue() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Balloon, 1).args(&["--balloon-no-stats"]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    assert_eq!(d.begin(q, 1 << 1)?, 0);
    let mut inflate = d.queue(q, memory, 0, 0)?;
    d.queue(q, memory, 1, 0)?;
    d.write(q, 14, 2, 2)?;
    assert_eq!(d.read(q, 12, 2)?, 0);
    d.set_status(q, 7)?;
    let page = u32::try_from(memory.take(4096, 4096)? / 4096)?;
    let buffer = Buffer::Out(page.to_le_bytes().to_vec());
    d.add(q, memory, &mut inflate, &[buffer])?;
    d.kick(q, &inflate)?;
    d.wait_used(q, &mut inflate, PATIENCE)?;
    assert_eq!(type_number(&mut stack.sim, "pages")?, 1);
    let ask = json!({"cmd": "balloon-stats", "vf": 1});
    let refused = stack.sim.control(&ask).map_err(|e| format!("{e:#}"));
    assert!(refused.is_err_and(|e| e.contains("STATS_VQ")));
    Ok(())
}
