// SPDX-License-Identifier: GPL-2.0-or-later
//! A tap interface of the host as the uplink.

use crate::sys;
use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An attached tap interface.
pub struct Tap {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// Frames the host did not take.
    pub dropped: u64,
}

impl Tap {
    /// Attaches to interface `name`, which is created if there is none.
    ///
    /// # Errors
    /// Text with the cause: usually a missing right or device node.
    pub fn open(name: &str) -> Result<Self, String> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open("/dev/net/tun", flags, Mode::empty()).map_err(|e| {
            format!("cannot open /dev/net/tun: {e} (is the module tun loaded, and is this root?)")
        })?;
        sys::attach_tap(fd.as_fd(), name).map_err(|e| {
            format!("cannot attach to tap interface {name:?}: {e} (CAP_NET_ADMIN is needed, or an interface created for this user)")
        })?;
        Ok(Self {
            fd,
            buffer: vec![0; 65536 + 64],
            dropped: 0,
        })
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next frame from the host, if one is there.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, Errno> {
        match rustix::io::read(&self.fd, &mut self.buffer[..]) {
            Ok(n) => Ok(self.buffer.get(..n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Gives a frame to the host.
    pub fn send(&mut self, frame: &[u8]) {
        if rustix::io::write(&self.fd, frame).is_err() {
            self.dropped += 1;
        }
    }
}
