// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Facts of the virtio specification (1.4) that a driver of the PF and a model of it need beyond
//! those of `virtio_pci_spec`: admin commands, feature bits, split rings, the common configuration
//! structure, and the SR-IOV capability. Data and pure functions only; no policy, no I/O.
//!
//! Section names in the documentation refer to the virtio specification, version 1.4.

#![no_std]
#![forbid(unsafe_code)]

pub mod admin;
pub mod bytes;
pub mod class;
pub mod common;
pub mod features;
pub mod ring;
pub mod sriov;
