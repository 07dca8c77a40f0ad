// SPDX-License-Identifier: GPL-2.0-or-later
//! Deadlines, devices that fail, devices that lie.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use pci_transport::testing::ScriptedFunction;
use test_kit::patience::OwnTime;
use virtio_pf::{
    LegacyOp, OpError, Pf, PfConfig, PfEvent, PfState, RecoveryPolicy, Space, SubmitError,
};

fn read(offset: u8, len: u8) -> LegacyOp {
    LegacyOp::read(Space::Common, offset, len)
}

fn submit(pf: &mut Pf, member: u16, token: u64, now: Instant) {
    pf.submit(member, read(0, 4), token, now).unwrap();
}

/// Polls in real time until the PF is in a state that lasts.
fn settle(pf: &mut Pf) -> Vec<virtio_pf::Completion> {
    let until = Instant::now() + Duration::from_secs(30);
    let mut done = Vec::new();
    loop {
        done.extend(pf.poll(Instant::now()));
        if matches!(pf.state(), PfState::Running | PfState::Failed(_)) {
            return done;
        }
        assert!(Instant::now() < until, "{:?}", pf.state());
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn events(pf: &mut Pf) -> Vec<&'static str> {
    let names = pf.take_events().into_iter().map(|e| match e {
        PfEvent::Reset { .. } => "reset",
        PfEvent::Recovered { .. } => "recovered",
        PfEvent::Failed { .. } => "failed",
        PfEvent::RemovalRequested => "removal",
    });
    names.collect()
}

// Covers: VRG-11
#[test]
fn a_timed_out_command_stays_with_the_device_and_may_come_late() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|seen| match seen.member {
        1 => Action::Hold,
        _ => Action::Normal,
    });
    let now = Instant::now();
    submit(&mut pf, 1, 1, now);
    submit(&mut pf, 2, 2, now);
    assert_eq!(pf.poll(now).len(), 1);
    let deadline = pf.next_deadline().unwrap();
    let timeout = config().command_timeout;
    assert!(deadline <= now + timeout && deadline > now);
    assert!(pf.poll(now + timeout - Duration::from_millis(1)).is_empty());
    let late = now + timeout;
    let done = pf.poll(late);
    assert_eq!(done.len(), 1);
    assert_eq!(
        (done[0].token, &done[0].result),
        (1, &Err(OpError::TimedOut))
    );
    assert_eq!(pf.state(), &PfState::Running, "one is not a stuck queue");
    // The late answer goes to nobody; the VF goes on.
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().vf_header[0].fill(0xee);
    hold.device().let_go();
    assert!(pf.poll(late).is_empty());
    assert_eq!(pf.counters().late, 1);
    assert_eq!(pf.counters().timed_out, 1);
    hold.device().vf_header[0].fill(0);
    submit(&mut pf, 1, 3, late);
    let done = pf.poll(late);
    assert_eq!((done[0].token, &done[0].result), (3, &Ok([0; 8])));
    // Its memory is used again: the queue does not run dry.
    for token in 0..200 {
        submit(&mut pf, 1, token, late);
        assert_eq!(pf.poll(late).len(), 1);
    }
    assert_eq!(pf.counters().recoveries, 0);
}

#[test]
fn operations_that_wait_expire_too_without_reaching_the_device() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    hold.device().seen.clear();
    let now = Instant::now();
    for token in 0..3 {
        submit(&mut pf, 1, token, now);
    }
    pf.poll(now);
    let later = now + Duration::from_secs(1);
    submit(&mut pf, 1, 3, later);
    let done = pf.poll(now + Duration::from_secs(2));
    let tokens: Vec<_> = done.iter().map(|c| c.token).collect();
    assert_eq!(tokens, [0, 1, 2]);
    assert!(done.iter().all(|c| c.result == Err(OpError::TimedOut)));
    // The first, and the probe behind it. The fourth waits for the fate of the first.
    let opcodes: Vec<_> = hold.device().seen.iter().map(|s| s.opcode).collect();
    assert_eq!(opcodes, [3, 0]);
}

