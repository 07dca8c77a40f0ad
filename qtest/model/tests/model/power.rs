// SPDX-License-Identifier: GPL-2.0-or-later
//! Power management of VFs: D3hot, and what is left after it.

use virtio_modern_spec::common as reg;
use virtio_pci_spec::pci::{self, power};
use virtio_pf_model::testing::{Buffer, Driver, DriverRing, MODERN_FEATURES};
use virtio_pf_model::{
    ConfigError, DeviceControl, Event, Model, ModelConfig, ResetCause, Violation, MODERN_BAR,
};

use crate::{config, interrupts, memory, ready, vf, violations, NONE};

fn sleepy(soft_reset: bool) -> ModelConfig {
    let mut cfg = config(1);
    cfg.knobs.vf_power = true;
    cfg.knobs.vf_soft_reset = soft_reset;
    cfg
}

/// VF 1 with a driver whose queue 0 runs, and where its control register is.
fn running(m: &mut Model) -> (Driver, DriverRing, u16) {
    let d = Driver::new(m, vf(1), &memory());
    assert!(d.negotiate(m, MODERN_FEATURES));
    let ring = d.queue(m, 0, 1);
    d.driver_ok(m);
    d.set_msix(m, true, false);
    d.mask_vector(m, 1, false);
    let at = d.capability(m, pci::CAP_ID_POWER, None) + power::CONTROL as u16;
    m.drain_effects();
    (d, ring, at)
}

fn set_state(m: &mut Model, at: u16, state: u8) {
    m.config_write(vf(1), at, &[state]);
}

// Covers: PCI-09
#[test]
fn a_vf_that_sleeps_answers_in_configuration_space_only() {
    let (mut m, _c) = ready(sleepy(false), 1);
    let (d, mut ring, at) = running(&mut m);
    assert_eq!(d.config(&mut m, at, 2), 8, "D0, No_Soft_Reset");
    for none in [1, 2] {
        set_state(&mut m, at, none);
        assert_eq!(d.config(&mut m, at, 2), 8, "there is no D{none}");
    }
    set_state(&mut m, at, 0xff);
    assert_eq!(d.config(&mut m, at, 2), 0xb);
    set_state(&mut m, at, 1);
    assert_eq!(d.config(&mut m, at, 2), 0xb, "only to D0");
    violations(&mut m);
    // Nothing of its BARs, no DMA, no message.
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0xff);
    let asleep = Violation::Asleep { bar: MODERN_BAR };
    assert_eq!(violations(&mut m), [asleep]);
    let buffer = d.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(buffer, 8), Buffer::writable(buffer + 8, 8)]);
    d.kick(&mut m, 0);
    m.tick(1 << 40);
    assert_eq!(ring.poll(), None);
    m.control(vf(1), &DeviceControl::Link { up: false })
        .unwrap();
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    violations(&mut m);
    // All is as it was.
    set_state(&mut m, at, 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0xf);
    d.kick(&mut m, 0);
    assert_eq!(ring.poll(), Some((0, 8)));
    assert_eq!(interrupts(&mut m, vf(1)), [1]);
    assert!(violations(&mut m).is_empty());
}

// Covers: PCI-09
#[test]
fn a_vf_that_loses_its_state_is_reset_when_it_wakes_up() {
    let (mut m, _c) = ready(sleepy(true), 1);
    let (d, ring, at) = running(&mut m);
    assert_eq!(d.config(&mut m, at, 2), 0, "D0, no No_Soft_Reset");
    set_state(&mut m, at, 3);
    m.drain_events();
    set_state(&mut m, at, 0);
    let causes: Vec<_> = m
        .drain_events()
        .filter_map(|r| match r.event {
            Event::Reset { cause } => Some((r.function, cause)),
            _ => None,
        })
        .collect();
    assert_eq!(causes, [(vf(1), ResetCause::PowerState)]);
    assert_eq!(d.config(&mut m, 4, 2), 0, "command");
    assert!(!m.msix_enabled(vf(1)));
    assert_eq!(ring.used_idx(), 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0);
}

#[test]
fn only_vfs_have_it_and_only_where_there_is_room() {
    let (m, c) = ready(sleepy(false), 1);
    let mut m = m;
    let mut at = c.pf.config(&mut m, 0x34, 1) as u16;
    while at != 0 {
        assert_ne!(c.pf.config(&mut m, at, 1), u64::from(pci::CAP_ID_POWER));
        at = c.pf.config(&mut m, at + 1, 1) as u16;
    }
    let mut cfg = sleepy(false);
    cfg.knobs.bogus_capabilities = true;
    assert_eq!(cfg.validate(), Err(ConfigError::Capabilities));
}
