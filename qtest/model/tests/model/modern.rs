// SPDX-License-Identifier: GPL-2.0-or-later
//! The modern structures (MOD). Resets through them are in `reset.rs`.

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::modern::{cap, cfg_type};
use virtio_pci_spec::{pci, DeviceType};
use virtio_pf_model::testing::{echo_model, Buffer, Driver, MODERN_FEATURES};
use virtio_pf_model::{
    ConfigError, DeviceControl, FunctionId, Model, ModelConfig, Violation, MODERN_BAR,
    NOTIFY_OFFSET,
};

use crate::{config, memory, pf, ready, vf, violations};

/// Every virtio capability: (cfg_type, bar, offset, length, position).
fn virtio_caps(m: &mut Model, d: &Driver) -> Vec<(u8, u8, u64, u64, u16)> {
    let mut all = Vec::new();
    let mut at = d.config(m, 0x34, 1) as u16;
    while at != 0 {
        assert!(at >= 0x40 && at % 4 == 0 && all.len() < 48);
        if d.config(m, at, 1) as u8 == pci::CAP_ID_VENDOR {
            let len = d.config(m, at + cap::CAP_LEN as u16, 1);
            assert!(len >= 16);
            all.push((
                d.config(m, at + cap::CFG_TYPE as u16, 1) as u8,
                d.config(m, at + cap::BAR as u16, 1) as u8,
                d.config(m, at + cap::OFFSET as u16, 4),
                d.config(m, at + cap::LENGTH as u16, 4),
                at,
            ));
        }
        at = d.config(m, at + 1, 1) as u16;
    }
    all
}

// Covers: MOD-01, MOD-03, MOD-11
#[test]
fn structures_of_every_type_and_multiplier() {
    for t in DeviceType::ALL {
        for multiplier in [0, 2, 4, 0x1000] {
            let mut cfg = ModelConfig::new(t, 2);
            cfg.knobs.notify_multiplier = multiplier;
            cfg.knobs.admin_queues = 2;
            let (mut m, _c) = ready(cfg, 2);
            for f in [FunctionId::Pf, vf(2)] {
                let d = Driver::new(&mut m, f, &memory());
                let caps = virtio_caps(&mut m, &d);
                let count = |k| caps.iter().filter(|c| c.0 == k).count();
                let has_config = usize::from(t != DeviceType::Entropy);
                for (k, n) in [
                    (cfg_type::COMMON, 1),
                    (cfg_type::NOTIFY, 1),
                    (cfg_type::ISR, 1),
                    (cfg_type::PCI, 1),
                    (cfg_type::DEVICE, has_config),
                ] {
                    assert_eq!(count(k), n, "{t:?} {f} type {k}");
                }
                for (k, bar, offset, length, at) in caps {
                    if k == cfg_type::PCI {
                        continue;
                    }
                    let align = match k {
                        cfg_type::ISR => 1,
                        cfg_type::NOTIFY => 2,
                        _ => 4,
                    };
                    assert_eq!(offset % align, 0);
                    assert!(offset + length <= m.bar_size(f, bar));
                    if k == cfg_type::COMMON {
                        assert!(length >= 64);
                    }
                    if k != cfg_type::NOTIFY {
                        continue;
                    }
                    let mult = d.config(&mut m, at + cap::NOTIFY_MULTIPLIER as u16, 4);
                    assert_eq!(mult, u64::from(multiplier));
                    for q in 0..16u64 {
                        d.set(&mut m, reg::QUEUE_SELECT, q);
                        if d.get(&mut m, reg::QUEUE_SIZE) != 0 {
                            let off = d.get(&mut m, reg::QUEUE_NOTIFY_OFF);
                            assert!(length >= off * mult + 2);
                        }
                    }
                }
            }
        }
    }
    for bad in [1, 3, 6, 0x20000] {
        let mut cfg = config(1);
        cfg.knobs.notify_multiplier = bad;
        assert_eq!(cfg.validate(), Err(ConfigError::Multiplier(bad)));
    }
    let mut cfg = config(1);
    cfg.knobs.notification_data = true;
    cfg.knobs.notify_multiplier = 2;
    assert_eq!(cfg.validate(), Err(ConfigError::Multiplier(2)));
}

