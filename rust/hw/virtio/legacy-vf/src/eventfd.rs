// SPDX-License-Identifier: GPL-2.0-or-later

//! Event counters of the kernel.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
};

/// A counter that is readable while it is not zero. Nothing here blocks.
#[derive(Debug)]
pub struct EventFd(Arc<OwnedFd>);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and belongs to nobody else.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Adds one. A counter at its maximum stays there, and readable.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its length.
        let _full = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the count, which may be 0.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        // SAFETY: the buffer is valid for its length.
        let got = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if got == 8 {
            u64::from_ne_bytes(count)
        } else {
            0
        }
    }

    /// The descriptor, to be watched.
    pub const fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
