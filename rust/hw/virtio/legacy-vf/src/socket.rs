// SPDX-License-Identifier: GPL-2.0-or-later

//! A non-blocking `SOCK_SEQPACKET` Unix socket, an event counter, and the waiting for both; the
//! standard library has stream and datagram sockets only.
//!
//! Nothing here blocks but the waits, which end with patience or when the device goes away.
//!
//! A vCPU inside a register access waits up to the deadline of the device, unless somebody waits
//! for that vCPU: the machine stops, is reset or ends, or memory is to be freed. Then, after a
//! grace that a living helper never needs, the access is given up. The grace is counted in slices
//! of waiting, not by the clock: a machine that stands still for a while uses up one of them.

use std::{
    ffi::c_int,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc, Mutex,
    },
    time::{Duration, Instant},
};

use pci::is_vcpu_waited_for;

use crate::lock::lock;

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

/// Why waiting for a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The socket is ready.
    Ready,
    /// The device goes away.
    Stopped,
    /// Patience is over.
    Over(Over),
}

/// Why waiting for the end of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The connection has ended.
    Hangup,
    /// There is something to do.
    Woken,
    /// The device goes away.
    Stopped,
}

/// One wait between two looks at who waits.
const SLICE: Duration = Duration::from_millis(5);
/// Slices of grace, in a row.
const GRACE: u32 = 10;
/// A grace under the big QEMU lock is not given again within this time, so that a reset of many
/// devices costs one.
const PAUSE: Duration = Duration::from_secs(1);

/// When the last grace under the big QEMU lock ran out.
static RAN_OUT: Mutex<Option<Instant>> = Mutex::new(None);

/// Who waits.
#[derive(Clone, Copy)]
enum Who<'a> {
    /// A guest's access.
    Vcpu,
    /// The link's thread, which steps back for those who wait for what it has locked.
    Thread(&'a AtomicUsize),
    /// The main loop, or a vCPU with the big QEMU lock: no longer than the grace.
    Locked,
    /// The user, who adds the device.
    User,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The deadline has passed.
    Deadline,
    /// Somebody cannot wait any longer.
    GivenUp,
}

/// What is left of a wait, over all that is waited for in one access.
pub struct Patience<'a> {
    deadline: Instant,
    who: Who<'a>,
    grace: u32,
    looked: Instant,
    /// Signalled when the device goes away.
    stop: &'a EventFd,
}

impl<'a> Patience<'a> {
    fn new(stop: &'a EventFd, limit: Duration, who: Who<'a>) -> Self {
        Self {
            deadline: Instant::now() + limit,
            who,
            grace: GRACE,
            looked: Instant::now(),
            stop,
        }
    }

    /// Of an access of the guest. `behind`: an access of before was given up and is not answered
    /// yet, so that there is no grace left.
    pub fn of_vcpu(stop: &'a EventFd, limit: Duration, behind: bool) -> Self {
        let mut patience = Self::new(stop, limit, Who::Vcpu);
        if behind {
            patience.grace = 0;
        }
        patience
    }

    /// Of the link's thread; `others` counts those who want what it holds.
    pub fn of_thread(stop: &'a EventFd, limit: Duration, others: &'a AtomicUsize) -> Self {
        Self::new(stop, limit, Who::Thread(others))
    }

    /// With the big QEMU lock held.
    pub fn locked(stop: &'a EventFd) -> Self {
        let mut patience = Self::new(stop, SLICE * (GRACE + 1), Who::Locked);
        let ran_out = *lock(&RAN_OUT);
        if ran_out.is_some_and(|at| at.elapsed() < PAUSE) {
            patience.grace = 0;
        }
        patience
    }

    /// Of the user who adds the device.
    pub fn of_user(stop: &'a EventFd, limit: Duration) -> Self {
        Self::new(stop, limit, Who::User)
    }

