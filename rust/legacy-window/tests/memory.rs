// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What the window remembers never shows: sequences of accesses give what a device without a
//! window gives, and fewer commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

mod common;

use common::net_machine;
use legacy_window::{Command, CommandKind, FailKind, Outcome, Step, Window};
use proptest::prelude::*;
use virtio_pci_spec::DeviceType;

const NET_FIELDS: &[(u16, u8, bool)] = &[(0, 6, true), (6, 22, false)];

#[derive(Clone, Debug)]
enum Act {
    Access {
        offset: u32,
        size: u8,
        write: Option<u64>,
    },
    Msix(bool),
    /// The device changes by itself.
    Isr(u8),
    NeedsReset,
    ConfigChange(u8),
    /// From outside.
    FunctionReset,
    Reconnect,
}

fn access() -> impl Strategy<Value = Act> {
    let offset = prop_oneof![
        6 => prop_oneof![Just(14u32), Just(12), Just(8), Just(22), Just(20), Just(18), Just(0)],
        2 => 0u32..56,
    ];
    let value = prop_oneof![
        4 => 0u64..6,
        1 => Just(0xffff_ffffu64),
        1 => any::<u32>().prop_map(u64::from),
    ];
    (
        offset,
        prop_oneof![Just(1u8), Just(2), Just(4)],
        proptest::option::of(value),
    )
        .prop_map(|(offset, size, write)| Act::Access {
            offset,
            size,
            write,
        })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => access(),
        1 => any::<bool>().prop_map(Act::Msix),
        1 => any::<u8>().prop_map(Act::Isr),
        1 => Just(Act::NeedsReset),
        1 => any::<u8>().prop_map(Act::ConfigChange),
        1 => Just(Act::FunctionReset),
        1 => Just(Act::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    // Covers: LIO-05, LIO-06, LIO-08, INI-15
    #[test]
    fn a_guest_cannot_tell_the_window_from_the_device(
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        let mut m = net_machine();
        let mut plain = m.device.clone();
        plain.zero_address_resets = true;
        for a in acts {
            match a {
                Act::Access { offset, size, write } => {
                    let want = plain.direct(offset, size, write, m.msix, NET_FIELDS);
                    let got = match write {
                        None => m.read(offset, size),
                        Some(v) => m.write(offset, size, v).value,
                    };
                    prop_assert_eq!(got, want, "offset {} size {} write {:?}", offset, size, write);
                }
                Act::Msix(on) => m.msix = on,
                // No interrupts before DRIVER_OK.
                Act::Isr(_) if plain.status & 4 == 0 => {}
                Act::Isr(v) => {
                    m.device.isr |= v;
                    plain.isr |= v;
                }
                Act::NeedsReset if plain.status == 0 => {}
                Act::NeedsReset => {
                    m.device.status |= 64;
                    plain.status |= 64;
                }
                // The first byte of a field: what becomes of the others is in `ahead.rs`.
                Act::ConfigChange(v) => {
                    m.device.config[6] = v;
                    plain.config[6] = v;
                }
                Act::FunctionReset => {
                    m.device.reset();
                    plain.reset();
                    m.window.device_reset();
                }
                Act::Reconnect => {
                    m.window.lost();
                    // Anything may have happened to the device meanwhile.
                    for d in [&mut m.device, &mut plain] {
                        d.features ^= 0x10_0000;
                        d.sizes.swap(0, 2);
                        d.address.fill(0x99);
                        d.vector.fill(2);
                        d.config_vector = 1;
                    }
                    m.window.restored();
                }
            }
        }
        prop_assert_eq!(&m.device.notified, &plain.notified);
        prop_assert_eq!(&m.device.config, &plain.config);
        prop_assert_eq!(m.device.status, plain.status);
    }

    /// Failures of every kind at any command: the access ends, and what is read later is right.
    #[test]
    fn failures_never_leave_something_stale(
        acts in proptest::collection::vec((access(), 0u8..12, any::<bool>()), 1..80),
    ) {
        let mut m = net_machine();
        let kinds = [FailKind::Refused, FailKind::TimedOut, FailKind::GivenUp, FailKind::Lost];
        for (a, fail, applied) in acts {
            let Act::Access { offset, size, write } = a else { continue };
            let mut left = 1;
            let mut failed = None;
            // What was selected is relied on by reads, too.
            let mut selected = false;
            let mut inject = |c: &Command| {
                let kind = kinds.get(usize::from(fail)).copied().filter(|_| left > 0);
                selected |= kind.is_some()
                    && c.offset == 14
                    && matches!(c.kind, CommandKind::Write(_));
                left = 0;
                // The device may have carried out what it is said to have failed at.
                if kind.is_some() && applied {
                    failed = Some(*c);
                }
                kind
            };
            let done = m.failing(offset, size, write, &mut inject);
            if let Some(c) = failed {
                m.device.command(c, m.msix);
            }
            prop_assert!(write.is_none() || done.value == 0);
            let ones = u64::MAX >> (64 - 8 * u32::from(size));
            let relied_on = write.map(|v| v & ones).is_some_and(|v| match offset {
                4 => true,
                8 => v != 0,
                18 => v as u8 != 0,
                20 | 22 => v as u16 != 0xffff,
                _ => false,
            });
            let broke =
                (relied_on || selected && write.is_none()) && done.effects.failed.is_some();
            prop_assert_eq!((m.window.broken(), done.effects.broke), (broke, broke));
            if done.effects.failed == Some(FailKind::Lost) {
                let before = m.device.clone();
                m.device.log.clear();
                if offset < 24 {
                    prop_assert_eq!(m.read(offset, size), ones);
                }
                m.write(18, 1, 0);
                prop_assert!(m.device.log.is_empty());
                prop_assert_eq!(m.device.status, before.status);
                m.window.restored();
            }
            if broke {
                for (offset, want) in [(8, 0), (12, 0), (20, 0xffff), (22, 0xffff)] {
                    prop_assert_eq!(m.read(offset, 2), want, "offset {}", offset);
                }
                m.write(18, 1, 0);
                prop_assert!(!m.window.broken());
            }
            // What can be remembered agrees with the device.
            m.device.log.clear();
            let probe = m.device.clone();
            for (offset, size) in [(0u32, 4u8), (14, 2), (8, 4), (12, 2), (20, 2), (22, 2)] {
                let mut guest = m.clone();
                let select = guest.read(14, 2) as usize;
                let q = |v: &[u32], d: u32| v.get(select).copied().unwrap_or(d);
                let got = guest.read(offset, size);
                let want = match offset {
                    0 => u64::from(probe.features),
                    8 => q(&probe.address, 0).into(),
                    12 => probe.sizes.get(select).copied().unwrap_or(0).into(),
                    20 => probe.config_vector.into(),
                    22 => probe.vector.get(select).copied().unwrap_or(0xffff).into(),
                    _ => continue,
                };
                prop_assert_eq!(got, want, "offset {}", offset);
            }
        }
    }

    /// Nonsense outcomes are failures, never panics.
    #[test]
    fn any_outcome_is_survived(
        acts in proptest::collection::vec((0u32..200, 0u8..9, any::<Option<u64>>(), any::<bool>(), 0u8..7), 1..60),
    ) {
        let mut w = Window::new(DeviceType::Block, 96);
        for (offset, size, write, msix, outcome) in acts {
            let mut step = w.begin(offset, size, write, msix);
            for _ in 0..8 {
                if matches!(step, Step::Done(_)) {
                    break;
                }
                step = w.resume(match outcome {
                    0 => Outcome::Data([0xff; 8]),
                    1 => Outcome::Written,
                    2 => Outcome::Failed(FailKind::Refused),
                    3 => Outcome::Failed(FailKind::TimedOut),
                    4 => Outcome::Failed(FailKind::Mismatch),
                    5 => Outcome::Failed(FailKind::GivenUp),
                    _ => Outcome::Data([0; 8]),
                });
            }
            prop_assert!(matches!(step, Step::Done(_)));
        }
        prop_assert!(matches!(w.resume(Outcome::Written), Step::Done(_)));
    }
}
