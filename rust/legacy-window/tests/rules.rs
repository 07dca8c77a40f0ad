// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What is remembered and what is forgotten, rule by rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::{net_config, net_machine, run, Machine};
use legacy_window::{FailKind, Space, Step, Window};
use virtio_pci_spec::DeviceType;

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
    let step = m.window.begin_read(8, 4, true);
    let msix = m.msix;
    let done = run(&mut m.window, &mut m.device, step, msix, &mut |_| {
        Some(FailKind::Refused)
    });
    assert_eq!(done.value, 0xffff_ffff);
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
    let step = m.window.begin_read(12, 2, true);
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

#[test]
fn parts_that_fail_read_as_ones() {
    let mut m = net_machine();
    m.msix = false;
    let fail_at = |m: &mut Machine, n: u8, kind| {
        let mut left = n;
        let step = m.window.begin_read(20 + 4, 4, false);
        let msix = m.msix;
        run(&mut m.window, &mut m.device, step, msix, &mut |_| {
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
    assert_eq!(m.window.counters().failed, 2);
}

#[test]
fn saved_states_are_checked() {
    use legacy_window::{RestoreError, SavedState};
    let mut m = net_machine();
    m.write(14, 2, 2);
    m.write(18, 1, 7);
    let state = m.window.state();
    let bytes = state.to_bytes();
    assert_eq!(SavedState::from_bytes(&bytes).unwrap(), state);
    let mut other = Window::new(DeviceType::Block, 96);
    assert!(matches!(
        other.restore(state),
        Err(RestoreError::DeviceType { .. })
    ));
    let mut other = Window::new(DeviceType::Net, 12);
    assert!(matches!(
        other.restore(state),
        Err(RestoreError::ConfigLen { .. })
    ));
    for (at, value) in [(0, 2), (8, 2), (10, 1), (11, 1)] {
        let mut bad = bytes;
        bad[at] = value;
        assert!(SavedState::from_bytes(&bad).is_err(), "byte {at}");
    }
    for len in 0..bytes.len() {
        assert!(SavedState::from_bytes(&bytes[..len]).is_err());
    }
    let mut fresh = Window::new(DeviceType::Net, 28);
    fresh.restore(state).unwrap();
    assert_eq!(fresh.last_status(), 7);
    m.window = fresh;
    assert_eq!(m.read(12, 2), 64);
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
