// SPDX-License-Identifier: GPL-2.0-or-later

//! What bindgen made of QEMU's headers, with the layouts checked against C.

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
use qom::bindings::{Object, ObjectClass};
use system::bindings::{MemoryRegion, MemoryRegionOps};
use util::bindings::Error;

#[cfg(MESON)]
include!("bindings.inc.rs");

#[cfg(not(MESON))]
include!(concat!(env!("OUT_DIR"), "/bindings.inc.rs"));

// Some structs here contain structs bound by another crate: a difference in what the two bindgen
// runs saw would shift every field behind them.
const _: () = {
    assert!(size_of::<PCIDevice>() == RUST_SIZEOF_PCI_DEVICE as usize);
    assert!(size_of::<PCIDeviceClass>() == RUST_SIZEOF_PCI_DEVICE_CLASS as usize);
    assert!(size_of::<DeviceClass>() == RUST_SIZEOF_DEVICE_CLASS as usize);
    assert!(size_of::<DeviceState>() == RUST_SIZEOF_DEVICE_STATE as usize);
    assert!(size_of::<MemoryRegion>() == RUST_SIZEOF_MEMORY_REGION as usize);
    assert!(size_of::<HostMemoryBackend>() == RUST_SIZEOF_MEMORY_BACKEND as usize);
    assert!(offset_of!(PCIDevice, config) == RUST_OFFSETOF_CONFIG as usize);
    assert!(offset_of!(PCIDevice, wmask) == RUST_OFFSETOF_WMASK as usize);
    assert!(offset_of!(PCIDevice, cap_present) == RUST_OFFSETOF_CAP_PRESENT as usize);
};
