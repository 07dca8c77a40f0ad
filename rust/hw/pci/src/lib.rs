// SPDX-License-Identifier: GPL-2.0-or-later

//! Bindings of QEMU's PCI devices, enough to write a subclass of an existing C device in Rust.
//!
//! What is meant to stay as it is: [`PciDevice`], [`ChainedPciDevice`] with its class
//! struct and properties, [`with_bql`] and the report functions. What follows QEMU's internals and may change with any release: everything in
//! [`bindings`], [`backends`] and [`memory`]. Users of this crate never need `unsafe` to call it,
//! save for declaring which types they inherit from.

pub mod backends;
pub mod bindings;
pub mod blocker;
pub mod chain;
mod device;
mod fd_handler;
mod interrupt;
pub mod machine;
pub mod memory;
pub mod property;
pub mod report;
mod threads;

pub use chain::{ChainedPciClass, ChainedPciDevice, ChainedPciMethods, ParentRealized};
pub use device::PciDevice;
pub use fd_handler::FdHandler;
pub use threads::{is_vcpu_waited_for, with_bql};