// What drivers are held to: MOD-02
#[test]
fn unusable_capabilities_come_first() {
    let mut cfg = config(1);
    cfg.knobs.bogus_capabilities = true;
    cfg.knobs.device_structure_len = 16 << 20;
    let mut m = echo_model(cfg).unwrap();
    let d = pf(&mut m);
    let caps = virtio_caps(&mut m, &d);
    assert_eq!(caps[0].0, 0x77);
    assert_eq!((caps[1].0, caps[1].1), (cfg_type::COMMON, 6));
    assert_eq!((caps[2].0, caps[2].1), (cfg_type::COMMON, MODERN_BAR));
    let device = caps.iter().find(|c| c.0 == cfg_type::DEVICE).unwrap();
    assert_eq!(device.3, 16 << 20);
    assert!(m.bar_size(FunctionId::Pf, MODERN_BAR) >= 16 << 20);
    let mut b = [0xaa; 4];
    m.bar_read(
        FunctionId::Pf,
        MODERN_BAR,
        device.2 + (16 << 20) - 4,
        &mut b,
    );
    assert_eq!(b, [0; 4], "padding reads as zero");
    // Writes into capabilities do nothing and are noted.
    violations(&mut m);
    m.config_write(FunctionId::Pf, caps[2].4 + 8, &[0xff; 4]);
    assert_eq!(virtio_caps(&mut m, &d)[2].2, 0);
    assert!(matches!(
        violations(&mut m)[..],
        [Violation::CapabilityWrite { .. }]
    ));
}

// What drivers are held to: MOD-04
#[test]
fn wrong_widths_are_noted_and_not_served() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    d.set(&mut m, reg::QUEUE_SELECT, 1);
    violations(&mut m);
    for (at, n) in [
        (20, 2),
        (20, 4),
        (22, 1),
        (24, 4),
        (0, 2),
        (2, 2),
        (32, 8),
        (34, 4),
        (63, 1),
    ] {
        let ones = if n == 8 { u64::MAX } else { (1 << (8 * n)) - 1 };
        assert_eq!(d.read(&mut m, MODERN_BAR, at, n), ones, "({at},{n})");
        d.write(&mut m, MODERN_BAR, at, n, 0);
        let seen = violations(&mut m);
        assert_eq!(seen.len(), 2, "({at},{n}): {seen:?}");
        assert!(seen.iter().all(|v| v.name() == "access_width"));
    }
    assert_eq!(d.get(&mut m, reg::QUEUE_SELECT), 1);
    // Every proper access is quiet.
    for (at, n) in reg::FIELDS {
        if n == 8 {
            d.read(&mut m, MODERN_BAR, at, 4);
            d.read(&mut m, MODERN_BAR, at + 4, 4);
        } else {
            d.read(&mut m, MODERN_BAR, at, n.into());
        }
    }
    assert_eq!(violations(&mut m), []);
}

// What drivers are held to: MOD-04
#[test]
fn lenient_width_serves_any_shape() {
    let mut cfg = config(1);
    cfg.leniency.enable("lenient-width").unwrap();
    let mut m = echo_model(cfg).unwrap();
    let d = pf(&mut m);
    d.write(&mut m, MODERN_BAR, reg::QUEUE_SELECT, 4, 0x0008_0001);
    assert_eq!(d.get(&mut m, reg::QUEUE_SELECT), 1);
    assert_eq!(d.get(&mut m, reg::QUEUE_SIZE), 8);
    d.write(
        &mut m,
        MODERN_BAR,
        reg::QUEUE_DESC,
        8,
        0x1122_3344_5566_7788,
    );
    assert_eq!(
        d.read(&mut m, MODERN_BAR, reg::QUEUE_DESC, 8),
        0x1122_3344_5566_7788
    );
    assert_eq!(d.read(&mut m, MODERN_BAR, reg::QUEUE_DESC + 3, 2), 0x4455);
}

// Covers: MOD-05
#[test]
fn halves_of_wide_fields_are_independent() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    for f in [reg::QUEUE_DESC, reg::QUEUE_DRIVER, reg::QUEUE_DEVICE] {
        d.write(&mut m, MODERN_BAR, f + 4, 4, 0x1122_3344);
        assert_eq!(d.get(&mut m, f), 0x1122_3344_0000_0000);
        d.write(&mut m, MODERN_BAR, f, 4, 0x5566_7788);
        assert_eq!(d.get(&mut m, f), 0x1122_3344_5566_7788);
    }
}

