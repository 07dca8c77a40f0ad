// SPDX-License-Identifier: GPL-2.0-or-later
//! Status and feature negotiation through the modern interface (INI).

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::legacy::Register;
use virtio_pci_spec::modern::{cap, cfg_type};
use virtio_pci_spec::pci;
use virtio_pf_model::testing::{echo_model, Buffer, Driver, DriverRing, LegacyVf, MODERN_FEATURES};
use virtio_pf_model::{FunctionId, Model, Violation, MODERN_BAR};

use crate::{config, interrupts, memory, pf, ready, vf, violations, NONE};

// What drivers are held to: INI-01, INI-02
#[test]
fn wrong_orders_of_status_are_noted() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    violations(&mut m);
    d.set(&mut m, reg::DEVICE_STATUS, 2);
    assert_eq!(violations(&mut m)[0].name(), "status_order");
    d.set(&mut m, reg::DEVICE_STATUS, 3);
    d.set(&mut m, reg::DEVICE_STATUS, 1);
    assert_eq!(violations(&mut m)[0].name(), "status_bit_cleared");
    d.set(&mut m, reg::DEVICE_STATUS, 3);
    d.set(&mut m, reg::DEVICE_STATUS, 7);
    assert_eq!(violations(&mut m)[0].name(), "status_order");
    assert_eq!(
        d.get(&mut m, reg::DEVICE_STATUS),
        3,
        "no DRIVER_OK without FEATURES_OK"
    );
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    violations(&mut m);
    d.accept(&mut m, 0);
    assert_eq!(violations(&mut m), [Violation::FeaturesLate; 2]);
    // Device configuration before the features.
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    let cap_at = d.capability(&mut m, pci::CAP_ID_VENDOR, Some(cfg_type::DEVICE));
    let start = d.config(&mut m, cap_at + cap::OFFSET as u16, 4);
    d.write(&mut m, MODERN_BAR, start + 32, 1, 0x77);
    assert_eq!(
        violations(&mut m),
        [Violation::ConfigBeforeFeatures { offset: 32 }]
    );
    assert_eq!(d.read(&mut m, MODERN_BAR, start + 32, 1), 33);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    d.write(&mut m, MODERN_BAR, start + 32, 1, 0x77);
    assert_eq!(d.read(&mut m, MODERN_BAR, start + 32, 1), 0x77);
}

// Covers: INI-04
#[test]
fn unworkable_feature_sets_are_refused() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    let try_bits = |m: &mut Model, bits: u64| {
        d.set(m, reg::DEVICE_STATUS, 0);
        d.set(m, reg::DEVICE_STATUS, 1);
        d.set(m, reg::DEVICE_STATUS, 3);
        d.accept(m, bits);
        d.set(m, reg::DEVICE_STATUS, 0xb);
        d.get(m, reg::DEVICE_STATUS) == 0xb
    };
    let v1 = bit(features::VERSION_1);
    assert!(try_bits(&mut m, v1));
    assert!(!try_bits(&mut m, 0), "VERSION_1 is missing");
    assert!(
        !try_bits(&mut m, v1 | bit(features::RING_PACKED)),
        "not offered"
    );
    assert!(!try_bits(&mut m, v1 | 2), "bit 1 needs bit 0");
    assert!(try_bits(&mut m, v1 | 3));
    let offered = d.offered(&mut m);
    for n in 0..64 {
        let b = bit(n);
        if offered & b != 0 && n != 1 {
            assert!(try_bits(&mut m, v1 | b), "bit {n} alone");
        }
    }
    for _ in 0..100 {
        assert!(try_bits(&mut m, offered), "accepted once, accepted again");
    }
    d.set(&mut m, reg::DRIVER_FEATURE_SELECT, 2);
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    d.set(&mut m, reg::DRIVER_FEATURE_SELECT, 2);
    d.set(&mut m, reg::DRIVER_FEATURE, 1);
    d.set(&mut m, reg::DEVICE_STATUS, 1);
    d.set(&mut m, reg::DEVICE_STATUS, 3);
    d.accept(&mut m, v1);
    d.set(&mut m, reg::DEVICE_STATUS, 0xb);
    assert_eq!(
        d.get(&mut m, reg::DEVICE_STATUS),
        3,
        "bit 64 is not offered"
    );
}

