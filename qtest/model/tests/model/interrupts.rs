// SPDX-License-Identifier: GPL-2.0-or-later
//! ISR, MSI-X and INTx (IRQ).

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::{pci, status};
use virtio_pf_model::testing::{
    echo_model, AdminClient, Buffer, Driver, DriverRing, MODERN_FEATURES,
};
use virtio_pf_model::{
    ConfigError, DeviceControl, Effect, FunctionId, Model, ISR_OFFSET, MODERN_BAR, MSIX_BAR,
};

use crate::{config, interrupts, memory, ready, vf, violations, NONE};

fn offer(ring: &mut DriverRing) {
    let at = ring.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
}

/// A modern driver of VF 1 with its two queues on vectors 1 and 2 and the configuration on 0.
fn running(m: &mut Model, bits: u64) -> (Driver, [DriverRing; 2]) {
    let d = Driver::new(m, vf(1), &memory());
    assert!(d.negotiate(m, bits));
    let rings = [d.queue(m, 0, 1), d.queue(m, 1, 2)];
    d.set(m, reg::CONFIG_MSIX_VECTOR, 0);
    d.driver_ok(m);
    (d, rings)
}

fn resize(m: &mut Model, sectors: u64) {
    m.control(vf(1), &DeviceControl::Resize { sectors })
        .unwrap();
}

// What drivers are held to: IRQ-13
// Covers: IRQ-01, IRQ-03, IRQ-04
#[test]
fn isr_bits_are_set_in_both_modes() {
    for msix in [false, true] {
        let (mut m, _c) = ready(config(1), 1);
        let (d, mut rings) = running(&mut m, MODERN_FEATURES);
        d.set_msix(&mut m, msix, false);
        offer(&mut rings[0]);
        d.kick(&mut m, 0);
        resize(&mut m, 7);
        assert_eq!(d.read(&mut m, MODERN_BAR, ISR_OFFSET, 1), 3, "msix {msix}");
        assert_eq!(d.read(&mut m, MODERN_BAR, ISR_OFFSET, 1), 0);
        offer(&mut rings[1]);
        d.kick(&mut m, 1);
        assert_eq!(d.read(&mut m, MODERN_BAR, ISR_OFFSET, 1), 1);
        resize(&mut m, 8);
        assert_eq!(d.read(&mut m, MODERN_BAR, ISR_OFFSET, 1), 2);
    }
}

// Covers: IRQ-02, IRQ-03, IRQ-04
#[test]
fn intx_of_a_pf_with_a_pin() {
    let mut cfg = config(1);
    cfg.knobs.pf_intx = true;
    let mut m = echo_model(cfg).unwrap();
    let d = Driver::new(&mut m, FunctionId::Pf, &memory());
    assert_eq!(d.config(&mut m, pci::header::INTERRUPT_PIN as u16, 1), 1);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    d.driver_ok(&mut m);
    let levels = |m: &mut Model| -> Vec<bool> {
        m.drain_effects()
            .filter_map(|e| match e {
                Effect::IntxLevel { asserted, .. } => Some(asserted),
                _ => None,
            })
            .collect()
    };
    let status_bit = |m: &mut Model| d.config(m, 6, 2) & u64::from(pci::STATUS_INTERRUPT) != 0;
    let resize = |m: &mut Model| {
        m.control(FunctionId::Pf, &DeviceControl::Resize { sectors: 1 })
            .unwrap();
    };
    levels(&mut m);
    resize(&mut m);
    assert_eq!(levels(&mut m), [true]);
    assert!(status_bit(&mut m));
    resize(&mut m);
    assert_eq!(levels(&mut m), [false; 0], "still asserted");
    // Interrupt Disable blocks the line, not the status.
    let on = pci::COMMAND_MEMORY | pci::COMMAND_MASTER;
    d.set_command(&mut m, on | pci::COMMAND_INTX_DISABLE);
    assert_eq!(levels(&mut m), [false]);
    assert!(status_bit(&mut m));
    d.set_command(&mut m, on);
    assert_eq!(levels(&mut m), [true]);
    assert_eq!(d.read(&mut m, MODERN_BAR, ISR_OFFSET, 1), 2);
    assert_eq!(levels(&mut m), [false]);
    assert!(!status_bit(&mut m));
    d.set_msix(&mut m, true, false);
    resize(&mut m);
    assert_eq!(levels(&mut m), [false; 0], "MSI-X never asserts INTx");
    d.set_msix(&mut m, false, false);
    assert_eq!(levels(&mut m), [true], "the ISR is still set");
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(levels(&mut m), [false]);
}