// Covers: INI-06, VRG-11
#[test]
fn a_stuck_queue_is_reset_and_the_vfs_go_on() {
    let mut d = TestPf::new();
    d.reset_reads = 3;
    let (mut pf, hold) = start(d);
    let known = open(&mut pf, 1);
    hold.device().vf_header[0][18] = 7;
    let memory = hold.dma_stats().live;
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for vf in 1..=3 {
        submit(&mut pf, vf, vf.into(), now);
    }
    pf.poll(now);
    let late = now + config().command_timeout;
    let done = pf.poll(late);
    assert!(done.iter().all(|c| c.result == Err(OpError::TimedOut)));
    assert_eq!((done.len(), pf.state()), (3, &PfState::Running), "a probe");
    // One that was submitted later waits through the recovery.
    let ms = Duration::from_millis;
    submit(&mut pf, 4, 4, late + ms(500));
    pf.poll(late + ms(500));
    submit(&mut pf, 4, 5, late + ms(600));
    let end = late + config().command_timeout;
    assert!(pf.poll(end - ms(1)).is_empty());
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(pf.next_deadline(), Some(end));
    let done = pf.poll(end);
    assert_eq!(pf.state(), &PfState::Recovering);
    let failed: Vec<_> = done
        .iter()
        .filter(|c| matches!(&c.result, Err(OpError::PfFailed(why)) if why.contains("stuck")))
        .map(|c| c.token)
        .collect();
    assert_eq!(failed, [4], "what the device had");
    assert_eq!(events(&mut pf), ["reset"]);
    assert_eq!(
        hold.dma_stats().live,
        memory,
        "kept until the reset is seen"
    );

    hold.device().hook = Box::new(|_| Action::Normal);
    // In the driver's time, within the deadline of what waits.
    let mut done = Vec::new();
    for step in 0..100 {
        done.extend(pf.poll(end + ms(step)));
    }
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(events(&mut pf), ["recovered"]);
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!((done[0].token, done[0].result.is_ok()), (5, true));
    assert_eq!(hold.device().vfs_enabled(), VFS);
    assert_eq!(
        hold.device().vf_header[0][18],
        7,
        "the VF's state is as it was"
    );
    assert_eq!(
        (hold.dma_stats().live, hold.dma_stats().leaked),
        (memory, 0)
    );
    assert_eq!(pf.counters().recoveries, 1);
    // The list is agreed on again, the addresses are not asked for again.
    assert_eq!(open(&mut pf, 1), known);
    let opcodes: Vec<_> = hold.device().seen.iter().map(|s| s.opcode).collect();
    let setup = opcodes.iter().filter(|o| [0, 1, 6].contains(*o));
    assert_eq!(setup.copied().collect::<Vec<_>>(), [0, 1, 6, 0, 0, 1]);
    assert_eq!(hold.device().breaches, [""; 0]);
}

// Covers: INI-06
#[test]
fn a_device_that_needs_a_reset_gets_one_at_once() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    submit(&mut pf, 1, 1, now);
    pf.notify(2, 0, now).unwrap();
    pf.poll(now);
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().fail();
    let ready = pci_transport::ready(&pf.fds()).unwrap();
    assert!(ready.contains(&true), "the device said so");
    let done = settle(&mut pf);
    assert_eq!(done.len(), 1);
    let Err(OpError::PfFailed(why)) = &done[0].result else {
        unreachable!("{done:?}")
    };
    assert!(
        why.contains("device_status") && why.contains("needs a reset"),
        "{why}"
    );
    assert_eq!(events(&mut pf), ["reset", "recovered"]);
    assert_eq!(hold.device().status_writes[5..], [0, 1, 3, 0xb, 0xf]);

    // A device that lost its state is found at the next timeout.
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    submit(&mut pf, 1, 1, now);
    pf.poll(now);
    hold.device().status = 0;
    let done = pf.poll(now + config().command_timeout);
    assert_eq!(done[0].result, Err(OpError::TimedOut));
    hold.device().hook = Box::new(|_| Action::Normal);
    settle(&mut pf);
    assert_eq!(events(&mut pf), ["reset", "recovered"]);
}

#[test]
fn notifications_by_command_survive_a_reset() {
    let mut d = TestPf::new();
    d.listed = 0x3f;
    let (mut pf, hold) = start(d);
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    pf.notify(1, 3, now).unwrap();
    pf.poll(now);
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().seen.clear();
    hold.device().fail();
    settle(&mut pf);
    pf.poll(Instant::now());
    let seen = hold.device().seen.clone();
    let kicks = seen.iter().filter(|s| s.opcode == 2);
    assert_eq!(kicks.map(|s| s.readable[32]).collect::<Vec<_>>(), [3]);
}

