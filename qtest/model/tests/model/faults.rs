// SPDX-License-Identifier: GPL-2.0-or-later
//! Every action of a fault rule, seen from the driver.

use virtio_modern_spec::admin::{group, opcode};
use virtio_modern_spec::common as reg;
use virtio_pf_model::testing::{AdminClient, Buffer};
use virtio_pf_model::{Action, FaultRule, FunctionId, Model};

use crate::{config, ready};

fn read_status() -> Vec<u8> {
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, 1);
    h.push(18);
    h
}

fn with(action: Action) -> (Model, AdminClient) {
    let (mut m, mut c) = ready(config(2), 2);
    c.set(&mut m, 1, 18, 1, 7);
    m.faults().add(FaultRule::on(3, action)).unwrap();
    (m, c)
}

// What drivers are held to: ADM-19, ADM-20
#[test]
fn any_status_and_qualifier_on_any_opcode() {
    let (mut m, mut c) = ready(config(1), 1);
    for op in 0..=6 {
        for (status, qualifier) in [(5, 0x99), (22, 1), (11, 7), (12, 6), (17, 0xffff), (0, 0)] {
            let rule = FaultRule::on(op, Action::Status { status, qualifier });
            let id = m.faults().add(rule).unwrap();
            let d = c.run(&mut m, &AdminClient::header(op, group::SRIOV, 1), 72);
            assert_eq!(d.status(), (status, qualifier), "opcode {op}");
            m.faults().remove(id);
        }
    }
    assert_eq!(m.counters().commands_faulted, 7 * 6);
}

// Covers: AVQ-11
#[test]
fn delayed_commands_do_not_hold_others_up() {
    let (mut m, mut c) = with(Action::Delay { ms: 500 });
    m.tick(100);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    let d = c.common_write(&mut m, 2, 18, &[3]);
    assert!(d.ok(), "another command overtakes it");
    assert_eq!(m.next_deadline(), Some(500_000_100));
    m.tick(500_000_099);
    assert_eq!(c.ring.used_idx(), 3);
    m.tick(500_000_100);
    let late = c.reap(9).unwrap();
    assert_eq!(late.used, 9);
    assert_eq!(m.next_deadline(), None);
}

// Open points: O-48
// What drivers are held to: AVQ-10
#[test]
fn short_and_wrong_lengths() {
    for len in [0, 4, 8] {
        let (mut m, mut c) = with(Action::ShortReply { len });
        let d = c.run(&mut m, &read_status(), 9);
        assert_eq!(d.used, len);
        assert!(
            d.bytes[len as usize..].iter().all(|b| *b == 0xaa),
            "untouched"
        );
    }
    for len in [0, 3, 10, 4096, u32::MAX] {
        let (mut m, mut c) = with(Action::UsedLength { len });
        let d = c.run(&mut m, &read_status(), 9);
        assert_eq!((d.used, d.bytes[8]), (len, 7));
    }
}

// What drivers are held to: VRG-11
#[test]
fn dropped_commands_never_complete_and_a_reset_gives_the_buffers_back() {
    let (mut m, mut c) = with(Action::Drop);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    m.faults().clear();
    m.tick(u64::MAX / 2);
    assert_eq!(c.reap(9), None);
    assert!(
        c.common_write(&mut m, 1, 18, &[7]).ok(),
        "the queue goes on"
    );
    c.pf.set(&mut m, reg::DEVICE_STATUS, 0);
    let before = c.ring.memory.get(c.ring.memory.base(), c.ring.memory.len());
    m.tick(u64::MAX);
    assert!(c.ring.memory.get(c.ring.memory.base(), c.ring.memory.len()) == before);
}

// Covers: INI-07
#[test]
fn no_late_completion_after_a_reset() {
    let (mut m, mut c) = with(Action::Delay { ms: 1 });
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    c.pf.set(&mut m, reg::DEVICE_STATUS, 0);
    let before = c.ring.memory.get(c.ring.memory.base(), c.ring.memory.len());
    m.tick(1 << 50);
    assert!(c.ring.memory.get(c.ring.memory.base(), c.ring.memory.len()) == before);
    assert_eq!(
        m.function_counters(FunctionId::Pf).unwrap().dma_forbidden,
        0
    );
}

#[test]
fn a_stuck_queue_goes_on_when_the_rule_is_gone() {
    let (mut m, mut c) = with(Action::Stuck);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    let mut other = read_status();
    other[0] = 6;
    let (at, back) = (c.ring.memory.alloc(32, 8), c.ring.memory.alloc(72, 8));
    c.ring.memory.put(at, &other);
    c.ring
        .add(&[Buffer::readable(at, 24), Buffer::writable(back, 72)]);
    c.pf.kick(&mut m, c.queue);
    m.tick(1);
    assert_eq!(c.ring.poll(), None, "everything behind waits");
    m.faults().clear();
    assert_eq!(m.next_deadline(), Some(1), "at once");
    m.tick(1);
    assert!(c.ring.poll().is_some() && c.ring.poll().is_some());
    assert_eq!(m.next_deadline(), None);
}

#[test]
fn a_reset_frees_a_stuck_queue() {
    let (mut m, mut c) = with(Action::Stuck);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    m.faults().clear();
    let mem = c.ring.memory.clone();
    mem.free_all();
    let mut c = AdminClient::ready(&mut m, &mem, 0);
    c.pf.enable_vfs(&mut m, 1);
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
}

// Covers: INI-06
#[test]
fn a_fatal_fault_ends_the_admin_queue() {
    let (mut m, mut c) = with(Action::NeedsReset);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    assert_eq!(c.pf.get(&mut m, reg::DEVICE_STATUS), 0x4f);
    assert_eq!(c.send(&mut m, &read_status(), 9), None);
    m.faults().clear();
    let mem = c.ring.memory.clone();
    mem.free_all();
    let mut c = AdminClient::start(&mut m, &mem);
    assert!(c.use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert_eq!(c.get(&mut m, 1, 18, 1), 7, "the VF never noticed");
}