// Covers: IRQ-04, SRV-02
#[test]
fn a_vf_never_asserts_intx() {
    let (mut m, _c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    assert_eq!(d.config(&mut m, pci::header::INTERRUPT_PIN as u16, 1), 0);
    m.drain_effects();
    offer(&mut rings[0]);
    d.kick(&mut m, 0);
    assert_eq!(m.take_effects(), []);
    assert_eq!(d.config(&mut m, 6, 2) & u64::from(pci::STATUS_INTERRUPT), 0);
}

// What drivers are held to: IRQ-09
// Covers: IRQ-05
#[test]
fn any_event_goes_to_any_vector() {
    let mut cfg = config(1);
    cfg.knobs.msix_vectors = Some(5);
    let (mut m, _c) = ready(cfg, 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    let at = d.capability(&mut m, pci::CAP_ID_MSIX, None);
    assert_eq!(d.config(&mut m, at + 2, 2) & 0x7ff, 4);
    d.set_msix(&mut m, true, false);
    for v in 0..5 {
        d.mask_vector(&mut m, v, false);
        d.set(&mut m, reg::CONFIG_MSIX_VECTOR, v.into());
        for q in 0..2 {
            d.set(&mut m, reg::QUEUE_SELECT, q);
            d.set(&mut m, reg::QUEUE_MSIX_VECTOR, v.into());
            assert_eq!(d.get(&mut m, reg::QUEUE_MSIX_VECTOR), u64::from(v));
        }
        m.drain_effects();
        offer(&mut rings[0]);
        offer(&mut rings[1]);
        d.kick(&mut m, 0);
        d.kick(&mut m, 1);
        resize(&mut m, 3);
        assert_eq!(interrupts(&mut m, vf(1)), [v; 3]);
    }
    for (n, ok) in [(0, false), (1, true), (0x800, true), (0x801, false)] {
        let mut cfg = config(1);
        cfg.knobs.msix_vectors = Some(n);
        let got = echo_model(cfg);
        assert_eq!(got.is_ok(), ok);
        if !ok {
            assert_eq!(got.err(), Some(ConfigError::Vectors(n)));
        }
    }
}

// What drivers are held to: IRQ-07
// Covers: IRQ-06
#[test]
fn vectors_that_cannot_be_mapped_read_back_as_none() {
    for fails in [false, true] {
        let mut cfg = config(1);
        cfg.knobs.vector_mapping_fails = fails;
        cfg.knobs.msix_vectors = Some(2);
        let (mut m, mut c) = ready(cfg, 1);
        let d = Driver::new(&mut m, vf(1), &memory());
        d.set_msix(&mut m, true, false);
        violations(&mut m);
        for v in [2u64, 0x7ff, 0x800, 0xfffe] {
            c.set(&mut m, 1, 20, 2, v);
            assert_eq!(c.get(&mut m, 1, 20, 2), 0xffff);
            c.set(&mut m, 1, 22, 2, v);
            assert_eq!(c.get(&mut m, 1, 22, 2), 0xffff);
            d.set(&mut m, reg::CONFIG_MSIX_VECTOR, v);
            assert_eq!(d.get(&mut m, reg::CONFIG_MSIX_VECTOR), 0xffff);
            d.set(&mut m, reg::QUEUE_MSIX_VECTOR, v);
            assert_eq!(d.get(&mut m, reg::QUEUE_MSIX_VECTOR), 0xffff);
            assert_eq!(violations(&mut m).len(), 4);
        }
        let want = if fails { 0xffff } else { 1 };
        c.set(&mut m, 1, 20, 2, 1);
        assert_eq!(c.get(&mut m, 1, 20, 2), want);
        d.set(&mut m, reg::QUEUE_MSIX_VECTOR, 1);
        assert_eq!(c.get(&mut m, 1, 22, 2), want);
        c.set(&mut m, 1, 22, 2, 0xffff);
        assert_eq!(c.get(&mut m, 1, 22, 2), 0xffff);
        c.set(&mut m, 1, 20, 2, 1);
        c.set(&mut m, 1, 18, 1, 0);
        assert_eq!(c.get(&mut m, 1, 20, 2), 0xffff);
        assert_eq!(violations(&mut m), []);
    }
}

// Covers: LIO-02, IRQ-06
#[test]
fn vectors_are_kept_while_msix_is_toggled() {
    let (mut m, mut c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    d.set_msix(&mut m, true, false);
    c.set(&mut m, 1, 20, 2, 1);
    c.set(&mut m, 1, 22, 2, 2);
    d.set_msix(&mut m, false, false);
    assert!(!c.common_read(&mut m, 1, 20, 2).ok());
    d.set_msix(&mut m, true, true);
    assert_eq!(c.get(&mut m, 1, 20, 2), 1);
    assert_eq!(c.get(&mut m, 1, 22, 2), 2);
}

// Covers: IRQ-08
#[test]
fn no_vector_means_no_interrupt() {
    let (mut m, _c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    d.set_msix(&mut m, true, false);
    for v in 0..3 {
        d.mask_vector(&mut m, v, false);
    }
    d.set(&mut m, reg::CONFIG_MSIX_VECTOR, 0xffff);
    d.set(&mut m, reg::QUEUE_SELECT, 0);
    d.set(&mut m, reg::QUEUE_MSIX_VECTOR, 0xffff);
    m.drain_effects();
    offer(&mut rings[0]);
    d.kick(&mut m, 0);
    resize(&mut m, 2);
    assert!(rings[0].poll().is_some());
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    assert_eq!(d.read(&mut m, MSIX_BAR, 0x1000, 8), 0, "nothing pending");
    offer(&mut rings[1]);
    d.kick(&mut m, 1);
    assert_eq!(
        interrupts(&mut m, vf(1)),
        [2],
        "only that event was unmapped"
    );
    assert_eq!(m.function_counters(vf(1)).unwrap().interrupts_unmapped, 2);
}

// Covers: IRQ-08, IRQ-05
#[test]
fn masks_hold_messages_back() {
    let (mut m, _c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    d.set_msix(&mut m, true, true);
    d.mask_vector(&mut m, 1, false);
    m.drain_effects();
    offer(&mut rings[0]);
    d.kick(&mut m, 0);
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    assert_eq!(d.read(&mut m, MSIX_BAR, 0x1000, 8), 2, "pending");
    d.set_msix(&mut m, true, false);
    assert_eq!(interrupts(&mut m, vf(1)), [1]);
    d.mask_vector(&mut m, 1, true);
    offer(&mut rings[0]);
    d.kick(&mut m, 0);
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    d.mask_vector(&mut m, 1, false);
    assert_eq!(interrupts(&mut m, vf(1)), [1]);
    // A message is a memory write of the function.
    d.set_command(&mut m, pci::COMMAND_MEMORY);
    for masked in [true, false] {
        d.mask_vector(&mut m, 0, masked);
        resize(&mut m, 1);
        d.mask_vector(&mut m, 0, false);
        assert_eq!(interrupts(&mut m, vf(1)), NONE);
        d.set_command(&mut m, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
        assert_eq!(interrupts(&mut m, vf(1)), [0]);
        d.set_command(&mut m, pci::COMMAND_MEMORY);
    }
}

// Covers: IRQ-05
#[test]
fn a_front_end_may_be_the_interrupt_controller() {
    let (mut m, mut c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    assert!(!m.msix_enabled(vf(1)));
    m.set_irq_triggers(vf(1), 0, &[true, false, true]);
    assert!(m.msix_enabled(vf(1)));
    assert!(
        c.common_read(&mut m, 1, 20, 2).ok(),
        "the header has vectors"
    );
    m.drain_effects();
    offer(&mut rings[0]);
    offer(&mut rings[1]);
    d.kick(&mut m, 0);
    d.kick(&mut m, 1);
    assert_eq!(interrupts(&mut m, vf(1)), [2]);
    m.set_irq_triggers(vf(1), 1, &[true]);
    assert_eq!(interrupts(&mut m, vf(1)), [1], "was pending");
    m.disable_irqs(vf(1));
    assert!(!m.msix_enabled(vf(1)));
    assert!(!c.common_read(&mut m, 1, 20, 2).ok());
}

// Covers: IRQ-10
#[test]
fn suppression_by_flags() {
    let (mut m, _c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    d.set_msix(&mut m, true, false);
    d.mask_vector(&mut m, 1, false);
    m.drain_effects();
    for (flags, event, want) in [(0, 0, 1), (1, 1, 0), (0, 99, 1), (2, 0, 1), (3, 3, 0)] {
        rings[0].set_avail_flags(flags);
        rings[0].set_used_event(event);
        offer(&mut rings[0]);
        d.kick(&mut m, 0);
        assert_eq!(interrupts(&mut m, vf(1)).len(), want, "{flags} {event}");
    }
}

// Covers: IRQ-10
#[test]
fn suppression_by_used_event() {
    let bits = MODERN_FEATURES | bit(features::EVENT_IDX);
    let (mut m, _c) = ready(config(1), 1);
    let (d, mut rings) = running(&mut m, bits);
    d.set_msix(&mut m, true, false);
    d.mask_vector(&mut m, 1, false);
    m.drain_effects();
    let ring = &mut rings[0];
    // The flag is ignored.
    ring.set_avail_flags(1);
    for (buffers, event, want) in [
        (1, 0u16, 1), // used 0
        (1, 5, 0),    // used 1
        (3, 5, 0),    // used 2..4
        (1, 5, 1),    // used 5
        (4, 7, 1),    // used 6..9, crossing 7
        (1, 9, 0),    // used 10
        (1, 0xfff0, 0),
    ] {
        ring.set_used_event(event);
        for _ in 0..buffers {
            offer(ring);
        }
        d.kick(&mut m, 0);
        assert_eq!(interrupts(&mut m, vf(1)).len(), want, "{buffers} {event}");
    }
    assert_eq!(ring.avail_event(), 12);
    // Over the wrap of the index.
    let mut used = 12u16;
    while used != 2 {
        ring.memory.free_all();
        let _rings = ring.memory.alloc(0x4000, 8);
        ring.set_used_event(used);
        offer(ring);
        d.kick(&mut m, 0);
        assert_eq!(interrupts(&mut m, vf(1)).len(), 1, "{used}");
        used = used.wrapping_add(1);
    }
}

// What drivers are held to: IRQ-11
// Covers: IRQ-12, INI-05
#[test]
fn drivers_asked_not_to_notify_are_polled() {
    let mut cfg = config(1);
    cfg.knobs.suppress_kicks = true;
    let mut m = echo_model(cfg).unwrap();
    let mem = memory();
    let c = AdminClient::start(&mut m, &mem);
    c.pf.enable_vfs(&mut m, 1);
    let (_d, mut rings) = running(&mut m, MODERN_FEATURES);
    m.tick(0);
    assert_eq!(rings[0].used_flags(), 1);
    assert_eq!(c.ring.used_flags(), 1);
    offer(&mut rings[0]);
    assert_eq!(rings[0].poll(), None);
    let at = m.next_deadline().unwrap();
    m.tick(at);
    assert!(rings[0].poll().is_some());
    // Not before DRIVER_OK.
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut early = d.queue(&mut m, 0, 1);
    offer(&mut early);
    m.tick(at + 1);
    assert_eq!(early.used_idx(), 0);
    d.driver_ok(&mut m);
    m.tick(at + 2);
    assert!(early.poll().is_some());
}

// What drivers are held to: IRQ-11
#[test]
fn notifications_are_asked_for_by_default() {
    let (mut m, _c) = ready(config(1), 1);
    let bits = MODERN_FEATURES | bit(features::EVENT_IDX);
    let (d, mut rings) = running(&mut m, bits);
    offer(&mut rings[0]);
    d.kick(&mut m, 0);
    assert_eq!(rings[0].avail_event(), 1);
    assert_eq!(rings[0].used_flags(), 0);
    assert_eq!(m.next_deadline(), None);
}

// Covers: IRQ-12
#[test]
fn spurious_notifications_are_harmless() {
    let (mut m, mut c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    for q in [0u16, 1, 2, 77, 0xffff] {
        c.set(&mut m, 1, 16, 2, q.into());
        m.bar_write(
            vf(1),
            4,
            virtio_pf_model::MEMBER_NOTIFY_OFFSET,
            &q.to_le_bytes(),
        );
        d.write(
            &mut m,
            MODERN_BAR,
            0x2000 + u64::from(q % 4) * 4,
            2,
            q.into(),
        );
    }
    assert_eq!(
        c.get(&mut m, 1, 18, 1) & u64::from(status::DEVICE_NEEDS_RESET),
        0
    );
    assert_eq!(m.function_counters(vf(1)).unwrap().dma_forbidden, 0);
    let (d, mut rings) = running(&mut m, MODERN_FEATURES);
    d.kick(&mut m, 0);
    d.kick(&mut m, 1);
    offer(&mut rings[1]);
    d.kick(&mut m, 0);
    assert_eq!(rings[1].poll(), None, "another queue's notification");
    d.kick(&mut m, 1);
    assert!(rings[1].poll().is_some());
}
