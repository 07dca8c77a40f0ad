// SPDX-License-Identifier: GPL-2.0-or-later
//! Descriptors that a service manager passed to this process.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{fcntl_getfd, fcntl_setfd, FdFlags};

/// Where they begin (sd_listen_fds(3)).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes descriptors 3 to 3 + `n` - 1, once in the life of the process; the caller knows from its
/// environment that they were passed to it. Empty the second time, and where one of them is not
/// open.
pub(crate) fn take(n: usize) -> Vec<OwnedFd> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let end = FIRST + n.min(64) as RawFd;
    let open = (FIRST..end).all(|fd| {
        // SAFETY: only asks about the number, which is not -1; nothing is kept.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_getfd(fd).is_ok_and(|flags| fcntl_setfd(fd, flags | FdFlags::CLOEXEC).is_ok())
    });
    if !open {
        return Vec::new();
    }
    (FIRST..end)
        // SAFETY: the descriptors are open and were passed to this process for its own use; they
        // are taken but once, and everything that this process opens by itself has other numbers.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}
