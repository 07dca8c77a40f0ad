// SPDX-License-Identifier: GPL-2.0-or-later
//! Legacy notification addresses (NTF).

use virtio_modern_spec::admin::legacy::{decode_notify_info, notify_flags, NotifyEntry};
use virtio_modern_spec::admin::{group, qualifier, status};
use virtio_modern_spec::sriov;
use virtio_pci_spec::pci::header;
use virtio_pf_model::testing::{AdminClient, Buffer, Driver, DriverRing};
use virtio_pf_model::{ConfigError, FunctionId, Model, NotifyLayout, Violation};

use crate::{config, memory, ready, vf, violations};

fn entries(m: &mut Model, c: &mut AdminClient, n: u16) -> [NotifyEntry; 4] {
    let d = c.notify_info(m, n);
    assert!(d.ok());
    assert_eq!(d.used, 72);
    // Padding and everything behind the end are zero.
    let raw = d.result();
    let mut ended = false;
    for e in raw.chunks(16) {
        ended |= e[0] == 0;
        assert!(e[2..8].iter().all(|b| *b == 0));
        assert!(!ended || e.iter().all(|b| *b == 0));
    }
    decode_notify_info(raw)
}

fn usable(m: &Model, e: &NotifyEntry) -> bool {
    let f = match e.flags {
        notify_flags::OWNER => FunctionId::Pf,
        notify_flags::MEMBER => vf(1),
        _ => return false,
    };
    let size = if (1..=5).contains(&e.bar) {
        m.bar_size(f, e.bar)
    } else {
        0
    };
    e.offset % 2 == 0 && e.offset.checked_add(2).is_some_and(|end| end <= size)
}

// What drivers are held to: NTF-07, NTF-08
// Covers: NTF-03, NTF-04
#[test]
fn every_layout_is_well_formed() {
    for name in NotifyLayout::NAMES {
        let mut cfg = config(3);
        cfg.layout = name.parse().unwrap();
        let (mut m, mut c) = match cfg.layout {
            NotifyLayout::Absent => continue,
            _ => ready(cfg, 3),
        };
        for n in 1..=3 {
            let all = entries(&mut m, &mut c, n);
            assert_eq!(all[3].flags, notify_flags::END, "{name}");
            let list: Vec<_> = all.iter().take_while(|e| e.flags != 0).collect();
            let good: Vec<u8> = list
                .iter()
                .filter(|e| usable(&m, e))
                .map(|e| e.flags)
                .collect();
            let (want, total): (&[u8], usize) = match name {
                "empty" => (&[], 0),
                "owner" => (&[1], 1),
                "member" => (&[2], 1),
                "member-first" => (&[2, 1], 2),
                "owner-first" => (&[1, 2], 2),
                "bad-only" => (&[], 3),
                _ => (&[2], 3),
            };
            assert_eq!((&good[..], list.len()), (want, total), "{name}");
        }
    }
    assert!(matches!(
        "sideways".parse::<NotifyLayout>(),
        Err(ConfigError::Unknown { .. })
    ));
}

// Covers: NTF-01
#[test]
fn without_the_command_it_is_not_offered() {
    let mut cfg = config(1);
    cfg.layout = NotifyLayout::Absent;
    let mut m = virtio_pf_model::testing::echo_model(cfg).unwrap();
    let mut c = AdminClient::start(&mut m, &memory());
    c.pf.enable_vfs(&mut m, 1);
    assert_eq!(c.query(&mut m, group::SRIOV).result()[0], 0x3f);
    assert!(!c.use_list(&mut m, group::SRIOV, 0x7f).ok());
    assert!(c.use_list(&mut m, group::SRIOV, 0x3f).ok());
    assert_eq!(
        c.notify_info(&mut m, 1).status(),
        (status::EINVAL, qualifier::INVALID_OPCODE)
    );
}

