// SPDX-License-Identifier: GPL-2.0-or-later

//! Interrupts of a PCI device: its pin and its MSI-X messages.

use std::ffi::{c_int, c_uint};

use qom::Owned;

use crate::{bindings, PciDevice};

const PIN: usize = 0x3d;

impl PciDevice {
    /// A reference of its own to the device.
    pub fn hold(&self) -> Owned<Self> {
        // SAFETY: PCI devices are allocated by QOM on their own; those embedded in another object
        // do not outlive it.
        unsafe { Owned::from(self) }
    }

    /// Raises or lowers the interrupt pin, if the configuration space names one; PCI code routes by
    /// that. It keeps the status bit and obeys `INTx` Disable. Needs the big QEMU lock.
    pub fn set_irq(&self, level: bool) {
        assert!(bql::is_locked());
        let mut pin = [0];
        self.config_image(PIN, &mut pin);
        if pin == [0] {
            return;
        }
        // SAFETY: the object is alive, the lock is held, and the device has a pin, which the C
        // function takes for granted.
        unsafe { bindings::pci_set_irq(self.as_mut_ptr(), c_int::from(level)) }
    }

    /// Vectors of the MSI-X table; 0 without MSI-X. Needs the big QEMU lock.
    pub fn msix_vectors(&self) -> u16 {
        assert!(bql::is_locked());
        let pci: *mut bindings::PCIDevice = self.as_mut_ptr();
        // SAFETY: the object is alive and the lock is held.
        let (present, entries) = unsafe { ((*pci).cap_present, (*pci).msix_entries_nr) };
        if present & bindings::QEMU_PCI_CAP_MSIX == 0 {
            return 0;
        }
        u16::try_from(entries).unwrap_or(0)
    }

    /// Sends the message of a vector, or sets its pending bit if it is masked (true), as if the
    /// device had done so. Nothing happens for a vector that does not exist or while MSI-X is off.
    /// Needs the big QEMU lock.
    pub fn notify_msix(&self, vector: u16) -> bool {
        if vector >= self.msix_vectors() || !self.msix_enabled() {
            return false;
        }
        let (pci, vector) = (self.as_mut_ptr(), c_uint::from(vector));
        // SAFETY: the object is alive, the lock is held and the vector exists. A masked vector that
        // was never unmasked is not in use yet, and msix_notify() would ignore it.
        unsafe {
            let masked = bindings::msix_is_masked(pci, vector);
            if masked {
                bindings::msix_set_pending(pci, vector);
            } else {
                bindings::msix_notify(pci, vector);
            }
            masked
        }
    }

    /// Clears the pending bit of a vector that [`notify_msix`](Self::notify_msix) has set. Needs the
    /// big QEMU lock.
    pub fn forget_msix(&self, vector: u16) {
        if vector >= self.msix_vectors() {
            return;
        }
        let pci: *mut bindings::PCIDevice = self.as_mut_ptr();
        // SAFETY: the object is alive and the lock is held; the array has a bit for each vector as
        // long as there is a table.
        unsafe {
            let pba = (*pci).msix_pba;
            if !pba.is_null() {
                *pba.add(usize::from(vector / 8)) &= !(1 << (vector % 8));
            }
        }
    }
}
