// SPDX-License-Identifier: GPL-2.0-or-later
//! Admin queues and their buffers (AVQ).

use virtio_modern_spec::admin::{group, opcode, qualifier, status};
use virtio_modern_spec::common as reg;
use virtio_pci_spec::DeviceType;
use virtio_pf_model::testing::{
    echo_model, AdminClient, Buffer, Driver, EchoDevice, MODERN_FEATURES,
};
use virtio_pf_model::{FunctionId, Model, ModelConfig, NoSwitch, Violation};

use crate::{config, memory, ready, violations};

// Covers: AVQ-01
#[test]
fn admin_queues_lie_behind_the_device_queues() {
    let mut cfg = config(1);
    cfg.knobs.admin_queues = 4;
    cfg.knobs.admin_queue_gap = 3;
    let mut m = echo_model(cfg).unwrap();
    let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
    pf.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_INDEX), 0, "not negotiated");
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM), 0);
    assert!(pf.negotiate(&mut m, MODERN_FEATURES));
    assert_eq!(pf.get(&mut m, reg::NUM_QUEUES), 2);
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_INDEX), 5);
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM), 4);
    let mut present = Vec::new();
    for q in 0..=u16::MAX {
        pf.set(&mut m, reg::QUEUE_SELECT, q.into());
        match pf.get(&mut m, reg::QUEUE_SIZE) {
            0 => {}
            n => {
                assert!(n.is_power_of_two());
                present.push(q);
            }
        }
    }
    assert_eq!(present, [0, 1, 5, 6, 7, 8]);
}

// Covers: AVQ-02
#[test]
fn index_and_number_fit_for_every_type() {
    for t in DeviceType::ALL {
        for queues in [1usize, 2, 3, 64, 257] {
            let mut make = |_| Ok(Box::new(EchoDevice::new(t).with_queues(&vec![4; queues])) as _);
            let cfg = ModelConfig::new(t, 1);
            let mut m = Model::with_devices(cfg, &mut make, Box::new(NoSwitch)).unwrap();
            let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
            assert!(pf.negotiate(&mut m, MODERN_FEATURES));
            let index = pf.get(&mut m, reg::ADMIN_QUEUE_INDEX);
            assert!(index >= pf.get(&mut m, reg::NUM_QUEUES));
            assert!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM) <= 0x10000 - index);
            assert!(pf.get(&mut m, reg::NUM_QUEUES) == queues as u64);
        }
    }
}

// Covers: AVQ-04, VRG-06
#[test]
fn any_cut_of_a_command_is_the_same_command() {
    let (mut m, mut c) = ready(config(1), 1);
    let h = AdminClient::header(opcode::LEGACY_NOTIFY_INFO, group::SRIOV, 1);
    let whole = c.run(&mut m, &h, 72);
    assert!(whole.ok());
    for cuts in [(24, 72), (12, 36), (1, 8), (8, 1), (7, 5), (1, 1)] {
        for indirect in [false, true] {
            let d = c.send_cut(&mut m, &h, 72, cuts, indirect);
            assert_eq!(d.as_ref(), Some(&whole), "{cuts:?} {indirect}");
        }
    }
    let pf = m.function_counters(FunctionId::Pf).unwrap();
    assert_eq!((pf.needs_reset, pf.dma_forbidden), (0, 0));
}

