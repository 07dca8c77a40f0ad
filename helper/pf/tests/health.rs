// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF whose commands are not answered, and the others, which must not notice.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::sim::Sim;
use common::*;
use serde_json::json;
use virtio_pf::{LegacyOp, OpError, Pf, PfConfig, PfState, Space, SubmitError, TrialPolicy};

const STATUS: LegacyOp = LegacyOp {
    space: Space::Common,
    offset: 18,
    access: virtio_pf::Access::Read { len: 1 },
};

fn submit(pf: &mut Pf, member: u16, token: u64, now: Instant) -> Result<(), SubmitError> {
    pf.submit(member, STATUS, token, now)
}

/// The device keeps the register commands of VF 1.
fn keep_those_of_vf_1(hold: &Hold) {
    hold.device().hook = Box::new(|seen| match (seen.opcode, seen.member) {
        (2.., 1) => Action::Hold,
        _ => Action::Normal,
    });
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A PF with a VF 1 of which two commands in a row were given up; when the second was.
fn sick() -> (Pf, Hold, Instant) {
    let (mut pf, hold) = start(TestPf::new());
    keep_those_of_vf_1(&hold);
    let mut now = Instant::now();
    let begun = now;
    for retries in 0..2 {
        submit(&mut pf, 1, 1, now).unwrap();
        pf.poll(now);
        now += config().command_timeout;
        let done = pf.poll(now);
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].result, Err(OpError::TimedOut));
        let state = pf.not_responding(1).unwrap();
        assert_eq!(state.since, begun + config().command_timeout);
        assert_eq!(state.retries, retries);
    }
    (pf, hold, now)
}

// Covers: AVQ-11
#[test]
fn a_vf_that_does_not_answer_is_tried_ever_more_rarely_and_nobody_else_notices() {
    let (mut pf, hold) = start(TestPf::new());
    keep_those_of_vf_1(&hold);
    hold.device().seen.clear();
    let begun = Instant::now();
    let (mut at_once, mut timed_out) = (0, 0);
    // Ten accesses a second of VF 1; the others are open and idle.
    for tick in 0..300 {
        let now = begun + Duration::from_millis(100 * tick);
        match submit(&mut pf, 1, tick, now) {
            Ok(()) => {}
            Err(SubmitError::NotResponding { member: 1, .. }) => at_once += 1,
            Err(e) => unreachable!("{e}"),
        }
        for c in pf.poll(now) {
            match c.result {
                Err(OpError::TimedOut) => timed_out += 1,
                Err(OpError::NotResponding) => at_once += 1,
                other => unreachable!("{other:?}"),
            }
        }
    }
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(pf.take_events(), []);
    // At 0 and, with what waited behind it, at 2 s; then nothing is sent for 1, 2, 4 and 8 s after
    // each.
    let seen = hold.device().seen.clone();
    assert_eq!(seen.iter().filter(|s| s.member == 1).count(), 6);
    assert_eq!(pf.counters().probes, 6);
    assert_eq!(timed_out, 6);
    assert_eq!(timed_out + at_once, 300, "every one has ended");
    let now = begun + seconds(30);
    let state = *pf.not_responding(1).unwrap();
    assert_eq!((state.since - begun, state.retries), (seconds(2), 5));
    // What waited had 100 ms left.
    let next = Duration::from_millis(25_100 + 16_000);
    assert_eq!(state.next_trial - begun, next);
    for vf in 2..=VFS {
        assert_eq!(pf.not_responding(vf), None);
        submit(&mut pf, vf, 7, now).unwrap();
        assert_eq!(pf.poll(now)[0].result, Ok([0; 8]));
    }
    // The way back.
    hold.device().hook = Box::new(|_| Action::Normal);
    assert!(submit(&mut pf, 1, 7, now).is_err());
    let now = state.next_trial;
    submit(&mut pf, 1, 8, now).unwrap();
    assert_eq!(pf.poll(now)[0].result, Ok([0; 8]));
    assert_eq!(pf.not_responding(1), None);
    for token in 0..5 {
        submit(&mut pf, 1, token, now).unwrap();
    }
    assert_eq!(complete(&mut pf, 5).len(), 5);
    assert_eq!(hold.device().breaches, [""; 0]);
}

