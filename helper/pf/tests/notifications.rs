// SPDX-License-Identifier: GPL-2.0-or-later
//! Notifications of VFs, of the admin queue, and of the driver.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use pci_transport::Width;
use virtio_pf::{LegacyOp, Notified, NotifyKind, Space};

fn read(offset: u8, len: u8) -> LegacyOp {
    LegacyOp::read(Space::Common, offset, len)
}

// Covers: NTF-06
#[test]
fn notifications_go_to_the_address_of_the_owner_if_there_is_one() {
    let mut d = TestPf::new();
    d.notify_info = [
        entry(3, 4, 0),
        entry(2, 1, 0x20),
        entry(1, OWNER_NOTIFY_BAR, 0x24),
    ]
    .concat();
    let (mut pf, hold) = start(d);
    assert_eq!(pf.vf(2).unwrap().notify, None, "not before it is opened");
    let vf = open(&mut pf, 2);
    assert_eq!(vf.notify.unwrap().kind, NotifyKind::Member);
    assert!(vf.notify.unwrap().checked);
    assert_eq!(vf.owner_notify.unwrap().offset, 0x24);
    hold.device().seen.clear();
    let now = Instant::now();
    assert_eq!(pf.notify(2, 0x0102, now), Ok(Notified::Address));
    assert_eq!(hold.device().owner_notifies, [(0x24, Width::B2, 0x0102)]);
    pf.poll(now);
    assert!(hold.device().seen.is_empty(), "no command");
}

// Covers: NTF-06, NTF-07
#[test]
fn notifications_go_by_command_without_a_usable_address() {
    for info in [
        vec![],
        entry(1, 0, 0),
        entry(1, 4, 1),
        entry(1, 4, 0x1000),
        entry(2, 3, 0),
        entry(2, 2, 0x4000),
        [entry(0, 0, 0), entry(1, 4, 0)].concat(),
    ] {
        let mut d = TestPf::new();
        d.notify_info = info.clone();
        let (mut pf, hold) = start(d);
        let vf = open(&mut pf, 1);
        assert_eq!((vf.asked, vf.notify), (true, None), "{info:?}");
        hold.device().seen.clear();
        let now = Instant::now();
        assert_eq!(pf.notify(1, 5, now), Ok(Notified::Command));
        assert_eq!(pf.notify(1, 5, now), Ok(Notified::Merged));
        assert_eq!(pf.notify(1, 6, now), Ok(Notified::Command));
        pf.submit(1, read(18, 1), 1, now).unwrap();
        complete(&mut pf, 1);
        let seen = hold.device().seen.clone();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0].readable[24], 16);
        assert_eq!(seen[0].readable[32..], [5, 0]);
        assert_eq!(seen[1].readable[32..], [6, 0]);
        assert!(hold.device().owner_notifies.is_empty());
    }
}

// Covers: NTF-07
#[test]
fn a_member_address_is_not_vouched_for_when_its_bar_could_not_be_sized() {
    let mut d = TestPf::new();
    d.set_vfs(VFS);
    d.notify_info = entry(2, 2, 0x8000_0000);
    let (mut pf, _hold) = start(d);
    let at = open(&mut pf, 1).notify.unwrap();
    assert_eq!(
        (at.kind, at.bar, at.checked),
        (NotifyKind::Member, 2, false)
    );
}

// Covers: IRQ-11
#[test]
fn a_device_that_wants_no_notifications_gets_none() {
    for event_idx in [false, true] {
        let mut d = TestPf::new();
        d.offered[0] |= u32::from(event_idx) << 29;
        let (mut pf, hold) = start(d);
        hold.device().queue.no_notify = true;
        hold.device().process();
        hold.device().kicks.clear();
        let now = Instant::now();
        for token in 0..8 {
            pf.submit(1, read(0, 4), token, now).unwrap();
        }
        assert!(pf.poll(now).is_empty());
        assert!(hold.device().kicks.is_empty(), "EVENT_IDX {event_idx}");
        // It polls instead.
        let mut done = 0;
        for _ in 0..8 {
            hold.device().process();
            done += pf.poll(now).len();
        }
        assert_eq!(done, 8);
        assert!(hold.device().kicks.is_empty());
        assert_eq!(pf.counters().kicks_suppressed, 8);
        assert_eq!(hold.device().breaches, [""; 0]);
    }
}

#[test]
fn one_notification_serves_a_batch() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().kicks.clear();
    let now = Instant::now();
    for vf in 1..=VFS {
        pf.submit(vf, read(0, 4), 0, now).unwrap();
    }
    assert_eq!(pf.next_deadline(), Some(now), "poll is due at once");
    assert_eq!(complete(&mut pf, 4).len(), 4);
    assert_eq!(hold.device().kicks.len(), 1);
    assert!(pf.next_deadline().is_some_and(|t| t > now));
}

#[test]
fn a_poll_ends_and_asks_for_another_while_answers_come() {
    let (mut pf, _hold) = start(TestPf::new());
    let now = Instant::now();
    for token in 0..20 {
        pf.submit(1, read(0, 4), token, now).unwrap();
    }
    // The device answers within the notification.
    let mut done = pf.poll(now).len();
    assert!((1..20).contains(&done), "{done}");
    while done < 20 {
        assert!(pf.next_deadline().is_some_and(|t| t <= now), "{done}");
        let more = pf.poll(now).len();
        assert!(more > 0);
        done += more;
    }
}

// Covers: IRQ-12
#[test]
fn spinning_finds_the_answer_without_interrupts() {
    let (mut pf, hold) = start(TestPf::new());
    pf.poll(Instant::now());
    let before = pf.counters().interrupts;
    for token in 0..50 {
        pf.submit(1, read(0, 4), token, Instant::now()).unwrap();
        let done = pf.poll_spinning(Duration::from_millis(5));
        assert_eq!(done.len(), 1);
    }
    assert_eq!(pf.counters().interrupts, before);
    // Afterwards an interrupt comes again.
    hold.device().hook = Box::new(|_| Action::Hold);
    pf.submit(1, read(0, 4), 1, Instant::now()).unwrap();
    let begun = Instant::now();
    assert!(pf.poll_spinning(Duration::from_millis(20)).is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(20));
    hold.device().let_go();
    let ready = pci_transport::ready(&pf.fds()).unwrap();
    assert!(ready.contains(&true), "the interrupt was asked for again");
    assert_eq!(pf.poll(Instant::now()).len(), 1);
    assert!(!pci_transport::ready(&pf.fds()).unwrap().contains(&true));
}
