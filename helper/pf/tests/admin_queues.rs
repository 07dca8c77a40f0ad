// SPDX-License-Identifier: GPL-2.0-or-later
//! Devices with several admin queues.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::sim::Sim;
use common::*;
use serde_json::json;
use virtio_pf::{Class, LegacyOp, OpError, Pf, PfConfig, PfState, Space};

fn read() -> LegacyOp {
    LegacyOp::read(Space::Common, 18, 1)
}

fn with_queues(num: u16, vectors: u32) -> TestPf {
    let mut d = TestPf::new();
    (d.admin_num, d.vectors) = (num, vectors);
    d
}

fn long(pf: &mut Pf, member: u16, token: u64, now: Instant) {
    pf.submit_as(Class::Long, member, read(), token, now)
        .unwrap();
}

/// Opcode or member of what came, by queue.
fn queues(hold: &Hold) -> Vec<(u64, usize)> {
    let seen = &hold.device().seen;
    seen.iter().map(|s| (s.member, s.queue)).collect()
}

// Covers: AVQ-01, AVQ-03, AVQ-11
#[test]
fn up_to_four_queues_are_used_registers_on_the_first() {
    for (offered, used) in [(1, 1), (2, 2), (4, 4), (9, 4)] {
        let (mut pf, hold) = start_with(with_queues(offered, 8), PfConfig { vfs: 8, ..config() });
        let info = pf.info();
        assert_eq!((info.admin_queue_num, info.admin_queues), (offered, used));
        assert!(queues(&hold).iter().all(|(_, queue)| *queue == 0), "lists");
        hold.device().seen.clear();
        hold.device().hook = Box::new(|_| Action::Hold);
        let now = Instant::now();
        for member in 1..=4 {
            pf.submit(member, read(), 1, now).unwrap();
        }
        for member in 5..=8 {
            long(&mut pf, member, 1, now);
        }
        pf.poll(now);
        let seen = queues(&hold);
        assert_eq!(seen.len(), 8);
        for (member, queue) in seen {
            assert_eq!(queue > 0, member > 4 && used > 1, "VF {member}");
            assert!(queue < usize::from(used));
        }
        // The long ones are spread over the others.
        for queue in 1..used {
            let seen = &hold.device().seen;
            let busy = seen.iter().filter(|s| s.queue == usize::from(queue));
            assert!(busy.count() <= 4_usize.div_ceil(usize::from(used) - 1));
        }
        while !hold.device().held.is_empty() {
            hold.device().let_go();
        }
        assert_eq!(complete(&mut pf, 8).len(), 8);
        assert_eq!(hold.device().breaches, [""; 0]);
        pf.shutdown().1.unwrap();
        assert_eq!((hold.dma_stats().live, hold.dma_stats().leaked), (0, 0));
    }
}

// Covers: AVQ-11
#[test]
fn the_commands_of_one_vf_keep_their_order_over_all_queues() {
    let (mut pf, hold) = start(with_queues(2, 8));
    hold.device().seen.clear();
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    pf.submit(1, read(), 1, now).unwrap();
    long(&mut pf, 1, 2, now);
    pf.submit(1, read(), 3, now).unwrap();
    let mut done = Vec::new();
    for queue in [0, 1, 0] {
        done.extend(pf.poll(now));
        assert_eq!(hold.device().held.len(), 1, "one at a time");
        assert_eq!(hold.device().held[0].queue, queue);
        hold.device().let_go();
    }
    done.extend(pf.poll(now));
    assert_eq!(done.iter().map(|c| c.token).collect::<Vec<_>>(), [1, 2, 3]);
}

// Covers: AVQ-11
#[test]
fn a_full_queue_holds_up_no_other_and_vfs_take_turns() {
    let mut d = with_queues(2, 8);
    d.queue_max = 4;
    let (mut pf, hold) = start_with(d, PfConfig { vfs: 6, ..config() });
    hold.device().seen.clear();
    hold.device().hook = Box::new(|seen| match seen.queue {
        0 => Action::Normal,
        _ => Action::Hold,
    });
    let now = Instant::now();
    for token in 0..3 {
        for member in 1..=5 {
            long(&mut pf, member, token, now);
        }
    }
    pf.poll(now);
    assert_eq!(hold.device().held.len(), 2, "it has two slots");
    pf.submit(6, read(), 9, now).unwrap();
    assert_eq!(pf.poll(now)[0].token, 9);
    // One VF after the other, however much each has waiting.
    for _ in 0..15 {
        hold.device().let_go();
        pf.poll(now);
    }
    let order: Vec<u64> = queues(&hold)
        .into_iter()
        .filter(|(_, queue)| *queue == 1)
        .map(|(member, _)| member)
        .collect();
    assert_eq!(order.len(), 15);
    for turn in order.chunks(5) {
        let mut turn = turn.to_vec();
        turn.sort_unstable();
        assert_eq!(turn, [1, 2, 3, 4, 5], "{order:?}");
    }
}

