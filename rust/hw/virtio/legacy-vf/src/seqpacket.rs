// SPDX-License-Identifier: GPL-2.0-or-later

//! A non-blocking `SOCK_SEQPACKET` Unix socket and the waiting for it; the standard library has
//! stream and datagram sockets only.
//!
//! Nothing here blocks but [`Socket::wait`] and [`Stop::wait`], which end at their deadline or when
//! the device goes away.

use std::{
    ffi::c_int,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    time::{Duration, Instant},
};

use crate::eventfd::EventFd;

/// A connected socket. Messages are sent and received whole.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What [`Socket::wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// A message, or the end of the connection.
    Message,
    /// Room for a message, or the end of the connection.
    Room,
}

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The socket is ready.
    Ready,
    /// The deadline passed.
    Deadline,
    /// The device goes away.
    Stopped,
}

/// Turns the result of a system call into a value or `errno`.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for calls that return a length.
fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A Unix socket address with its length.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: sockaddr_un is plain data, for which all zeroes is a valid value.
    let mut addr: libc::sockaddr_un = unsafe { mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= addr.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (dst, src) in addr.sun_path.iter_mut().zip(bytes) {
        *dst = *src as libc::c_char;
    }
    Ok((addr, mem::size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

impl Socket {
    /// Connects to the socket at `path`. A full queue of the listener is an error
    /// ([`io::ErrorKind::WouldBlock`]); this never waits.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let (addr, len) = address(path)?;
        let flags = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::socket(libc::AF_UNIX, flags, 0) })?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: the address is valid for `len` bytes.
        check(unsafe { libc::connect(socket.raw(), ptr::addr_of!(addr).cast(), len) })?;
        Ok(socket)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends one message, with a file descriptor attached if given.
    pub fn send(&self, message: &[u8], attach: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut iov = libc::iovec {
            iov_base: message.as_ptr().cast_mut().cast(),
            iov_len: message.len(),
        };
        // An array of u64 for the alignment of cmsghdr; large enough for one descriptor.
        let mut control = [0u64; 4];
        // SAFETY: msghdr is plain data, for which all zeroes is a valid value.
        let mut msg: libc::msghdr = unsafe { mem::zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        if let Some(fd) = attach {
            let fd_len = mem::size_of::<RawFd>() as u32;
            msg.msg_control = control.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE only computes; 24 bytes for one descriptor fit in `control`.
            msg.msg_controllen = unsafe { libc::CMSG_SPACE(fd_len) } as usize;
            // SAFETY: msg_control has room for one header and one descriptor, so CMSG_FIRSTHDR is
            // not null and CMSG_DATA points into `control`, which is aligned for both.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&msg);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(fd_len) as usize;
                ptr::write_unaligned(libc::CMSG_DATA(header).cast::<RawFd>(), fd.as_raw_fd());
            }
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: `msg` points to memory that outlives the call, which does not change it.
            match check_len(unsafe { libc::sendmsg(self.raw(), &msg, flags) }) {
                Ok(sent) if sent == message.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Receives one message into `buf` and gives its length; 0 is the end of the connection. A
    /// message longer than `buf` is an error. Attached descriptors are closed by the kernel.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        loop {
            // SAFETY: `buf` is writable for the length given.
            let got = check_len(unsafe {
                libc::recv(self.raw(), buf.as_mut_ptr().cast(), buf.len(), flags)
            });
            match got {
                Ok(len) if len <= buf.len() => return Ok(len),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends the connection for every thread that uses it.
    pub fn shut_down(&self) {
        // SAFETY: no pointers are involved. It fails only if the peer is gone already.
        let _already_gone = unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }

    /// Waits until the socket is ready, the deadline passes or `stop` is raised.
    pub fn wait(&self, what: WaitFor, stop: &Stop, deadline: Option<Instant>) -> io::Result<Woken> {
        let events = match what {
            WaitFor::Message => libc::POLLIN,
            WaitFor::Room => libc::POLLOUT,
        };
        let mut fds = [
            poll_fd(stop.0.as_raw_fd(), libc::POLLIN),
            poll_fd(self.raw(), events),
        ];
        wait(&mut fds, deadline)
    }

    /// Waits until the connection ends ([`Woken::Ready`]), `nudge` is signalled
    /// ([`Woken::Deadline`]) or `stop` is raised.
    pub fn wait_end(&self, stop: &Stop, nudge: &EventFd) -> io::Result<Woken> {
        let mut fds = [
            poll_fd(stop.0.as_raw_fd(), libc::POLLIN),
            poll_fd(self.raw(), libc::POLLRDHUP),
            poll_fd(nudge.as_fd().as_raw_fd(), libc::POLLIN),
        ];
        let woken = wait(&mut fds, None)?;
        let ended = fds.get(1).is_some_and(|f| f.revents != 0);
        Ok(match woken {
            Woken::Ready if !ended => Woken::Deadline,
            other => other,
        })
    }
}

/// Raised once, when the device goes away: ends every wait.
#[derive(Debug)]
pub struct Stop(OwnedFd);

impl Stop {
    /// One that is not raised.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor was just created and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Raises it, for good.
    pub fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its length. An eventfd takes 2^64 - 2 such writes.
        let _written = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until it is raised (true) or the time is over (false).
    pub fn wait(&self, time: Duration) -> bool {
        let mut fds = [poll_fd(self.0.as_raw_fd(), libc::POLLIN)];
        let deadline = Instant::now().checked_add(time);
        matches!(wait(&mut fds, deadline), Ok(Woken::Stopped) | Err(_))
    }
}

fn poll_fd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Waits for any of `fds`, of which the first is that of a [`Stop`].
fn wait(fds: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<Woken> {
    loop {
        let timeout = match deadline {
            None => -1,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                // Rounded up, so that this does not spin through the last millisecond.
                c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
            }
        };
        // SAFETY: the array is valid for its length.
        let ready =
            check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) });
        match ready {
            Ok(0) if timeout == c_int::MAX => {}
            Ok(0) => return Ok(Woken::Deadline),
            Ok(_) if fds.first().is_some_and(|f| f.revents != 0) => return Ok(Woken::Stopped),
            Ok(_) => return Ok(Woken::Ready),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Runs `f` with every signal blocked in this thread: a thread started meanwhile inherits the
/// mask, so that QEMU's signals keep going to the threads that expect them.
pub fn with_signals_blocked<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: sigset_t is plain data, and both sets are valid for the calls.
    let old = unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut old: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    };
    let result = f();
    // SAFETY: `old` is the mask that was in force before.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut());
    }
    result
}

/// The effective user of this process, for messages about missing rights.
pub fn effective_uid() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
