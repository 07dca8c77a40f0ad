// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Writes that the device did not get: its driver finds no queues instead of waiting for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::{net_machine, Device, Machine};
use legacy_window::{Command, CommandKind, Completion, FailKind, OwnVectors};
use virtio_pci_spec::DeviceType;

const KINDS: [FailKind; 5] = [
    FailKind::Refused,
    FailKind::TimedOut,
    FailKind::GivenUp,
    FailKind::Lost,
    FailKind::Mismatch,
];

/// Offset, bytes and value of the writes that drivers rely on.
const RELIED_ON: [(u32, u8, u64); 8] = [
    (4, 4, 0x20),
    (4, 4, 0),
    (8, 4, 0x1234),
    (18, 1, 3),
    (18, 1, 7),
    (20, 2, 0),
    (22, 2, 1),
    // Zero-extended, so not 0xffff.
    (22, 1, 0xff),
];

/// Those that they do not.
const OTHERS: [(u32, u8, u64); 8] = [
    (8, 4, 0),
    (18, 1, 0),
    (18, 4, 0x100),
    (20, 2, 0xffff),
    (22, 4, 0xffff_ffff),
    (14, 2, 1),
    (24, 1, 0xaa),
    (0, 4, 1),
];

/// A driver that has set up queue 1 and not selected it again.
fn machine() -> Machine {
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(18, 1, 3);
    m.write(14, 2, 1);
    assert_eq!(m.read(12, 2), 128);
    m.write(8, 4, 0x99);
    m.write(22, 2, 2);
    m.write(20, 2, 0);
    m.write(14, 2, 0);
    m.commands();
    m
}

/// A write whose command at `at`, or the selection before it, fails.
fn fail_at(m: &mut Machine, (o, n, v): (u32, u8, u64), at: u8, kind: FailKind) -> Completion {
    m.failing(o, n, Some(v), &mut |c: &Command| {
        (c.offset == at).then_some(kind)
    })
}

fn shows_no_queues(m: &mut Machine, what: &str) {
    m.commands();
    for queue in [0, 1, 2, 500] {
        m.write(14, 2, queue);
        assert_eq!(m.read(14, 2), queue, "{what}");
        assert_eq!((m.read(12, 2), m.read(12, 4)), (0, 0), "{what}: size");
        assert_eq!(m.read(8, 4), 0, "{what}: address");
        let vectors = (m.read(22, 2), m.read(20, 2), m.read(20, 1));
        assert_eq!(vectors, (0xffff, 0xffff, 0xff), "{what}");
        for (offset, value) in [(8, 0x77), (20, 1), (22, 1), (20, 0xffff), (22, 0xffff)] {
            let done = m.write(offset, 2, value);
            assert_eq!(done.effects, Default::default(), "{what}");
        }
    }
    assert_eq!(m.commands(), [], "{what}: the device hears nothing of it");
}

fn shows_all_again(m: &mut Machine, what: &str) {
    assert!(!m.window.broken(), "{what}");
    m.write(14, 2, 1);
    assert_eq!(m.read(12, 2), 128, "{what}");
    m.write(8, 4, 0x55);
    m.write(22, 2, 1);
    assert_eq!((m.read(8, 4), m.read(22, 2)), (0x55, 1), "{what}");
    assert_eq!(m.device.address[1], 0x55, "{what}");
}

// Covers: LIO-06, IRQ-06
#[test]
fn a_write_that_is_refused_takes_the_queues_away() {
    for access in RELIED_ON {
        for kind in KINDS {
            // The write itself, and the selection before it.
            for at in [access.0 as u8, 14] {
                if at == 14 && ![8, 22].contains(&access.0) {
                    continue;
                }
                let what = format!("{access:?} {kind:?} at {at}");
                let mut m = machine();
                let done = fail_at(&mut m, access, at, kind);
                assert_eq!(done.effects.failed, Some(kind), "{what}");
                assert!(done.effects.broke && m.window.broken(), "{what}");
                if kind == FailKind::Lost {
                    assert_eq!(m.read(12, 2), 0xffff, "{what}: lost is ones");
                    m.window.restored();
                }
                shows_no_queues(&mut m, &what);
                // Once more is nothing new.
                let done = fail_at(&mut m, (4, 4, 1), 4, FailKind::Refused);
                assert!(!done.effects.broke && m.window.broken(), "{what}");
                m.write(18, 1, 0);
                shows_all_again(&mut m, &what);
            }
        }
    }
}

