// SPDX-License-Identifier: GPL-2.0-or-later
//! The only unsafe code of the helper: a shared memory mapping and the atomic accesses to it.
#![allow(unsafe_code)]

mod mapping;

pub(crate) use mapping::SharedMapping;
