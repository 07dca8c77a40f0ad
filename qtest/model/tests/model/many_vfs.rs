// SPDX-License-Identifier: GPL-2.0-or-later
//! As many VFs as a device can have.

use virtio_modern_spec::admin::{group, opcode, qualifier, status};
use virtio_modern_spec::sriov as cap;
use virtio_pf_model::testing::{echo_model, AdminClient, Driver, MODERN_FEATURES};
use virtio_pf_model::{Effect, FunctionId, Model, Violation, LEGACY_NOTIFY_BAR, MAX_VFS};

use crate::{config, memory, ready, vf, violations};

/// Numbers at which a byte, or a bus, would be full, and the first and last.
const MEMBERS: [u16; 9] = [1, 2, 255, 256, 257, 511, 512, MAX_VFS - 1, MAX_VFS];

// Covers: GRP-02, LEG-07
#[test]
fn every_member_id_reaches_its_own_vf() {
    let (mut m, mut c) = ready(config(MAX_VFS), MAX_VFS);
    for n in 1..=MAX_VFS {
        c.set(&mut m, n, 4, 4, u64::from(n) & 0x2f);
        c.set(&mut m, n, 8, 4, u64::from(n) << 8);
    }
    for n in 1..=MAX_VFS {
        assert_eq!(c.get(&mut m, n, 8, 4), u64::from(n) << 8, "VF {n}");
    }
    assert_eq!(violations(&mut m), []);
}

// Covers: GRP-04
#[test]
fn a_member_id_is_64_bits_wide() {
    let (mut m, mut c) = ready(config(MAX_VFS), 300);
    let invalid = (status::EINVAL, qualifier::INVALID_MEMBER);
    let wide = [0, 301, 0x100, 0x1_0001, 0x1_0100, 1 << 32 | 256, u64::MAX];
    for member in wide {
        let mut h = AdminClient::header(opcode::LEGACY_COMMON_CFG_READ, group::SRIOV, member);
        h.push(18);
        let want = if member == 0x100 { (0, 0) } else { invalid };
        assert_eq!(c.run(&mut m, &h, 9).status(), want, "member {member:#x}");
    }
}

// Covers: SRV-01, SRV-03
#[test]
fn all_of_them_come_and_go_together() {
    let (mut m, c) = ready(config(MAX_VFS), 0);
    for n in [MAX_VFS, 256, MAX_VFS] {
        m.drain_effects();
        c.pf.enable_vfs(&mut m, n);
        assert_eq!(c.pf.sriov(&mut m, cap::NUM_VFS), n);
        let up = Effect::VfsChanged { enabled: n };
        assert!(m.take_effects().contains(&up));
        for k in MEMBERS {
            assert_eq!(m.exists(vf(k)), k <= n, "VF {k} of {n}");
        }
    }
    assert!(!m.exists(vf(MAX_VFS + 1)));
    c.pf.set_sriov(&mut m, cap::CONTROL, 0);
    violations(&mut m);
    let value = MAX_VFS + 1;
    c.pf.set_sriov(&mut m, cap::NUM_VFS, value);
    assert_eq!(violations(&mut m), [Violation::NumVfs { value }]);
    assert_eq!(m.counters().records_lost, 0);
}

// Covers: NTF-03, NTF-05
#[test]
fn each_has_its_own_notification_address() {
    for layout in ["member", "owner"] {
        let mut cfg = config(MAX_VFS);
        cfg.layout = layout.parse().unwrap();
        let (mut m, mut c) = ready(cfg, MAX_VFS);
        let bar = m.bar_size(FunctionId::Pf, LEGACY_NOTIFY_BAR);
        for n in MEMBERS {
            let d = c.notify_info(&mut m, n);
            let entry = &d.result()[..16];
            let offset = u64::from_le_bytes(entry[8..].try_into().unwrap());
            let (function, want) = match entry[0] {
                1 => (FunctionId::Pf, offset + 2 <= bar),
                _ => (vf(n), true),
            };
            assert!(want, "VF {n}: {offset:#x}");
            Driver::new(&mut m, vf(n), &memory());
            m.bar_write(function, LEGACY_NOTIFY_BAR, offset, &[0, 0]);
            let counts = m.function_counters(vf(n)).unwrap();
            let rung = (counts.doorbells_member, counts.doorbells_owner);
            assert_eq!(rung.0 + rung.1, 1, "VF {n} by its {layout}: {rung:?}");
        }
    }
}

// Covers: LEG-07
#[test]
fn the_last_one_works_as_the_first() {
    let (mut m, mut c) = ready(config(MAX_VFS), MAX_VFS);
    for n in [1, MAX_VFS] {
        let d = Driver::new(&mut m, vf(n), &memory());
        assert!(d.negotiate(&mut m, MODERN_FEATURES));
        c.set(&mut m, n, 18, 1, 0);
        assert_eq!(c.get(&mut m, n, 12, 2), 16, "VF {n}: entries of a queue");
    }
}

/// Bytes of `m` that are not shared between its VFs, and which VFs have any.
fn in_use(m: &Model) -> (usize, usize) {
    (1..=m.config().total_vfs)
        .map(|n| m.private_bytes(vf(n)))
        .fold((0, 0), |(sum, some), b| {
            (sum + b, some + usize::from(b > 0))
        })
}

#[test]
fn a_vf_takes_memory_for_registers_and_queues_when_it_is_used() {
    let mut cfg = config(MAX_VFS);
    cfg.vfs_at_start = MAX_VFS;
    let mut m = echo_model(cfg).unwrap();
    assert_eq!(in_use(&m), (0, 0), "all live, none used");
    let mut b = [0; 64];
    for n in MEMBERS {
        m.config_read(vf(n), 0, &mut b);
        m.bar_read(vf(n), 1, 0, &mut b);
        m.reset_function(vf(n));
    }
    assert_eq!(in_use(&m), (0, 0), "reading and resets change nothing");
    let d = Driver::new(&mut m, vf(256), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    d.queue(&mut m, 1, 0);
    let (bytes, vfs) = in_use(&m);
    assert!(vfs == 1 && bytes >= 4096, "{bytes} bytes of {vfs} VFs");
    let memory = memory();
    let mut c = AdminClient::ready(&mut m, &memory, MAX_VFS);
    c.set(&mut m, 300, 8, 4, 1);
    assert_eq!(in_use(&m).1, 2, "by the legacy registers too");
}
