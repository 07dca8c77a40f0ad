// SPDX-License-Identifier: GPL-2.0-or-later
//! The only unsafe code of the helper: mappings of memory and of registers with their accesses, the
//! kernel's VFIO calls, and descriptors that were passed to the process.
#![allow(unsafe_code)]

mod bar;
pub(crate) mod barrier;
pub(crate) mod inherited;
mod mapped;
mod mapping;
pub(crate) mod vfio;

pub(crate) use bar::RegisterMapping;
pub(crate) use mapping::SharedMapping;