// Covers: AVQ-11
#[test]
fn a_vf_has_one_command_outstanding_until_the_device_is_past_it() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    hold.device().seen.clear();
    let now = Instant::now();
    submit(&mut pf, 1, 1, now).unwrap();
    pf.poll(now);
    let late = now + config().command_timeout;
    assert_eq!(pf.poll(late)[0].result, Err(OpError::TimedOut));
    // Nothing is known of the queue: what comes now waits.
    for token in 2..5 {
        submit(&mut pf, 1, token, late).unwrap();
    }
    assert!(pf.poll(late).is_empty());
    let of_vf = |hold: &Hold| hold.device().seen.iter().filter(|s| s.member == 1).count();
    assert_eq!((of_vf(&hold), hold.device().held.len()), (1, 2));
    // The device does not answer the command, but what was sent behind it.
    hold.device().held.swap(0, 1);
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().let_go();
    let done = pf.poll(late);
    assert_eq!(done.iter().map(|c| c.token).collect::<Vec<_>>(), [2, 3, 4]);
    // One lost command is no reason to refuse what comes behind it.
    assert!(done.iter().all(|c| c.result == Ok([0; 8])));
    assert_eq!((of_vf(&hold), pf.not_responding(1)), (4, None));
    hold.device().let_go();
    assert!(pf.poll(late).is_empty());
    assert_eq!(pf.counters().late, 1);
    submit(&mut pf, 1, 5, late).unwrap();
    assert_eq!(pf.poll(late)[0].result, Ok([0; 8]));
    assert_eq!(pf.counters().recoveries, 0);
}

#[test]
fn the_answer_to_another_vf_serves_as_well_as_that_to_a_probe() {
    let (mut pf, hold) = start(TestPf::new());
    // Neither VF 1 nor the probe.
    hold.device().hook = Box::new(|seen| match seen.member {
        0 | 1 => Action::Hold,
        _ => Action::Normal,
    });
    let now = Instant::now();
    submit(&mut pf, 1, 1, now).unwrap();
    pf.poll(now);
    let late = now + config().command_timeout;
    assert_eq!(pf.poll(late).len(), 1);
    assert_eq!(pf.not_responding(1), None, "not known yet");
    submit(&mut pf, 2, 2, late).unwrap();
    assert_eq!(pf.poll(late)[0].result, Ok([0; 8]));
    assert!(pf.not_responding(1).is_some());
    pf.poll(late + config().command_timeout);
    assert_eq!(pf.counters().recoveries, 0);
    assert!(pf
        .next_deadline()
        .is_none_or(|t| t > late + config().command_timeout));
}

#[test]
fn one_trial_at_a_time() {
    let (mut pf, hold, late) = sick();
    let not_yet = pf.not_responding(1).unwrap().next_trial - Duration::from_millis(1);
    let since = not_yet - pf.not_responding(1).unwrap().since;
    let refused = Err(SubmitError::NotResponding { member: 1, since });
    assert_eq!(submit(&mut pf, 1, 2, not_yet), refused);
    let now = late + seconds(1);
    submit(&mut pf, 1, 2, now).unwrap();
    assert!(submit(&mut pf, 1, 3, now).is_err());
    pf.poll(now);
    assert!(submit(&mut pf, 1, 3, now).is_err());
    assert_eq!(hold.device().held.len(), 3, "the lost ones and the trial");
    // Its answer, and those of the others.
    hold.device().hook = Box::new(|_| Action::Normal);
    for _ in 0..3 {
        hold.device().let_go();
    }
    assert_eq!(pf.poll(now)[0].token, 2);
    assert_eq!(pf.not_responding(1), None);
}

#[test]
fn a_late_answer_shows_that_a_vf_is_well() {
    let (mut pf, hold, late) = sick();
    assert!(submit(&mut pf, 1, 2, late).is_err());
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().let_go();
    assert!(pf.poll(late).is_empty());
    assert_eq!((pf.not_responding(1), pf.counters().late), (None, 1));
    submit(&mut pf, 1, 3, late).unwrap();
    assert_eq!(pf.poll(late)[0].result, Ok([0; 8]));
}

