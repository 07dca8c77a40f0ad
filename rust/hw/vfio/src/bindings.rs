// SPDX-License-Identifier: GPL-2.0-or-later

//! What bindgen made of QEMU's VFIO headers, with the layouts checked against C.

#![allow(
    dead_code,
    improper_ctypes_definitions,
    improper_ctypes,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction
)]

use std::mem::{offset_of, size_of};

use glib_sys::{
    guint, GArray, GByteArray, GHashTable, GHashTableIter, GList, GPollFD, GPtrArray, GSList,
    GSource, GString,
};
use hwcore::bindings::{DeviceClass, DeviceState};
use migration::bindings::VMStateDescription;
use pci::bindings::PCIDevice;
use qom::bindings::{Object, ObjectClass};
use system::bindings::{MemoryRegion, MemoryRegionOps};
use util::bindings::Error;

#[cfg(MESON)]
include!("bindings.inc.rs");

#[cfg(not(MESON))]
include!(concat!(env!("OUT_DIR"), "/bindings.inc.rs"));

// These structs contain structs bound by other crates: a difference in what the bindgen runs saw
// would shift every field behind them.
const _: () = {
    assert!(size_of::<VFIODevice>() == RUST_SIZEOF_VFIO_DEVICE as usize);
    assert!(size_of::<VFIOPCIDevice>() == RUST_SIZEOF_VFIO_PCI_DEVICE as usize);
    assert!(size_of::<VFIOUserPCIDevice>() == RUST_SIZEOF_VFIO_USER_PCI_DEVICE as usize);
    assert!(size_of::<VFIOBAR>() == RUST_SIZEOF_VFIO_BAR as usize);
    assert!(offset_of!(VFIOPCIDevice, vbasedev) == RUST_OFFSETOF_VBASEDEV as usize);
    assert!(offset_of!(VFIOPCIDevice, bars) == RUST_OFFSETOF_BARS as usize);
    assert!(offset_of!(VFIOPCIDevice, host) == RUST_OFFSETOF_HOST as usize);
    assert!(offset_of!(VFIOPCIDevice, device_id) == RUST_OFFSETOF_DEVICE_ID as usize);
    assert!(offset_of!(VFIOPCIDevice, emulated_config_bits) == RUST_OFFSETOF_EMULATED as usize);
    assert!(offset_of!(VFIOPCIDevice, vf_token) == RUST_OFFSETOF_VF_TOKEN as usize);
    assert!(offset_of!(VFIOPCIDevice, no_kvm_ioeventfd) == RUST_OFFSETOF_NO_KVM_IOEVENTFD as usize);
};
