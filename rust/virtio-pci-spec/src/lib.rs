// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Facts of the virtio specification (1.4) that both sides of this project need: identifiers,
//! register layouts, configuration fields. Data and pure functions only; no policy, no I/O, no
//! dependencies.
//!
//! Section names in the documentation refer to the virtio specification, version 1.4.

#![no_std]
#![forbid(unsafe_code)]

pub mod bytes;
pub mod config;
pub mod ids;
pub mod legacy;
pub mod modern;
pub mod pci;
pub mod status;

pub use ids::DeviceType;
