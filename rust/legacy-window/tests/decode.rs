// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Every access at every offset against a plain reading of the rules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::{Device, Machine};
use legacy_window::{decode, Decoded, Effects, Rejected};
use virtio_pci_spec::DeviceType;

/// Offset, bytes of an element, elements, writable: written down here once more, so that a slip in
/// the crate's table shows.
type Table = &'static [(u16, u8, u8, bool)];

const NET: Table = &[
    (0, 1, 6, true),
    (6, 2, 1, false),
    (8, 2, 1, false),
    (10, 2, 1, false),
    (12, 4, 1, false),
    (16, 1, 1, false),
    (17, 1, 1, false),
    (18, 2, 1, false),
    (20, 4, 1, false),
    (24, 4, 1, false),
];
const BLK: Table = &[
    (0, 8, 1, false),
    (8, 4, 1, false),
    (12, 4, 1, false),
    (16, 2, 1, false),
    (18, 1, 1, false),
    (19, 1, 1, false),
    (20, 4, 1, false),
    (24, 1, 1, false),
    (25, 1, 1, false),
    (26, 2, 1, false),
    (28, 4, 1, false),
    (32, 1, 1, true),
    (33, 1, 1, false),
    (34, 2, 1, false),
    (36, 4, 3, false),
    (48, 4, 2, false),
    (56, 1, 1, false),
    (57, 1, 3, false),
    (60, 4, 3, false),
    (72, 4, 5, false),
    (92, 1, 1, false),
    (93, 1, 3, false),
];
const CONSOLE: Table = &[(0, 2, 2, false), (4, 4, 1, false), (8, 4, 1, true)];
const BALLOON: Table = &[
    (0, 4, 1, false),
    (4, 4, 1, true),
    (8, 4, 1, false),
    (12, 4, 1, true),
];
const SCSI: Table = &[
    (0, 4, 5, false),
    (20, 4, 2, true),
    (28, 2, 2, false),
    (32, 4, 1, false),
];
const P9: Table = &[(0, 2, 1, false), (2, 1, 254, false)];

const TYPES: [(DeviceType, u16, Table); 9] = [
    (DeviceType::Net, 28, NET),
    (DeviceType::Net, 12, NET),
    (DeviceType::Net, 11, NET),
    (DeviceType::Block, 96, BLK),
    (DeviceType::Console, 12, CONSOLE),
    (DeviceType::Entropy, 0, &[]),
    (DeviceType::Balloon, 16, BALLOON),
    (DeviceType::Scsi, 36, SCSI),
    (DeviceType::P9, 34, P9),
];

/// Element that holds a byte: first byte, bytes, writable. Unknown bytes stand alone.
fn element(table: Table, at: u16) -> (u16, u16, bool) {
    for (offset, elem, count, writable) in table {
        let elem = u16::from(*elem);
        let end = offset + elem * u16::from(*count);
        if at >= *offset && at < end {
            return (at - (at - offset) % elem, elem, *writable);
        }
    }
    (at, 1, true)
}

/// End of the field that holds a byte: only the arrays of bytes have several elements in one field.
fn field_end(table: Table, at: u16) -> u16 {
    table
        .iter()
        .find(|(offset, elem, count, _)| {
            *elem == 1 && (*offset..offset + u16::from(*count)).contains(&at)
        })
        .map_or_else(
            || {
                let (start, len, _) = element(table, at);
                start + len
            },
            |(offset, _, count, _)| offset + u16::from(*count),
        )
}

const FIELDS: [(u32, u8, bool); 10] = [
    (0, 4, false),
    (4, 4, true),
    (8, 4, true),
    (12, 2, false),
    (14, 2, true),
    (16, 2, true),
    (18, 1, true),
    (19, 1, false),
    (20, 2, true),
    (22, 2, true),
];

fn machine(device: DeviceType, len: u16) -> Machine {
    let config = (0..len)
        .map(|i| (i as u8).wrapping_mul(37).wrapping_add(0x81))
        .collect();
    let mut d = Device::new(&[256, 128, 64], config);
    d.driver_features = 0x0102_0304;
    d.address = vec![0x11_2233, 0x44_5566, 0x77_8899];
    d.vector = vec![1, 2, 3];
    d.config_vector = 0;
    d.status = 7;
    d.isr = 3;
    d.select = 1;
    Machine::new(device, d)
}

fn header_value(offset: u32) -> u64 {
    match offset {
        0 => 0x7901_8aef,
        4 => 0x0102_0304,
        8 => 0x44_5566,
        12 => 128,
        14 => 1,
        18 => 7,
        19 => 3,
        20 => 0,
        22 => 2,
        _ => unreachable!(),
    }
}

