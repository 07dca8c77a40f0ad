// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Vectors that are written behind the guest's back while its MSI-X is off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::{Device, Machine};
use legacy_window::{FailKind, OwnVectors, Settled, Source};
use proptest::prelude::*;
use virtio_pci_spec::status::{ISR_CONFIG, ISR_QUEUE};
use virtio_pci_spec::DeviceType;

const OWN: OwnVectors = OwnVectors {
    config: 0,
    queues: 1,
};

/// Where nothing depends on it.
const TURN: u64 = 7;

fn machine() -> Machine {
    let device = Device::new(&[256, 128, 64], (0..28).collect());
    let mut m = Machine::new(DeviceType::Net, device);
    m.window.emulate_intx();
    m
}

fn settle(m: &mut Machine) -> Settled {
    m.settle(&mut |_| None)
}

fn take(m: &mut Machine) -> Settled {
    m.window.serve_vectors(Some(OWN), TURN);
    settle(m)
}

const SELECT: u8 = 14;
const CONFIG: u8 = 20;
const QUEUE: u8 = 22;

fn write(offset: u8, value: u64) -> (bool, u8, u8, Option<u64>) {
    (true, offset, 2, Some(value))
}

fn read(offset: u8) -> (bool, u8, u8, Option<u64>) {
    (true, offset, 2, None)
}

// Covers: IRQ-06, IRQ-01
#[test]
fn a_queue_gets_its_vector_when_it_gets_its_address() {
    let mut m = machine();
    m.write(18, 1, 0);
    m.write(18, 1, 3);
    assert!(!m.window.driven());
    m.write(14, 2, 2);
    m.write(8, 4, 0x100);
    assert!(m.window.driven(), "a queue has an address");
    m.commands();
    assert_eq!(take(&mut m), Settled::default(), "nothing was missed");
    assert_eq!(
        m.commands(),
        [write(QUEUE, 1), read(QUEUE), write(CONFIG, 0), read(CONFIG)],
        "the queue is selected already"
    );
    m.write(14, 2, 0);
    m.write(8, 4, 0x110);
    m.commands();
    assert_eq!(settle(&mut m), Settled::default());
    assert_eq!(m.commands(), [write(QUEUE, 1), read(QUEUE)]);
    m.write(14, 2, 7);
    assert_eq!(m.device.vector, [1, 0xffff, 1]);
    assert_eq!(m.device.config_vector, 0);
    assert_eq!(
        (m.window.causes(0), m.window.causes(1)),
        (ISR_CONFIG, ISR_QUEUE)
    );
    // What the guest selected is still selected, and written when something depends on it.
    assert_eq!(m.read(14, 2), 7);
    assert_eq!(m.commands(), []);
    assert_eq!(m.read(12, 2), 0);
    assert_eq!(m.commands(), [write(SELECT, 7), (true, 12, 2, None)]);
    // Nothing is left to do.
    settle(&mut m);
    m.write(18, 1, 7);
    settle(&mut m);
    assert_eq!(m.commands(), [(true, 18, 1, Some(7))]);
}

// Covers: IRQ-06, LIO-06
#[test]
fn a_guest_that_never_selects_finds_the_queue_it_had() {
    let mut m = machine();
    m.write(18, 1, 0);
    m.write(18, 1, 3);
    m.device.select = 1;
    m.commands();
    m.write(8, 4, 0x100);
    assert_eq!(
        m.commands(),
        [read(SELECT), (true, 8, 4, Some(0x100))],
        "which queue is it?"
    );
    take(&mut m);
    assert_eq!(m.device.vector, [0xffff, 1, 0xffff]);
    assert_eq!(m.read(14, 2), 1);
}

