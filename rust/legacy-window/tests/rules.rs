// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What is remembered and what is forgotten, rule by rule.

#![allow(
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code
)]

mod common;

use common::{net_config, net_machine, Machine};
use legacy_window::{FailKind, Space, Step};

#[test]
fn queue_select_is_held_back_until_needed() {
    let mut m = net_machine();
    for q in [2, 1, 0] {
        m.write(14, 2, q);
    }
    m.write(16, 2, 1);
    m.write(18, 1, 1);
    assert_eq!(m.read(14, 2), 0);
    assert_eq!(m.commands(), [(true, 18, 1, Some(1))]);
    assert_eq!(m.read(12, 2), 256);
    assert_eq!(m.commands(), [(true, 14, 2, Some(0)), (true, 12, 2, None)]);
    m.write(14, 2, 0);
    m.write(8, 4, 0x1234);
    assert_eq!(m.commands(), [(true, 8, 4, Some(0x1234))]);
    assert_eq!(m.read(12, 2), 256);
    assert_eq!(m.commands(), [], "the size is known");
}

// Covers: LIO-06
#[test]
fn addresses_and_vectors_after_a_reset_are_known() {
    let mut m = net_machine();
    m.write(14, 2, 1);
    m.write(8, 4, 0x77);
    m.write(22, 2, 2);
    m.write(20, 2, 0);
    let done = m.write(18, 1, 0);
    assert!(done.effects.reset);
    m.commands();
    m.write(14, 2, 1);
    assert_eq!(
        (m.read(8, 4), m.read(22, 2), m.read(20, 2)),
        (0, 0xffff, 0xffff)
    );
    m.write(14, 2, 60000);
    assert_eq!((m.read(8, 4), m.read(22, 2)), (0, 0xffff));
    assert_eq!(m.commands(), []);
}

// Covers: IRQ-06
#[test]
fn a_vector_is_read_back_from_the_device_once() {
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(14, 2, 0);
    for (written, back) in [(1, 1), (9, 0xffff), (2, 2)] {
        m.write(22, 2, written);
        m.commands();
        assert_eq!(m.read(22, 2), back);
        assert_eq!(m.commands(), [(true, 22, 2, None)]);
        assert_eq!(m.read(22, 2), back);
        assert_eq!(m.commands(), []);
        m.write(20, 2, written);
        m.commands();
        assert_eq!(m.read(20, 2), back);
        assert_eq!(m.commands().len(), 1);
    }
    m.msix = false;
    m.read(19, 1);
    m.msix = true;
    m.commands();
    m.read(22, 2);
    assert_eq!(
        m.commands().len(),
        1,
        "after a switch of MSI-X it is read again"
    );
    m.window.msix_switched();
    m.read(20, 2);
    assert_eq!(m.commands().len(), 1);
}

#[test]
fn a_reset_that_has_not_finished_teaches_nothing() {
    let mut m = net_machine();
    m.write(14, 2, 0);
    m.write(8, 4, 0x55);
    m.device.slow_reset = 1;
    m.write(18, 1, 0);
    assert_eq!(m.read(18, 1), 4);
    m.write(14, 2, 0);
    m.commands();
    m.read(8, 4);
    assert_eq!(m.commands().len(), 2);
}

#[test]
fn a_device_in_trouble_is_not_believed_to_be_unchanged() {
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(14, 2, 1);
    m.read(8, 4);
    m.commands();
    m.device.status = 0x40;
    m.device.address[1] = 0x31;
    assert_eq!(m.read(18, 1), 0x40);
    assert_eq!(m.read(8, 4), 0x31);
}

#[test]
fn queues_without_memory_of_their_own_are_forgotten_with_the_others() {
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(14, 2, 1000);
    assert_eq!((m.read(22, 2), m.read(8, 4)), (0xffff, 0));
    assert_eq!(m.commands(), [(true, 18, 1, Some(0))]);
    m.window.msix_switched();
    m.read(22, 2);
    assert_eq!(m.commands().len(), 2, "selection and vector");
    m.write(8, 4, 7);
    m.commands();
    m.read(8, 4);
    assert_eq!(m.commands().len(), 1);
    m.write(14, 2, 70);
    m.read(8, 4);
    assert_eq!(
        m.commands().len(),
        2,
        "one of them was written, so none is known"
    );
}

/// The selection that may or may not have reached the device is sent again.
#[test]
fn a_selection_that_failed_is_repeated() {
    let mut m = net_machine();
    m.write(14, 2, 1);
    m.read(12, 2);
    m.window.msix_switched();
    m.write(14, 2, 2);
    let done = m.failing(8, 4, None, &mut |_| Some(FailKind::Refused));
    assert_eq!(done.value, 0xffff_ffff);
    assert!(done.effects.broke);
    m.write(18, 1, 0);
    m.write(14, 2, 1);
    m.commands();
    assert_eq!(m.read(12, 2), 128);
    assert_eq!(m.commands()[0], (true, 14, 2, Some(1)));
}

/// An access that its caller gave up on is no reason to believe that the old selection holds.
#[test]
fn a_selection_that_was_never_reported_is_repeated() {
    let mut m = net_machine();
    m.write(14, 2, 1);
    m.read(12, 2);
    m.write(14, 2, 2);
    let step = m.window.begin(12, 2, None, true);
    assert!(matches!(step, Step::Command(c) if c.offset == 14));
    m.write(14, 2, 1);
    m.commands();
    m.read(8, 4);
    assert_eq!(m.commands()[0], (true, 14, 2, Some(1)));
}

