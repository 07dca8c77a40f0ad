// SPDX-License-Identifier: GPL-2.0-or-later
//! Feature bits of both interfaces (FEA, INI-08, INI-09).

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_pf_model::testing::{echo_model, Buffer, Driver, DriverRing};
use virtio_pf_model::FunctionId;

use crate::{config, interrupts, memory, ready, vf};

// Covers: FEA-01, FEA-03, FEA-05, FEA-07, INI-09
#[test]
fn offered_bits_of_pf_and_vf() {
    let (mut m, c) = ready(config(1), 1);
    let pf = c.pf.offered(&mut m);
    let d = Driver::new(&mut m, vf(1), &memory());
    let vf_bits = d.offered(&mut m);
    for n in [
        features::VERSION_1,
        features::ACCESS_PLATFORM,
        features::ORDER_PLATFORM,
        features::RING_RESET,
        features::INDIRECT_DESC,
        features::EVENT_IDX,
    ] {
        assert!(pf & bit(n) != 0 && vf_bits & bit(n) != 0, "bit {n}");
    }
    for n in [features::SR_IOV, features::ADMIN_VQ] {
        assert!(pf & bit(n) != 0 && vf_bits & bit(n) == 0, "bit {n}");
    }
    for n in [
        features::RING_PACKED,
        features::IN_ORDER,
        features::SUSPEND,
        features::NOTIFICATION_DATA,
        features::NOTIF_CONFIG_DATA,
        features::NOTIFY_ON_EMPTY,
        features::ANY_LAYOUT,
        features::UNUSED,
    ] {
        assert!(pf & bit(n) == 0 && vf_bits & bit(n) == 0, "bit {n}");
    }
}

// What drivers are held to: FEA-02
// Covers: FEA-03
#[test]
fn access_platform_may_be_missing() {
    let mut cfg = config(1);
    cfg.knobs.access_platform = false;
    cfg.knobs.ring_reset = false;
    let mut m = echo_model(cfg).unwrap();
    let d = Driver::new(&mut m, FunctionId::Pf, &memory());
    let bits = d.offered(&mut m);
    assert_eq!(bits & bit(features::ACCESS_PLATFORM), 0);
    assert_eq!(bits & bit(features::RING_RESET), 0);
}

// What drivers are held to: INI-08
#[test]
fn everything_may_be_offered() {
    let mut cfg = config(1);
    cfg.knobs.offer_everything = true;
    let mut m = echo_model(cfg).unwrap();
    let d = Driver::new(&mut m, FunctionId::Pf, &memory());
    for select in 0..4 {
        d.set(&mut m, reg::DEVICE_FEATURE_SELECT, select);
        assert_eq!(d.get(&mut m, reg::DEVICE_FEATURE), 0xffff_ffff);
    }
}

// Open points: O-31, O-32
// Covers: FEA-12
#[test]
fn legacy_only_bits_are_in_the_legacy_view_only() {
    for unused in [true, false] {
        let mut cfg = config(1);
        cfg.knobs.legacy_unused_bit = unused;
        let (mut m, mut c) = ready(cfg, 1);
        let word = c.get(&mut m, 1, 0, 4);
        assert_ne!(word & bit(features::ANY_LAYOUT), 0);
        assert_ne!(word & bit(features::NOTIFY_ON_EMPTY), 0);
        assert_eq!(word & bit(features::UNUSED) != 0, unused);
        assert_ne!(word & bit(6), 0, "the type's legacy bit");
    }
}

fn legacy_ring(
    m: &mut virtio_pf_model::Model,
    c: &mut virtio_pf_model::testing::AdminClient,
) -> DriverRing {
    let mem = memory();
    let d = Driver::new(m, vf(1), &mem);
    d.set_msix(m, true, false);
    d.mask_vector(m, 0, false);
    c.set(m, 1, 14, 2, 0);
    c.set(m, 1, 22, 2, 0);
    let ring = DriverRing::legacy(&mem, c.get(m, 1, 12, 2) as u16);
    c.set(m, 1, 8, 4, ring.pfn().into());
    ring
}

fn offer(ring: &mut DriverRing) {
    let at = ring.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
}

// Covers: FEA-11
#[test]
fn notify_on_empty_overrides_suppression() {
    for accepted in [0, bit(features::NOTIFY_ON_EMPTY)] {
        for event_idx in [0, bit(features::EVENT_IDX)] {
            let (mut m, mut c) = ready(config(1), 1);
            let mut ring = legacy_ring(&mut m, &mut c);
            c.set(&mut m, 1, 4, 4, accepted | event_idx);
            c.set(&mut m, 1, 18, 1, 7);
            ring.set_avail_flags(1);
            ring.set_used_event(100);
            offer(&mut ring);
            offer(&mut ring);
            m.drain_effects();
            c.set(&mut m, 1, 16, 2, 0);
            let got = interrupts(&mut m, vf(1)).len();
            assert_eq!(
                got,
                usize::from(accepted != 0),
                "{accepted:#x} {event_idx:#x}"
            );
        }
    }
}

// Open points: O-29
// Covers: INI-12
#[test]
fn legacy_features_may_come_after_the_queues() {
    let (mut m, mut c) = ready(config(1), 1);
    let mut ring = legacy_ring(&mut m, &mut c);
    c.set(&mut m, 1, 18, 1, 7);
    // With EVENT_IDX accepted late, used_event decides and avail_event is kept.
    c.set(&mut m, 1, 4, 4, bit(features::EVENT_IDX));
    ring.set_avail_flags(1);
    ring.set_used_event(0);
    offer(&mut ring);
    m.drain_effects();
    c.set(&mut m, 1, 16, 2, 0);
    assert_eq!(interrupts(&mut m, vf(1)), [0]);
    assert_eq!(ring.avail_event(), 1);
}

// Open points: O-31
#[test]
fn accepting_the_probe_bit_means_nothing_was_accepted() {
    let (mut m, mut c) = ready(config(1), 1);
    let mut ring = legacy_ring(&mut m, &mut c);
    c.set(&mut m, 1, 4, 4, 0xffff_ffff);
    c.set(&mut m, 1, 18, 1, 7);
    // Indirect descriptors are off although the bit was written.
    let at = ring.memory.alloc(16, 8);
    ring.add_indirect(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
    c.set(&mut m, 1, 16, 2, 0);
    assert_eq!(ring.poll(), None);
    assert_ne!(c.get(&mut m, 1, 18, 1) & 64, 0);
}

// Covers: INI-10, FEA-13
#[test]
fn legacy_features_end_a_modern_negotiation() {
    let (mut m, mut c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, u64::MAX));
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    c.set(&mut m, 1, 4, 4, 5);
    d.set(&mut m, reg::DRIVER_FEATURE_SELECT, 1);
    assert_eq!(d.get(&mut m, reg::DRIVER_FEATURE), 0);
    assert_eq!(c.get(&mut m, 1, 4, 4), 5);
}
