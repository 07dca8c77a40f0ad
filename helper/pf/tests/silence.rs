// SPDX-License-Identifier: GPL-2.0-or-later
//! A device that stops answering register reads: nobody waits for it longer than was promised.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use pci_transport::testing::Access;
use pci_transport::{Cause, Posted};
use virtio_pf::{LegacyOp, OpError, Pf, PfEvent, PfState, Space};

fn read(pf: &mut Pf, member: u16, now: Instant) {
    let op = LegacyOp::read(Space::Common, 0, 4);
    pf.submit(member, op, member.into(), now).unwrap();
}

/// Accesses that wait for the device.
fn waits(hold: &Hold) -> Vec<Access> {
    let waits = |a: &Access| match a {
        Access::BarWrite { posted, .. } => *posted == Posted::No,
        Access::BarReadLater { .. } => false,
        _ => true,
    };
    hold.accesses().into_iter().filter(waits).collect()
}

/// A PF that has a command of every VF and answers nothing more.
fn stopped() -> (Pf, Hold, Instant) {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for member in 1..=VFS {
        read(&mut pf, member, now);
    }
    assert!(pf.poll(now).is_empty());
    hold.hold_later();
    hold.clear();
    (pf, hold, now + config().command_timeout)
}

#[test]
fn the_commands_of_a_stopped_device_end_in_time_and_then_the_pf() {
    let (mut pf, hold, deadline) = stopped();
    let done = pf.poll(deadline);
    assert_eq!(done.len(), usize::from(VFS));
    assert!(done.iter().all(|c| c.result == Err(OpError::TimedOut)));
    assert_eq!(waits(&hold), []);
    // What comes now is answered in its time, too.
    read(&mut pf, 1, deadline);
    assert!(pf.poll(deadline).is_empty());
    assert_eq!(pf.state(), &PfState::Running, "asked for its status");
    let end = deadline + config().command_timeout;
    assert!(pf.next_deadline().unwrap() <= end);
    assert!(pf.poll(end - Duration::from_millis(1)).is_empty());
    let done = pf.poll(end);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].result, Err(OpError::TimedOut));
    let PfState::Failed(why) = pf.state() else {
        unreachable!("{:?}", pf.state())
    };
    assert!(
        why.contains("read of device_status not done within 2s"),
        "{why}"
    );
    assert_eq!(waits(&hold), [], "not even to say that it failed");
}

#[test]
fn a_device_that_goes_on_is_reset_then() {
    let (mut pf, hold, deadline) = stopped();
    assert_eq!(pf.poll(deadline).len(), usize::from(VFS));
    pf.poll(deadline);
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.answer_later();
    let later = deadline + Duration::from_secs(1);
    assert!(pf.poll(later).is_empty());
    assert_eq!(pf.state(), &PfState::Running, "its queue has its time, too");
    let later = deadline + config().command_timeout;
    for _ in 0..10 {
        assert!(pf.poll(later).is_empty());
    }
    assert_eq!(pf.state(), &PfState::Running);
    let events = pf.take_events();
    assert!(
        matches!(
            &events[..],
            [PfEvent::Reset { .. }, PfEvent::Recovered { attempts: 1 }]
        ),
        "{events:?}"
    );
    assert_eq!(hold.device().breaches, [""; 0]);
}

#[test]
fn one_timeout_asks_for_the_status_and_the_answer_decides() {
    for needs_reset in [false, true] {
        let (mut pf, hold) = start(TestPf::new());
        hold.device().hook = Box::new(|_| Action::Hold);
        let now = Instant::now();
        read(&mut pf, 1, now);
        pf.poll(now);
        hold.hold_later();
        hold.clear();
        let deadline = now + config().command_timeout;
        assert_eq!(pf.poll(deadline).len(), 1);
        assert_eq!(waits(&hold), []);
        assert_eq!(pf.state(), &PfState::Running);
        if needs_reset {
            hold.device().status |= 64;
        }
        hold.answer_later();
        pf.poll(deadline);
        let want = match needs_reset {
            true => PfState::Recovering,
            false => PfState::Running,
        };
        assert_eq!(pf.state(), &want);
    }
}

#[test]
fn what_expires_during_a_reset_is_told_before_the_device_is_touched() {
    let (mut pf, hold) = start(TestPf::new());
    let now = Instant::now();
    hold.device().reset_reads = u32::MAX;
    hold.device().fail();
    pf.poll(now);
    assert_eq!(pf.state(), &PfState::Recovering);
    read(&mut pf, 1, now);
    pf.poll(now);
    hold.clear();
    let deadline = now + config().command_timeout;
    let done = pf.poll(deadline);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].result, Err(OpError::TimedOut));
    assert_eq!(hold.accesses(), []);
    assert!(pf.next_deadline() <= Some(deadline), "and goes on at once");
    pf.poll(deadline);
    assert!(!hold.accesses().is_empty());
}

#[test]
fn a_register_access_is_waited_for_no_longer_than_what_is_outstanding() {
    let (mut pf, hold) = start(TestPf::new());
    let now = Instant::now();
    hold.device().reset_reads = u32::MAX;
    hold.device().fail();
    pf.poll(now);
    pf.poll(now);
    assert_eq!(hold.until(), None, "nobody waits");
    read(&mut pf, 1, now);
    let later = now + Duration::from_millis(100);
    pf.poll(later);
    assert_eq!(hold.until(), Some(now + config().command_timeout));
    // A little time is left to the device even at the end.
    let end = now + config().command_timeout - Duration::from_millis(1);
    pf.poll(end);
    let until = hold.until().unwrap();
    assert!(until > end && until <= end + Duration::from_secs(1));
    hold.fail_at(
        hold.accesses().len(),
        Cause::TimedOut {
            what: "reply",
            after: Duration::from_millis(500),
        },
    );
    let over = end + Duration::from_millis(20);
    assert_eq!(pf.poll(over).len(), 1);
    pf.poll(over);
    assert!(matches!(pf.state(), PfState::Failed(_)));
}
