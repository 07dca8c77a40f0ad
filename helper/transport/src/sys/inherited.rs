// SPDX-License-Identifier: GPL-2.0-or-later
//! Descriptors that a service manager passed to this process.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{fcntl_getfd, fcntl_setfd, FdFlags};

/// Where they begin (sd_listen_fds(3)).
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether a variable of the environment, which the service manager sets, is this number.
fn is(variable: &str, number: usize) -> bool {
    std::env::var(variable).is_ok_and(|value| value.parse() == Ok(number))
}

/// Takes descriptors 3 to 3 + `n` - 1, once in the life of the process. Empty the second time, where
/// the environment does not say that so many were passed to this process, and where one of them is
/// not open.
pub(crate) fn take(n: usize) -> Vec<OwnedFd> {
    if !is("LISTEN_PID", std::process::id() as usize) || !is("LISTEN_FDS", n) {
        return Vec::new();
    }
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
        // SAFETY: the descriptors are open and were passed to this process for its own use, as its
        // environment says; they are taken but once, and everything that this process opens by itself has other numbers.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_a_service_manager_nothing_is_taken() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for n in [0, 1, 8] {
            assert!(super::take(n).is_empty());
        }
        assert!(file.metadata().is_ok(), "still open");
    }
}
