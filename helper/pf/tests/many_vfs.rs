// SPDX-License-Identifier: GPL-2.0-or-later
//! PFs with many VFs, and devices that take their time.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::sim::Sim;
use common::*;
use serde_json::json;
use virtio_pf::{Completion, LegacyOp, OpError, Pf, PfConfig, PfState, Space, SubmitError};

fn of(vfs: u16) -> PfConfig {
    PfConfig { vfs, ..config() }
}

/// Polls at one time until so many operations have ended.
fn complete_at(pf: &mut Pf, count: usize, now: Instant) -> Vec<Completion> {
    let last_resort = Instant::now() + Duration::from_secs(120);
    let mut done = Vec::new();
    while done.len() < count {
        assert!(Instant::now() < last_resort, "{:?}", pf.state());
        done.extend(pf.poll(now));
    }
    done
}

/// The simulator has to have as many files as VFs.
fn sim(vfs: &str, more: &[&str]) -> Sim {
    Sim::start(&[&["--type", "net", "--vfs", vfs], more].concat())
}

// Covers: NTF-01
#[test]
fn a_start_takes_as_many_commands_for_one_vf_as_for_many() {
    for vfs in [1, 64] {
        let (mut pf, hold) = start_with(TestPf::new(), of(vfs));
        let opcodes: Vec<_> = hold.device().seen.iter().map(|s| s.opcode).collect();
        assert_eq!(opcodes, [0, 1], "{vfs} VFs");
        for member in 1..=vfs {
            assert!(!pf.vf(member).unwrap().asked);
            assert!(open(&mut pf, member).notify.is_some());
        }
        // Known VFs are not asked for.
        for member in 1..=vfs {
            assert_eq!(pf.open(member, 0, Instant::now()), Ok(false));
        }
        assert_eq!(hold.device().seen.len(), 2 + usize::from(vfs));
    }
}

// Covers: NTF-01
#[test]
fn the_time_of_a_question_counts_from_when_the_device_has_it() {
    let mut d = TestPf::new();
    d.queue_max = 8;
    let patient = PfConfig {
        start_timeout: Duration::from_secs(20),
        ..of(64)
    };
    let (mut pf, hold) = start_with(d, patient);
    hold.device().hook = Box::new(|_| Action::Hold);
    let mut now = Instant::now();
    for member in 1..=64 {
        assert_eq!(pf.open(member, member.into(), now), Ok(true));
    }
    let mut done = Vec::new();
    // One answer every 100 ms: the last comes after 6.4 s, each within half a second.
    while done.len() < 64 {
        done.extend(pf.poll(now));
        now += Duration::from_millis(100);
        done.extend(pf.poll(now));
        if !hold.device().held.is_empty() {
            hold.device().let_go();
        }
    }
    assert!(done.iter().all(|c| c.result == Ok([0; 8])), "{done:?}");
    assert!((1..=64).all(|m| pf.vf(m).unwrap().notify.is_some()));
    assert_eq!((pf.counters().timed_out, pf.counters().recoveries), (0, 0));
}

#[test]
fn a_question_without_an_answer_ends_and_is_asked_again() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|seen| match seen.opcode {
        6 => Action::Hold,
        _ => Action::Normal,
    });
    let now = Instant::now();
    assert_eq!(pf.open(1, 5, now), Ok(true));
    pf.poll(now);
    let late = now + config().command_timeout;
    let done = pf.poll(late);
    assert_eq!(
        (done[0].token, &done[0].result),
        (5, &Err(OpError::TimedOut))
    );
    // The VF does not answer: what its guest wants is the trial, not this.
    let at = pf.not_responding(1).unwrap().next_trial;
    assert_eq!(pf.open(1, 6, at), Ok(false));
    pf.submit(1, LegacyOp::read(Space::Common, 18, 1), 7, at)
        .unwrap();
    assert_eq!(pf.poll(at).len(), 1);
    hold.device().hook = Box::new(|_| Action::Normal);
    assert_eq!(pf.open(1, 8, at), Ok(true));
    assert_eq!(pf.poll(at)[0].result, Ok([0; 8]));
    assert!(pf.vf(1).unwrap().notify.is_some());
    assert_eq!(pf.counters().recoveries, 0);
}

#[test]
fn a_question_survives_a_reset_of_the_pf() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for member in 1..=2 {
        assert_eq!(pf.open(member, 5, now), Ok(true));
    }
    pf.poll(now);
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().fail();
    let done = complete(&mut pf, 2);
    assert!(done.iter().all(|c| c.result.is_ok()), "{done:?}");
    assert_eq!(pf.counters().recoveries, 1);
    assert!(pf.vf(2).unwrap().asked);
}

// Covers: NTF-01
#[test]
fn every_vf_of_a_slow_device_has_its_address() {
    let sim = sim("255", &["--knob", "admin_queue_size=8"]);
    let mut pf = sim.pf(of(255)).unwrap();
    // With four in flight: 10 ms for each.
    sim.fault(json!({ "opcode": "LEGACY_NOTIFY_INFO", "do": { "delay": { "ms": 40 } } }));
    // The driver's time is the device's: 10 ms for each answer, however long the simulator takes.
    let mut now = Instant::now();
    for member in 1..=255 {
        assert_eq!(pf.open(member, member.into(), now), Ok(true));
    }
    let mut ended = 0;
    while ended < 255 {
        let done = pf.poll(now);
        assert!(done.iter().all(|c| c.result.is_ok()), "{done:?}");
        ended += done.len();
        now += 10 * Duration::from_millis(done.len() as u64);
    }
    assert!((1..=255).all(|m| pf.vf(m).unwrap().notify.is_some()));
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(sim.violations(), json!({}));
}

// Covers: AVQ-11
#[test]
fn two_thousand_and_forty_eight_vfs() {
    let sim = sim("2048", &[]);
    let mut pf = sim.pf(of(2048)).unwrap();
    assert_eq!(pf.info().num_vfs, 2048);
    assert_eq!(pf.counters().commands.values().sum::<u64>(), 2);
    // It stands still: the simulator has as long as it needs.
    let now = Instant::now();
    for member in [0, 2049, u16::MAX] {
        let refused = SubmitError::NoSuchVf {
            member,
            num_vfs: 2048,
        };
        assert_eq!(pf.open(member, 0, now), Err(refused));
    }
    let op = |m: u16| LegacyOp::write(Space::Common, 8, u64::from(m).to_le_bytes(), 4);
    for round in 0..2 {
        for member in 1..=2048 {
            match round {
                0 => assert_eq!(pf.open(member, 0, now), Ok(true)),
                _ => pf.submit(member, op(member), 1, now).unwrap(),
            }
        }
        let done = complete_at(&mut pf, 2048, now);
        assert!(done.iter().all(|c| c.result.is_ok()));
    }
    for member in [1, 255, 256, 257, 2048] {
        assert!(pf.vf(member).unwrap().notify.is_some());
        let read = LegacyOp::read(Space::Common, 8, 4);
        pf.submit(member, read, 1, now).unwrap();
        let got = complete_at(&mut pf, 1, now)[0].result.clone().unwrap();
        assert_eq!(u64::from_le_bytes(got), u64::from(member));
    }
    assert_eq!(pf.counters().commands[&6], 2048);
    assert_eq!(sim.violations(), json!({}));
}