// Covers: AVQ-05
#[test]
fn short_parts_read_as_zero_and_drop_surplus() {
    let (mut m, mut c) = ready(config(1), 1);
    let h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
    let features = c.get(&mut m, 1, 0, 4);
    let d = c.run(&mut m, &h, 12);
    assert_eq!(d.result(), &(features as u32).to_le_bytes(), "offset 0");
    let d = c.run(
        &mut m,
        &AdminClient::header(opcode::LIST_QUERY, group::SRIOV, 0),
        4,
    );
    assert_eq!((d.used, &d.bytes[..]), (4, &[0u8; 4][..]));
    // 2 readable bytes: LIST_QUERY of the self group.
    let d = c.run(&mut m, &[0, 0], 16);
    assert!(d.ok() && d.result()[0] == 3);
    // Nothing readable at all is the same command.
    let d = c.run(&mut m, &[], 16);
    assert!(d.ok() && d.result()[0] == 3);
    // Nothing writable: carried out, nothing reported.
    let mut w = AdminClient::header(opcode::LEGACY_COMMON_CFG_WRITE, group::SRIOV, 1);
    w.extend_from_slice(&[18, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(c.run(&mut m, &w, 0).used, 0);
    assert_eq!(c.get(&mut m, 1, 18, 1), 7);
}

// What drivers are held to: AVQ-10
// Covers: AVQ-06, AVQ-08
#[test]
fn only_the_defined_output_is_written() {
    let (mut m, mut c) = ready(config(1), 1);
    let h = AdminClient::header(opcode::LEGACY_NOTIFY_INFO, group::SRIOV, 1);
    let d = c.run(&mut m, &h, 4096);
    assert_eq!(d.used, 72);
    assert!(d.bytes[..72].iter().all(|b| *b != 0xaa));
    assert!(d.bytes[72..].iter().all(|b| *b == 0xaa));
    // A failed command fills its defined reply too.
    let h = AdminClient::header(opcode::LEGACY_NOTIFY_INFO, group::SRIOV, 9);
    let d = c.run(&mut m, &h, 80);
    assert_eq!(d.status(), (status::EINVAL, qualifier::INVALID_MEMBER));
    assert!(d.bytes[4..72].iter().all(|b| *b == 0));
    assert_eq!((d.used, d.bytes[72]), (72, 0xaa));
}

// Covers: AVQ-07
#[test]
fn no_failure_for_size_alone() {
    let (mut m, mut c) = ready(config(1), 1);
    let base = |op, n: usize| {
        let mut h = AdminClient::header(op, group::SRIOV, 1);
        if op == opcode::LIST_USE {
            h.extend_from_slice(&0x7fu64.to_le_bytes());
        }
        h.resize(n.max(if op == opcode::LIST_USE { 32 } else { n }), 0);
        h
    };
    for (op, r, w) in [
        (opcode::LIST_QUERY, 24, 16),
        (opcode::LIST_USE, 32, 8),
        (opcode::LEGACY_NOTIFY_INFO, 24, 72),
    ] {
        for (dr, dw) in [(0, 0), (8, 0), (4096, 0), (0, 8), (0, 4096), (8, 4096)] {
            let d = c.run(&mut m, &base(op, r + dr), w + dw);
            assert!(d.ok(), "{op} {dr} {dw}: {:?}", d.status());
        }
        let d = c.run(&mut m, &base(op, r), w - 8);
        assert_eq!(d.used as usize, w - 8, "{op}");
    }
    let d = c.run(&mut m, &base(opcode::LIST_QUERY, 16), 16);
    assert!(d.ok());
}

// What drivers are held to: AVQ-09
#[test]
fn odd_sizes_are_noted_except_where_they_carry_the_width() {
    let (mut m, mut c) = ready(config(1), 1);
    violations(&mut m);
    c.common_read(&mut m, 1, 18, 1);
    c.common_write(&mut m, 1, 18, &[1]);
    assert_eq!(violations(&mut m), []);
    let h = AdminClient::header(opcode::LIST_QUERY, group::SRIOV, 0);
    c.run(&mut m, &h, 12);
    assert_eq!(
        violations(&mut m),
        [Violation::CommandSize {
            opcode: 0,
            readable: 24,
            writable: 12
        }]
    );
}

// Covers: AVQ-11
#[test]
fn one_queue_is_served_in_order() {
    let (mut m, mut c) = ready(config(1), 1);
    let mem = c.ring.memory.clone();
    let mut expect = Vec::new();
    let mut heads = Vec::new();
    let write = |offset: u8, data: &[u8]| {
        let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_WRITE, group::SRIOV, 1);
        h.push(offset);
        h.resize(32, 0);
        h.extend_from_slice(data);
        h
    };
    let read = |offset: u8| {
        let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
        h.push(offset);
        h
    };
    for n in 1..=10u32 {
        for (req, w) in [
            (write(14, &1u16.to_le_bytes()), 8),
            (write(8, &n.to_le_bytes()), 8),
            (read(8), 12),
        ] {
            let (a, b) = (mem.alloc(64, 8), mem.alloc(16, 8));
            mem.put(a, &req);
            heads.push(c.ring.add(&[
                Buffer::readable(a, req.len() as u32),
                Buffer::writable(b, w),
            ]));
            if w == 12 {
                expect.push((b, n));
            }
        }
    }
    c.pf.kick(&mut m, c.queue);
    let order: Vec<u16> = std::iter::from_fn(|| c.ring.poll())
        .map(|(h, _)| h as u16)
        .collect();
    assert_eq!(order, heads);
    for (at, n) in expect {
        assert_eq!(mem.get32(at), 0);
        assert_eq!(mem.get32(at + 8), n, "the read sees the write before it");
    }
}

// What drivers are held to: AVQ-12
// Covers: INI-05
#[test]
fn no_command_before_driver_ok() {
    let mut m = echo_model(config(1)).unwrap();
    let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
    assert!(pf.negotiate(&mut m, MODERN_FEATURES));
    let index = pf.get(&mut m, reg::ADMIN_QUEUE_INDEX) as u16;
    let mut ring = pf.queue(&mut m, index, 0xffff);
    let mem = ring.memory.clone();
    let (a, b) = (mem.alloc(24, 8), mem.alloc(16, 8));
    ring.add(&[Buffer::readable(a, 24), Buffer::writable(b, 16)]);
    pf.kick(&mut m, index);
    assert_eq!(ring.used_idx(), 0);
    assert_eq!(
        violations(&mut m),
        [Violation::NotifyBeforeDriverOk { queue: index }]
    );
    m.tick(1);
    assert_eq!(ring.used_idx(), 0);
    // What is there is served with DRIVER_OK, without another notification.
    pf.driver_ok(&mut m);
    assert_eq!(m.next_deadline(), Some(1));
    m.tick(1);
    assert_eq!(ring.poll(), Some((0, 16)));
    assert_eq!(m.next_deadline(), None);
}

// Covers: FEA-07
#[test]
fn admin_queues_without_a_queue() {
    let mut cfg = config(1);
    cfg.knobs.admin_queues = 0;
    let mut m = echo_model(cfg).unwrap();
    let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
    assert!(pf.negotiate(&mut m, MODERN_FEATURES));
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM), 0);
}