// Covers: NTF-02, SRV-01
#[test]
fn vf_bar0_is_hardwired_to_zero() {
    let (mut m, c) = ready(config(2), 0);
    let at = 0x140 + sriov::VF_BAR0 as u16;
    m.config_write(FunctionId::Pf, at, &[0xff; 24]);
    let mut sizes = Vec::new();
    for bar in 0..6u8 {
        let mask = c.pf.config(&mut m, at + 4 * u16::from(bar), 4) as u32;
        sizes.push(if mask == 0 {
            0
        } else {
            u64::from(!(mask & !0xf)) + 1
        });
        assert_eq!(mask & 0xf, 0, "32-bit memory");
    }
    assert_eq!(sizes[0], 0);
    for bar in 0..6 {
        assert_eq!(sizes[usize::from(bar)], m.bar_size(vf(1), bar));
    }
    c.pf.enable_vfs(&mut m, 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for kind in 1..=4 {
        let cap = d.capability(&mut m, 9, Some(kind));
        assert_ne!(d.config(&mut m, cap + 4, 1), 0, "structure {kind}");
    }
}

fn echo_queue(m: &mut Model, c: &mut AdminClient, n: u16) -> DriverRing {
    let mem = memory();
    let d = Driver::new(m, vf(n), &mem);
    assert_eq!(d.config(m, header::VENDOR_ID as u16, 2), 0x1af4);
    c.set(m, n, 14, 2, 1);
    let ring = DriverRing::legacy(&mem, c.get(m, n, 12, 2) as u16);
    c.set(m, n, 8, 4, ring.pfn().into());
    c.set(m, n, 18, 1, 7);
    ring
}

fn offer(ring: &mut DriverRing) {
    let at = ring.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
}

// What drivers are held to: NTF-06
// Covers: NTF-05, LIO-07
#[test]
fn every_address_is_a_notification_of_its_own_vf() {
    let mut cfg = config(4);
    cfg.layout = NotifyLayout::MemberFirst;
    let (mut m, mut c) = ready(cfg, 4);
    let mut rings: Vec<_> = (1..=4).map(|n| echo_queue(&mut m, &mut c, n)).collect();
    for n in 1..=4u16 {
        for e in entries(&mut m, &mut c, n).iter().take(2) {
            for r in &mut rings {
                offer(r);
            }
            let f = match e.flags {
                notify_flags::OWNER => FunctionId::Pf,
                _ => vf(n),
            };
            let before = m.counters().commands[2];
            m.bar_write(f, e.bar, e.offset, &1u16.to_le_bytes());
            assert_eq!(m.counters().commands[2], before, "no command needed");
            for (i, r) in rings.iter_mut().enumerate() {
                assert_eq!(r.poll().is_some(), i + 1 == usize::from(n), "{e:?}");
            }
            for other in 1..=4 {
                c.set(&mut m, other, 16, 2, 1);
                while rings[usize::from(other) - 1].poll().is_some() {}
            }
        }
        let k = m.function_counters(vf(n)).unwrap();
        assert_eq!((k.doorbells_member, k.doorbells_owner), (1, 1));
    }
}

// Covers: NTF-05
#[test]
fn other_accesses_to_the_area_do_nothing() {
    let mut cfg = config(2);
    cfg.layout = NotifyLayout::MemberFirst;
    let (mut m, mut c) = ready(cfg, 2);
    let mut ring = echo_queue(&mut m, &mut c, 1);
    let list = entries(&mut m, &mut c, 1);
    offer(&mut ring);
    let e = list[0];
    for (at, data) in [
        (e.offset, &[1u8][..]),
        (e.offset, &[1, 0, 0, 0]),
        (e.offset + 2, &[1, 0]),
        (e.offset + 1, &[1, 0]),
        (0, &[1, 0]),
        (e.offset, &[0, 0]),
        (e.offset, &[9, 0]),
        (e.offset, &[0xff, 0xff]),
    ] {
        m.bar_write(vf(1), e.bar, at, data);
        assert_eq!(ring.poll(), None, "{at:#x} {data:?}");
    }
    let mut b = [0xaa; 2];
    m.bar_read(vf(1), e.bar, e.offset, &mut b);
    assert_eq!(b, [0, 0]);
    m.bar_write(vf(1), e.bar, e.offset, &[1, 0]);
    assert!(ring.poll().is_some());
    offer(&mut ring);
    for at in [0, 2, 0x1000] {
        m.bar_write(FunctionId::Pf, 4, at, &[1, 0]);
        assert_eq!(ring.poll(), None, "owner's area at {at:#x}");
    }
    m.bar_write(FunctionId::Pf, 4, list[1].offset, &[1, 0, 0, 0]);
    assert_eq!(ring.poll(), None);
    // The owner's area has no slot behind the last VF, and none for VFs that do not live.
    c.pf.enable_vfs(&mut m, 1);
    m.bar_write(FunctionId::Pf, 4, list[1].offset + 0x1000, &[1, 0]);
    assert_eq!(m.function_counters(vf(2)).unwrap().doorbells_owner, 0);
}

// Covers: NTF-05
#[test]
fn an_address_that_is_not_given_out_does_not_work() {
    let mut cfg = config(1);
    cfg.layout = NotifyLayout::Owner;
    let (mut m, mut c) = ready(cfg, 1);
    let mut ring = echo_queue(&mut m, &mut c, 1);
    offer(&mut ring);
    m.bar_write(vf(1), 4, virtio_pf_model::MEMBER_NOTIFY_OFFSET, &[1, 0]);
    assert_eq!(ring.poll(), None);
    let e = entries(&mut m, &mut c, 1)[0];
    m.bar_write(FunctionId::Pf, e.bar, e.offset, &[1, 0]);
    assert!(ring.poll().is_some());
}

// What drivers are held to: NTF-06
#[test]
fn notifying_by_command_is_noted_where_an_address_exists() {
    for (layout, noted) in [(NotifyLayout::Member, true), (NotifyLayout::Empty, false)] {
        let mut cfg = config(1);
        cfg.layout = layout;
        let (mut m, mut c) = ready(cfg, 1);
        let mut ring = echo_queue(&mut m, &mut c, 1);
        violations(&mut m);
        offer(&mut ring);
        c.set(&mut m, 1, 16, 2, 1);
        assert!(ring.poll().is_some());
        let seen = violations(&mut m).contains(&Violation::NotifyByCommand { queue: 1 });
        assert_eq!(seen, noted);
    }
}
