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
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    time::{Duration, Instant},
};

use pci::is_vcpu_waited_for;

/// A connected socket. Messages are sent and received whole.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// One wait between two looks at who waits.
const SLICE: Duration = Duration::from_millis(5);
/// Slices of grace, in a row.
const GRACE: u32 = 10;
/// A grace under the big QEMU lock is not given again within this time, so that a reset of many
/// devices costs one.
const PAUSE: Duration = Duration::from_secs(1);

/// When the last grace under the big QEMU lock ran out.
static RAN_OUT: Mutex<Option<Instant>> = Mutex::new(None);

fn ran_out() -> MutexGuard<'static, Option<Instant>> {
    RAN_OUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who waits.
#[derive(Clone, Copy)]
pub enum Who<'a> {
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
    /// The device goes away.
    Stopped,
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
    /// Of anybody else.
    pub fn new(stop: &'a EventFd, limit: Duration, who: Who<'a>) -> Self {
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

    /// With the big QEMU lock held.
    pub fn locked(stop: &'a EventFd) -> Self {
        let mut patience = Self::new(stop, SLICE * (GRACE + 1), Who::Locked);
        if ran_out().is_some_and(|at| at.elapsed() < PAUSE) {
            patience.grace = 0;
        }
        patience
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
            *ran_out() = Some(Instant::now());
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
fn check<T: Default + PartialOrd>(result: T) -> io::Result<T> {
    if result < T::default() {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
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

    /// Sends one message, with a file descriptor attached if given; waits for room.
    pub fn send(
        &self,
        message: &[u8],
        attach: Option<BorrowedFd<'_>>,
        patience: &mut Patience<'_>,
    ) -> io::Result<Result<(), Over>> {
        self.retry(libc::POLLOUT, patience, || self.try_send(message, attach))
    }

    fn try_send(&self, message: &[u8], attach: Option<BorrowedFd<'_>>) -> io::Result<()> {
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
        // SAFETY: `msg` points to memory that outlives the call, which does not change it. A socket
        // of this kind takes all of a message or nothing.
        check(unsafe { libc::sendmsg(self.raw(), &msg, flags) }).map(drop)
    }

    /// Waits for a message, receives it into `buf` and gives its length; 0 is the end of the
    /// connection. A message longer than `buf` is an error. Attached descriptors are closed by the
    /// kernel.
    pub fn receive(
        &self,
        buf: &mut [u8],
        patience: &mut Patience<'_>,
    ) -> io::Result<Result<usize, Over>> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        self.retry(libc::POLLIN, patience, || {
            // SAFETY: `buf` is writable for the length given.
            let got = check(unsafe {
                libc::recv(self.raw(), buf.as_mut_ptr().cast(), buf.len(), flags)
            })?
            .unsigned_abs();
            let whole = (got <= buf.len()).then_some(got);
            whole.ok_or_else(|| io::ErrorKind::InvalidData.into())
        })
    }

    /// Does something with the socket, as often as it takes with waits between.
    fn retry<T>(
        &self,
        events: libc::c_short,
        patience: &mut Patience<'_>,
        mut f: impl FnMut() -> io::Result<T>,
    ) -> io::Result<Result<T, Over>> {
        loop {
            match f() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(over) = self.wait(events, patience)? {
                        return Ok(Err(over));
                    }
                }
                result => return result.map(Ok),
            }
        }
    }

    /// Ends the connection for every thread that uses it.
    pub fn shut_down(&self) {
        // SAFETY: no pointers are involved. It fails only if the peer is gone already.
        let _already_gone = unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }

    /// Waits until the socket is ready, the device goes away, or patience is over.
    fn wait(
        &self,
        events: libc::c_short,
        patience: &mut Patience<'_>,
    ) -> io::Result<Result<(), Over>> {
        let mut fds = [
            poll_fd(self.raw(), events),
            poll_fd(patience.stop.0.as_raw_fd(), libc::POLLIN),
        ];
        loop {
            // A message that is there already counts, however little patience is left.
            let slice = patience.slice();
            poll(&mut fds, Some(slice.unwrap_or_default()))?;
            match fds.map(|fd| fd.revents != 0) {
                [_, true] => return Ok(Err(Over::Stopped)),
                [true, _] => return Ok(Ok(())),
                _ => {}
            }
            if let Err(over) = slice {
                return Ok(Err(over));
            }
            patience.look();
        }
    }

    /// Waits until the connection ends, `stop` is signalled or `wake` is: which of the three.
    pub fn wait_end(&self, stop: &EventFd, wake: &EventFd) -> io::Result<[bool; 3]> {
        let mut fds = [
            poll_fd(self.raw(), libc::POLLRDHUP),
            poll_fd(stop.0.as_raw_fd(), libc::POLLIN),
            poll_fd(wake.0.as_raw_fd(), libc::POLLIN),
        ];
        while poll(&mut fds, None)? == 0 {}
        Ok(fds.map(|fd| fd.revents != 0))
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
        let _zero =
            unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        u64::from_ne_bytes(count)
    }

    /// Waits until it is signalled (true) or the time is over (false), or earlier for no reason. The
    /// count stays.
    pub fn wait(&self, time: Duration) -> bool {
        let mut fds = [poll_fd(self.0.as_raw_fd(), libc::POLLIN)];
        !matches!(poll(&mut fds, Some(time)), Ok(0))
    }

    /// The descriptor, to be watched.
    pub const fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.0
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

/// Blocks every signal in this thread, so that QEMU's go to the threads that expect them.
pub fn block_signals() {
    // SAFETY: sigset_t is plain data, and the set is valid for the calls.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
    }
}

/// The effective user of this process, for messages about missing rights.
pub fn effective_uid() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
