// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Reading fields of the device configuration in one, and what ends it.

#![allow(
    clippy::type_complexity,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code
)]

mod common;

use common::{Device, Machine};
use legacy_window::{Command, Completion, FailKind, Space};
use virtio_pci_spec::DeviceType;

/// First byte of the device configuration without MSI-X.
const CONFIG: u32 = 20;

fn machine(device: DeviceType, len: u8) -> Machine {
    Machine::new(device, Device::new(&[256, 128], (0..len).collect()))
}

/// The configuration commands since the last call, as (offset, length).
fn asked(m: &mut Machine) -> Vec<(u8, u8)> {
    m.commands()
        .iter()
        .filter(|c| !c.0)
        .map(|c| (c.1, c.2))
        .collect()
}

fn read_failing(
    m: &mut Machine,
    at: u32,
    size: u8,
    fail: &mut dyn FnMut(&Command) -> Option<FailKind>,
) -> Completion {
    m.failing(at, size, None, fail)
}

// Covers: LEG-12
#[test]
fn a_pass_byte_by_byte_reads_each_field_once() {
    for (device, len, want) in [
        (
            DeviceType::Net,
            12,
            vec![(0, 4), (4, 2), (6, 2), (8, 2), (10, 2)],
        ),
        // Two commands for the 64 bits of the capacity.
        (DeviceType::Block, 16, vec![(0, 4), (4, 4), (8, 4), (12, 4)]),
        (DeviceType::Console, 8, vec![(0, 2), (2, 2), (4, 4)]),
    ] {
        let mut m = machine(device, len);
        for _ in 0..2 {
            for at in 0..u32::from(len) {
                assert_eq!(m.read(CONFIG + at, 1), u64::from(at));
            }
            assert_eq!(asked(&mut m), want, "{device:?}: each pass asks the device");
        }
    }
}

#[test]
fn a_field_is_as_it_was_at_one_moment() {
    let mut m = machine(DeviceType::Block, 96);
    let mut seen = Vec::new();
    for at in 8..12 {
        m.device.config[8..12].fill(at as u8);
        seen.push(m.read(CONFIG + at, 1));
    }
    assert_eq!(seen, [8, 8, 8, 8]);
    assert_eq!(m.read(CONFIG + 8, 1), 11, "the next pass");
    assert_eq!(m.read(CONFIG + 9, 2), 0x0b0b, "wider, still in order");
    m.device.config[11] = 77;
    assert_eq!(m.read(CONFIG + 11, 1), 11);
    assert_eq!(m.read(CONFIG + 11, 1), 77, "each byte once");
}

#[test]
fn whatever_comes_between_ends_it() {
    let between: [(&str, fn(&mut Machine)); 9] = [
        ("a register", |m| {
            m.read(18, 1);
        }),
        ("the ISR", |m| {
            m.read(19, 1);
        }),
        ("another byte", |m| {
            m.read(CONFIG + 30, 1);
        }),
        ("a byte behind", |m| {
            m.read(CONFIG + 200, 1);
        }),
        ("a write", |m| {
            m.write(CONFIG + 32, 1, 1);
        }),
        ("a kick that passes through the window", |m| {
            m.failing(16, 2, Some(0), &mut |_| None);
        }),
        ("the helper gone and back", |m| {
            m.window.lost();
            m.window.restored();
        }),
        ("a reset from outside", |m| m.window.device_reset()),
        ("a wrong width", |m| {
            m.read(CONFIG + 9, 3);
        }),
    ];
    for (what, act) in between {
        let mut m = machine(DeviceType::Block, 96);
        m.read(CONFIG + 8, 1);
        m.device.config[8..12].fill(0x55);
        act(&mut m);
        assert_eq!(m.read(CONFIG + 9, 1), 0x55, "{what}");
    }
    // The same bytes, elsewhere in the BAR.
    let mut m = machine(DeviceType::Block, 96);
    m.read(CONFIG + 8, 1);
    m.device.config.fill(0x55);
    m.msix = true;
    assert_eq!(m.read(CONFIG + 9, 1), 0x55, "configuration byte 5");
}

#[test]
fn a_lost_helper_leaves_nothing_to_read() {
    let mut m = machine(DeviceType::Block, 96);
    m.read(CONFIG + 8, 1);
    m.window.lost();
    assert_eq!(m.read(CONFIG + 9, 1), 0xff);
}

/// A device that takes the bytes of an array as fields of their own, or any length but one as an
/// error, still shows its whole configuration.
#[test]
fn a_device_that_refuses_long_reads_is_asked_for_what_the_guest_wants() {
    let mut m = machine(DeviceType::Net, 28);
    let mut refused = 0;
    let mut picky = |c: &Command| {
        let refuse = c.space == Space::Device && c.len > 1;
        refused += usize::from(refuse);
        refuse.then_some(FailKind::Refused)
    };
    for at in 0..12 {
        let done = read_failing(&mut m, CONFIG + at, 1, &mut picky);
        assert_eq!((done.value, done.effects.failed), (at.into(), None));
    }
    assert_eq!(asked(&mut m).len(), 12);
    // The array whole: split at its elements then.
    let mut m = machine(DeviceType::Net, 28);
    let done = read_failing(&mut m, CONFIG, 4, &mut picky);
    assert_eq!((done.value, done.effects.failed), (0x0302_0100, None));
    assert_eq!(refused, 2, "each is asked once");
    // Another helper may stand before another device.
    m.window.lost();
    m.window.restored();
    m.commands();
    m.read(CONFIG, 1);
    assert_eq!(asked(&mut m), [(0, 4)]);
}

#[test]
fn other_failures_are_not_tried_again() {
    for kind in [FailKind::TimedOut, FailKind::GivenUp, FailKind::Lost] {
        let mut m = machine(DeviceType::Net, 28);
        let mut count = 0;
        let done = read_failing(&mut m, CONFIG, 1, &mut |_| {
            count += 1;
            Some(kind)
        });
        assert_eq!((done.value, done.effects.failed), (0xff, Some(kind)));
        assert_eq!(count, 1);
    }
    // Refused at the guest's own length, too: it was not the length.
    let mut m = machine(DeviceType::Net, 28);
    let done = read_failing(&mut m, CONFIG, 1, &mut |_| Some(FailKind::Refused));
    assert_eq!(done.value, 0xff);
    m.commands();
    m.read(CONFIG, 1);
    assert_eq!(asked(&mut m), [(0, 4)]);
    let done = read_failing(&mut m, CONFIG + 6, 2, &mut |_| Some(FailKind::Refused));
    assert_eq!(done.value, 0xffff);
    assert_eq!(done.effects.failed, Some(FailKind::Refused));
}
