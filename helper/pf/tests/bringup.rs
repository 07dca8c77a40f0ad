// SPDX-License-Identifier: GPL-2.0-or-later
//! From a device that was reset to one that serves: order, features, queues, interrupts, VFs.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::*;
use pci_transport::testing::{Access, ScriptedFunction};
use pci_transport::Width;
use virtio_modern_spec::sriov;
use virtio_pci_spec::DeviceType;
use virtio_pf::{AccessPlatform, LegacyOp, NotifyKind, Pf, PfConfig, PfState, Space};

/// Fields of the common configuration written, in order, with the halves of 64-bit ones.
fn writes(accesses: &[Access]) -> Vec<(u64, u32)> {
    let written = accesses.iter().filter_map(|a| match a {
        Access::BarWrite {
            bar: COMMON_BAR,
            offset,
            value,
            ..
        } => Some((*offset, *value)),
        _ => None,
    });
    written.collect()
}

fn position(list: &[(u64, u32)], what: (u64, u32)) -> usize {
    list.iter().position(|w| *w == what).unwrap()
}

// Covers: INI-01, INI-02, AVQ-01, AVQ-12, MOD-04, MOD-10, MOD-14, FEA-01, FEA-06, ADM-15
#[test]
fn the_order_of_a_start() {
    let (mut pf, hold) = start(TestPf::new());
    assert_eq!(hold.device().status_writes, [0, 1, 3, 0xb, 0xf]);
    let w = writes(&hold.accesses());
    let driver_ok = position(&w, (20, 0xf));
    // Features between DRIVER and FEATURES_OK; the queue before DRIVER_OK, enabled last.
    assert!(position(&w, (20, 3)) < position(&w, (8, 0)));
    assert!(position(&w, (8, 1)) < position(&w, (20, 0xb)));
    let queue: Vec<u64> = w[position(&w, (22, 5))..driver_ok]
        .iter()
        .map(|(offset, _)| *offset)
        .collect();
    assert_eq!(queue, [22, 24, 26, 32, 36, 40, 44, 48, 52, 28]);
    // The first notification, then, comes after DRIVER_OK, and so do the VFs.
    let kick = w.iter().position(|(o, _)| *o >= NOTIFY_AT).unwrap();
    assert!(kick > driver_ok);
    let all = hold.accesses();
    let ok_at = all.iter().position(|a| {
        matches!(
            a,
            Access::BarWrite {
                offset: 20,
                value: 0xf,
                ..
            }
        )
    });
    let vfs_at = all.iter().position(|a| {
        matches!(a, Access::ConfigWrite { offset, .. }
            if usize::from(*offset) == SRIOV + sriov::CONTROL)
    });
    assert!(ok_at.unwrap() < vfs_at.unwrap());
    assert_eq!(hold.device().vfs_enabled(), VFS);
    // Memory space and bus mastering on, INTx off, before anything else.
    assert_eq!(hold.device().config[4..6], [6, 4]);
    let command = all
        .iter()
        .position(|a| matches!(a, Access::ConfigWrite { offset: 4, .. }));
    let first = all
        .iter()
        .position(|a| matches!(a, Access::BarWrite { .. }));
    assert!(command.unwrap() < first.unwrap());
    // LIST_QUERY, LIST_USE, and nothing for single VFs.
    let opcodes: Vec<u16> = hold.device().seen.iter().map(|s| s.opcode).collect();
    assert_eq!(opcodes, [0, 1]);
    assert!(hold.device().seen.iter().all(|s| s.group == 1));

    let i = pf.info();
    assert_eq!((i.num_vfs, i.vfs_kept), (VFS, false));
    assert_eq!((i.admin_queue_index, i.admin_queue_num), (5, 1));
    assert_eq!(i.serial, 0x1122_3344_5566_7788);
    assert_eq!(i.vf_type, Some(DeviceType::Net));
    assert_eq!((i.commands.0, i.commands_offered.0), (0x7f, 0x7f));
    assert_eq!(i.vectors, 2);
    assert_eq!(pf.state(), &PfState::Running);
    assert!(pf.vf(0).is_none() && pf.vf(VFS + 1).is_none());
    let vf = open(&mut pf, 1).notify.unwrap();
    assert_eq!((vf.kind, vf.bar, vf.offset), (NotifyKind::Owner, 4, 0x10));
}

// Covers: INI-08, FEA-01, FEA-04, FEA-10
#[test]
fn only_known_features_are_accepted() {
    let mut d = TestPf::new();
    d.offered = [u32::MAX; 4];
    let (pf, hold) = start(d);
    // EVENT_IDX; VERSION_1, ACCESS_PLATFORM, ORDER_PLATFORM, SR_IOV, NOTIF_CONFIG_DATA, ADMIN_VQ.
    let want = [1 << 29, 0b10_1011_0011, 0, 0];
    assert_eq!(hold.device().accepted, want);
    assert_eq!(pf.info().features, u64::from(want[1]) << 32 | 1 << 29);
    assert_eq!(pf.info().features_offered, u64::MAX);
}

