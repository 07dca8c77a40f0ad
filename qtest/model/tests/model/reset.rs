// SPDX-License-Identifier: GPL-2.0-or-later
//! Resets of every kind: of a device and of one queue through the registers (MOD-08, MOD-12), while
//! buffers are held (INI-07, O-28), and clients that go away.

use virtio_modern_spec::common as reg;
use virtio_pci_spec::pci;
use virtio_pf_model::testing::{
    echo_model, AdminClient, Buffer, Driver, DriverRing, MODERN_FEATURES,
};
use virtio_pf_model::{DeviceControl, Event, FunctionId, Model, ResetCause, Violation};

use crate::{config, interrupts, memory, pf, ready, vf, violations, NONE};

// Covers: MOD-08, INI-07
#[test]
fn reset_through_status() {
    let mut m = echo_model(config(1)).unwrap();
    let d = pf(&mut m);
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    d.queue(&mut m, 0, 1);
    d.set(&mut m, reg::CONFIG_MSIX_VECTOR, 0);
    d.driver_ok(&mut m);
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0);
    d.set(&mut m, reg::QUEUE_SELECT, 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_RESET), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_DESC), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_MSIX_VECTOR), 0xffff);
    assert_eq!(d.get(&mut m, reg::CONFIG_MSIX_VECTOR), 0xffff);
    d.set(&mut m, reg::DRIVER_FEATURE_SELECT, 1);
    assert_eq!(d.get(&mut m, reg::DRIVER_FEATURE), 0);
}

// Open points: O-26
// What drivers are held to: INI-03
// Covers: MOD-08
#[test]
fn a_slow_reset_shows_the_old_status_until_it_is_done() {
    let mut cfg = config(1);
    cfg.knobs.reset_delay_ns = 500_000_000;
    let (mut m, mut c) = ready(cfg, 1);
    m.tick(1000);
    // Legacy: the status write completes only after the reset.
    c.set(&mut m, 1, 18, 1, 7);
    let mut h = AdminClient::header(2, 1, 1);
    h.push(18);
    h.resize(33, 0);
    assert_eq!(c.send(&mut m, &h, 8), None);
    let mut r = AdminClient::header(3, 1, 1);
    r.push(18);
    let d = c.send(&mut m, &r, 9).unwrap();
    assert_eq!(d.status(), (11, 7), "EAGAIN while the VF resets");
    assert_eq!(m.next_deadline(), Some(500_001_000));
    m.tick(500_000_999);
    assert_eq!(c.reap(8), None);
    m.tick(500_001_000);
    assert!(c.reap(8).is_some());
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
    // Modern.
    let d = Driver::new(&mut m, vf(1), &memory());
    d.set(&mut m, reg::DEVICE_STATUS, 3);
    violations(&mut m);
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 3);
    d.set(&mut m, reg::QUEUE_SELECT, 1);
    assert_eq!(
        violations(&mut m),
        [Violation::AccessDuringReset {
            offset: reg::QUEUE_SELECT
        }]
    );
    m.tick(1_000_001_000);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_SELECT), 0);
    // From 0 there is nothing to wait for.
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    d.set(&mut m, reg::DEVICE_STATUS, 1);
    assert_eq!(d.get(&mut m, reg::DEVICE_STATUS), 1);
}

// Covers: MOD-12, INI-17
#[test]
fn one_queue_can_be_reset_alone() {
    let mut cfg = config(1);
    cfg.knobs.reset_delay_ns = 10;
    let (mut m, _c) = ready(cfg, 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut rings = [d.queue(&mut m, 0, 0), d.queue(&mut m, 1, 1)];
    d.driver_ok(&mut m);
    let buffers = d.memory.alloc(64, 8);
    // The device holds a buffer of queue 0 and completes it too late.
    m.control(vf(1), &DeviceControl::Link { up: false })
        .unwrap();
    for r in &mut rings {
        r.add(&[
            Buffer::readable(buffers, 8),
            Buffer::writable(buffers + 8, 8),
        ]);
    }
    d.kick(&mut m, 0);
    d.kick(&mut m, 1);
    d.set(&mut m, reg::QUEUE_SELECT, 0);
    d.set(&mut m, reg::QUEUE_RESET, 1);
    assert_eq!(d.get(&mut m, reg::QUEUE_RESET), 1, "under way");
    d.set(&mut m, reg::QUEUE_ENABLE, 1);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    m.tick(20);
    assert_eq!(d.get(&mut m, reg::QUEUE_RESET), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_ENABLE), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_DESC), 0);
    assert_eq!(d.get(&mut m, reg::QUEUE_MSIX_VECTOR), 0xffff);
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    assert_eq!(rings[0].used_idx(), 0, "nothing of the reset queue");
    assert!(rings[1].poll().is_some(), "the other one goes on");
    // With new settings it starts afresh.
    d.set(&mut m, reg::QUEUE_SIZE, 4);
    let mut again = d.queue(&mut m, 0, 1);
    assert_eq!(again.size, 4);
    again.add(&[
        Buffer::readable(buffers, 8),
        Buffer::writable(buffers + 8, 8),
    ]);
    d.kick(&mut m, 0);
    assert_eq!(again.poll(), Some((0, 8)));
}