#[test]
fn trials_leave_room_for_those_that_answer() {
    let mut d = TestPf::new();
    d.queue_max = 8;
    let eager = PfConfig {
        trial: TrialPolicy {
            first_delay: seconds(1),
            max_delay: seconds(1),
        },
        ..config()
    };
    let (mut pf, hold) = start_with(d, eager);
    keep_those_of_vf_1(&hold);
    let mut now = Instant::now();
    for _ in 0..100 {
        now += seconds(1);
        let _refused = submit(&mut pf, 1, 1, now);
        pf.poll(now);
    }
    // Four slots: half of them are free for ever.
    assert_eq!(hold.device().held.len(), 2);
    assert_eq!(pf.counters().recoveries, 0);
    for vf in 2..=VFS {
        submit(&mut pf, vf, 1, now).unwrap();
    }
    let done = pf.poll(now);
    assert!(done.iter().all(|c| c.result.is_ok()));
    assert_eq!(done.len(), 3);
    // With the reset of the PF the device has forgotten them.
    hold.device().fail();
    hold.device().hook = Box::new(|_| Action::Normal);
    pf.poll(now);
    pf.poll(now);
    assert_eq!(pf.state(), &PfState::Running);
    submit(&mut pf, 1, 2, now).unwrap();
    assert_eq!(pf.poll(now)[0].result, Ok([0; 8]));
    assert_eq!(pf.not_responding(1), None);
}

#[test]
fn a_queue_without_a_free_slot_is_stuck() {
    let mut d = TestPf::new();
    d.queue_max = 4;
    let (mut pf, hold) = start_with(d, config());
    hold.device().hook = Box::new(|seen| match seen.member {
        1 | 2 => Action::Hold,
        _ => Action::Normal,
    });
    let now = Instant::now();
    for vf in [1, 2] {
        submit(&mut pf, vf, 1, now).unwrap();
    }
    pf.poll(now);
    let late = now + config().command_timeout;
    assert_eq!(pf.poll(late).len(), 2);
    assert_eq!(pf.state(), &PfState::Running, "a late answer may come");
    pf.poll(late + config().command_timeout);
    assert_eq!(pf.counters().recoveries, 1);
}

#[test]
fn notifications_by_command_are_refused_too() {
    let mut d = TestPf::new();
    d.listed = 0x3f;
    let (mut pf, hold) = start(d);
    keep_those_of_vf_1(&hold);
    let mut late = Instant::now();
    for _ in 0..2 {
        pf.notify(1, 0, late).unwrap();
        pf.poll(late);
        late += config().command_timeout;
        pf.poll(late);
        assert!(pf.not_responding(1).is_some());
    }
    let refused = pf.notify(1, 0, late);
    assert!(matches!(refused, Err(SubmitError::NotResponding { .. })));
    assert!(pf.notify(2, 0, late).is_ok());
}

/// Polls at a time that stands still, while the simulator has as long as it needs.
fn until(pf: &mut Pf, now: Instant, what: impl Fn(&Pf, usize) -> bool) -> usize {
    let last_resort = Instant::now() + seconds(60);
    let mut done = 0;
    while !what(pf, done) {
        assert!(Instant::now() < last_resort, "{:?}", pf.state());
        done += pf.poll(now).len();
    }
    done
}

// Covers: AVQ-11
#[test]
fn thirty_seconds_with_a_vf_that_the_simulator_drops() {
    let sim = Sim::start(&["--type", "net", "--vfs", "4"]);
    let mut pf = sim.pf(config()).unwrap();
    sim.fault(json!({ "member": 1, "opcode": "LEGACY_COMMON_CFG_READ", "do": "drop" }));
    let begun = Instant::now();
    let mut now = begun;
    let mut trials = 0;
    while now < begun + seconds(30) {
        submit(&mut pf, 1, trials, now).unwrap();
        pf.poll(now);
        trials += 1;
        now += config().command_timeout;
        assert_eq!(pf.poll(now).len(), 1);
        until(&mut pf, now, |pf, _| {
            pf.counters().probes_answered == trials && !pf.expects_register()
        });
        assert!(trials == 1 || submit(&mut pf, 1, 0, now).is_err());
        now = pf.not_responding(1).unwrap().next_trial;
    }
    assert_eq!(trials, 6);
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(pf.take_events(), []);
    for vf in 2..=4 {
        submit(&mut pf, vf, 1, now).unwrap();
        until(&mut pf, now, |_, done| done == 1);
    }
    sim.no_faults();
    submit(&mut pf, 1, 1, now).unwrap();
    until(&mut pf, now, |_, done| done == 1);
    assert_eq!(pf.not_responding(1), None);
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(sim.violations(), json!({}));
}
