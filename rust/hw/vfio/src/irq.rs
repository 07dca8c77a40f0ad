// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts of a VFIO device, for a subclass that wants a vector for itself.
//!
//! Only while the guest has the interrupt index disabled: QEMU's VFIO code programs the same
//! indices as soon as the guest enables them.

use std::{
    ffi::c_int,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::{bindings, VfioPciBase};

/// The MSI-X vectors, one sub-index each.
pub const MSIX_INDEX: u8 = bindings::VFIO_PCI_MSIX_IRQ_INDEX as u8;

/// Asks VFIO to signal `eventfds` when the first sub-indices of the interrupt fire, all in one
/// request: kernels before 6.5 cannot add vectors one by one. Needs the big QEMU lock.
pub fn signal(device: &VfioPciBase, index: u8, eventfds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(bql::is_locked());
    let header = size_of::<bindings::vfio_irq_set>();
    let number = |n: usize| u32::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
    let head = [
        number(header + 4 * eventfds.len())?,
        bindings::VFIO_IRQ_SET_DATA_EVENTFD | bindings::VFIO_IRQ_SET_ACTION_TRIGGER,
        u32::from(index),
        0,
        number(eventfds.len())?,
    ];
    let fds = eventfds.iter().map(|fd| fd.as_raw_fd() as u32);
    let mut request: Vec<u32> = head.into_iter().chain(fds).collect();
    let (vbasedev, set) = device.operation(|ops| ops.set_irqs)?;
    // SAFETY: the device is alive and the lock is held. The request is a vfio_irq_set (five words,
    // checked below) with `count` descriptors behind it, aligned for both; VFIO takes its own
    // references before this returns.
    let result = unsafe { set(vbasedev, request.as_mut_ptr().cast()) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(result.saturating_neg()));
    }
    Ok(())
}

const _: () = assert!(size_of::<bindings::vfio_irq_set>() == 20);

/// Takes back every request for the interrupt index. Needs the big QEMU lock.
pub fn disable(device: &VfioPciBase, index: u8) {
    assert!(bql::is_locked());
    let vdev = device.as_mut_ptr();
    // SAFETY: the device is alive and the lock is held.
    unsafe { bindings::vfio_device_irq_disable(&mut (*vdev).vbasedev, c_int::from(index)) }
}