// Covers: FEA-08, FEA-09, MOD-11
#[test]
fn the_queue_is_notified_with_16_bits_of_what_the_device_asked_for() {
    for (multiplier, off) in [(0, 0), (0, 9), (2, 7), (4, 1), (0x800, 1)] {
        let mut d = TestPf::new();
        let at = 0x80 + 16;
        d.config[at..at + 4].copy_from_slice(&u32::to_le_bytes(multiplier));
        d.notify_off = off;
        d.notif_data = 0xbeef;
        let (_pf, hold) = start(d);
        let place = u64::from(off) * u64::from(multiplier);
        assert!(hold.device().kicks.len() > 1);
        for kick in &hold.device().kicks {
            assert_eq!(
                *kick,
                (place, Width::B2, 5),
                "the index without the feature"
            );
        }
        let mut d = TestPf::new();
        d.config[at..at + 4].copy_from_slice(&u32::to_le_bytes(multiplier));
        d.notify_off = off;
        d.notif_data = 0xbeef;
        d.offered[1] |= 1 << 7 | 1 << 6; // NOTIF_CONFIG_DATA and NOTIFICATION_DATA
        let (_pf, hold) = start(d);
        for kick in &hold.device().kicks {
            assert_eq!(*kick, (place, Width::B2, 0xbeef));
        }
    }
}

// Covers: MOD-11
#[test]
fn notification_addresses_outside_the_structure_are_refused() {
    for (multiplier, off, text) in [
        (4, 0x400, "outside the notification structure"),
        (
            u32::MAX - 0x7fff_ffff,
            0xffff,
            "outside the notification structure",
        ),
        (0x2000, 2, "notification structure of 12288 bytes"),
        (1, 0, "even power of 2"),
        (6, 0, "even power of 2"),
    ] {
        let mut d = TestPf::new();
        d.config[0x90..0x94].copy_from_slice(&multiplier.to_le_bytes());
        d.notify_off = off;
        if multiplier == 0x2000 {
            // A structure that claims more than its BAR holds.
            d.config[0x8c..0x90].copy_from_slice(&0x0100_0000u32.to_le_bytes());
        }
        let (error, _hold) = refuse(d, config());
        assert!(error.to_string().contains(text), "{error}");
    }
}

// Covers: FEA-02
#[test]
fn addresses_behind_an_iommu_need_access_platform() {
    let without = || {
        let mut d = TestPf::new();
        d.offered[1] &= !2;
        d
    };
    let function = ScriptedFunction::new(without()).unwrap().behind_iommu();
    let hold = function.script();
    let error = Pf::start(Box::new(function), config()).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("ACCESS_PLATFORM") && text.contains("--allow-no-access-platform"),
        "{text}"
    );
    assert_eq!(hold.device().breaches, [""; 0]);
    assert_eq!(hold.device().vfs_enabled(), 0);

    let function = ScriptedFunction::new(without()).unwrap().behind_iommu();
    let config = PfConfig {
        access_platform: AccessPlatform::Override,
        ..config()
    };
    assert!(Pf::start(Box::new(function), config).is_ok());
    // Whoever maps the memory knows the addresses: nothing to ask for.
    let (pf, hold) = start(without());
    assert_eq!(pf.info().features & 2 << 32, 0);
    assert_eq!(hold.device().accepted[1] & 2, 0);
}

// Covers: FEA-06, INI-02
#[test]
fn a_missing_feature_is_named_and_the_device_left_reset() {
    for (number, text) in [(32, "VERSION_1"), (41, "ADMIN_VQ"), (37, "SR_IOV")] {
        let mut d = TestPf::new();
        let (word, mask) = bit(number);
        d.offered[word] &= !mask;
        let (error, hold) = refuse(d, config());
        assert!(error.to_string().contains(text), "{error}");
        // FAILED, then the reset.
        assert_eq!(hold.device().status_writes, [0, 1, 3, 131, 0]);
        assert_eq!(hold.device().vfs_enabled(), 0);
    }
    let mut d = TestPf::new();
    d.features_ok = false;
    let (error, hold) = refuse(d, config());
    assert!(
        error.to_string().contains("refuses the features"),
        "{error}"
    );
    assert_eq!(hold.device().status_writes, [0, 1, 3, 11, 139, 0]);
    assert!(hold.device().kicks.is_empty());

    let mut d = TestPf::new();
    d.fails_at_once = true;
    let (error, hold) = refuse(d, config());
    let text = error.to_string();
    assert!(
        text.contains("device_status: 0x4f after DRIVER_OK"),
        "{text}"
    );
    assert!(hold.device().seen.is_empty());
}

