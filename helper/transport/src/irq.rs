// SPDX-License-Identifier: GPL-2.0-or-later
//! Eventfds: interrupts from a function, doorbells towards it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::{read, write, Errno};

use crate::error::{Cause, Error, Place};

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct IrqEvent {
    function: Arc<str>,
    fd: OwnedFd,
}

impl IrqEvent {
    /// A new eventfd with a count of zero; `function` names the owner in errors.
    pub fn new(function: Arc<str>) -> Result<Self, Error> {
        match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
            Ok(fd) => Ok(IrqEvent { function, fd }),
            Err(errno) => Err(Error::new(
                function,
                Place::Interrupts,
                Cause::Os {
                    call: "eventfd",
                    errno,
                },
            )),
        }
    }

    /// `n` new eventfds.
    pub(crate) fn several(function: &Arc<str>, n: u32) -> Result<Vec<Self>, Error> {
        (0..n).map(|_| IrqEvent::new(function.clone())).collect()
    }

    /// Takes an eventfd that was made elsewhere.
    pub fn from_fd(function: Arc<str>, fd: OwnedFd) -> Self {
        IrqEvent { function, fd }
    }

    fn error(&self, call: &'static str, errno: Errno) -> Error {
        Error::new(
            self.function.clone(),
            Place::Interrupts,
            Cause::Os { call, errno },
        )
    }

    /// Takes the count; 0 if nothing was signalled.
    pub fn drain(&self) -> Result<u64, Error> {
        let mut count = [0; 8];
        loop {
            match read(&self.fd, &mut count) {
                Ok(_) => return Ok(u64::from_ne_bytes(count)),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("read of an eventfd", errno)),
            }
        }
    }

    /// Adds one. A counter that is full needs nothing: the other side has not looked yet.
    pub fn signal(&self) -> Result<(), Error> {
        loop {
            match write(&self.fd, &1u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("write of an eventfd", errno)),
            }
        }
    }

    /// Waits until something is signalled, without taking it; `false` if `timeout` passed (or a
    /// signal handler ran).
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().min(3600) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(self.error("poll", errno)),
        }
    }

    /// Another descriptor of the same eventfd.
    pub fn try_clone(&self) -> Result<Self, Error> {
        match self.fd.try_clone() {
            Ok(fd) => Ok(IrqEvent {
                function: self.function.clone(),
                fd,
            }),
            Err(e) => Err(self.error("dup", Errno::from_io_error(&e).unwrap_or(Errno::INVAL))),
        }
    }
}

impl AsFd for IrqEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Which of these descriptors are readable now, or can never be again.
pub fn ready(fds: &[BorrowedFd<'_>]) -> Result<Vec<bool>, Error> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut polled, Some(&now)) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(vec![false; fds.len()]),
        Err(errno) => {
            let call = "poll";
            return Err(Error::new(
                "this process",
                Place::Interrupts,
                Cause::Os { call, errno },
            ));
        }
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: IRQ-12
    #[test]
    fn an_eventfd_tells_what_was_signalled_and_tolerates_nothing() {
        let e = IrqEvent::new("test".into()).unwrap();
        assert_eq!(e.drain().unwrap(), 0);
        assert!(!e.wait(Duration::ZERO).unwrap());
        let other = e.try_clone().unwrap();
        other.signal().unwrap();
        other.signal().unwrap();
        assert!(e.wait(Duration::ZERO).unwrap());
        assert_eq!(e.drain().unwrap(), 2);
        assert_eq!(e.drain().unwrap(), 0);
    }
}