// Open points: O-44
// Covers: MOD-06
#[test]
fn any_feature_select_answers() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    let offered = d.offered(&mut m);
    for (select, want) in [
        (0, offered & 0xffff_ffff),
        (1, offered >> 32),
        (2, 0),
        (3, 0),
        (4, 0),
        (0xffff_ffff, 0),
    ] {
        d.set(&mut m, reg::DEVICE_FEATURE_SELECT, select);
        assert_eq!(d.get(&mut m, reg::DEVICE_FEATURE), want);
    }
    for (select, v) in [(0u64, 5), (1, 1), (2, 0x10), (3, 0x20)] {
        d.set(&mut m, reg::DRIVER_FEATURE_SELECT, select);
        d.set(&mut m, reg::DRIVER_FEATURE, v);
    }
    for (select, v) in [(0u64, 5), (1, 1), (2, 0x10), (3, 0x20), (9, 0)] {
        d.set(&mut m, reg::DRIVER_FEATURE_SELECT, select);
        assert_eq!(d.get(&mut m, reg::DRIVER_FEATURE), v);
    }
}

// Covers: MOD-07
#[test]
fn generation_shows_every_change_that_was_seen() {
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    let change = |m: &mut Model, n| m.control(vf(1), &DeviceControl::Resize { sectors: n });
    let mut last = d.get(&mut m, reg::CONFIG_GENERATION);
    for round in 1..=600 {
        for _ in 0..256 {
            change(&mut m, round).unwrap();
        }
        let now = d.get(&mut m, reg::CONFIG_GENERATION);
        assert_ne!(now, last, "round {round}");
        assert_eq!(d.get(&mut m, reg::CONFIG_GENERATION), now, "no change");
        last = now;
    }
}

// Open points: O-25
// Covers: MOD-09
#[test]
fn absent_queues_have_size_zero() {
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for q in 0..=u64::from(u16::MAX) {
        d.set(&mut m, reg::QUEUE_SELECT, q);
        let size = d.get(&mut m, reg::QUEUE_SIZE);
        assert_eq!(size, if q < 2 { 16 } else { 0 });
        assert_eq!(d.get(&mut m, reg::QUEUE_SELECT), q);
    }
    violations(&mut m);
    d.set(&mut m, reg::QUEUE_ENABLE, 1);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    assert_eq!(
        violations(&mut m),
        [Violation::NoSuchQueue { queue: 0xffff }]
    );
}

// What drivers are held to: MOD-10, MOD-14
#[test]
fn forbidden_writes_are_noted_and_ignored() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    violations(&mut m);
    for f in [
        reg::DEVICE_FEATURE,
        reg::NUM_QUEUES,
        reg::CONFIG_GENERATION,
        reg::QUEUE_NOTIFY_OFF,
        reg::QUEUE_NOTIF_CONFIG_DATA,
        reg::ADMIN_QUEUE_INDEX,
    ] {
        let before = d.get(&mut m, f);
        d.set(&mut m, f, 0);
        assert_eq!(d.get(&mut m, f), before);
        assert_eq!(violations(&mut m)[0].name(), "read_only_field");
    }
    for (f, v, name) in [
        (reg::QUEUE_SIZE, 3, "queue_size"),
        (reg::QUEUE_SIZE, 0, "queue_size"),
        (reg::QUEUE_SIZE, 32, "queue_size"),
        (reg::QUEUE_ENABLE, 0, "queue_enable_value"),
        (reg::QUEUE_ENABLE, 2, "queue_enable_value"),
        (reg::QUEUE_RESET, 0, "queue_enable_value"),
    ] {
        d.set(&mut m, f, v);
        assert_eq!(violations(&mut m)[0].name(), name);
    }
    assert_eq!(d.get(&mut m, reg::QUEUE_SIZE), 16);
    d.set(&mut m, reg::QUEUE_SIZE, 8);
    assert_eq!(d.get(&mut m, reg::QUEUE_SIZE), 8);
    // Misaligned parts do not start.
    d.set(&mut m, reg::QUEUE_DESC, 0x1008);
    d.set(&mut m, reg::QUEUE_ENABLE, 1);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    assert_eq!(violations(&mut m), [Violation::QueueAlignment { queue: 0 }]);
    d.queue(&mut m, 0, 0xffff);
    d.set(&mut m, reg::QUEUE_DESC, 0x2000);
    assert_eq!(violations(&mut m)[0].name(), "queue_live");
}