// Covers: AVQ-11
#[test]
fn each_queue_is_watched_for_being_stuck() {
    let (mut pf, hold) = start(with_queues(3, 8));
    // The third queue answers nothing.
    hold.device().hook = Box::new(|seen| match seen.queue {
        2 => Action::Hold,
        _ => Action::Normal,
    });
    let mut now = Instant::now();
    let mut done = Vec::new();
    for member in 1..=2 {
        long(&mut pf, member, member.into(), now);
    }
    done.extend(pf.poll(now));
    assert_eq!((done.len(), hold.device().held.len()), (1, 1));
    now += config().command_timeout;
    done = pf.poll(now);
    assert_eq!(done[0].result, Err(OpError::TimedOut));
    // What others answer says nothing of it.
    for token in 0..10 {
        pf.submit(3, read(), token, now).unwrap();
        assert_eq!(pf.poll(now).len(), 1);
    }
    let probe = hold.device().seen.last().cloned();
    assert!(probe.is_some());
    let probes = hold
        .device()
        .seen
        .iter()
        .filter(|s| s.opcode == 0 && s.queue == 2)
        .count();
    assert_eq!((probes, pf.counters().recoveries), (1, 0));
    now += config().command_timeout;
    pf.poll(now);
    let PfState::Recovering = pf.state() else {
        unreachable!("{:?}", pf.state())
    };
    hold.device().hook = Box::new(|_| Action::Normal);
    pf.poll(now);
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(hold.device().breaches, [""; 0]);
}

#[test]
fn a_vf_that_does_not_answer_on_a_long_command_is_found_there() {
    let (mut pf, hold) = start(with_queues(2, 8));
    hold.device().hook = Box::new(|seen| match seen.member {
        1 => Action::Hold,
        _ => Action::Normal,
    });
    let now = Instant::now();
    long(&mut pf, 1, 1, now);
    pf.poll(now);
    let late = now + config().command_timeout;
    pf.poll(late);
    assert!(pf.not_responding(1).is_some());
    assert_eq!(pf.counters().recoveries, 0);
    assert!(hold
        .device()
        .seen
        .iter()
        .any(|s| s.opcode == 0 && s.queue == 1));
}

// Covers: IRQ-07, IRQ-12
#[test]
fn a_vector_for_each_queue_if_there_are_enough() {
    for (queues, vectors, of_queues, used) in [
        (1, 2, &[1][..], 2),
        (4, 8, &[1, 2, 3, 4], 5),
        (4, 5, &[1, 2, 3, 4], 5),
        (4, 4, &[1, 2, 3, 1], 4),
        (4, 3, &[1, 2, 1, 2], 3),
        (2, 2, &[1, 1], 2),
        (4, 1, &[0, 0, 0, 0], 1),
        (2, 0, &[NO_VECTOR, NO_VECTOR], 0),
    ] {
        let (mut pf, hold) = start(with_queues(queues, vectors));
        let got: Vec<u16> = (0..usize::from(queues))
            .map(|n| hold.device().queue_mut(n).vector)
            .collect();
        match vectors {
            0 => {}
            _ => assert_eq!(got, of_queues, "{queues} queues, {vectors} vectors"),
        }
        assert_eq!(pf.info().vectors, used);
        // Each announces its answers.
        hold.device().hook = Box::new(|_| Action::Hold);
        let now = Instant::now();
        for member in 1..=VFS {
            long(&mut pf, member, 1, now);
        }
        pf.poll(now);
        let mut done = 0;
        while !hold.device().held.is_empty() {
            hold.device().let_go();
            let ready = pci_transport::ready(&pf.fds()).unwrap();
            assert_eq!(ready.contains(&true), vectors > 0);
            done += pf.poll(now + Duration::from_millis(1)).len();
        }
        assert_eq!(done, usize::from(VFS));
    }
}

// Covers: AVQ-01, AVQ-03, AVQ-11
#[test]
fn the_simulator_with_four_queues() {
    let sim = Sim::start(&["--type", "net", "--vfs", "8", "--admin-queues", "4"]);
    let mut pf = sim.pf(PfConfig { vfs: 8, ..config() }).unwrap();
    assert_eq!(pf.info().admin_queues, 4);
    // Every long command takes a while, and no register access waits for one.
    for queue in 1..4 {
        sim.fault(json!({ "admin_queue": queue, "do": "stuck" }));
    }
    let now = Instant::now();
    for member in 1..=7 {
        long(&mut pf, member, 7, now);
    }
    for token in 0..20 {
        pf.submit(8, read(), token, now).unwrap();
        let done = loop {
            // The clock stands still.
            let done = pf.poll(now);
            if !done.is_empty() {
                break done;
            }
        };
        assert_eq!((done.len(), done[0].token), (1, token));
    }
    sim.no_faults();
    let mut done = 0;
    let last_resort = Instant::now() + Duration::from_secs(60);
    while done < 7 {
        assert!(Instant::now() < last_resort);
        done += pf.poll(now).len();
    }
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(sim.violations(), json!({}));
    pf.shutdown().1.unwrap();
    assert_eq!((pf.dma_stats().live, pf.dma_stats().leaked), (0, 0));
}
