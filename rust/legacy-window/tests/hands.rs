// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Vectors that change hands, and queues that turn out to be none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::{Device, Machine};
use legacy_window::{FailKind, OwnVectors, Settled, Source};
use virtio_pci_spec::DeviceType;

const OWN: OwnVectors = OwnVectors {
    config: 0,
    queues: 1,
};

const SELECT: u8 = 14;
const SIZE: u8 = 12;
const CONFIG: u8 = 20;
const QUEUE: u8 = 22;

/// A running driver with an address for each of these queues.
fn machine(queues: &[u64]) -> Machine {
    let device = Device::new(&[256, 128, 64], (0..28).collect());
    let mut m = Machine::new(DeviceType::Net, device);
    m.window.emulate_intx();
    m.write(18, 1, 0);
    for queue in queues {
        m.write(14, 2, *queue);
        m.write(8, 4, 0x100 + queue);
    }
    m
}

fn take(m: &mut Machine, turn: u64) -> Settled {
    m.window.serve_vectors(Some(OWN), turn);
    m.settle(&mut |_| None)
}

fn write(offset: u8, value: u64) -> (bool, u8, u8, Option<u64>) {
    (true, offset, 2, Some(value))
}

fn read(offset: u8) -> (bool, u8, u8, Option<u64>) {
    (true, offset, 2, None)
}

// Covers: IRQ-06
#[test]
fn in_another_turn_all_are_written_anew() {
    let mut m = machine(&[0]);
    take(&mut m, 1);
    m.commands();
    assert_eq!(take(&mut m, 1), Settled::default());
    assert_eq!(m.commands(), [], "the same turn");
    // Off and on again: what the VF has now, nobody knows.
    m.device.vector[0] = 3;
    m.device.config_vector = 3;
    assert!(take(&mut m, 2).late, "in between, nobody listened");
    assert_eq!(
        m.commands(),
        [write(QUEUE, 1), read(QUEUE), write(CONFIG, 0), read(CONFIG)]
    );
    assert_eq!((m.device.vector[0], m.device.config_vector), (1, 0));
}

/// What the VF refuses because its vectors change hands meanwhile is tried again in the next turn.
// Covers: IRQ-06
#[test]
fn what_was_refused_is_tried_in_the_next_turn() {
    let mut m = machine(&[0, 1]);
    m.window.serve_vectors(Some(OWN), 1);
    let refuse = |c: &legacy_window::Command| (c.offset >= CONFIG).then_some(FailKind::Refused);
    let settled = m.settle(&mut |c| refuse(c));
    assert_eq!(settled.unmapped, 3);
    assert_eq!(settled.last_unmapped, Some(Source::Config));
    m.commands();
    take(&mut m, 1);
    assert_eq!(m.commands(), [], "it was tried");
    let settled = take(&mut m, 2);
    assert!(settled.late && settled.unmapped == 0);
    assert_eq!(m.device.vector, [1, 1, 0xffff]);
    // The guest's, too.
    m.window.serve_vectors(None, 3);
    let settled = m.settle(&mut |c| refuse(c));
    assert!(settled.given_back && settled.unmapped == 0);
    assert_eq!(m.device.vector, [1, 1, 0xffff]);
    m.window.serve_vectors(None, 4);
    assert!(m.settle(&mut |_| None).given_back);
    assert_eq!(m.device.vector, [0xffff; 3]);
    assert_eq!(m.device.config_vector, 0xffff);
    m.commands();
    m.window.serve_vectors(None, 5);
    assert_eq!(m.settle(&mut |_| None), Settled::default());
    assert_eq!(m.commands(), [], "nothing of the caller's is left");
    // Commands that stalled do so no longer.
    m.window.serve_vectors(Some(OWN), 6);
    m.settle(&mut |_| Some(FailKind::GivenUp));
    assert!(m.window.settle_stalled());
    take(&mut m, 7);
    assert!(!m.window.settle_stalled());
    assert_eq!(m.device.vector, [1, 1, 0xffff]);
}

