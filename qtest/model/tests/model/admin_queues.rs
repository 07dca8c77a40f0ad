// SPDX-License-Identifier: GPL-2.0-or-later
//! Several admin queues of one PF: what one does is nothing to the others, except for what belongs to
//! the owner and not to a queue.

use virtio_modern_spec::admin::{group, opcode};
use virtio_modern_spec::common as reg;
use virtio_pf_model::testing::{echo_model, AdminClient, Driver, MODERN_FEATURES};
use virtio_pf_model::{Action, FaultRule, FunctionId, Model, Violation};

use crate::{config, memory, violations};

/// A PF with 4 VFs enabled, and a driver of each of its admin queues, the commands in use.
fn ready(queues: u16) -> (Model, Vec<AdminClient>) {
    let mut cfg = config(4);
    cfg.knobs.admin_queues = queues;
    cfg.knobs.admin_queue_size = 8;
    let mut m = echo_model(cfg).unwrap();
    let first = AdminClient::ready(&mut m, &memory(), 4);
    let others: Vec<_> = (1..queues).map(|n| first.beside(&mut m, n)).collect();
    violations(&mut m);
    let mut all = vec![first];
    all.extend(others);
    (m, all)
}

fn read_status(member: u64) -> Vec<u8> {
    let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, member);
    h.push(18);
    h
}

/// A rule for one queue.
fn on(queue: u16, action: Action) -> FaultRule {
    FaultRule {
        admin_queue: Some(queue),
        ..FaultRule::always(action)
    }
}

// Covers: AVQ-01, AVQ-02
#[test]
fn as_many_queues_as_the_configuration_says() {
    for n in 1..=4 {
        let (mut m, mut clients) = ready(n);
        let pf = clients[0].pf.clone();
        assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM), u64::from(n));
        let index = pf.get(&mut m, reg::ADMIN_QUEUE_INDEX);
        assert!(index >= pf.get(&mut m, reg::NUM_QUEUES));
        for k in 0..6 {
            pf.set(&mut m, reg::QUEUE_SELECT, index + k);
            let size = if k < u64::from(n) { 8 } else { 0 };
            assert_eq!(pf.get(&mut m, reg::QUEUE_SIZE), size, "queue {k} of {n}");
        }
        for (k, client) in clients.iter_mut().enumerate() {
            client.set(&mut m, 1, 18, 1, k as u64 + 1);
            assert_eq!(client.get(&mut m, 1, 18, 1), k as u64 + 1);
        }
        // One behind the last is no queue.
        let beyond = index as u16 + n;
        pf.set(&mut m, reg::QUEUE_SELECT, beyond.into());
        pf.set(&mut m, reg::QUEUE_ENABLE, 1);
        let want = Violation::NoSuchQueue { queue: beyond };
        assert_eq!(violations(&mut m), [want]);
        // It has no address, so this one is another queue's.
        pf.kick(&mut m, beyond);
        let want = Violation::NotifyValue {
            offset: 0,
            value: beyond.into(),
        };
        assert_eq!(violations(&mut m), [want]);
    }
}

// Covers: AVQ-11
#[test]
fn a_delayed_command_holds_up_no_other_queue() {
    let (mut m, mut c) = ready(2);
    m.faults().add(on(0, Action::Delay { ms: 50 })).unwrap();
    assert_eq!(c[0].send(&mut m, &read_status(1), 9), None);
    for n in 0..20 {
        c[1].set(&mut m, 2, 18, 1, n % 2 + 1);
    }
    assert_eq!(c[0].reap(9), None);
    m.tick(50_000_000);
    assert!(c[0].reap(9).is_some_and(|d| d.ok()));
    assert_eq!(m.next_deadline(), None);
}

// Covers: AVQ-11
#[test]
fn a_queue_is_stuck_alone() {
    let (mut m, mut c) = ready(3);
    let id = m.faults().add(on(1, Action::Stuck)).unwrap();
    assert_eq!(c[1].send(&mut m, &read_status(1), 9), None);
    assert!(c[0].common_read(&mut m, 1, 18, 1).ok());
    assert!(c[2].common_read(&mut m, 1, 18, 1).ok());
    m.tick(1);
    assert_eq!(c[1].reap(9), None);
    m.faults().remove(id);
    m.tick(2);
    assert!(c[1].reap(9).is_some_and(|d| d.ok()));
}