// Covers: MOD-13
#[test]
fn the_access_window_reaches_the_structures() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    let at = d.capability(&mut m, pci::CAP_ID_VENDOR, Some(cfg_type::PCI));
    let aim = |m: &mut Model, bar: u8, offset: u32, length: u32| {
        m.config_write(FunctionId::Pf, at + cap::BAR as u16, &[bar]);
        m.config_write(
            FunctionId::Pf,
            at + cap::OFFSET as u16,
            &offset.to_le_bytes(),
        );
        m.config_write(
            FunctionId::Pf,
            at + cap::LENGTH as u16,
            &length.to_le_bytes(),
        );
    };
    let data = at + cap::PCI_CFG_DATA as u16;
    aim(&mut m, MODERN_BAR, 20, 1);
    m.config_write(FunctionId::Pf, data, &[1]);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 1);
    assert_eq!(d.config(&mut m, data, 1), 1);
    aim(&mut m, MODERN_BAR, 22, 2);
    m.config_write(FunctionId::Pf, data, &[1, 0]);
    assert_eq!(d.config(&mut m, data, 2), 1);
    aim(&mut m, MODERN_BAR, 24, 2);
    assert_eq!(d.config(&mut m, data, 2), 16);
    aim(&mut m, MODERN_BAR, 36, 4);
    m.config_write(FunctionId::Pf, data, &[1, 2, 3, 4]);
    assert_eq!(d.get(&mut m, reg::QUEUE_DESC), 0x0403_0201 << 32);
    // An unarmed window is silent.
    violations(&mut m);
    aim(&mut m, 0, 0, 0);
    d.config(&mut m, data, 4);
    assert_eq!(violations(&mut m), []);
    for (bar, offset, length) in [
        (MODERN_BAR, 20, 3),
        (MODERN_BAR, 21, 2),
        (MODERN_BAR, 0x1800, 4),
        (MODERN_BAR, u32::MAX, 1),
        (1, 0, 4),
        (6, 0, 4),
        (255, 0, 8),
    ] {
        aim(&mut m, bar, offset, length);
        m.config_write(FunctionId::Pf, data, &[0xff; 4]);
        let seen = violations(&mut m);
        assert_eq!(seen.last().map(Violation::name), Some("window_misuse"));
    }
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 1);
}

// What drivers are held to: FEA-08, FEA-09
// Covers: MOD-11
#[test]
fn notifications_by_address_and_value() {
    for (multiplier, config_data, data) in [
        (0, None, false),
        (4, None, false),
        (2, None, false),
        (0x1000, None, false),
        (0, Some(0xbeef), false),
        (4, Some(0xbeef), false),
        (4, None, true),
    ] {
        let mut cfg = config(1);
        cfg.knobs.notify_multiplier = multiplier;
        cfg.knobs.notif_config_data = config_data;
        cfg.knobs.notification_data = data;
        let mut m = echo_model(cfg).unwrap();
        let d = pf(&mut m);
        let bits = MODERN_FEATURES | bit(features::NOTIFICATION_DATA);
        assert!(d.negotiate(&mut m, bits));
        let admin = d.get(&mut m, reg::ADMIN_QUEUE_INDEX) as u16;
        let mut ring = d.queue(&mut m, 1, 0xffff);
        let _admin_ring = d.queue(&mut m, admin, 0xffff);
        d.driver_ok(&mut m);
        if let Some(v) = config_data {
            d.set(&mut m, reg::QUEUE_SELECT, admin.into());
            assert_eq!(d.get(&mut m, reg::QUEUE_NOTIF_CONFIG_DATA), u64::from(v));
        }
        violations(&mut m);
        let at = d.memory.alloc(16, 8);
        ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
        // A wrong width, then a wrong value.
        let wrong = if data { 2 } else { 4 };
        let right = if data { 4 } else { 2 };
        let here = NOTIFY_OFFSET + u64::from(multiplier);
        d.write(&mut m, MODERN_BAR, here, wrong, 1);
        d.write(&mut m, MODERN_BAR, here, right, 0x7777);
        assert_eq!(ring.poll(), None);
        assert!(!violations(&mut m).is_empty());
        d.kick(&mut m, 1);
        assert_eq!(
            ring.poll(),
            Some((0, 8)),
            "{multiplier} {config_data:?} {data}"
        );
        assert_eq!(violations(&mut m), []);
    }
}
