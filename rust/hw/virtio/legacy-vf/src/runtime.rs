// SPDX-License-Identifier: GPL-2.0-or-later

//! What happens to a realized device: resets, and accesses of the guest.

use std::sync::{atomic::Ordering, Arc, PoisonError};

use pci::{with_bql, ChainedPciMethods};
use virtio_pci_spec::{
    pci::{header, msix, power, COMMAND_MASTER},
    status::{ACKNOWLEDGE, DRIVER},
};

use crate::{
    access::Access,
    events, hide,
    identity::{power_control, sets_power, sleeps, starts_flr, wakes_as_new, Identity},
    intx_guest,
    legacy::{pci, vfio, LegacyVf},
    link::Link,
    place::Kind,
};

/// The machine or the bus is reset. Status 0 reaches the VF before VFIO's reset, so that it stops
/// in order; what the window remembers is forgotten.
pub fn reset<D: LegacyVf>(dev: &D) {
    let link = dev.state().link();
    if let Some(link) = &link {
        let resets = vfio(dev).reset_works();
        let by_command = !resets || link.touched.load(Ordering::Relaxed);
        let written = link.reset(by_command, !resets);
        events::trace_virtio_legacy_vf_reset(&link.name, written);
        intx_guest::reset(dev, link);
    }
    dev.parent_reset();
    if let Some(link) = &link {
        link.was_reset.store(true, Ordering::Release);
        link.set_asleep(|| is_asleep(dev));
        update_doorbells(dev, link);
    }
}

/// Whether the VF is in a power state in which its registers must not be touched.
fn is_asleep<D: LegacyVf>(dev: &D) -> bool {
    let power = dev.state().identity.get().and_then(|i| i.power);
    power.is_some_and(|cap| sleeps(dev.parent_config_read(power_control(cap), 2)))
}

/// Lets the kernel ring for the queues that the guest's driver uses, as far as it can. Needs the
/// big QEMU lock.
pub fn update_doorbells<D: LegacyVf>(dev: &D, link: &Link) {
    let address = link
        .delivery
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .address();
    let queues = if link.driver_ok.load(Ordering::Acquire) {
        link.in_use.list()
    } else {
        Vec::new()
    };
    let doorbells = &dev.state().doorbells;
    let log = (&link.log_rare, link.label.as_str());
    doorbells.update(vfio(dev), dev.bar0(), address, &queues, log);
}

/// The guest reads configuration space.
pub fn config_read<D: LegacyVf>(dev: &D, address: u32, len: u8) -> u32 {
    let value = dev.parent_config_read(address, len);
    intx_guest::config_read(dev, address, len, value)
}

/// The guest writes configuration space.
pub fn config_write<D: LegacyVf>(dev: &D, address: u32, value: u32, len: u8) {
    let (Some(link), Some(identity)) = (dev.state().link(), dev.state().identity.get()) else {
        return dev.parent_config_write(address, value, len);
    };
    if dev.options().disable_modern
        && (address..address.saturating_add(len.into())).any(|a| hide::is_hidden(&identity.caps, a))
    {
        // VFIO passes every write on to the device, whatever the guest can see of it.
        events::trace_virtio_legacy_vf_hidden(&link.name, address, value);
        for i in 0..len {
            let at = address.saturating_add(i.into());
            if !hide::is_hidden(&identity.caps, at) {
                write_shown(
                    dev,
                    &link,
                    identity,
                    at,
                    value >> (8 * u32::from(i)) & 0xff,
                    1,
                );
            }
        }
        return;
    }
    write_shown(dev, &link, identity, address, value, len);
}