#[test]
fn recovery_is_given_up_after_a_bounded_number_of_attempts() {
    let policy = RecoveryPolicy {
        max_attempts: 3,
        delay: Duration::from_millis(1),
    };
    let few = PfConfig {
        recovery: policy,
        ..config()
    };
    let (mut pf, hold) = start_with(TestPf::new(), few);
    hold.device().status_writes.clear();
    // Fails again each time it works again.
    hold.device().features_ok = false;
    let now = Instant::now();
    submit(&mut pf, 1, 1, now);
    hold.device().fail();
    let done = settle(&mut pf);
    assert_eq!(done.len(), 1);
    assert!(matches!(done[0].result, Err(OpError::PfFailed(_))));
    let PfState::Failed(why) = pf.state().clone() else {
        unreachable!("{:?}", pf.state())
    };
    assert!(why.contains("given up after 3 resets"), "{why}");
    assert!(why.contains("refuses the features"), "{why}");
    let resets = hold
        .device()
        .status_writes
        .iter()
        .filter(|s| **s == 0)
        .count();
    assert_eq!(resets, 3);
    assert_eq!(events(&mut pf), ["reset", "reset", "reset", "failed"]);
    assert_eq!(hold.device().vfs_enabled(), VFS);
    let e = pf.submit(1, read(0, 4), 2, Instant::now());
    assert!(matches!(e, Err(SubmitError::PfFailed(_))));
    assert!(pf.next_deadline().is_none());
    assert!(pf.poll(Instant::now()).is_empty());
    assert_eq!(hold.device().breaches, [""; 0]);
}

#[test]
fn failures_far_apart_are_not_added_up() {
    let (mut pf, hold) = start(TestPf::new());
    for _ in 0..20 {
        hold.device().fail();
        settle(&mut pf);
        pf.poll(Instant::now());
        assert_eq!(pf.state(), &PfState::Running);
        submit(&mut pf, 1, 1, Instant::now());
        assert!(complete(&mut pf, 1)[0].result.is_ok());
    }
    assert_eq!(pf.counters().recoveries, 20);
    assert_eq!(hold.dma_stats().leaked, 0);
}

#[test]
fn an_unused_pf_that_fails_now_and_then_is_not_given_up() {
    let (mut pf, hold) = start(TestPf::new());
    let mut now = Instant::now();
    for _ in 0..10 {
        now += Duration::from_secs(61);
        hold.device().fail();
        pf.poll(now);
        pf.poll(now);
        assert_eq!(pf.state(), &PfState::Running);
    }
    // Again and again at once: that is another matter.
    for _ in 0..10 {
        hold.device().fail();
        now += Duration::from_secs(1);
        pf.poll(now);
        now += Duration::from_secs(1);
        pf.poll(now);
    }
    assert!(matches!(pf.state(), PfState::Failed(why) if why.contains("given up")));
}

#[test]
fn a_reset_that_does_not_end_is_the_end() {
    let (mut pf, hold) = start_with(TestPf::new(), impatient());
    hold.device().reset_reads = u32::MAX;
    hold.device().fail();
    settle(&mut pf);
    let PfState::Failed(why) = pf.state() else {
        unreachable!("{:?}", pf.state())
    };
    assert!(why.contains("reset not done within 300ms"), "{why}");
    assert_eq!(pf.counters().recoveries, 1, "no second reset");
    let live = hold.dma_stats().live;
    assert!(live > 0);
    drop(pf);
    assert_eq!(hold.dma_stats().leaked, live, "the device may still use it");
}

#[test]
fn vfs_that_vanish_are_enabled_again() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().config[SRIOV + 8] = 0;
    hold.device().fail();
    settle(&mut pf);
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(hold.device().vfs_enabled(), VFS);
    // Another number is nobody's wish.
    hold.device().set_vfs(2);
    hold.device().fail();
    settle(&mut pf);
    let PfState::Failed(why) = pf.state() else {
        unreachable!("{:?}", pf.state())
    };
    assert!(
        why.contains("2 VFs are enabled already and 4 are wanted"),
        "{why}"
    );
}

#[test]
fn the_end_of_the_peer_ends_everything_at_once() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for token in 0..5 {
        submit(&mut pf, 1, token, now);
    }
    pf.poll(now);
    hold.hang_up();
    assert!(pci_transport::ready(&pf.fds()).unwrap().contains(&true));
    let done = pf.poll(now);
    assert_eq!(done.len(), 5);
    for c in &done {
        let Err(OpError::PfFailed(why)) = &c.result else {
            unreachable!("{c:?}")
        };
        assert!(why.contains("closed the connection"), "{why}");
    }
    assert_eq!(events(&mut pf), ["failed"]);
    assert!(pf.shutdown().1.is_err());
    assert_eq!(pf.state(), &PfState::Stopped);
    // The device was not seen to be reset.
    drop(pf);
    assert!(hold.dma_stats().leaked > 0);
}

