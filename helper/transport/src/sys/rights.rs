// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that come with messages of a Unix socket, refused where the sender is.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `SO_PASSRIGHTS` of socket(7), Linux 6.16; the number is that of asm-generic/socket.h.
const SO_PASSRIGHTS: c_int = 83;

/// From now on nobody can send a file to this Unix socket (sendmsg: EPERM). What is queued already, or is
/// being queued by a sender at this moment, may have one.
///
/// # Errors
/// ENOPROTOOPT from kernels that do not know it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn refuse_files(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let off: c_int = 0;
    let len = size_of_val(&off) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed; the kernel reads `len` bytes at `off`, which is
    // as long and lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            len,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// The same where the option's number is not known here.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn refuse_files(_socket: BorrowedFd<'_>) -> Result<(), Errno> {
    Err(Errno::NOPROTOOPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::cmsg_space;
    use rustix::net::{
        recv, sendmsg, socketpair, AddressFamily, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    };
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    #[test]
    fn a_sender_of_files_is_refused_and_a_sender_of_bytes_is_not() {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (one, two) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        match refuse_files(one.as_fd()) {
            Ok(()) => {}
            // An older kernel.
            Err(e) => return assert_eq!(e, Errno::NOPROTOOPT),
        }
        let send = |files: &[BorrowedFd<'_>]| {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(files)));
            }
            sendmsg(
                &two,
                &[IoSlice::new(b"x")],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        };
        assert_eq!(send(&[two.as_fd()]), Err(Errno::PERM));
        assert_eq!(send(&[]), Ok(1));
        let mut buf = [0; 2];
        assert_eq!(recv(&one, &mut buf[..], RecvFlags::DONTWAIT).unwrap().1, 1);
    }
}