// Covers: MOD-12
#[test]
fn the_admin_queue_can_be_reset() {
    let (mut m, mut c) = ready(config(1), 1);
    c.pf.set(&mut m, reg::QUEUE_SELECT, c.queue.into());
    c.pf.set(&mut m, reg::QUEUE_RESET, 1);
    assert_eq!(c.pf.get(&mut m, reg::QUEUE_ENABLE), 0);
    c.ring = c.pf.queue(&mut m, c.queue, 1);
    assert!(c.common_read(&mut m, 1, 18, 1).ok(), "the list is kept");
}

struct Busy {
    d: Driver,
    ring: DriverRing,
    before: Vec<u8>,
}

/// VF 1 with a driver, a running queue and a buffer that the device holds.
fn busy(m: &mut Model) -> Busy {
    let d = Driver::new(m, vf(1), &memory());
    assert!(d.negotiate(m, MODERN_FEATURES));
    let mut ring = d.queue(m, 0, 1);
    d.driver_ok(m);
    d.set_msix(m, true, false);
    d.mask_vector(m, 1, false);
    let at = d.memory.alloc(16, 8);
    m.control(vf(1), &DeviceControl::Link { up: false })
        .unwrap();
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
    d.kick(m, 0);
    m.drain_effects();
    let before = d.memory.get(d.memory.base(), d.memory.len());
    Busy { d, ring, before }
}

/// After a reset nothing of before is completed, and nothing is signalled.
fn assert_quiet(m: &mut Model, b: &Busy) {
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    m.tick(1 << 40);
    let after = b.d.memory.get(b.d.memory.base(), b.d.memory.len());
    assert!(after == b.before, "memory was touched");
    assert_eq!(interrupts(m, vf(1)), NONE);
    assert_eq!(b.ring.used_idx(), 0);
}

// What drivers are held to: VRG-11
// Covers: INI-07, MOD-08
#[test]
fn a_reset_ends_dma_and_interrupts() {
    for how in 0..5 {
        let (mut m, mut c) = ready(config(1), 1);
        let b = busy(&mut m);
        match how {
            0 => c.set(&mut m, 1, 18, 1, 0),
            1 => b.d.set(&mut m, reg::DEVICE_STATUS, 0),
            2 => b.d.function_level_reset(&mut m),
            3 => c.pf.enable_vfs(&mut m, 0),
            _ => c.pf.function_level_reset(&mut m),
        }
        if how < 2 {
            assert_eq!(b.d.get(&mut m, reg::DEVICE_STATUS), 0);
        }
        m.drain_effects();
        assert_quiet(&mut m, &b);
        let n = m.function_counters(vf(1)).unwrap();
        // The test device tries once, on purpose; it must have been refused.
        assert_eq!(n.dma_forbidden, 1, "reset {how}");
    }
}

// Covers: SRV-04, PRT-18
#[test]
fn function_level_reset_is_a_device_reset_and_more() {
    let (mut m, mut c) = ready(config(2), 2);
    let b = busy(&mut m);
    c.set(&mut m, 2, 18, 1, 3);
    let at = b.d.capability(&mut m, pci::CAP_ID_EXPRESS, None) + 8;
    b.d.function_level_reset(&mut m);
    assert_eq!(b.d.config(&mut m, at, 2), 0, "the bit does not stay");
    assert_eq!(b.d.config(&mut m, 4, 2), 0, "command");
    assert!(!m.msix_enabled(vf(1)));
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
    assert_eq!(c.get(&mut m, 2, 18, 1), 3, "the other VF goes on");
    let causes: Vec<_> = m
        .drain_events()
        .filter_map(|r| match r.event {
            Event::Reset { cause } => Some((r.function, cause)),
            _ => None,
        })
        .collect();
    assert_eq!(causes.last(), Some(&(vf(1), ResetCause::FunctionLevel)));
}

// Covers: SRV-03
#[test]
fn a_pf_status_reset_keeps_vfs_running() {
    let (mut m, c) = ready(config(1), 1);
    let mut b = busy(&mut m);
    c.pf.set(&mut m, reg::DEVICE_STATUS, 0);
    assert_eq!(m.live_vfs(), 1);
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    assert_eq!(b.ring.poll(), Some((0, 8)));
    assert_eq!(interrupts(&mut m, vf(1)), [1]);
    assert_eq!(b.d.get(&mut m, reg::DEVICE_STATUS), 0xf);
}

