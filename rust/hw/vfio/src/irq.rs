// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts of a VFIO device, for a subclass that wants a vector for itself.
//!
//! Only while the guest has the interrupt index disabled: QEMU's VFIO code programs the same
//! indices as soon as the guest enables them.

use std::{ffi::c_int, os::fd::BorrowedFd, os::fd::RawFd};

use util::{Error, Result};

use crate::{bindings, VfioPciBase};

/// The MSI-X vectors, one sub-index each.
pub const MSIX_INDEX: u8 = bindings::VFIO_PCI_MSIX_IRQ_INDEX as u8;

/// Asks VFIO to signal `eventfd` when the interrupt fires; `None` takes the request back. Needs
/// the big QEMU lock.
pub fn set_signaling(
    device: &VfioPciBase,
    index: u8,
    subindex: u16,
    eventfd: Option<BorrowedFd<'_>>,
) -> Result<()> {
    assert!(bql::is_locked());
    let fd: RawFd = eventfd.map_or(-1, |fd| std::os::fd::AsRawFd::as_raw_fd(&fd));
    let vdev = device.as_mut_ptr();
    // SAFETY: the device is alive, the lock is held, and VFIO takes its own reference to the
    // eventfd before this returns.
    unsafe {
        Error::with_errp(|errp| {
            bindings::vfio_device_irq_set_signaling(
                &mut (*vdev).vbasedev,
                c_int::from(index),
                c_int::from(subindex),
                bindings::VFIO_IRQ_SET_ACTION_TRIGGER as c_int,
                fd,
                errp,
            )
        })?;
    }
    Ok(())
}

/// Takes back every request for the interrupt index. Needs the big QEMU lock.
pub fn disable(device: &VfioPciBase, index: u8) {
    assert!(bql::is_locked());
    let vdev = device.as_mut_ptr();
    // SAFETY: the device is alive and the lock is held.
    unsafe { bindings::vfio_device_irq_disable(&mut (*vdev).vbasedev, c_int::from(index)) }
}