// Covers: IRQ-04, IRQ-06
#[test]
fn the_guest_gets_its_own_vectors_back() {
    let mut m = machine();
    m.write(18, 1, 0);
    m.msix = true;
    m.write(20, 2, 3);
    for (queue, vector) in [(0, 2), (1, 1), (2, 0xffff)] {
        m.write(14, 2, queue);
        m.write(8, 4, 0x100 + queue);
        m.write(22, 2, vector);
    }
    // Beyond the table: the device says so when it is asked.
    m.write(14, 2, 1);
    m.write(22, 2, 9);
    assert_eq!(m.read(22, 2), 0xffff);
    m.write(18, 1, 7);
    m.commands();
    settle(&mut m);
    assert_eq!(m.commands(), [], "with MSI-X on nothing is done");
    for _ in 0..3 {
        m.msix = false;
        let settled = take(&mut m);
        assert!(settled.late, "it may have interrupted before");
        assert!(!settled.given_back);
        assert_eq!(m.device.vector, [1, 1, 1]);
        assert_eq!(m.device.config_vector, 0);
        m.commands();
        m.window.serve_vectors(None, TURN);
        let mut mapped: Vec<_> = m.window.guest_vectors().collect();
        mapped.sort_unstable();
        assert_eq!(mapped, [2, 3]);
        let settled = settle(&mut m);
        assert!(!settled.late && settled.given_back);
        assert!(!settle(&mut m).given_back, "it is said once");
        assert_eq!(m.device.vector, [2, 0xffff, 0xffff]);
        assert_eq!(m.device.config_vector, 3);
        m.msix = true;
        assert_eq!(m.read(20, 2), 3);
        m.write(14, 2, 0);
        assert_eq!(m.read(22, 2), 2);
    }
}

// Covers: IRQ-06, IRQ-07
#[test]
fn one_vector_for_all_and_none_at_all() {
    let mut m = machine();
    m.device.table = 1;
    m.write(18, 1, 0);
    m.write(14, 2, 0);
    m.write(8, 4, 0x100);
    // The caller believes in two: the second is refused.
    assert_eq!(take(&mut m).unmapped, 0);
    assert_eq!((m.device.vector[0], m.device.config_vector), (0, 0));
    assert_eq!(m.window.causes(0), ISR_CONFIG | ISR_QUEUE);
    assert_eq!(m.window.causes(1), 0);
    let mut m = machine();
    m.device.table = 0;
    m.write(18, 1, 0);
    m.write(14, 2, 2);
    m.write(8, 4, 0x100);
    let settled = take(&mut m);
    assert_eq!(settled.unmapped, 2);
    assert_eq!(settled.last_unmapped, Some(Source::Config));
    assert!(!settled.late && settled.unheard);
    assert!(!m.window.broken(), "that is for the caller to say");
    m.commands();
    settle(&mut m);
    assert_eq!(m.commands(), [], "it was tried");
}

// Covers: IRQ-06
#[test]
fn commands_that_fail() {
    // Refused: that source goes without, the others do not.
    let mut m = machine();
    m.write(18, 1, 0);
    for queue in [0, 1] {
        m.write(14, 2, queue);
        m.write(8, 4, 0x100 + queue);
    }
    m.window.serve_vectors(Some(OWN), TURN);
    let mut first = true;
    let settled = m.settle(&mut |c| {
        let refuse = c.offset == QUEUE && std::mem::take(&mut first);
        refuse.then_some(FailKind::Refused)
    });
    assert_eq!(settled.unmapped, 1);
    assert_eq!(settled.last_unmapped, Some(Source::Queue(0)));
    assert_eq!(m.device.vector, [0xffff, 1, 0xffff]);
    // Too late, or the helper gone: later, when asked to.
    for kind in [FailKind::TimedOut, FailKind::GivenUp, FailKind::Lost] {
        let mut m = machine();
        m.write(18, 1, 0);
        m.write(14, 2, 0);
        m.write(8, 4, 0x100);
        m.window.serve_vectors(Some(OWN), TURN);
        let settled = m.settle(&mut |c| (c.offset == QUEUE).then_some(kind));
        assert_eq!(settled.unmapped, 0);
        assert!(m.window.settle_stalled());
        m.commands();
        m.write(18, 1, 7);
        let seen = usize::from(kind != FailKind::Lost);
        settle(&mut m);
        assert_eq!(m.commands().len(), seen, "{kind:?}: only the guest's own");
        if kind == FailKind::Lost {
            m.window.restored();
        } else {
            m.window.retry_settle();
        }
        assert!(settle(&mut m).late, "{kind:?}: nobody was told meanwhile");
        assert_eq!(m.device.vector[0], 1);
        assert_eq!(m.device.config_vector, 0);
    }
}

