// SPDX-License-Identifier: GPL-2.0-or-later
//! The one system call that no safe wrapper offers.
#![allow(unsafe_code)]

use rustix::io::{Errno, Result};
use rustix::ioctl::{ioctl, opcode, Updater};
use std::os::fd::BorrowedFd;

/// `TUNSETIFF`: `_IOW('T', 202, int)`, though the argument is a `struct ifreq`.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFNAMSIZ: usize = 16;

/// `struct ifreq` as the kernel reads it: name, flags, and the rest of the union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(std::mem::size_of::<InterfaceRequest>() == 40);

/// Attaches an open `/dev/net/tun` to the tap interface `name`, without packet information.
///
/// # Errors
/// What the kernel says; `INVAL` for a name that is empty or too long.
pub(crate) fn attach_tap(fd: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut request = InterfaceRequest {
        name: [0; IFNAMSIZ],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    if name.is_empty() || name.len() >= IFNAMSIZ || name.as_bytes().contains(&0) {
        return Err(Errno::INVAL);
    }
    for (dst, src) in request.name.iter_mut().zip(name.bytes()) {
        *dst = src;
    }
    // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes through its pointer, writes it back (the
    // name it chose) and keeps nothing; `InterfaceRequest` has that size and layout (asserted
    // above), any bytes are valid for it, and it lives across the call.
    unsafe { ioctl(fd, Updater::<TUNSETIFF, _>::new(&mut request)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_the_kernel_would_cut_are_refused() {
        let file = tempfile::tempfile().unwrap();
        for name in ["", "sixteen-letters-", "nul\0"] {
            assert_eq!(attach_tap(file.as_fd(), name), Err(Errno::INVAL));
        }
        // Not a tun device: the kernel refuses, nothing else happens.
        assert_eq!(attach_tap(file.as_fd(), "tap0"), Err(Errno::NOTTY));
    }
}