// Covers: INI-03
#[test]
fn a_reset_is_waited_for_and_not_for_ever() {
    let mut d = TestPf::new();
    d.reset_reads = 20;
    d.status = 0xf;
    let (_pf, hold) = start(d);
    let reads = hold
        .accesses()
        .iter()
        .take_while(|a| {
            !matches!(
                a,
                Access::BarWrite {
                    offset: 20,
                    value: 1,
                    ..
                }
            )
        })
        .filter(|a| matches!(a, Access::BarRead { offset: 20, .. }))
        .count();
    assert_eq!(reads, 21, "until it read 0");

    let mut d = TestPf::new();
    d.reset_reads = u32::MAX;
    let (error, hold) = refuse(d, impatient());
    assert!(
        error.to_string().contains("reset not done within"),
        "{error}"
    );
    assert!(hold
        .device()
        .status_writes
        .iter()
        .all(|s| *s == 0 || s & 0x80 != 0));
}

// Covers: AVQ-03
#[test]
fn admin_queues_are_taken_from_the_range_that_the_device_gives() {
    let mut d = TestPf::new();
    (d.admin_index, d.admin_num, d.num_queues) = (9, 4, 9);
    let (pf, hold) = start(d);
    assert_eq!(pf.info().admin_queue_index, 9);
    assert!(writes(&hold.accesses()).contains(&(22, 9)));

    for (index, num, queues, text) in [
        (5, 0, 3, "admin_queue_num"),
        (2, 1, 3, "admin_queue_index"),
        (0xffff, 2, 3, "admin_queue_index"),
    ] {
        let mut d = TestPf::new();
        (d.admin_index, d.admin_num, d.num_queues) = (index, num, queues);
        let (error, _hold) = refuse(d, config());
        assert!(error.to_string().contains(text), "{error}");
    }
    // The last queue that there can be.
    let mut d = TestPf::new();
    (d.admin_index, d.notify_off) = (0xffff, 0);
    start(d);
    // A structure that ends before the fields.
    let mut d = TestPf::new();
    d.config[0x6c] = 60;
    let (error, _hold) = refuse(d, config());
    assert!(error.to_string().contains("admin_queue_index"), "{error}");
    assert!(error.to_string().contains("only 60 bytes"), "{error}");
}

// Covers: MOD-14, MOD-10
#[test]
fn queue_sizes_are_powers_of_two_and_zero_is_no_queue() {
    for (offered, want) in [(4, 4), (5, 4), (64, 64), (100, 64), (32768, 256)] {
        let mut d = TestPf::new();
        d.queue_max = offered;
        let (pf, hold) = start(d);
        assert_eq!(pf.info().admin_queue_size, want);
        assert_eq!(hold.device().queue.size, want);
    }
    for (ignored, text) in [
        (24, "queue_size: 512 after 256"),
        (28, "queue_enable: it does not stay"),
    ] {
        let mut d = TestPf::new();
        d.queue_max = 512;
        d.ignored = vec![ignored];
        let (error, hold) = refuse(d, config());
        let error = error.to_string();
        assert!(error.contains(text), "{error}");
        assert!(hold.device().kicks.is_empty());
        assert_eq!((hold.dma_stats().live, hold.dma_stats().leaked), (0, 0));
    }
    for offered in [0, 1, 2, 3] {
        let mut d = TestPf::new();
        d.queue_max = offered;
        let (error, _hold) = refuse(d, config());
        assert!(error.to_string().contains("queue_size"), "{error}");
    }
}

// Covers: MOD-02
#[test]
fn unusable_capabilities_are_skipped_and_the_first_usable_one_is_taken() {
    let mut d = TestPf::new();
    let mut at = 0x40;
    let mut add = |config: &mut Vec<u8>, mut bytes: Vec<u8>| {
        bytes[1] = at as u8 + bytes.len() as u8;
        config[at..at + bytes.len()].copy_from_slice(&bytes);
        at += bytes.len();
        assert!(at <= 0x60 || at > 0xc0);
    };
    // In front of the good ones: a reserved type, a BAR that cannot be.
    d.config[0x34] = 0x40;
    add(&mut d.config, cap(0, 77, 0, 0, 64));
    let mut no_bar = cap(0, 1, 6, 0, 64);
    no_bar[1] = 0x60;
    d.config[0x50..0x60].copy_from_slice(&no_bar);
    // The good ones: a larger cap_len, a length of 16 MiB in a BAR of 16 KiB.
    d.config[0x62] = 32;
    d.config[0x6c..0x70].copy_from_slice(&0x0100_0000u32.to_le_bytes());
    // Behind: another common configuration, which must not be used.
    d.config[0x81] = 0xc0;
    let mut second = cap(MSIX_AT, 1, 4, 0, 64);
    second[1] = MSIX_AT;
    d.config[0xc0..0xd0].copy_from_slice(&second);
    let (pf, _hold) = start(d);
    assert_eq!(pf.info().vectors, 2);

    type Change = fn(&mut TestPf);
    let cases: [(Change, &str); 6] = [
        (|d| d.config[0x64] = 3, "common configuration"), // a BAR that is not there
        (|d| d.config[0x62] = 15, "common configuration"),
        (|d| d.config[0x6b] = 1, "common configuration"), // offset behind the end
        (|d| d.config[0x82] = 16, "notification"),        // too short for its multiplier
        (|d| d.config[0x8c..0x90].fill(0), "notification"),
        (|d| d.config[6] = 0, "common configuration"), // no list at all
    ];
    for (i, (change, text)) in cases.into_iter().enumerate() {
        let mut d = TestPf::new();
        change(&mut d);
        let (error, hold) = refuse(d, config());
        let error = error.to_string();
        assert!(
            error.contains("no usable") && error.contains(text),
            "{i}: {error}"
        );
        assert!(hold.device().status_writes.is_empty());
    }
}

