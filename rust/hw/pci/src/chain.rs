// SPDX-License-Identifier: GPL-2.0-or-later

//! Subclasses of C PCI devices that extend their parent's methods instead of replacing them.
//!
//! QEMU's Rust has no call to the parent's method. A class that uses [`ChainedPciClass`] keeps the
//! parent's class behind its own copy of it, installs its own methods, and reaches the parent's
//! through [`ChainedPciMethods`].

use std::ffi::{c_int, CStr};

use hwcore::DeviceImpl;
use qom::prelude::*;
use util::{Error, Result};

use crate::{
    bindings::{self, PCIDevice, PCIDeviceClass},
    report::c_string,
    PciDevice,
};

/// Class struct of a PCI device that chains to its parent's methods.
#[repr(C)]
pub struct ChainedPciClass {
    parent_class: PCIDeviceClass,
    /// The parent's own, which lives as long as the program; set by `class_init`.
    parent: *const PCIDeviceClass,
}

/// Says that the parent's realize has succeeded and its exit is still to come. Whoever has it may
/// call [`ChainedPciMethods::parent_exit`], which takes it.
#[must_use]
pub struct ParentRealized(());

/// The methods of a chained device. Each replaces the parent's; call the parent's from it.
///
/// All run with the big QEMU lock held.
pub trait ChainedPciDevice:
    DeviceImpl + IsA<PciDevice> + ObjectType<Class = ChainedPciClass>
{
    /// Makes the device ready. If this fails after the parent's succeeded, undo the parent's with
    /// [`ChainedPciMethods::parent_exit`]: nobody else does.
    fn realize(&self) -> Result<()>;
    /// The guest or the user removed the device; its BARs are unmapped already.
    fn exit(&self, parent: ParentRealized);
    /// The guest reads `len` (1, 2 or 4) bytes of configuration space.
    fn config_read(&self, address: u32, len: u8) -> u32;
    /// The guest writes `len` (1, 2 or 4) bytes of configuration space.
    fn config_write(&self, address: u32, value: u32, len: u8);
    /// The device is reset with the machine or its bus.
    fn reset(&self);
}

impl ChainedPciClass {
    /// Installs the methods of `T`. Called on a class struct that starts as a copy of the parent's.
    pub fn class_init<T: ChainedPciDevice>(&mut self) {
        // SAFETY: the class struct is under construction, and its parent is a PCI device.
        self.parent = unsafe { bindings::object_class_get_parent(self.as_object_class()) }.cast();
        let pci = &mut self.parent_class;
        pci.realize = Some(realize::<T>);
        pci.exit = Some(exit::<T>);
        pci.config_read = Some(config_read::<T>);
        pci.config_write = Some(config_write::<T>);
        pci.parent_class.legacy_reset = Some(reset::<T>);
        pci.parent_class.class_init::<T>();
    }

    /// The text that `-device help` shows.
    pub fn set_description(&mut self, text: &'static CStr) {
        self.parent_class.parent_class.desc = text.as_ptr();
    }

    /// Says in `-device TYPE,help` what a property of the class is for; after
    /// [`class_init`](Self::class_init).
    pub fn describe_property(&mut self, name: &'static CStr, text: &str) {
        let text = c_string(text);
        // SAFETY: the class struct is under construction; QOM copies the text.
        unsafe {
            bindings::object_class_property_set_description(
                self.as_object_class(),
                name.as_ptr(),
                text.as_ptr(),
            );
        }
    }

    /// The class as the root of the hierarchy, to add properties to.
    pub fn as_object_class(&mut self) -> *mut qom::ObjectClass {
        let this: *mut Self = self;
        this.cast()
    }
}