/// The guest's vectors are back only when the last of them is.
// Covers: IRQ-04
#[test]
fn giving_back_may_take_two_attempts() {
    let mut m = machine(&[0, 1]);
    take(&mut m, 1);
    m.window.serve_vectors(None, 2);
    let mut left = 3;
    let settled = m.settle(&mut |_| {
        left -= 1;
        (left < 0).then_some(FailKind::TimedOut)
    });
    assert_eq!(settled, Settled::default());
    assert!(m.window.settle_stalled());
    m.window.retry_settle();
    assert!(m.settle(&mut |_| None).given_back);
    assert_eq!(m.device.vector, [0xffff; 3]);
    assert_eq!(m.device.config_vector, 0xffff);
}

/// A queue that got its vector only at the second attempt may have been used before, without any
/// access that the window sees: doorbells pass by.
// Covers: IRQ-01
#[test]
fn a_new_queue_whose_vector_comes_late_is_late() {
    let mut m = machine(&[0]);
    take(&mut m, 1);
    for kind in [FailKind::TimedOut, FailKind::GivenUp] {
        m.write(14, 2, 1);
        m.write(8, 4, 0x200);
        assert!(!m.settle(&mut |_| Some(kind)).late);
        m.window.retry_settle();
        assert!(m.settle(&mut |_| None).late);
        assert_eq!(m.device.vector[1], 1);
        m = machine(&[0]);
        take(&mut m, 1);
    }
    // The helper was lost in between.
    m.write(14, 2, 2);
    m.write(8, 4, 0x200);
    m.window.lost();
    m.settle(&mut |_| None);
    m.window.restored();
    assert!(m.settle(&mut |_| None).late);
}

// Covers: LIO-06, IRQ-06
#[test]
fn an_address_for_a_queue_that_does_not_exist() {
    let mut m = machine(&[0, 255]);
    assert!(m.window.queues().contains(255));
    m.commands();
    let settled = take(&mut m, 1);
    assert_eq!((settled.unmapped, settled.last_unmapped), (0, None));
    let used: Vec<_> = m.window.queues().iter().collect();
    assert_eq!(used, [0]);
    let log = m.commands();
    let asked = log.iter().position(|c| *c == read(SIZE)).unwrap();
    assert_eq!(
        log[asked - 5..asked],
        [
            write(SELECT, 255),
            write(QUEUE, 1),
            read(QUEUE),
            write(QUEUE, 0),
            read(QUEUE)
        ]
    );
    take(&mut m, 1);
    assert_eq!(m.commands(), [], "that is all");
    assert_eq!(m.read(14, 2), 255, "the guest's selection is its own");
    m.window.serve_vectors(None, 2);
    m.settle(&mut |_| None);
    assert!(
        !m.commands().contains(&write(SELECT, 255)),
        "nothing is to give back"
    );
    // Alone: such a queue never interrupts.
    let mut m = machine(&[255]);
    assert!(m.window.driven());
    take(&mut m, 1);
    assert!(!m.window.driven() && m.window.queues().is_empty());
    // It is given up for the same reason where the command is refused, and kept where nobody knows.
    let mut refuse = |c: &legacy_window::Command| (c.offset == QUEUE).then_some(FailKind::Refused);
    let mut m = machine(&[1, 255]);
    m.window.serve_vectors(Some(OWN), 1);
    let settled = m.settle(&mut refuse);
    assert_eq!(settled.unmapped, 1);
    assert_eq!(settled.last_unmapped, Some(Source::Queue(1)));
    let used: Vec<_> = m.window.queues().iter().collect();
    assert_eq!(used, [1]);
    m.commands();
    m.read(12, 2);
    assert_eq!(
        m.commands(),
        [write(SELECT, 255), read(SIZE)],
        "after a refusal nothing is believed to be selected"
    );
    let mut m = machine(&[255]);
    m.window.serve_vectors(Some(OWN), 1);
    let settled = m.settle(&mut |c| (c.offset == SIZE).then_some(FailKind::Refused));
    assert_eq!(settled.unmapped, 1);
    assert!(m.window.queues().contains(255));
    let mut m = machine(&[255]);
    m.window.serve_vectors(Some(OWN), 1);
    m.settle(&mut |c| (c.offset == SIZE).then_some(FailKind::TimedOut));
    assert!(m.window.settle_stalled() && m.window.queues().contains(255));
    m.window.retry_settle();
    assert_eq!(m.settle(&mut |_| None).unmapped, 0);
    assert!(!m.window.queues().contains(255));
}