fn ones(width: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(width))
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10, LEG-12
#[test]
fn every_read_at_every_offset() {
    for (device, len, table) in TYPES {
        for msix in [false, true] {
            let header = if msix { 24u32 } else { 20 };
            for offset in 0..300u32 {
                for width in [1u8, 2, 4] {
                    let mut m = machine(device, len);
                    m.msix = msix;
                    let done = m.read_full(offset, width);
                    let log = m.commands();
                    let what = format!("{device:?} {len} msix {msix} read {offset}/{width}");
                    if offset < header {
                        let field = FIELDS.iter().find(|f| f.0 == offset);
                        match field {
                            Some(&(16, ..)) => {
                                assert_eq!(done.value, ones(width), "{what}");
                                assert!(log.is_empty(), "{what}");
                                assert_eq!(done.effects.rejected, None, "{what}");
                            }
                            Some(&(_, size, _)) => {
                                assert_eq!(
                                    done.value,
                                    header_value(offset) & ones(width),
                                    "{what}"
                                );
                                assert_eq!(log, [(true, offset as u8, size, None)], "{what}");
                            }
                            None => {
                                assert_eq!(done.value, ones(width), "{what}");
                                assert!(log.is_empty(), "{what}");
                                assert_eq!(done.effects.rejected, Some(Rejected::InsideField));
                            }
                        }
                        continue;
                    }
                    let at = (offset - header) as u16;
                    let mut want = Vec::new();
                    let mut value = 0u64;
                    let mut i = 0u16;
                    while i < u16::from(width) && at + i < len {
                        let start = at + i;
                        let (first, size, _) = element(table, start);
                        let part = (first + size).min(len).min(at + u16::from(width)) - start;
                        let left = field_end(table, start).min(len) - start;
                        let aligned = match start % 4 {
                            0 if left >= 4 => 4,
                            0 | 2 if left >= 2 => 2,
                            _ => 1,
                        };
                        let command = part.max(aligned);
                        want.push((false, start as u8, command as u8, None));
                        i = (i + command).min(width.into());
                        for b in start..at + i {
                            value |= u64::from(m.device.config[usize::from(b)]) << (8 * (b - at));
                        }
                    }
                    assert_eq!(log, want, "{what}");
                    assert_eq!(done.value, value, "{what}");
                    let behind = at + u16::from(width) > len;
                    assert_eq!(
                        done.effects.rejected,
                        behind.then_some(Rejected::BehindConfig),
                        "{what}"
                    );
                }
            }
        }
    }
}

// Covers: LIO-04, LIO-05, LIO-06, LIO-07, LIO-10, LEG-12
#[test]
fn every_write_at_every_offset() {
    let value = 0xa1b2_c3d4u64;
    for (device, len, table) in TYPES {
        for msix in [false, true] {
            let header = if msix { 24u32 } else { 20 };
            for offset in 0..300u32 {
                for width in [1u8, 2, 4] {
                    let mut m = machine(device, len);
                    m.msix = msix;
                    let before = m.device.clone();
                    let done = m.write(offset, width, value);
                    let log = m.commands();
                    let what = format!("{device:?} {len} msix {msix} write {offset}/{width}");
                    assert_eq!(done.value, 0, "{what}");
                    let low = value & ones(width);
                    if offset < header {
                        let want_log = match FIELDS.iter().find(|f| f.0 == offset) {
                            Some((16, ..)) => {
                                assert_eq!(m.device.notified, [low as u16], "{what}");
                                assert_eq!(m.device.status, before.status, "{what}");
                                assert_eq!(m.device.isr, before.isr, "{what}");
                                vec![]
                            }
                            // Held back.
                            Some((14, ..)) => vec![],
                            // Of which queue?
                            Some(&(o @ (8 | 22), size, _)) => vec![
                                (true, 14, 2, None),
                                (true, o as u8, size, Some(low & ones(size))),
                            ],
                            Some(&(o, size, true)) => {
                                vec![(true, o as u8, size, Some(low & ones(size)))]
                            }
                            Some(_) => {
                                assert_eq!(done.effects.rejected, Some(Rejected::ReadOnly));
                                vec![]
                            }
                            None => {
                                assert_eq!(done.effects.rejected, Some(Rejected::InsideField));
                                vec![]
                            }
                        };
                        assert_eq!(log, want_log, "{what}");
                        assert_eq!(m.device.config, before.config, "{what}");
                        continue;
                    }
                    assert!(m.device.notified.is_empty(), "{what}");
                    let at = (offset - header) as u16;
                    let mut want = Vec::new();
                    let mut i = 0u16;
                    while i < u16::from(width) && at + i < len {
                        let (start, size, writable) = element(table, at + i);
                        let end = (start + size).min(len).min(at + u16::from(width));
                        let n = (end - at - i) as u8;
                        if writable {
                            let part = (low >> (8 * i)) & ones(n);
                            want.push((false, (at + i) as u8, n, Some(part)));
                        }
                        i = end - at;
                    }
                    assert_eq!(log, want, "{what}");
                }
            }
        }
    }
}

