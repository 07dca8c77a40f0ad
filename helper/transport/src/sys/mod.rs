// SPDX-License-Identifier: GPL-2.0-or-later
//! The only unsafe code of the helper: mappings of memory and of registers with their accesses, the
//! kernel's VFIO calls, descriptors that were passed to the process, and an option of sockets.
#![allow(unsafe_code)]

mod bar;
pub(crate) mod barrier;
pub(crate) mod inherited;
mod mapped;
mod mapping;
mod rights;
pub(crate) mod vfio;

pub(crate) use bar::RegisterMapping;
pub(crate) use mapping::SharedMapping;
pub use rights::refuse_files;
