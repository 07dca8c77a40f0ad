// SPDX-License-Identifier: GPL-2.0-or-later

//! QEMU's SR-IOV for functions that the user creates one by one (`sriov-pf=` on the VFs).

use std::ops::Range;

use pci::{bindings, ChainedPciClass, PciDevice};
use util::{Error, Result};

/// Bytes that [`init_pf`] may need: the SR-IOV capability and, behind it, ARI.
const CAPABILITIES_LEN: usize =
    bindings::PCI_EXT_CAP_SRIOV_SIZEOF as usize + bindings::PCI_ARI_SIZEOF as usize;

/// Where extended capabilities start, and where they end.
const EXTENDED: Range<usize> = 0x100..0x1000;

/// Makes a realized device the PF of the VFs that name its id, and puts the SR-IOV capability
/// at `offset`, behind all other extended capabilities. Gives the length of what was added.
///
/// Fails, with nothing changed, if no VF names the device, if the VFs do not fit to it or each
/// other, or if there is no room at `offset`.
pub fn init_pf(device: &PciDevice, offset: u16) -> Result<usize> {
    assert!(bql::is_locked());
    check_room(device, offset.into())?;
    // SAFETY: the object is alive and the lock is held; errp points to a null pointer. What
    // the callee asserts (offset inside the extended space, an Express device, a first
    // capability to link from) was checked above.
    let added = unsafe {
        Error::with_errp(|errp| {
            bindings::pcie_sriov_pf_init_from_user_created_vfs(device.as_mut_ptr(), offset, errp)
        })?
    };
    match usize::try_from(added) {
        Ok(len @ 1..) => Ok(len),
        _ => Err(Error::msg(
            "no VF belongs to this PF: give it an id, and create the VFs before it with \
             sriov-pf=ID",
        )),
    }
}

/// Undoes [`init_pf`], before the parent's exit; without it this does nothing.
pub fn exit_pf(device: &PciDevice) {
    assert!(bql::is_locked());
    // SAFETY: the object is alive and the lock is held; the callee looks whether there is a
    // capability.
    unsafe { bindings::pcie_sriov_pf_exit(device.as_mut_ptr()) }
}

/// Clears VF Enable and `NumVFs`, as a reset of the function does; the VFs vanish from the bus.
/// Without [`init_pf`] this does nothing.
pub fn reset_pf(device: &PciDevice) {
    assert!(bql::is_locked());
    // SAFETY: as in exit_pf().
    unsafe { bindings::pcie_sriov_pf_reset(device.as_mut_ptr()) }
}

/// Lets users create instances as VFs, with `sriov-pf=`; called inside `class_init`.
pub fn allow_vf(class: &mut ChainedPciClass) {
    let class: *mut bindings::PCIDeviceClass = class.as_object_class().cast();
    // SAFETY: the class struct starts with that of its parent, and nobody else has it while it is
    // under construction.
    unsafe { (*class).sriov_vf_user_creatable = true }
}

fn check_room(device: &PciDevice, offset: usize) -> Result<()> {
    let end = offset + CAPABILITIES_LEN;
    if device.config_size() < EXTENDED.end {
        return Err(Error::msg("SR-IOV needs a PCI Express device"));
    }
    if offset % 4 != 0 || offset < EXTENDED.start || end > EXTENDED.end {
        return Err(Error::msg(format!(
            "{offset:#x} is no place for the SR-IOV capability: it takes {CAPABILITIES_LEN} \
             bytes between {:#x} and {:#x}",
            EXTENDED.start, EXTENDED.end
        )));
    }
    let mut here = [0; CAPABILITIES_LEN];
    device.config_image(offset, &mut here);
    let mut first = [0; 4];
    device.config_image(EXTENDED.start, &mut first);
    if here.iter().any(|byte| *byte != 0) {
        return Err(Error::msg(format!(
            "the device has something else at {offset:#x}, where the SR-IOV capability was to go"
        )));
    }
    if offset != EXTENDED.start && first == [0; 4] {
        return Err(Error::msg(format!(
            "the device has no extended capability, so that SR-IOV must go to {:#x}",
            EXTENDED.start
        )));
    }
    Ok(())
}

/// Offset of a capability in the image, if the device has it. Needs the big QEMU lock.
pub fn find_capability(pci: &PciDevice, id: u8) -> Option<u8> {
    assert!(bql::is_locked());
    // SAFETY: the object is alive and the lock is held.
    let at = unsafe { bindings::pci_find_capability(pci.as_mut_ptr(), id) };
    (at != 0).then_some(at)
}