/// A guest that never selects: the window has to ask which queue it is.
// Covers: LIO-06
#[test]
fn a_queue_that_could_not_be_found_out_is_one_that_was_not_written() {
    for access in [(8, 4, 0x10), (22, 2, 0)] {
        let mut m = net_machine();
        m.write(18, 1, 0);
        let done = fail_at(&mut m, access, 14, FailKind::Refused);
        assert!(done.effects.broke, "{access:?}");
    }
}

#[test]
fn writes_that_nobody_waits_for_do_not() {
    for access in OTHERS {
        for kind in KINDS {
            let mut m = machine();
            let done = m.failing(access.0, access.1, Some(access.2), &mut |_| Some(kind));
            let broke = done.effects.broke || m.window.broken();
            assert!(!broke, "{access:?} {kind:?}");
        }
        let mut m = machine();
        m.window.lost();
        let (offset, size, value) = access;
        assert!(!m.write(offset, size, value).effects.broke, "{access:?}");
        m.window.restored();
        assert!(!m.window.broken(), "{access:?}");
    }
    // Nor do reads, unless the device did not take the queue that was selected before.
    for offset in [0, 4, 8, 12, 18, 19, 20, 22, 24] {
        let mut m = machine();
        let mut selects = false;
        m.failing(offset, 2, None, &mut |c| {
            selects |= c.offset == 14 && matches!(c.kind, CommandKind::Write(_));
            Some(FailKind::Refused)
        });
        assert_eq!(m.window.broken(), selects, "{offset}");
        let mut m = machine();
        m.failing(offset, 2, None, &mut |c| {
            (c.offset != 14).then_some(FailKind::Refused)
        });
        assert!(!m.window.broken(), "{offset}");
    }
}

// Covers: LIO-06, LIO-08
#[test]
fn a_write_that_is_dropped_without_the_helper_is_missed_too() {
    for access in RELIED_ON {
        let what = format!("{access:?}");
        let (offset, size, value) = access;
        let mut m = machine();
        m.window.lost();
        let done = m.write(offset, size, value);
        assert!(done.effects.lost && done.effects.broke, "{what}");
        assert_eq!(m.read(12, 2), 0xffff, "{what}: reads are as without it");
        let done = m.write(offset, size, value);
        assert!(done.effects.lost && !done.effects.broke, "{what}");
        // A reset that is dropped is none.
        m.write(18, 1, 0);
        m.window.restored();
        assert!(m.window.broken(), "{what}");
        shows_no_queues(&mut m, &what);
        m.write(18, 1, 0);
        shows_all_again(&mut m, &what);
    }
}

// Covers: LIO-08
#[test]
fn only_a_reset_of_the_driver_ends_it() {
    let mut m = machine();
    fail_at(&mut m, (4, 4, 1), 4, FailKind::Refused);
    // What drivers do when they give up: it resets the device, and then costs nothing.
    let done = m.write(8, 4, 0);
    assert!(done.effects.reset);
    assert_eq!(m.commands(), [(true, 18, 1, Some(0))]);
    assert!(m.window.queues().is_empty());
    shows_no_queues(&mut m, "address 0");
    m.write(8, 4, 0);
    assert_eq!(m.commands(), []);
    for kind in KINDS {
        fail_at(&mut m, (18, 1, 0), 18, kind);
        m.window.restored();
        assert!(m.window.broken(), "a reset that failed: {kind:?}");
    }
    m.write(18, 1, 0x80);
    m.window.msix_switched();
    shows_no_queues(&mut m, "FAILED");
    m.device.reset();
    m.window.device_reset();
    shows_all_again(&mut m, "a reset from outside");
    fail_at(&mut m, (18, 1, 7), 18, FailKind::TimedOut);
    shows_no_queues(&mut m, "DRIVER_OK that the device never saw");
    m.write(18, 1, 0);
    shows_all_again(&mut m, "status 0");
}

// Covers: LIO-05, LIO-09
#[test]
fn all_else_goes_on() {
    let mut m = machine();
    fail_at(&mut m, (8, 4, 0x10), 8, FailKind::Refused);
    m.device.isr = 1;
    m.write(18, 1, 7);
    m.write(4, 4, 0x20);
    m.write(24, 1, 0xaa);
    assert_eq!((m.device.status, m.device.driver_features), (7, 0x20));
    assert_eq!(m.device.config[0], 0xaa);
    assert_eq!(m.read(0, 4), u64::from(m.device.features));
    assert_eq!((m.read(4, 4), m.read(18, 1), m.read(19, 1)), (0x20, 7, 1));
    assert_eq!(m.read(24, 1), 0xaa);
}