const MSIX_AT: u8 = 0xb0;

// Covers: PCI-06
// Covers: PCI-06
#[test]
fn other_functions_are_refused_by_name() {
    for (vendor, device) in [(0x8086, 0x1041), (0x1af4, 0x1006), (0x1af4, 0x1080)] {
        let mut d = TestPf::new();
        d.config[..2].copy_from_slice(&u16::to_le_bytes(vendor));
        d.config[2..4].copy_from_slice(&u16::to_le_bytes(device));
        let (error, hold) = refuse(d, config());
        let text = format!("{vendor:04x}:{device:04x} is not a virtio device");
        assert!(error.to_string().contains(&text), "{error}");
        assert!(writes(&hold.accesses()).is_empty());
    }
    // Any type, any revision; transitional IDs too.
    for (device, revision) in [(0x1041, 0x10), (0x1042, 1), (0x1060, 1), (0x1000, 0)] {
        let mut d = TestPf::new();
        d.config[2..4].copy_from_slice(&u16::to_le_bytes(device));
        d.config[8] = revision;
        let (pf, _hold) = start(d);
        assert_eq!(
            (pf.info().device_id, pf.info().revision),
            (device, revision)
        );
    }
}

// Covers: IRQ-07, IRQ-09, IRQ-12
#[test]
fn it_works_with_two_vectors_one_or_none() {
    for (vectors, refused, used) in [
        (2, vec![], 2),
        (0x7ff, vec![], 2),
        (1, vec![], 1),
        (2, vec![1], 1),
        (2, vec![0], 1),
        (2, vec![0, 1], 0),
        (0, vec![], 0),
    ] {
        let mut d = TestPf::new();
        d.vectors = vectors;
        d.refused_vectors = refused.clone();
        let (mut pf, hold) = start(d);
        assert_eq!(pf.info().vectors, used, "{vectors} without {refused:?}");
        let now = std::time::Instant::now();
        pf.submit(1, LegacyOp::read(Space::Common, 18, 1), 7, now)
            .unwrap();
        let done = complete(&mut pf, 1);
        assert_eq!(done[0].result, Ok([0; 8]));
        // Interrupts that mean nothing do no harm.
        for vector in [0, 1] {
            hold.device().spurious(vector);
            assert!(pf.poll(now).is_empty());
        }
        // A failure is noticed, by an interrupt or by looking.
        hold.device().hook = Box::new(|_| Action::Hold);
        pf.submit(1, LegacyOp::read(Space::Common, 18, 1), 8, now)
            .unwrap();
        pf.poll(now);
        if used == 0 {
            // Nobody announces the answer.
            let look = pf.next_deadline().unwrap();
            assert!(look <= now + Duration::from_millis(1));
        }
        hold.device().hook = Box::new(|_| Action::Normal);
        hold.device().fail();
        let done = pf.poll(now + Duration::from_millis(150));
        assert_eq!(done.len(), 1, "{vectors} without {refused:?}");
        assert!(matches!(
            done[0].result,
            Err(virtio_pf::OpError::PfFailed(_))
        ));
        assert_eq!(hold.device().breaches, [""; 0]);
    }
}

// Covers: IRQ-09
#[test]
fn the_isr_is_never_read() {
    let (mut pf, hold) = start(TestPf::new());
    for i in 0..20 {
        let now = std::time::Instant::now();
        pf.submit(1, LegacyOp::read(Space::Common, 0, 4), i, now)
            .unwrap();
        complete(&mut pf, 1);
    }
    // The device notes any read outside of the common configuration.
    assert_eq!(hold.device().breaches, [""; 0]);
    assert!(pf.counters().interrupts > 0);
}
