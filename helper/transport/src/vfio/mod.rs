// SPDX-License-Identifier: GPL-2.0-or-later
//! A PCI function behind the kernel's VFIO: by group and container, or by its own device file and
//! iommufd.

mod attribute;
mod fdinfo;
#[cfg(test)]
mod file_tests;
mod function;
mod opened;
mod opening;
mod start;
mod sysfs;
#[cfg(test)]
mod tests;
mod vfs;

pub use crate::error::HostError;
pub use fdinfo::{FdinfoError, MAX_FDINFO};
pub use opened::VfioFunction;
pub use opening::Interface;
pub use sysfs::{Device, Host};

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::address::VfToken;

/// Numbers of the ioctl() requests that are made after a function was opened and has its memory.
pub const REQUESTS_WHEN_OPEN: [u64; 6] = crate::sys::vfio::OF_OPEN_DEVICE;

/// Whether whoever opened this VFIO device file has the device: a function's own device file can
/// be opened by several, but used only by the one who bound it to an iommufd. Only for files that
/// are known to be VFIO's.
pub fn is_in_use(file: BorrowedFd<'_>) -> bool {
    crate::sys::vfio::device_info(file).is_ok()
}

/// How long to wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a driver to give a function away or to take it, and for VFs to be enabled or disabled.
    pub kernel: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            kernel: Duration::from_secs(20),
        }
    }
}

/// Descriptors 3 and up, if a service manager passed `n` of them to this process, as its environment
/// says then (sd_listen_fds(3)). Can be taken once only.
pub fn take_inherited(n: usize) -> Vec<OwnedFd> {
    crate::sys::inherited::take(n)
}

/// How to open a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the kernel shows its state.
    pub host: Host,
    /// Take the function from the driver that has it and give it to vfio-pci.
    pub bind: bool,
    /// The kernel's interface.
    pub interface: Interface,
    /// The token that openers of its VFs must show. It is also shown to open the PF itself, which
    /// the kernel insists on while VFs are in use.
    pub token: Option<VfToken>,
    /// Waits.
    pub deadlines: Deadlines,
    /// Bytes of DMA memory.
    pub dma_pool: usize,
    /// Map BARs where the kernel allows it; otherwise every access is a system call.
    pub map_bars: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            host: Host::default(),
            bind: false,
            interface: Interface::Auto,
            token: None,
            deadlines: Deadlines::default(),
            dma_pool: 256 * 1024,
            map_bars: true,
        }
    }
}
