// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is an entropy source.

use anyhow::Result;
use qtest_harness::driver::Buffer;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Stack, PATIENCE};
use qtest_tests::transitional::{
    check_configuration, check_identity, type_number, violations, Expected,
};
use serde_json::json;
use virtio_pci_spec::DeviceType;

const RNG: Expected = Expected {
    kind: DeviceKind::Rng,
    device: DeviceType::Entropy,
    id: 0x1005,
    subsystem: 4,
    class: 0x00ff,
    bar0: 32,
    config: 0,
};

// Covers: PCI-01, PCI-02, PCI-03, PCI-04, PCI-07
#[test]
fn it_is_a_transitional_entropy_source() -> Result<()> {
    check_identity(&RNG)
}

// Covers: RNG-01, LIO-04, LIO-10
#[test]
fn it_has_no_configuration_and_asks_for_none() -> Result<()> {
    check_configuration(&RNG)
}

// Covers: RNG-01, RNG-02
#[test]
fn buffers_come_back_full_of_other_bytes_each_time() -> Result<()> {
    for machine in [Machine::Pc, Machine::Q35] {
        let mut stack = Stack::start(DeviceKind::Rng, 1)?;
        let (mut qemu, device) = stack.mapped(machine)?;
        let d = LegacyDriver::new(&device)?;
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        // No bit of the type is offered.
        assert_eq!(d.begin(q, u32::MAX)? & 0xff_ffff, 0);
        let mut queue = d.queue(q, memory, 0, 0)?;
        d.set_status(q, 7)?;
        let mut all = Vec::new();
        for len in [1, 64, 100, 4096] {
            d.add(q, memory, &mut queue, &[Buffer::In(len)])?;
            d.kick(q, &queue)?;
            let bytes = d.wait_used(q, &mut queue, PATIENCE)?;
            assert_eq!(bytes.len(), len);
            all.extend(bytes);
        }
        // The chance that 256 bytes in a row are 0 is nil, and so is that two such parts are alike.
        let parts: Vec<_> = all.chunks_exact(256).collect();
        for (i, part) in parts.iter().enumerate() {
            assert!(part.iter().any(|b| *b != 0), "part {i} was not written");
            assert!(!parts.iter().take(i).any(|other| other == part));
        }
        assert_eq!(type_number(&mut stack.sim, "bytes")?, all.len() as u64);
        assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    }
    Ok(())
}

// Covers: RNG-02
#[test]
fn a_slow_source_answers_late_but_answers() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Rng, 1).args(&["--rng-rate", "200"]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    d.begin(q, 0)?;
    let mut queue = d.queue(q, memory, 0, 0)?;
    d.set_status(q, 7)?;
    let start = std::time::Instant::now();
    for _ in 0..4 {
        d.add(q, memory, &mut queue, &[Buffer::In(64)])?;
    }
    d.kick(q, &queue)?;
    for _ in 0..4 {
        // A tenth of a second's worth at once, and no more.
        assert_eq!(d.wait_used(q, &mut queue, PATIENCE)?.len(), 20);
    }
    let took = start.elapsed().as_millis();
    assert!(took >= 250, "80 bytes at 200 a second in {took} ms");
    assert!(type_number(&mut stack.sim, "waits")? >= 3);
    // Buffers that wait when the driver goes away are left alone.
    for _ in 0..2 {
        d.add(q, memory, &mut queue, &[Buffer::In(64)])?;
    }
    d.kick(q, &queue)?;
    d.set_status(q, 0)?;
    let bytes = type_number(&mut stack.sim, "bytes")?;
    let faster = json!({"cmd": "rng", "vf": 1, "rate": 0});
    stack.sim.control(&faster)?;
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(type_number(&mut stack.sim, "bytes")?, bytes);
    assert_eq!(d.status(q)?, 0);
    Ok(())
}