// Covers: SRV-03
#[test]
fn a_pf_function_level_reset_ends_vfs() {
    let (mut m, mut c) = ready(config(2), 2);
    let b = busy(&mut m);
    c.pf.function_level_reset(&mut m);
    assert_eq!(m.live_vfs(), 0);
    assert_eq!(b.d.config(&mut m, 0, 4), 0xffff_ffff);
    assert_eq!(c.pf.sriov(&mut m, 8), 0);
    assert_eq!(c.pf.sriov(&mut m, 16), 0);
    // From the start again.
    c.ring.memory.free_all();
    let mem = c.ring.memory.clone();
    c = AdminClient::ready(&mut m, &mem, 1);
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
}

// What drivers are held to: GRP-05
#[test]
fn when_the_owners_client_goes_vfs_go_on() {
    let (mut m, _c) = ready(config(1), 1);
    let mut b = busy(&mut m);
    m.disconnected(FunctionId::Pf);
    assert_eq!(m.live_vfs(), 1);
    let mut command = [0xff; 2];
    m.config_read(FunctionId::Pf, 4, &mut command);
    assert_eq!(command, [0, 0], "COMMAND is clear at the next connection");
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    assert_eq!(b.ring.poll(), Some((0, 8)));
    // The next client finds VFs enabled and unset lists.
    let mem = memory();
    let mut c = AdminClient::start(&mut m, &mem);
    assert_eq!(c.pf.sriov(&mut m, 8) & 1, 1);
    assert_eq!(c.pf.sriov(&mut m, 16), 1);
    assert!(!c.common_read(&mut m, 1, 18, 1).ok());
    assert!(c.use_list(&mut m, 1, 0x7f).ok());
    assert_eq!(c.get(&mut m, 1, 18, 1), 0xf);
}

// Covers: INI-07
#[test]
fn when_a_members_client_goes_its_memory_is_left_alone() {
    let (mut m, mut c) = ready(config(1), 1);
    let b = busy(&mut m);
    m.set_irq_triggers(vf(1), 0, &[true; 3]);
    m.disconnected(vf(1));
    assert!(!m.msix_enabled(vf(1)));
    assert_quiet(&mut m, &b);
    assert_eq!(c.get(&mut m, 1, 18, 1), 0);
    assert_eq!(b.d.config(&mut m, 4, 2), 0);
    // A kick of a new legacy driver without memory stops the device, no more.
    c.set(&mut m, 1, 8, 4, 0x100);
    b.d.set_command(&mut m, pci::COMMAND_MASTER);
    c.set(&mut m, 1, 16, 2, 0);
    assert_eq!(c.get(&mut m, 1, 18, 1), 64);
}

// Covers: INI-07, IRQ-08
#[test]
fn messages_held_back_do_not_outlive_a_reset() {
    let (mut m, _c) = ready(config(1), 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert!(d.negotiate(&mut m, MODERN_FEATURES));
    let mut ring = d.queue(&mut m, 0, 1);
    d.driver_ok(&mut m);
    d.set_msix(&mut m, true, false);
    let at = d.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
    d.kick(&mut m, 0);
    assert_eq!(d.read(&mut m, 1, 0x1000, 8), 2, "pending behind the mask");
    d.set(&mut m, reg::DEVICE_STATUS, 0);
    d.mask_vector(&mut m, 1, false);
    assert_eq!(interrupts(&mut m, vf(1)), NONE);
    assert_eq!(d.read(&mut m, 1, 0x1000, 8), 0);
}

// What drivers are held to: VRG-11
// Covers: INI-07
#[test]
fn a_buffer_of_before_is_not_completed_in_the_next_life() {
    let (mut m, _c) = ready(config(1), 1);
    let b = busy(&mut m);
    assert!(b.d.negotiate(&mut m, MODERN_FEATURES));
    let mut ring = b.d.queue(&mut m, 0, 1);
    b.d.driver_ok(&mut m);
    let before = b.d.memory.get(b.d.memory.base(), b.d.memory.len());
    m.control(vf(1), &DeviceControl::Link { up: true }).unwrap();
    let after = b.d.memory.get(b.d.memory.base(), b.d.memory.len());
    assert!(after == before);
    let at = b.d.memory.alloc(16, 8);
    ring.add(&[Buffer::readable(at, 8), Buffer::writable(at + 8, 8)]);
    b.d.kick(&mut m, 0);
    assert_eq!(ring.poll(), Some((0, 8)));
    assert_eq!(ring.poll(), None);
}

// What drivers are held to: VRG-11
#[test]
fn no_dma_without_bus_master_whatever_the_device_holds() {
    let (mut m, _c) = ready(config(1), 1);
    let b = busy(&mut m);
    b.d.set_command(&mut m, pci::COMMAND_MEMORY);
    assert_quiet(&mut m, &b);
}