// Covers: INI-06
#[test]
fn a_fatal_error_asks_for_a_reset() {
    let (mut m, c) = ready(config(1), 1);
    c.pf.set(&mut m, reg::CONFIG_MSIX_VECTOR, 0);
    c.pf.set_msix(&mut m, true, false);
    c.pf.mask_vector(&mut m, 0, false);
    m.drain_effects();
    m.break_function(FunctionId::Pf, "test");
    assert_eq!(c.pf.get(&mut m, reg::DEVICE_STATUS), 0x4f);
    assert_eq!(interrupts(&mut m, FunctionId::Pf), [0]);
    m.break_function(FunctionId::Pf, "again");
    assert_eq!(interrupts(&mut m, FunctionId::Pf), NONE);
    // Before DRIVER_OK there is no notification.
    let d = Driver::new(&mut m, vf(1), &memory());
    d.set(&mut m, reg::DEVICE_STATUS, 1);
    m.break_function(vf(1), "test");
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0x41);
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    // The bit is the device's: only a reset clears it.
    d.set(&mut m, reg::DEVICE_STATUS, 3);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0x43);
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0);
}

/// Makes a buffer available that the device gives back with four bytes written.
fn offer(ring: &mut DriverRing) {
    let at = ring.memory.alloc(8, 8);
    ring.add(&[Buffer::readable(at, 4), Buffer::writable(at + 4, 4)]);
}

// Linux's balloon driver notifies its statistics queue before DRIVER_OK, and not again.
// Covers: INI-05
#[test]
fn buffers_of_before_driver_ok_are_served_with_it() {
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut rings = [d.queue(&mut m, 0, 1), d.queue(&mut m, 1, 2)];
    rings.iter_mut().for_each(offer);
    assert_eq!(violations(&mut m), []);
    d.kick(&mut m, 0);
    assert_eq!(
        violations(&mut m),
        [Violation::NotifyBeforeDriverOk { queue: 0 }]
    );
    m.tick(1);
    for ring in &rings {
        assert_eq!(ring.used_idx(), 0);
    }
    d.driver_ok(&mut m);
    // Also what nobody notified of.
    for ring in &mut rings {
        assert!(ring.poll().is_some());
    }
    // Once: the rest is as usual.
    let ok = d.get(&mut m, reg::DEVICE_STATUS);
    rings.iter_mut().for_each(offer);
    d.set(&mut m, reg::DEVICE_STATUS, ok);
    for ring in &mut rings {
        assert_eq!(ring.poll(), None);
    }
    d.kick(&mut m, 1);
    assert!(rings[0].poll().is_none() && rings[1].poll().is_some());
    assert_eq!(violations(&mut m), []);
    // A reset forgets the early notification.
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut ring = d.queue(&mut m, 0, 1);
    d.kick(&mut m, 0);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    offer(&mut ring);
    d.driver_ok(&mut m);
    assert_eq!(ring.poll(), None, "the queue is not enabled any more");
}

// Covers: INI-05
#[test]
fn early_buffers_wait_for_bus_mastering_too() {
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut ring = d.queue(&mut m, 0, 1);
    offer(&mut ring);
    d.kick(&mut m, 0);
    d.set_command(&mut m, pci::COMMAND_MEMORY);
    d.driver_ok(&mut m);
    assert_eq!(ring.used_idx(), 0);
    d.set_command(&mut m, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
    assert!(ring.poll().is_some());
}

// Covers: INI-12
#[test]
fn legacy_queues_are_served_before_driver_ok_and_with_it() {
    let mut d = LegacyVf::start(echo_model(config(1)).unwrap(), 1);
    d.negotiate(0);
    let mut rings = [d.queue(0), d.queue(1)];
    rings.iter_mut().for_each(offer);
    d.kick(0);
    assert!(rings[0].poll().is_some(), "old drivers may do that");
    assert_eq!(rings[1].poll(), None);
    d.driver_ok();
    assert!(rings[1].poll().is_some());
    assert_eq!(
        d.model.counters().violation("notify_before_driver_ok"),
        0,
        "that rule is of the modern interface"
    );
}

// Covers: INI-06
#[test]
fn a_ring_that_nobody_notified_is_not_found_broken_with_driver_ok() {
    let mut d = LegacyVf::start(echo_model(config(1)).unwrap(), 1);
    d.negotiate(0);
    d.set(Register::QueueSelect, 0);
    d.set(Register::QueueAddress, 0xf_ffff);
    d.driver_ok();
    assert_eq!(d.get(Register::DeviceStatus), 7);
    d.kick(0);
    assert_eq!(d.get(Register::DeviceStatus), 0x47);
}
