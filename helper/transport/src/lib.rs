// SPDX-License-Identifier: GPL-2.0-or-later
//! Access to a PCI function from user space: configuration space, BARs, interrupts, DMA memory,
//! SR-IOV ([`PciFunction`]), and its implementations over the kernel's VFIO ([`vfio`]) and over
//! vfio-user ([`vfio_user`]).
//!
//! What the other side of a transport says is untrusted: sizes are checked and capped, a wait has
//! a deadline, an error names the function, the place and the cause.

#![deny(unsafe_code)]

mod address;
mod capability;
mod dma;
mod error;
mod function;
mod irq;
mod sriov;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vfio;
pub mod vfio_user;

pub use address::{NotAToken, NotAnAddress, PciAddress, VfToken};
pub use capability::{Capability, ConfigImage};
#[cfg(any(test, feature = "testing"))]
pub use dma::DeviceView;
pub use dma::{DmaPool, DmaRegion, Order, PoolStats, PAGE};
pub use error::{Cause, Error, Place};
pub use function::{
    BarInfo, DmaAddressing, Doorbell, FunctionEvent, PciFunction, Posted, SriovStatus, VfBar, Width,
};
pub use irq::{ready, IrqEvent};
pub use rustix::io::Errno;
pub use sriov::ConfigSriov;
pub use sys::barrier::{dma_mb, dma_rmb, dma_wmb};
pub use sys::refuse_files;
pub use vfio_user::Deadlines;