/// What the legacy driver of Linux does per queue: a size of 0, or a vector that does not read
/// back, ends its probe.
// Covers: LIO-06, IRQ-06
#[test]
fn linux_finds_no_queue_and_gives_up() {
    let setup_vq = |m: &mut Machine, queue: u64| {
        m.write(14, 2, queue);
        let size = m.read(12, 2);
        if size == 0 || m.read(8, 4) != 0 {
            return Err("ENOENT");
        }
        m.write(8, 4, 0x100 + queue);
        m.write(22, 2, 1);
        if m.read(22, 2) == 0xffff {
            m.write(8, 4, 0);
            return Err("EBUSY");
        }
        Ok(())
    };
    // Refused features; the next attempt, after its reset, succeeds.
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(18, 1, 3);
    fail_at(&mut m, (4, 4, 0x20), 4, FailKind::Refused);
    assert_eq!(setup_vq(&mut m, 0), Err("ENOENT"));
    m.write(18, 1, 0x83);
    m.write(18, 1, 0);
    assert_eq!(setup_vq(&mut m, 0), Ok(()));
    // A refused address of the second queue: the vector tells, and the clean-up does not hide it.
    m.write(14, 2, 1);
    fail_at(&mut m, (8, 4, 0x101), 8, FailKind::Refused);
    m.write(22, 2, 1);
    assert_eq!(m.read(22, 2), 0xffff);
    m.write(8, 4, 0);
    assert_eq!(setup_vq(&mut m, 0), Err("ENOENT"));
}

/// A disk's driver with INTx, whose only queue is set up; the rest of it reads the configuration.
fn disk() -> Machine {
    let device = Device::new(&[128], (1..=96).collect());
    let mut m = Machine::new(DeviceType::Block, device);
    m.window.emulate_intx();
    m.write(18, 1, 0);
    m.write(18, 1, 3);
    m.write(14, 2, 0);
    m
}

/// Bytes of the device configuration, as Linux reads them: one by one.
fn bytes(m: &mut Machine, range: std::ops::Range<u32>) -> Vec<u64> {
    range.map(|at| m.read(20 + at, 1)).collect()
}

// Covers: LIO-06, LIO-08
#[test]
fn a_disk_without_its_queue_has_no_sectors_and_no_block_size() {
    let mut m = disk();
    assert_eq!(bytes(&mut m, 0..3), [1, 2, 3]);
    fail_at(&mut m, (8, 4, 0x10), 8, FailKind::Refused);
    m.commands();
    assert_eq!(bytes(&mut m, 0..8), [0; 8]);
    assert_eq!((m.read(20, 4), m.read(24, 4), m.read(40, 4)), (0, 0, 1));
    assert_eq!(bytes(&mut m, 20..24), [1, 0, 0, 0]);
    assert_eq!(m.commands(), [], "the device hears nothing of it");
    // Across the border, and everything else, as it is.
    assert_eq!(m.read(26, 4), 0x0a09_0000);
    assert_eq!(m.read(42, 4), 0x1a19_0000);
    assert_eq!(bytes(&mut m, 8..20), (9..=20).collect::<Vec<_>>());
    assert_eq!(bytes(&mut m, 24..34), (25..=34).collect::<Vec<_>>());
    m.write(52, 1, 0x77);
    assert_eq!(m.device.config[32], 0x77);
    m.write(18, 1, 0);
    assert_eq!(bytes(&mut m, 0..3), [1, 2, 3]);
    // What the others have there means something else.
    let mut m = net_machine();
    m.write(18, 1, 0);
    fail_at(&mut m, (4, 4, 1), 4, FailKind::Refused);
    assert_eq!(m.read(24, 4), 0x0a07_0401);
}

/// The vectors behind INTx are the caller's; if a queue gets none, its driver must not wait for it.
// Covers: LIO-06, IRQ-06
#[test]
fn a_queue_that_no_interrupt_of_is_heard() {
    let own = OwnVectors {
        config: 0,
        queues: 1,
    };
    for (at, ready, heard) in [(22, false, false), (22, true, false), (20, false, true)] {
        let what = format!("vector at {at}, ready {ready}");
        let mut m = disk();
        m.write(8, 4, 0x10);
        if ready {
            m.write(18, 1, 7);
        }
        m.window.serve_vectors(Some(own), 1);
        let settled = m.settle(&mut |c| (c.offset == at).then_some(FailKind::Refused));
        assert_eq!(settled.unmapped, 1, "{what}");
        assert_eq!(settled.unheard, !heard && !ready, "{what}");
        if !settled.unheard {
            continue;
        }
        assert!(m.window.gives_up() && !m.window.gives_up(), "{what}");
        m.commands();
        assert_eq!((m.read(12, 2), m.read(20, 4)), (0, 0), "{what}");
        assert_eq!(m.commands(), [], "{what}");
        m.write(18, 1, 0);
        assert_eq!(m.read(12, 2), 128, "{what}");
    }
}