    /// The longest wait until [`look`](Self::look) is to be called; none if the wait is over.
    pub fn slice(&self) -> Result<Duration, Over> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if self.grace == 0 && self.is_pressed() {
            return Err(self.give_up());
        }
        if left.is_zero() {
            return Err(match self.who {
                Who::Locked => self.give_up(),
                _ => Over::Deadline,
            });
        }
        Ok(match self.who {
            Who::User => left,
            _ => left.min(SLICE),
        })
    }

    /// What is waited for has not come yet. Counts once in a slice, so that a peer cannot hurry it, nor
    /// delay it by saying something else.
    pub fn look(&mut self) {
        if self.looked.elapsed() < SLICE {
            return;
        }
        self.looked = Instant::now();
        if self.is_pressed() {
            self.grace = self.grace.saturating_sub(1);
        } else if self.grace != 0 {
            self.grace = GRACE;
        }
    }

    fn give_up(&self) -> Over {
        if matches!(self.who, Who::Locked) {
            *lock(&RAN_OUT) = Some(Instant::now());
        }
        Over::GivenUp
    }

    /// Whether somebody waits for the one who waits.
    fn is_pressed(&self) -> bool {
        match self.who {
            Who::Vcpu => is_vcpu_waited_for(),
            Who::Thread(others) => others.load(Ordering::Acquire) > 0,
            Who::Locked => true,
            Who::User => false,
        }
    }
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

    /// Waits until the socket is ready, the device goes away, or patience is over.
    pub fn wait(&self, what: WaitFor, patience: &mut Patience<'_>) -> io::Result<Woken> {
        let events = match what {
            WaitFor::Message => libc::POLLIN,
            WaitFor::Room => libc::POLLOUT,
        };
        let mut fds = [
            poll_fd(self.raw(), events),
            poll_fd(patience.stop.0.as_raw_fd(), libc::POLLIN),
        ];
        loop {
            // A message that is there already counts, however little patience is left.
            let (time, over) = match patience.slice() {
                Ok(time) => (time, None),
                Err(over) => (Duration::ZERO, Some(over)),
            };
            poll(&mut fds, Some(time))?;
            match &fds {
                [_, stopped] if stopped.revents != 0 => return Ok(Woken::Stopped),
                [socket, _] if socket.revents != 0 => return Ok(Woken::Ready),
                _ => {}
            }
            if let Some(over) = over {
                return Ok(Woken::Over(over));
            }
            patience.look();
        }
    }

    /// Waits until the connection ends, `wake` is signalled or `stop` is.
    pub fn wait_end(&self, stop: &EventFd, wake: &EventFd) -> io::Result<Ended> {
        let mut fds = [
            poll_fd(self.raw(), libc::POLLRDHUP),
            poll_fd(stop.0.as_raw_fd(), libc::POLLIN),
            poll_fd(wake.0.as_raw_fd(), libc::POLLIN),
        ];
        loop {
            poll(&mut fds, None)?;
            let [socket, stopped, woken] = fds.map(|fd| fd.revents != 0);
            if stopped || socket || woken {
                return Ok(match (stopped, socket) {
                    (true, _) => Ended::Stopped,
                    (_, true) => Ended::Hangup,
                    _ => Ended::Woken,
                });
            }
        }
    }
}

/// A counter that is readable while it is not zero. Nothing here blocks.
#[derive(Debug)]
pub struct EventFd(Arc<OwnedFd>);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
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

    /// Waits until it is signalled (true) or the time is over (false). The count stays.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut fds = [poll_fd(self.0.as_raw_fd(), libc::POLLIN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, Some(left)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) => {}
                Ok(_) | Err(_) => return true,
            }
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

fn poll_fd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// How many of `fds` are ready; 0 at the end of `time`, or before it for no reason.
fn poll(fds: &mut [libc::pollfd], time: Option<Duration>) -> io::Result<c_int> {
    // Rounded up, so that nobody spins through the last millisecond.
    let timeout = time.map_or(-1, |t| {
        c_int::try_from(t.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
    });
    // SAFETY: the array is valid for its length.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        ready => ready,
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
