// SPDX-License-Identifier: GPL-2.0-or-later
//! One vfio-user connection: whole messages in, whole messages out, never without a deadline.
//!
//! After anything that leaves the byte stream in doubt (end of file, a broken message, a reply to
//! nothing, a deadline in the middle) the connection is dead and every call fails at once.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    connect, recvmsg, sendmsg, shutdown, socket_with, AddressFamily, RecvAncillaryBuffer,
    RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use vfio_user_wire::{errno, Header, Limits, RegionAccess, Reply, Request, WireError, HEADER_LEN};

use super::later::{Came, Later};
use crate::error::{Cause, Error, Place};

/// File descriptors that one received message may carry; the kernel closes surplus ones.
pub(super) const MAX_FDS: usize = 16;
/// A peer may keep its user waiting for no more than half of the time, averaged over this many
/// request timeouts; each reply alone may come just in time.
const PATIENCE: u32 = 3;
/// Pause between attempts to connect.
const CONNECT_RETRY: Duration = Duration::from_millis(10);

/// A connection to a vfio-user server.
pub(super) struct Connection {
    id: Arc<str>,
    socket: OwnedFd,
    limits: Limits,
    request_timeout: Duration,
    /// Time waited for replies beyond half of the time that passed.
    waited: Duration,
    /// When `waited` was brought up to date.
    waited_at: Instant,
    /// No call waits beyond this.
    until: Option<Instant>,
    next_id: u16,
    /// The read that is under way without anybody waiting for it, and what came of it.
    later: Option<Later>,
    came: Option<Came>,
    dead: Option<Cause>,
    out: Vec<u8>,
    payload: Vec<u8>,
}

/// A reply: the payload stays in the connection's buffer.
struct Received {
    header: Header,
    fds: Vec<OwnedFd>,
}

fn remaining(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: d.as_secs().min(86_400) as i64,
        tv_nsec: d.subsec_nanos().into(),
    }
}

impl Connection {
    /// Connects, trying again until `timeout` while nobody listens (or, with `wait`, while the
    /// socket does not exist).
    pub(super) fn connect(
        path: &Path,
        timeout: Duration,
        request_timeout: Duration,
        wait: bool,
        limits: Limits,
    ) -> Result<Self, Error> {
        let id: Arc<str> = path.display().to_string().into();
        let err = |errno| Error::new(id.clone(), Place::Function, Cause::Connect(errno));
        let address = SocketAddrUnix::new(path).map_err(err)?;
        let deadline = Instant::now() + timeout;
        loop {
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )
            .map_err(err)?;
            match connect(&socket, &address) {
                Ok(()) => {
                    return Ok(Connection {
                        id,
                        socket,
                        limits,
                        request_timeout,
                        waited: Duration::ZERO,
                        waited_at: Instant::now(),
                        until: None,
                        next_id: 1,
                        later: None,
                        came: None,
                        dead: None,
                        out: Vec::new(),
                        payload: Vec::new(),
                    })
                }
                // Backlog full, no listener yet, no socket yet.
                Err(e @ (Errno::AGAIN | Errno::CONNREFUSED | Errno::INTR))
                | Err(e @ Errno::NOENT)
                    if e != Errno::NOENT || wait =>
                {
                    let Some(left) = remaining(deadline) else {
                        return Err(err(e));
                    };
                    std::thread::sleep(left.min(CONNECT_RETRY));
                }
                Err(e) => return Err(err(e)),
            }
        }
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn set_max_transfer(&mut self, bytes: u32) {
        self.limits.max_transfer = bytes;
    }

