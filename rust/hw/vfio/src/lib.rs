// SPDX-License-Identifier: GPL-2.0-or-later

//! Bindings of QEMU's VFIO PCI devices, for subclasses in Rust.
//!
//! What is meant to stay as it is: the three types, whose methods speak of regions, emulated
//! configuration bits and interrupts in VFIO's terms and work the same for a device driven through
//! the kernel and one driven through a socket. What follows QEMU's internals and
//! may change with any release: [`bindings`].

pub mod bindings;
mod device;
pub mod doorbell;
pub mod irq;

pub use device::{VfioPci, VfioPciBase, VfioUserPci, CONFIG_REGION};