// Covers: LIO-04
#[test]
fn reads_of_all_widths_agree_byte_for_byte() {
    for (device, len, _) in TYPES {
        for msix in [false, true] {
            let header = if msix { 24u32 } else { 20 };
            let mut m = machine(device, len);
            m.msix = msix;
            for at in 0..u32::from(len) {
                let byte = |m: &mut Machine, o: u32| m.read(header + o, 1);
                let two = byte(&mut m, at) | byte(&mut m, at + 1) << 8;
                let four = two | byte(&mut m, at + 2) << 16 | byte(&mut m, at + 3) << 24;
                assert_eq!(m.read(header + at, 2), two);
                assert_eq!(m.read(header + at, 4), four);
            }
        }
    }
}

// Covers: LIO-02
#[test]
fn the_configuration_moves_with_msix_in_both_directions() {
    let mut m = machine(DeviceType::Net, 28);
    let mac: Vec<u64> = (0..6).map(|i| m.read(20 + i, 1)).collect();
    for msix in [true, false, true] {
        m.msix = msix;
        let base = if msix { 24 } else { 20 };
        let again: Vec<u64> = (0..6).map(|i| m.read(base + i, 1)).collect();
        assert_eq!(again, mac);
        if msix {
            assert_eq!(m.read(20, 2), 0);
            assert_eq!(m.read(22, 2), 2);
        }
    }
}

#[test]
fn odd_widths_are_the_guests_fault() {
    let mut m = machine(DeviceType::Net, 28);
    for width in [0u8, 3, 5, 8, 255] {
        for offset in [0, 14, 16, 18, 20, 1000, u32::MAX] {
            for write in [None, Some(0)] {
                let done = m.failing(offset, width, write, &mut |_| None);
                assert_eq!(done.effects.rejected, Some(Rejected::Width));
            }
        }
    }
    assert_eq!(m.commands(), []);
}

/// Notifications and reads of the ISR are told apart without a window, by their offset alone.
// Covers: LIO-07, LIO-09
#[test]
fn what_an_access_is() {
    for offset in (0..300).chain([u32::MAX]) {
        for size in [1u8, 2, 4] {
            let low = 0xa1b2_c3d4 & ones(size);
            let want = match offset {
                16 => Decoded::Notify { queue: low as u16 },
                _ => Decoded::Register,
            };
            assert_eq!(decode(offset, size, Some(0xa1b2_c3d4)), want, "{offset}");
            let want = match offset {
                19 => Decoded::Isr,
                _ => Decoded::Register,
            };
            assert_eq!(decode(offset, size, None), want, "{offset}");
        }
    }
    // Given to a window nevertheless: nothing.
    let mut m = machine(DeviceType::Net, 28);
    for lost in [false, true] {
        if lost {
            m.window.lost();
        }
        let done = m.failing(16, 4, Some(1), &mut |_| None);
        assert_eq!((done.value, done.effects), (0, Effects::default()));
    }
    assert_eq!(m.commands(), []);
}

// Covers: LIO-07, LIO-09
#[test]
fn wide_accesses_do_not_touch_the_neighbours() {
    let mut m = machine(DeviceType::Block, 96);
    m.write(16, 4, 0x0000_0002);
    assert_eq!(m.device.notified, [2]);
    assert_eq!(m.device.status, 7, "a 4-byte kick is no reset");
    m.write(16, 1, 0x1_01);
    assert_eq!(m.device.notified, [2, 1]);
    assert_eq!(m.read(18, 2), 7);
    assert_eq!(m.read(18, 4), 7);
    assert_eq!(m.read(16, 4), 0xffff_ffff);
    assert_eq!(m.device.isr, 3, "only a read of 19 clears the ISR");
    assert_eq!(m.read(19, 1), 3);
    assert_eq!(m.read(19, 1), 0);
    let log = m.commands();
    assert!(log.iter().all(|c| c.1 == 18 || c.1 == 19));
}

// Covers: BAL-02, BAL-04
#[test]
fn a_balloon_writes_its_size_in_one_little_endian_command() {
    let mut m = machine(DeviceType::Balloon, 16);
    for (msix, offset) in [(false, 24), (true, 28)] {
        m.msix = msix;
        m.write(offset, 4, 0x0102_0304);
        assert_eq!(m.commands(), [(false, 4, 4, Some(0x0102_0304))]);
        assert_eq!(m.device.config[4..8], [4, 3, 2, 1]);
    }
}

// Covers: RNG-01
#[test]
fn an_entropy_source_has_nothing_behind_the_header() {
    let mut m = machine(DeviceType::Entropy, 0);
    for msix in [false, true] {
        m.msix = msix;
        for offset in if msix { 24..32 } else { 20..32 } {
            assert_eq!(m.read(offset, 1), 0);
            m.write(offset, 1, 0xff);
        }
    }
    assert_eq!(m.commands(), []);
}