// Covers: VRG-08
#[test]
fn lies_in_the_used_ring_lead_to_a_reset_and_nothing_else() {
    type Lie = fn() -> Action;
    let lies: [(&str, Lie); 6] = [
        ("id far out", || Action::WrongId(u32::MAX)),
        ("id of no descriptor", || Action::WrongId(64)),
        ("id not in flight", || Action::WrongId(62)),
        ("id inside a chain", || Action::WrongId(1)),
        ("length beyond the buffer", || Action::Raw(vec![0; 8], 13)),
        ("length of 4 GiB", || Action::Raw(vec![0; 8], u32::MAX)),
    ];
    for (what, lie) in lies {
        let (mut pf, hold) = start(TestPf::new());
        let mut told = false;
        hold.device().hook = Box::new(move |seen| {
            if told || seen.opcode != 3 {
                return Action::Normal;
            }
            told = true;
            lie()
        });
        submit(&mut pf, 1, 1, Instant::now());
        let done = settle(&mut pf);
        let done = [done, settle(&mut pf)].concat();
        assert_eq!(done.len(), 1, "{what}");
        let Err(OpError::PfFailed(why)) = &done[0].result else {
            unreachable!("{what}: {done:?}")
        };
        assert!(why.contains("admin queue: used element"), "{what}: {why}");
        submit(&mut pf, 1, 2, Instant::now());
        let done = complete(&mut pf, 1);
        assert!(done[0].result.is_ok(), "{what}: {done:?}");
        assert_eq!(pf.counters().recoveries, 1, "{what}");
        assert_eq!(hold.device().breaches, [""; 0]);
    }
}

#[test]
fn a_device_that_answers_anything_at_all_cannot_break_the_driver() {
    // A fixed sequence: the same device in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..200u64 {
        let mut next = {
            let mut s = state ^ (round + 1).wrapping_mul(0xd134_2543_de82_ef95);
            move || {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                s
            }
        };
        state = next();
        let mut d = TestPf::new();
        d.offered[0] = (next() >> 32) as u32;
        if round % 3 == 0 {
            // Noise in the capabilities.
            for _ in 0..3 {
                let at = 0x40 + (next() % 0x180) as usize;
                d.config[at] = next() as u8;
            }
        }
        d.notify_info = (0..64).map(|_| next() as u8).collect();
        let setup = round % 2;
        d.hook = Box::new(move |seen| {
            if setup == 0 && seen.opcode <= 1 {
                return Action::Normal;
            }
            match next() % 8 {
                0 => Action::Refuse(next() as u16, next() as u16 % 9),
                1 => {
                    let bytes = (0..80).map(|_| next() as u8).collect();
                    Action::Raw(bytes, (next() % 90) as u32)
                }
                2 => Action::WrongId((next() % 70) as u32),
                3 => Action::Hold,
                _ => Action::Normal,
            }
        });
        let quick = PfConfig {
            command_timeout: Duration::from_millis(5),
            reset_timeout: Duration::from_millis(20),
            start_timeout: Duration::from_millis(100),
            recovery: RecoveryPolicy {
                delay: Duration::from_millis(1),
                ..RecoveryPolicy::default()
            },
            ..config()
        };
        let function = ScriptedFunction::new(d).unwrap();
        let begun = OwnTime::start();
        let Ok(mut pf) = Pf::start(Box::new(function), quick) else {
            assert!(begun.elapsed() < Duration::from_secs(2));
            continue;
        };
        let (mut submitted, mut done) = (0, 0);
        for token in 0..200u64 {
            let member = (token % u64::from(VFS)) as u16 + 1;
            if pf.submit(member, read(0, 4), token, Instant::now()).is_ok() {
                submitted += 1;
            }
            done += pf.poll(Instant::now()).len();
        }
        // Every operation that was accepted ends.
        let until = Instant::now() + Duration::from_secs(30);
        while done < submitted && Instant::now() < until {
            done += pf.poll(Instant::now()).len();
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(done, submitted, "round {round}");
        let (rest, _result) = pf.shutdown();
        assert!(rest.is_empty());
    }
}

#[test]
fn each_initialisation_is_counted_and_renews_what_is_known() {
    let (mut pf, hold) = start(TestPf::new());
    assert_eq!(pf.info().initialisations, 1);
    hold.device().offered[1] &= !(1 << 4);
    hold.device().listed = 0x3f;
    hold.device().queue_max = 16;
    let before = pf.info().features;
    hold.device().fail();
    settle(&mut pf);
    let info = pf.info();
    assert_eq!(info.initialisations, 2);
    assert_eq!(before & !info.features, 1 << 36);
    assert_eq!((info.commands.0, info.admin_queue_size), (0x3f, 16));
}