/// Calls of the parent's methods. They need the big QEMU lock.
pub trait ChainedPciMethods: ChainedPciDevice {
    /// The parent's realize.
    fn parent_realize(&self) -> Result<ParentRealized> {
        if let Some(f) = self.parent_class().realize {
            // SAFETY: the function is the parent's, the object is an instance of it, and errp
            // points to a null pointer.
            unsafe { Error::with_errp(|errp| f(self.as_pci_ptr(), errp)) }?;
        }
        Ok(ParentRealized(()))
    }

    /// The parent's exit.
    fn parent_exit(&self, _realized: ParentRealized) {
        if let Some(f) = self.parent_class().exit {
            // SAFETY: as in parent_realize().
            unsafe { f(self.as_pci_ptr()) }
        }
    }

    /// The parent's configuration read.
    fn parent_config_read(&self, address: u32, len: u8) -> u32 {
        match self.parent_class().config_read {
            // SAFETY: as in parent_realize(); address and length come from PCI code or are inside
            // the configuration space.
            Some(f) => unsafe { f(self.as_pci_ptr(), address, c_int::from(len)) },
            None => u32::MAX,
        }
    }

    /// The parent's configuration write.
    fn parent_config_write(&self, address: u32, value: u32, len: u8) {
        if let Some(f) = self.parent_class().config_write {
            // SAFETY: as in parent_config_read().
            unsafe { f(self.as_pci_ptr(), address, value, c_int::from(len)) }
        }
    }

    /// The parent's reset.
    fn parent_reset(&self) {
        if let Some(f) = self.parent_class().parent_class.legacy_reset {
            // SAFETY: as in parent_realize(); a PCI device starts with its DeviceState.
            unsafe { f(self.as_pci_ptr().cast()) }
        }
    }

    #[doc(hidden)]
    fn parent_class(&self) -> &PCIDeviceClass {
        assert!(bql::is_locked());
        // SAFETY: class_init() has set it for every class that has instances.
        unsafe { &*self.get_class().parent }
    }

    #[doc(hidden)]
    fn as_pci_ptr(&self) -> *mut PCIDevice {
        self.upcast::<PciDevice>().as_mut_ptr()
    }
}

impl<T: ChainedPciDevice> ChainedPciMethods for T {}

/// # Safety
///
/// `dev` is an instance of `T` and `errp` is NULL or valid: QEMU calls this only as the method of
/// T's class.
unsafe extern "C" fn realize<T: ChainedPciDevice>(
    dev: *mut PCIDevice,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above.
    let result = T::realize(unsafe { &*dev.cast::<T>() });
    // SAFETY: see above.
    unsafe {
        Error::ok_or_propagate(result, errp);
    }
}

/// # Safety
///
/// As for `realize`.
unsafe extern "C" fn exit<T: ChainedPciDevice>(dev: *mut PCIDevice) {
    // SAFETY: see above.
    T::exit(unsafe { &*dev.cast::<T>() }, ParentRealized(()));
}

/// # Safety
///
/// As for `realize`.
unsafe extern "C" fn config_read<T: ChainedPciDevice>(
    dev: *mut PCIDevice,
    address: u32,
    len: c_int,
) -> u32 {
    // SAFETY: see above.
    T::config_read(unsafe { &*dev.cast::<T>() }, address, width(len))
}

/// # Safety
///
/// As for `realize`.
unsafe extern "C" fn config_write<T: ChainedPciDevice>(
    dev: *mut PCIDevice,
    address: u32,
    value: u32,
    len: c_int,
) {
    // SAFETY: see above.
    T::config_write(unsafe { &*dev.cast::<T>() }, address, value, width(len));
}

/// # Safety
///
/// As for `realize`.
unsafe extern "C" fn reset<T: ChainedPciDevice>(dev: *mut hwcore::bindings::DeviceState) {
    // SAFETY: see above.
    T::reset(unsafe { &*dev.cast::<T>() });
}

/// PCI code only passes 1, 2 and 4.
fn width(len: c_int) -> u8 {
    u8::try_from(len).unwrap_or(4).min(4)
}