    /// No call waits beyond `until`; `None`: for the request timeout.
    pub(super) fn hurry(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn deadline(&self, begun: Instant) -> Instant {
        let usual = begun + self.request_timeout;
        self.until.map_or(usual, |until| until.min(usual))
    }

    fn error(&self, place: &Place, cause: Cause) -> Error {
        Error::new(self.id.clone(), place.clone(), cause)
    }

    fn check_alive(&self, place: &Place) -> Result<(), Error> {
        match &self.dead {
            None => Ok(()),
            Some(cause) => Err(self.error(place, Cause::Dead(Box::new(cause.clone())))),
        }
    }

    /// Ends the connection for ever because of `cause`.
    fn kill(&mut self, place: &Place, cause: Cause) -> Error {
        if self.dead.is_none() {
            tracing::error!(function = %self.id, %place, %cause, "vfio-user connection lost");
            self.dead = Some(cause.clone());
            // The peer learns of it too; an error means that it knows already.
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
        self.error(place, cause)
    }

    fn wire(&mut self, place: &Place, e: &WireError) -> Error {
        self.kill(place, Cause::Protocol(e.to_string()))
    }

    /// Sends a command that wants no reply.
    pub(super) fn post(&mut self, place: &Place, request: &Request<'_>) -> Result<(), Error> {
        self.check_alive(place)?;
        let id = self.take_id();
        let deadline = self.deadline(Instant::now());
        let mut out = std::mem::take(&mut self.out);
        request.encode(id, true, &mut out);
        let sent = self.send(&out, &[], deadline);
        self.out = out;
        sent.map_err(|cause| self.kill(place, cause))
    }

    /// Sends a command with file descriptors and hands its reply, with those that came beside it,
    /// to `take`. An error reply is [`Cause::Refused`]; anything that is not the reply to this
    /// command ends the connection.
    pub(super) fn call<T>(
        &mut self,
        place: &Place,
        request: &Request<'_>,
        fds: &[BorrowedFd<'_>],
        take: impl FnOnce(Reply<'_>, Vec<OwnedFd>) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        self.check_alive(place)?;
        let id = self.take_id();
        let begun = Instant::now();
        let deadline = self.deadline(begun);
        let mut out = std::mem::take(&mut self.out);
        request.encode(id, false, &mut out);
        let sent = self.send(&out, fds, deadline);
        self.out = out;
        sent.map_err(|cause| self.kill(place, cause))?;
        let command = request.command();
        let received = loop {
            // A server that keeps asking must not keep this call from ending.
            if remaining(deadline).is_none() {
                return Err(self.kill(place, self.timed_out("reply")));
            }
            let received = self
                .receive(deadline)
                .map_err(|cause| self.kill(place, cause))?;
            if self
                .take_later(&received.header)
                .map_err(|cause| self.kill(place, cause))?
            {
                continue;
            }
            if received.header.is_reply() {
                break received;
            }
            self.refuse(&received.header, deadline)
                .map_err(|cause| self.kill(place, cause))?;
        };
        self.check_patience(begun)
            .map_err(|cause| self.kill(place, cause))?;
        let header = received.header;
        if header.id != id || header.command != command {
            let text = format!(
                "reply {} to {} instead of {id} to {command}",
                header.id, header.command
            );
            return Err(self.kill(place, Cause::Protocol(text)));
        }
        let payload = std::mem::take(&mut self.payload);
        let result = match Reply::decode(&header, &payload, &self.limits) {
            Ok(Reply::Error(number)) => Err(self.error(place, Cause::refused(number))),
            Ok(reply) => take(reply, received.fds).map_err(|cause| match cause {
                Cause::Protocol(_) => self.kill(place, cause),
                other => self.error(place, other),
            }),
            Err(e) => Err(self.wire(place, &e)),
        };
        self.payload = payload;
        result
    }

    /// Sends a read whose reply [`Connection::service`] gives. If one is under way, that is the one.
    pub(super) fn read_later(&mut self, place: Place, access: RegionAccess) -> Result<(), Error> {
        self.check_alive(&place)?;
        self.came = None;
        if self.later.is_some() {
            return Ok(());
        }
        let id = self.take_id();
        let deadline = self.deadline(Instant::now());
        let mut out = std::mem::take(&mut self.out);
        Request::RegionRead(access).encode(id, false, &mut out);
        let sent = self.send(&out, &[], deadline);
        self.out = out;
        sent.map_err(|cause| self.kill(&place, cause))?;
        self.later = Some(Later { id, place, access });
        Ok(())
    }

    /// Whether what was received is the reply to the read that nobody waits for.
    fn take_later(&mut self, header: &Header) -> Result<bool, Cause> {
        let ours = |later: &mut Later| header.is_reply() && later.id == header.id;
        let Some(later) = self.later.take_if(ours) else {
            return Ok(false);
        };
        self.came = Some(later.take(&self.id, header, &self.payload, &self.limits)?);
        Ok(true)
    }

    /// Looks, without waiting, whether the peer went away or said something unasked, or answered the
    /// read of [`Connection::read_later`].
    pub(super) fn service(&mut self) -> Result<Option<Came>, Error> {
        let place = Place::Function;
        self.check_alive(&place)?;
        // It may have come before the reply to a call.
        if let Some(came) = self.came.take() {
            return Ok(Some(came));
        }
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let zero = timespec(Duration::ZERO);
        match poll(&mut fds, Some(&zero)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => {
                let call = "poll";
                return Err(self.kill(&place, Cause::Os { call, errno }));
            }
        }
        let deadline = self.deadline(Instant::now());
        let received = self
            .receive(deadline)
            .map_err(|cause| self.kill(&place, cause))?;
        if self
            .take_later(&received.header)
            .map_err(|cause| self.kill(&place, cause))?
        {
            return Ok(self.came.take());
        }
        if received.header.is_reply() {
            let text = format!("reply {} to nothing", received.header.id);
            return Err(self.kill(&place, Cause::Protocol(text)));
        }
        self.refuse(&received.header, deadline)
            .map_err(|cause| self.kill(&place, cause))?;
        Ok(None)
    }

    /// Answers a command of the server: this client offers none.
    fn refuse(&mut self, header: &Header, deadline: Instant) -> Result<(), Cause> {
        tracing::debug!(function = %self.id, command = %header.command, "server command refused");
        if header.no_reply() {
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.out);
        Reply::Error(errno::EOPNOTSUPP).encode(header, 0, &mut out);
        let sent = self.send(&out, &[], deadline);
        self.out = out;
        sent
    }

    fn take_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Adds the wait since `begun` to the account; an error if the peer used up its credit.
    fn check_patience(&mut self, begun: Instant) -> Result<(), Cause> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.waited_at);
        self.waited_at = now;
        self.waited = self.waited.saturating_sub(passed / 2) + (now - begun);
        if self.waited > self.request_timeout * PATIENCE {
            return Err(self.timed_out("prompt replies"));
        }
        Ok(())
    }

    fn timed_out(&self, what: &'static str) -> Cause {
        Cause::TimedOut {
            what,
            after: self.request_timeout,
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant, what: &'static str) -> Result<(), Cause> {
        loop {
            let Some(left) = remaining(deadline) else {
                return Err(self.timed_out(what));
            };
            let mut fds = [PollFd::new(&self.socket, flags)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => {
                    return Err(Cause::Os {
                        call: "poll",
                        errno,
                    })
                }
            }
        }
    }

    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), Cause> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut done = 0;
        while let Some(rest) = message.get(done..).filter(|rest| !rest.is_empty()) {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if done == 0 && !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds))
            {
                return Err(Cause::NotSupported("that many file descriptors at once"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut ancillary, flags) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline, "room to send")?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Cause::PeerClosed),
                Err(errno) => {
                    let call = "sendmsg";
                    return Err(Cause::Os { call, errno });
                }
            }
        }
        Ok(())
    }

    /// Receives one message; its payload is then in `self.payload`.
    fn receive(&mut self, deadline: Instant) -> Result<Received, Cause> {
        let mut head = [0; HEADER_LEN];
        let mut fds = Vec::new();
        self.fill(&mut head, &mut fds, deadline, "reply")?;
        let header =
            Header::decode(&head, &self.limits).map_err(|e| Cause::Protocol(e.to_string()))?;
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        // The limits cap this; it is not the peer's to choose.
        payload.resize(header.payload_len(), 0);
        let filled = self.fill(&mut payload, &mut fds, deadline, "rest of a message");
        self.payload = payload;
        filled?;
        Ok(Received { header, fds })
    }

    fn fill(
        &self,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
        what: &'static str,
    ) -> Result<(), Cause> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut done = 0;
        while done < buf.len() {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let Some(rest) = buf.get_mut(done..) else {
                break;
            };
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(rest)],
                &mut ancillary,
                flags,
            );
            match got {
                Ok(message) => {
                    for item in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = item {
                            let room = MAX_FDS.saturating_sub(fds.len());
                            fds.extend(rights.take(room));
                        }
                    }
                    if message.bytes == 0 {
                        return Err(Cause::PeerClosed);
                    }
                    done += message.bytes;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline, what)?,
                Err(Errno::CONNRESET) => return Err(Cause::PeerClosed),
                Err(errno) => {
                    let call = "recvmsg";
                    return Err(Cause::Os { call, errno });
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