// Covers: MOD-12
#[test]
fn a_reset_of_one_queue_leaves_the_others_alone() {
    let (mut m, mut c) = ready(2);
    let stuck = m.faults().add(on(0, Action::Stuck)).unwrap();
    m.faults().add(on(1, Action::Delay { ms: 1 })).unwrap();
    assert_eq!(c[0].send(&mut m, &read_status(1), 9), None);
    assert_eq!(c[1].send(&mut m, &read_status(2), 9), None);
    // The queue that is stuck is given up and set up anew.
    c[0].pf.set(&mut m, reg::QUEUE_SELECT, c[0].queue.into());
    c[0].pf.set(&mut m, reg::QUEUE_RESET, 1);
    m.faults().remove(stuck);
    let mut anew = c[0].beside(&mut m, 0);
    assert!(anew.common_read(&mut m, 1, 18, 1).ok());
    m.tick(1_000_000);
    assert!(c[1].reap(9).is_some_and(|d| d.ok()));
    assert_eq!(c[0].reap(9), None, "its buffer came back with the reset");
}

// What drivers are held to: ADM-16
#[test]
fn a_lost_command_counts_until_its_queue_is_reset() {
    let (mut m, mut c) = ready(2);
    let drop = m.faults().add(on(1, Action::Drop)).unwrap();
    assert_eq!(c[1].send(&mut m, &read_status(1), 9), None);
    m.faults().remove(drop);
    // LIST_USE waits for all queues, not for its own alone.
    assert!(c[0].use_list(&mut m, group::SRIOV, 0x7f).ok());
    let want = Violation::ListUseNotAlone { outstanding: 1 };
    assert_eq!(violations(&mut m), [want]);
    c[1].pf.set(&mut m, reg::QUEUE_SELECT, c[1].queue.into());
    c[1].pf.set(&mut m, reg::QUEUE_RESET, 1);
    assert!(c[0].use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert_eq!(violations(&mut m), []);
}

// Covers: ADM-07, ADM-12
#[test]
fn the_list_in_use_is_that_of_all_queues() {
    let (mut m, mut c) = ready(2);
    assert!(c[1].use_list(&mut m, group::SRIOV, 0x3).ok());
    assert_eq!(c[0].common_read(&mut m, 1, 18, 1).status(), (22, 2));
    assert!(c[0].use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert!(c[1].common_read(&mut m, 1, 18, 1).ok());
}

// What drivers are held to: AVQ-03
#[test]
fn a_queue_that_the_driver_leaves_out_is_served_by_nobody() {
    let mut cfg = config(1);
    cfg.knobs.admin_queues = 4;
    let mut m = echo_model(cfg).unwrap();
    let mut c = AdminClient::ready(&mut m, &memory(), 1);
    c.pf.kick(&mut m, c.queue + 3);
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
    let pf = m.function_counters(FunctionId::Pf).unwrap();
    assert_eq!((pf.needs_reset, pf.dma_forbidden), (0, 0));
}

// Covers: ADM-07, INI-07
#[test]
fn a_reset_of_the_pf_ends_what_is_under_way_on_every_queue() {
    let (mut m, mut c) = ready(4);
    for n in 0..4 {
        m.faults().add(on(n, Action::Delay { ms: 5 })).unwrap();
        assert_eq!(c[usize::from(n)].send(&mut m, &read_status(1), 9), None);
    }
    c[0].pf.set(&mut m, reg::DEVICE_STATUS, 0);
    m.tick(5_000_000);
    for client in &mut c {
        assert_eq!(client.reap(9), None);
    }
    m.faults().clear();
    let pf = Driver::new(&mut m, FunctionId::Pf, &memory());
    assert!(pf.negotiate(&mut m, MODERN_FEATURES));
    assert_eq!(pf.get(&mut m, reg::ADMIN_QUEUE_NUM), 4);
    let pf = m.function_counters(FunctionId::Pf).unwrap();
    assert_eq!(pf.dma_forbidden, 0);
}
