// SPDX-License-Identifier: GPL-2.0-or-later

//! What kind of machine a device is in.

use std::ffi::c_void;

use crate::{bindings, PciDevice};

/// Whether the guest's memory is hidden from the host (a confidential guest). Needs the big QEMU
/// lock.
pub fn is_confidential() -> bool {
    assert!(bql::is_locked());
    // SAFETY: the machine exists as long as there are devices, the lock is held, and the offset is
    // that of the C compiler.
    unsafe {
        let machine = bindings::qdev_get_machine().cast::<u8>();
        let support = machine.add(bindings::RUST_OFFSETOF_MACHINE_CGS as usize);
        !support.cast::<*const c_void>().read().is_null()
    }
}

/// Whether the guest's processor is big-endian by birth.
pub fn is_big_endian() -> bool {
    // SAFETY: no arguments; a constant of the program.
    unsafe { bindings::target_big_endian() }
}

impl PciDevice {
    /// Whether an IOMMU of the machine may translate the addresses that the device uses. Only after
    /// realize; needs the big QEMU lock.
    pub fn is_behind_iommu(&self) -> bool {
        assert!(bql::is_locked());
        // SAFETY: the device is alive and on its bus, and the lock is held.
        unsafe {
            let space = bindings::pci_device_iommu_address_space(self.as_mut_ptr());
            space.cast_const() != std::ptr::addr_of!(bindings::address_space_memory)
        }
    }
}
