// SPDX-License-Identifier: GPL-2.0-or-later

//! The guest's accesses to configuration space: what it sees, and what its writes do to resets, power
//! and interrupts. Under the big QEMU lock, and without a command to the helper.

use pci::ChainedPciMethods;
use virtio_pci_spec::pci::{header, COMMAND_MASTER};

use crate::{
    capabilities::{byte_written, power_control, Function},
    capability_list::is_hidden,
    events, intx,
    link::Link,
    reset,
    socket::Patience,
    state::{pci, LegacyVf},
};

/// The guest reads configuration space.
pub fn read<D: LegacyVf>(dev: &D, address: u32, len: u8) -> u32 {
    let value = dev.parent_config_read(address, len);
    let at = header::INTERRUPT_PIN as u32;
    match (dev.state().pin.get(), at.checked_sub(address)) {
        // The VF's own is 0, and that of a VF that is gone ones, as is the rest of it.
        (Some(pin), Some(byte)) if byte < u32::from(len) && value >> (8 * byte) & 0xff != 0xff => {
            value & !(0xff << (8 * byte)) | u32::from(*pin) << (8 * byte)
        }
        _ => value,
    }
}

/// The guest writes configuration space.
pub fn write<D: LegacyVf>(dev: &D, address: u32, value: u32, len: u8) {
    let (Some(link), Some(vf)) = (dev.state().link(), dev.state().function.get()) else {
        return dev.parent_config_write(address, value, len);
    };
    let end = address.saturating_add(len.into());
    if !dev.options().disable_modern || !(address..end).any(|a| is_hidden(&vf.caps, a)) {
        return write_shown(dev, link, vf, address, value, len);
    }
    // VFIO passes every write on to the device, whatever the guest can see of it.
    events::trace_virtio_legacy_vf_hidden(&link.name, address, value);
    for at in (address..end).filter(|a| !is_hidden(&vf.caps, *a)) {
        let byte = byte_written(at, address, value, len).unwrap_or(0);
        write_shown(dev, link, vf, at, byte.into(), 1);
    }
}

/// The same for what the guest may reach.
fn write_shown<D: LegacyVf>(
    dev: &D,
    link: &Link,
    vf: &Function,
    address: u32,
    value: u32,
    len: u8,
) {
    let control = vf
        .power
        .map_or(0, |cap| dev.parent_config_read(power_control(cap), 2));
    let resets =
        vf.starts_flr(address, value, len) || vf.wakes_as_new(control, address, value, len);
    let msix = vf.sets_msix(address, value, len);
    // Nobody else tells the VF anything while its vectors change hands, if that can be had soon.
    let _registers = if resets || msix.is_some() {
        link.lock_io_soon(&Patience::locked(&link.stop))
    } else {
        None
    };
    if resets {
        reset::before_function_reset(dev, link, vf);
    } else if msix == Some(true) && !pci(dev).msix_enabled() {
        // The guest gets its vectors back before they are switched on.
        link.guest().set_msix(true);
        intx::hand_over(dev, link);
        intx::forget_told(dev, link, true);
    }
    dev.parent_config_write(address, value, len);
    let enabled = pci(dev).msix_enabled();
    if resets {
        reset::after_reset(dev, link);
        link.counters.resets.add();
        events::trace_virtio_legacy_vf_flr(&link.name);
    } else if msix.is_some() {
        link.guest().set_msix(enabled);
        events::trace_virtio_legacy_vf_msix(&link.name, enabled);
        intx::hand_over(dev, link);
        // While the device has the vectors nothing of the control word is the guest's.
        intx::keep_control(dev, link);
        // The VF is told by whoever may wait for the helper.
        link.wake.signal();
    }
}

/// Lets the VF do DMA although the guest's driver has not asked for it.
pub fn enable_bus_master<D: LegacyVf>(dev: &D, link: &Link) {
    let at = header::COMMAND as u32;
    let command = read(dev, at, 2);
    let master = u32::from(COMMAND_MASTER);
    if command & master == 0 && command != 0xffff {
        write(dev, at, command | master, 2);
        events::trace_virtio_legacy_vf_bus_master(&link.name);
    }
}