#[test]
fn status_isr_and_configuration_always_come_from_the_device() {
    let mut m = net_machine();
    m.write(18, 1, 3);
    for (status, isr) in [(3u8, 0u8), (0x43, 1), (3, 2)] {
        m.device.status = status;
        m.device.isr = isr;
        m.device.config[6] = isr;
        assert_eq!(m.read(18, 1), u64::from(status));
        assert_eq!(m.read(19, 1), u64::from(isr));
        assert_eq!(m.read(30, 1), u64::from(isr));
    }
}

#[test]
fn effects_tell_of_status_and_loss() {
    let mut m = net_machine();
    let done = m.write(18, 1, 3);
    let change = done.effects.status.unwrap();
    assert_eq!((change.old, change.new), (0, 3));
    assert_eq!(m.window.status(), 3);
    m.window.lost();
    let done = m.write(16, 2, 1);
    assert_eq!(m.device.notified, [1], "notifications go on");
    assert!(!done.effects.lost);
    let done = m.read_full(18, 1);
    assert!(done.effects.lost && done.value == 0xff);
    let done = m.write(18, 1, 0);
    assert!(done.effects.lost && !done.effects.reset);
    assert_eq!(m.device.status, 3);
    assert_eq!(m.read(24, 4), 0xffff_ffff);
    m.write(14, 2, 2);
    m.window.restored();
    assert_eq!(m.read(18, 1), 3, "the device's state is what it was");
    assert_eq!(m.read(12, 2), 64, "the selection followed the guest");
}

/// An answer that comes after the helper was given up leads to no further command.
#[test]
fn an_access_ends_with_the_helper() {
    for (offset, write) in [(12, None), (8, Some(0x10)), (24, None)] {
        let mut m = net_machine();
        m.write(14, 2, 1);
        let Step::Command(first) = m.window.begin(offset, 4, write, true) else {
            panic!("a command");
        };
        m.window.lost();
        let Step::Done(done) = m.window.resume(m.device.command(first, true)) else {
            panic!("one more command");
        };
        assert_eq!(done.effects.failed, Some(FailKind::Lost));
        // The queue that was selected is relied on by reads, too.
        assert_eq!(done.effects.broke, offset != 24);
    }
}

#[test]
fn parts_that_fail_read_as_ones() {
    let mut m = net_machine();
    m.msix = false;
    let fail_at = |m: &mut Machine, n: u8, kind| {
        let mut left = n;
        m.failing(20 + 4, 4, None, &mut |_| {
            left = left.wrapping_sub(1);
            (left == 255).then_some(kind)
        })
    };
    let c = net_config();
    let whole = u32::from_le_bytes([c[4], c[5], c[6], c[7]]);
    let done = fail_at(&mut m, 1, FailKind::Refused);
    assert_eq!(done.value as u32, whole | 0xffff_0000, "the link state");
    assert_eq!(done.effects.failed, Some(FailKind::Refused));
    let done = fail_at(&mut m, 1, FailKind::TimedOut);
    assert_eq!(
        done.value as u32,
        whole | 0xffff_0000,
        "no time for the rest"
    );
}

// Covers: LIO-08
#[test]
fn a_queue_address_of_0_resets_the_device_once() {
    let mut m = net_machine();
    m.write(18, 1, 7);
    m.write(4, 4, 0x20);
    m.write(14, 2, 1);
    m.write(8, 4, 0x31);
    m.device.log.clear();
    let done = m.write(8, 4, 0);
    assert!(done.effects.reset);
    assert_eq!(m.device.log, [(Space::Common, 18, 1, Some(0))]);
    assert_eq!((m.device.status, m.device.address[1]), (0, 0));
    assert_eq!(m.read(14, 2), 0);
    // What Linux does per queue after its reset costs nothing.
    m.device.log.clear();
    m.msix = true;
    for queue in 0..3 {
        m.write(14, 2, queue);
        m.write(8, 4, 0);
    }
    assert_eq!(m.device.log, []);
    assert_eq!(m.read(14, 2), 0);
    // A configuration that was written may be the device's to restore.
    m.write(24, 1, 0xaa);
    m.device.log.clear();
    m.write(8, 4, 0);
    assert_eq!(m.device.log, [(Space::Common, 18, 1, Some(0))]);
}

// Covers: LIO-06, LIO-08
#[test]
fn queues_in_use_are_those_with_an_address() {
    let used = |m: &Machine| m.window.queues().iter().collect::<Vec<_>>();
    let all_resets: [(&str, fn(&mut Machine)); 3] = [
        ("status", |m| {
            m.write(18, 1, 0);
        }),
        ("address 0", |m| {
            m.write(8, 4, 0);
        }),
        ("from outside", |m| m.window.device_reset()),
    ];
    for (what, reset) in all_resets {
        let mut m = net_machine();
        m.write(18, 1, 0);
        m.device.select = 1;
        m.write(8, 4, 0x10);
        assert_eq!(used(&m), [1], "a guest that selected none");
        for queue in [1023, 1024, 0xffff, 2, 0] {
            m.write(14, 2, queue);
            m.write(8, 4, 0x20 + queue);
        }
        assert_eq!(used(&m), [0, 1, 2, 1023]);
        assert!(m.window.queues().contains(1023) && !m.window.queues().contains(1024));
        // Neither a status nor a switch of MSI-X, nor a helper that comes and goes.
        m.write(18, 1, 7);
        m.msix = false;
        m.read(18, 1);
        m.window.lost();
        m.window.restored();
        assert_eq!(used(&m).len(), 4);
        assert!(!m.window.driven(), "nobody asked for the vectors");
        reset(&mut m);
        assert!(m.window.queues().is_empty(), "{what}");
    }
    let mut m = net_machine();
    m.write(18, 1, 0);
    m.write(14, 2, 1);
    m.failing(8, 4, Some(0x10), &mut |_| Some(FailKind::Refused));
    assert!(m.window.queues().is_empty(), "the device did not take it");
}
