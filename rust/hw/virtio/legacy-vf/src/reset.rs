// SPDX-License-Identifier: GPL-2.0-or-later

//! Resets of the function: with its machine or bus, and by the guest through configuration space.
//! Under the big QEMU lock.

use pci::ChainedPciMethods;
use virtio_pci_spec::pci::{header, msix, power};

use crate::{
    capabilities::{power_control, sleeps, Function},
    events, intx,
    link::Link,
    socket::Patience,
    state::{pci, vfio, LegacyVf},
};

/// The machine or the bus is reset. Status 0 reaches the VF before VFIO's reset, so that it stops
/// in order. A helper that does not answer is not waited for: what nothing else resets gets its
/// status as soon as there is an answer, before anything else.
pub fn with_bus<D: LegacyVf>(dev: &D) {
    let Some(link) = dev.state().link() else {
        return dev.parent_reset();
    };
    let patience = &mut Patience::locked(&link.stop);
    // Nobody else tells the VF anything meanwhile, if that can be had soon.
    let mut registers = link.lock_io_soon(patience);
    let required = !vfio(dev).reset_works();
    let touched = {
        let mut guest = link.guest();
        guest.reset_due |= required;
        guest.touched
    };
    let written = match &mut registers {
        Some(io) if required || touched => link.write_reset(io, patience),
        _ => false,
    };
    if required && !written {
        link.wake.signal();
    }
    link.counters.resets.add();
    events::trace_virtio_legacy_vf_reset(&link.name, written);
    forget(dev, link, false);
    dev.parent_reset();
    after_reset(dev, link);
    drop(registers);
}

/// The guest is about to reset the function. That ends bus mastering, decoding, MSI-X and its
/// sleep; of these VFIO and PCI code keep what they emulate, so they are ended here.
pub fn before_function_reset<D: LegacyVf>(dev: &D, link: &Link, vf: &Function) {
    forget(dev, link, pci(dev).msix_enabled());
    if let Some(cap) = vf.msix {
        let control = u32::from(cap) + msix::CONTROL as u32;
        dev.parent_config_write(control + 1, 0, 1);
    }
    dev.parent_config_write(header::COMMAND as u32, 0, 2);
    if let Some(at) = vf.power.map(power_control) {
        let control = dev.parent_config_read(at, 2);
        if sleeps(control) {
            let state = u32::from(power::CONTROL_STATE_MASK);
            dev.parent_config_write(at, control & !state, 2);
        }
    }
}

/// The function has been reset: whatever an access has done to it meanwhile does not count either.
pub fn after_reset<D: LegacyVf>(dev: &D, link: &Link) {
    forget(dev, link, pci(dev).msix_enabled());
}

/// What the guest's driver had set up does not count any more.
fn forget<D: LegacyVf>(dev: &D, link: &Link, msix: bool) {
    link.was_reset(msix);
    intx::hand_over(dev, link);
    intx::forget_told(dev, link, true);
    dev.state().doorbells.follow(vfio(dev), dev.bar0(), link);
}