// Covers: LIO-08, IRQ-06
#[test]
fn a_reset_ends_it() {
    for reset in 0..3 {
        let mut m = machine();
        m.write(18, 1, 0);
        m.write(14, 2, 0);
        m.write(8, 4, 0x100);
        take(&mut m);
        match reset {
            0 => drop(m.write(18, 1, 0)),
            1 => drop(m.write(8, 4, 0)),
            _ => {
                m.device.reset();
                m.window.device_reset();
            }
        }
        assert!(!m.window.driven() && m.window.queues().is_empty());
        m.commands();
        settle(&mut m);
        m.window.serve_vectors(None, TURN);
        settle(&mut m);
        assert_eq!(m.commands(), [], "the device has forgotten them itself");
        assert_eq!(m.window.guest_vectors().count(), 0);
    }
}

#[test]
fn queues_that_are_not_tracked_do_no_harm() {
    let mut m = machine();
    m.write(18, 1, 0);
    m.write(14, 2, 1024);
    m.write(8, 4, 0x100);
    assert!(!m.window.driven());
    m.write(14, 2, 0xffff);
    m.write(8, 4, 0x100);
    take(&mut m);
    assert_eq!(m.device.vector, [0xffff; 3]);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Select(u64),
    Address(u64),
    QueueVector(u64),
    ConfigVector(u64),
    ReadVectors,
    Status(u64),
    Switch,
    LoseAndRestore,
}

fn op() -> impl Strategy<Value = Op> {
    let vector = prop_oneof![0u64..4, Just(7), Just(0xffff)];
    prop_oneof![
        3 => (0u64..5).prop_map(Op::Select),
        3 => (1u64..100).prop_map(Op::Address),
        3 => vector.clone().prop_map(Op::QueueVector),
        2 => vector.prop_map(Op::ConfigVector),
        1 => Just(Op::ReadVectors),
        1 => prop_oneof![Just(0u64), Just(3), Just(7)].prop_map(Op::Status),
        2 => Just(Op::Switch),
        1 => Just(Op::LoseAndRestore),
    ]
}

proptest! {
    /// Whatever the guest does, the VF has the right vectors after each access, and the guest sees a
    /// device whose vectors nobody but itself has written.
    // Covers: IRQ-04, IRQ-06
    #[test]
    fn any_sequence(ops in proptest::collection::vec(op(), 1..120)) {
        let mut m = machine();
        m.write(18, 1, 0);
        m.write(14, 2, 0);
        // The same device with nobody behind the guest's back.
        let mut plain = m.device.clone();
        for op in ops {
            let (offset, size, value) = match op {
                Op::Select(v) => (14, 2, v),
                Op::Address(v) => (8, 4, v),
                Op::QueueVector(v) if m.msix => (22, 2, v),
                Op::ConfigVector(v) if m.msix => (20, 2, v),
                Op::Status(v) => (18, 1, v),
                Op::ReadVectors if m.msix => {
                    for offset in [20, 22] {
                        let want = plain.direct(offset, 2, None, true, &[]);
                        prop_assert_eq!(m.read(offset, 2), want, "offset {}", offset);
                    }
                    continue;
                }
                Op::Switch => {
                    m.msix = !m.msix;
                    let own = (!m.msix && m.window.driven()).then_some(OWN);
                    m.window.serve_vectors(own, TURN);
                    settle(&mut m);
                    continue;
                }
                Op::LoseAndRestore => {
                    m.window.lost();
                    m.window.restored();
                    settle(&mut m);
                    continue;
                }
                _ => continue,
            };
            m.write(offset, size, value);
            plain.direct(offset, size, Some(value), m.msix, &[]);
            if offset == 18 && value == 0 {
                // What is selected after a reset is the device's business.
                m.write(14, 2, 1);
                plain.direct(14, 2, Some(1), m.msix, &[]);
            }
            let own = (!m.msix && m.window.driven()).then_some(OWN);
            m.window.serve_vectors(own, TURN);
            settle(&mut m);
            for queue in 0..3 {
                let want = if own.is_some() && plain.address[queue] != 0 {
                    OWN.queues
                } else {
                    plain.vector[queue]
                };
                prop_assert_eq!(m.device.vector[queue], want, "queue {} after {:?}", queue, op);
                prop_assert_eq!(m.device.address[queue], plain.address[queue]);
            }
            let want = if own.is_some() { OWN.config } else { plain.config_vector };
            prop_assert_eq!(m.device.config_vector, want, "after {:?}", op);
            prop_assert_eq!(m.read(14, 2), u64::from(plain.select));
        }
    }
}
