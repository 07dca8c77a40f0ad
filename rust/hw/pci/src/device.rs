// SPDX-License-Identifier: GPL-2.0-or-later

//! `PCIDevice`.

use std::{
    ffi::{c_int, CStr},
    slice,
};

use common::Opaque;
use hwcore::DeviceState;
use qom::prelude::*;
use system::MemoryRegion;

use crate::bindings;

/// A safe wrapper around [`bindings::PCIDevice`].
#[repr(transparent)]
#[derive(common::Wrapper)]
pub struct PciDevice(Opaque<bindings::PCIDevice>);

// SAFETY: the wrapper only hands out raw pointers; every method that dereferences one asserts that
// the big QEMU lock is held, or reads what does not change after realize.
unsafe impl Send for PciDevice {}
// SAFETY: as above.
unsafe impl Sync for PciDevice {}

// SAFETY: name and class struct are those of QEMU's TypeInfo, and the C struct starts with its
// parent.
unsafe impl ObjectType for PciDevice {
    type Class = bindings::PCIDeviceClass;
    const TYPE_NAME: &'static CStr = c"pci-device";
}

qom_isa!(PciDevice: DeviceState, Object);

impl PciDevice {
    /// The id the user gave, or the path in the object tree: how messages name the device.
    pub fn label(&self) -> String {
        assert!(bql::is_locked());
        let dev = self.0.as_mut_ptr();
        // SAFETY: the object is alive, the lock is held, `id` is NULL or NUL-terminated.
        unsafe {
            let id = (*dev).qdev.id;
            if !id.is_null() {
                return CStr::from_ptr(id).to_string_lossy().into_owned();
            }
            let path = bindings::object_get_canonical_path(dev.cast());
            if path.is_null() {
                return self.typename().into_owned();
            }
            let text = CStr::from_ptr(path).to_string_lossy().into_owned();
            glib_sys::g_free(path.cast());
            text
        }
    }

    /// Bytes of the configuration space that QEMU keeps: 256, or 4096 for an Express device.
    pub fn config_size(&self) -> usize {
        let dev = self.0.as_mut_ptr();
        // SAFETY: the object is alive and cap_present does not change after realize.
        let express = unsafe { (*dev).cap_present } & bindings::QEMU_PCI_CAP_EXPRESS;
        if express != 0 {
            4096
        } else {
            256
        }
    }

    /// Copies from QEMU's image of the configuration space. Bytes beyond its end, or read before
    /// the device is realized, are 0.
    pub fn config_image(&self, offset: usize, buf: &mut [u8]) {
        assert!(bql::is_locked());
        let dev = self.0.as_mut_ptr();
        // SAFETY: the object is alive and the lock is held; a non-null `config` points to
        // config_size() bytes.
        let image = unsafe {
            let config = (*dev).config;
            if config.is_null() {
                &[]
            } else {
                slice::from_raw_parts(config, self.config_size())
            }
        };
        buf.fill(0);
        for (dst, src) in buf.iter_mut().zip(image.iter().skip(offset)) {
            *dst = *src;
        }
    }

    /// Sets the byte at `offset` of the image, and which of its bits the guest may write. Nothing
    /// happens beyond the end of the image.
    pub fn set_config_byte(&self, offset: usize, value: u8, writable: u8) {
        assert!(bql::is_locked());
        let dev = self.0.as_mut_ptr();
        // SAFETY: the object is alive and the lock is held; both arrays have config_size() bytes
        // once they exist.
        unsafe {
            if offset < self.config_size() && !(*dev).config.is_null() && !(*dev).wmask.is_null() {
                *(*dev).config.add(offset) = value;
                *(*dev).wmask.add(offset) = writable;
            }
        }
    }

    /// Whether the guest has MSI-X enabled. Any thread; only after realize.
    pub fn msix_enabled(&self) -> bool {
        // SAFETY: the object is alive. The C function reads cap_present and one byte of the
        // configuration image, which both live as long as the device; if the guest switches the
        // bit at this very moment on another vCPU, either answer is right.
        unsafe { bindings::msix_enabled(self.0.as_mut_ptr()) != 0 }
    }

    /// Offers `region` to the guest as an I/O BAR, 0 to 5. PCI code takes the BAR away before
    /// `exit`.
    ///
    /// # Safety
    ///
    /// The BAR is unused, the region is part of this device, and its size is a power of two.
    pub unsafe fn register_io_bar(&self, bar: u8, region: &MemoryRegion) {
        assert!(bql::is_locked());
        assert!(bar < 6);
        // SAFETY: see above; the lock is held.
        unsafe {
            bindings::pci_register_bar(
                self.0.as_mut_ptr(),
                c_int::from(bar),
                bindings::PCI_BASE_ADDRESS_SPACE_IO as u8,
                region.as_mut_ptr(),
            );
        }
    }
}