/// The same for what the guest may reach.
fn write_shown<D: LegacyVf>(
    dev: &D,
    link: &Arc<Link>,
    identity: &Identity,
    address: u32,
    value: u32,
    len: u8,
) {
    let had_msix = pci(dev).msix_enabled();
    let flr = identity
        .express
        .is_some_and(|cap| starts_flr(cap, address, value, len));
    let power = identity.power.filter(|cap| sets_power(*cap, address, len));
    let as_new = power.is_some_and(|cap| {
        let control = dev.parent_config_read(power_control(cap), 2);
        wakes_as_new(cap, control, address, value, len)
    });
    let reset = flr || as_new;
    let vectors = intx_guest::before_config_write(dev, link, address, value, len);
    if reset {
        intx_guest::reset(dev, link);
        quiesce(dev, identity);
    }
    if reset || power.is_some() {
        // Nobody may touch the VF's mapped registers while they go away.
        link.set_asleep(|| {
            dev.parent_config_write(address, value, len);
            is_asleep(dev)
        });
    } else {
        dev.parent_config_write(address, value, len);
    }
    if reset {
        // Before vectors are looked at: the window must not write those of the driver of before.
        link.stats.resets.add();
        link.forget_driver();
        link.was_reset.store(true, Ordering::Release);
        link.touched.store(false, Ordering::Relaxed);
        update_doorbells(dev, link);
        events::trace_virtio_legacy_vf_flr(&link.name);
    }
    let has_msix = pci(dev).msix_enabled();
    if had_msix != has_msix {
        intx_guest::msix_switched(dev, link, &vectors);
        link.msix_switched.store(true, Ordering::Release);
        events::trace_virtio_legacy_vf_msix(&link.name, has_msix);
    }
}

/// A reset of the function ends bus mastering, decoding, MSI-X and its sleep. Of these VFIO and PCI
/// code keep what they emulate, so they are ended before it.
fn quiesce<D: LegacyVf>(dev: &D, identity: &Identity) {
    if let Some(cap) = identity.msix {
        let control = u32::from(cap) + msix::CONTROL as u32;
        dev.parent_config_write(control + 1, 0, 1);
    }
    dev.parent_config_write(header::COMMAND as u32, 0, 2);
    if let Some(at) = identity.power.map(power_control) {
        let control = dev.parent_config_read(at, 2);
        if sleeps(control) {
            let state = u32::from(power::CONTROL_STATE_MASK);
            dev.parent_config_write(at, control & !state, 2);
        }
    }
}

/// The guest accesses BAR0. Runs without the big QEMU lock.
pub fn bar0_access<D: LegacyVf>(dev: &D, offset: u64, size: u32, write: Option<u64>) -> u64 {
    let (Ok(offset), Ok(size)) = (u32::try_from(offset), u8::try_from(size)) else {
        return u64::MAX;
    };
    let Some(link) = dev.state().link() else {
        return u64::MAX;
    };
    let access = Access {
        offset,
        size,
        write,
        msix: pci(dev).msix_enabled(),
    };
    if let Some(queue) = access.notification() {
        link.notify(vfio(dev), queue);
        return 0;
    }
    if let Some(intx) = link
        .intx
        .as_ref()
        .filter(|_| access.reads_isr() && !access.msix)
    {
        return intx_guest::read_isr(dev, &link, intx, size);
    }
    let done = link.access(vfio(dev), access);
    intx_guest::after_access(dev, &link, access.msix, done.effects.reset);
    if D::KIND == Kind::Host && access.changes_queues(&done) {
        driver_moved(dev, &link);
    }
    if let Some(change) = done.effects.status {
        if change.new == ACKNOWLEDGE | DRIVER && dev.options().bus_master_fixup {
            enable_bus_master(dev, &link);
        }
    }
    done.value
}

/// The guest's driver may have started or stopped using queues.
fn driver_moved<D: LegacyVf>(dev: &D, link: &Arc<Link>) {
    let runs = link.driver_ok.load(Ordering::Acquire);
    if !runs && dev.state().doorbells.count() == 0 || !vfio(dev).kernel_doorbells_allowed() {
        return;
    }
    with_bql(|| {
        // Unplugged while this waited for the lock.
        if dev.state().link().is_some_and(|l| Arc::ptr_eq(&l, link)) {
            update_doorbells(dev, link);
        }
    });
}

/// Linux before 2.6.34 drives legacy devices without enabling bus mastering. QEMU's own legacy
/// device forgives it; a VF could not do any DMA.
fn enable_bus_master<D: LegacyVf>(dev: &D, link: &Link) {
    with_bql(|| {
        // Unplugged while this waited for the lock.
        if dev.state().link().is_none() {
            return;
        }
        let at = header::COMMAND as u32;
        let command = config_read(dev, at, 2);
        let master = u32::from(COMMAND_MASTER);
        if command & master == 0 && command != 0xffff {
            config_write(dev, at, command | master, 2);
            events::trace_virtio_legacy_vf_bus_master(&link.name);
        }
    });
}
