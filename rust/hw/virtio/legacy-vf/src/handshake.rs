// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection to the helper: HELLO and OPEN, then requests one at a time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use legacy_vf_proto::{
    client::{Client, LostReason, Received, SendError, Sent},
    limits::MAX_MESSAGE,
    ErrorCode, Event, MessageBuf, Name, Open, OpenReply, Printable, Proof, Reply, Request,
};

use crate::seqpacket::{Socket, Stop, WaitFor, Woken};

/// Which VF to open, and where.
#[derive(Clone, Debug)]
pub struct Target {
    /// The helper's socket.
    pub path: PathBuf,
    /// Member number of the VF, from 1.
    pub member: u16,
    /// Virtio device ID that the VF must have.
    pub virtio_id: u16,
    /// Device Serial Number of the VF, 0 if it has none.
    pub serial: u64,
    /// The VF's VFIO device file, which proves that this process holds it.
    pub proof: Option<Arc<OwnedFd>>,
}

/// Why a connection could not be made, or has ended.
#[derive(Debug)]
pub enum LinkError {
    /// The socket could not be connected.
    Connect(io::Error),
    /// The deadline passed.
    Deadline,
    /// The device goes away.
    Stopped,
    /// The helper closed the connection.
    Closed,
    /// The socket failed.
    Socket(io::Error),
    /// The helper does not keep to the protocol.
    Protocol(LostReason),
    /// This side could not send what it wanted to.
    Send(SendError),
    /// The helper refused HELLO, TOKEN or OPEN.
    Refused {
        /// Why.
        code: ErrorCode,
        /// What it says about it, fit for a log.
        text: String,
    },
}

/// A refused request, other than HELLO and OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// Status of the admin command, with [`ErrorCode::DEVICE`].
    pub admin_status: u16,
    /// Its qualifier.
    pub admin_qualifier: u16,
    /// What the helper says about it, fit for a log.
    pub text: String,
}

/// An open connection.
pub struct Connection {
    socket: Arc<Socket>,
    client: Client,
    opened: OpenReply,
    out: Box<MessageBuf>,
    received: Box<MessageBuf>,
}

/// How this program calls itself.
const NAME: Name = Name::new("qemu virtio-legacy-vf");

impl Connection {
    /// Connects and opens the VF, until `deadline`. `events` gets what the helper tells unasked.
    pub fn open(
        target: &Target,
        stop: &Stop,
        deadline: Instant,
        events: &dyn Fn(Event),
    ) -> Result<Self, LinkError> {
        let proof = target.proof.as_ref().map(|p| p.as_fd());
        let proven = Self::open_with(target, proof, stop, deadline, events);
        match (&proof, &proven) {
            // The kernel does not tell the helper whose file it is. The helper may be told to trust
            // this user without; if not, its first answer has the better text.
            (
                Some(_),
                Err(LinkError::Refused {
                    code: ErrorCode::NOT_SUPPORTED,
                    ..
                }),
            ) => Self::open_with(target, None, stop, deadline, events).or(proven),
            _ => proven,
        }
    }

    fn open_with(
        target: &Target,
        proof: Option<BorrowedFd<'_>>,
        stop: &Stop,
        deadline: Instant,
        events: &dyn Fn(Event),
    ) -> Result<Self, LinkError> {
        let mut greeted = Greeted::connect(&target.path, stop, deadline, events)?;
        let open = Open {
            member: target.member,
            proof: if proof.is_some() {
                Proof::VFIO_FD
            } else {
                Proof::NONE
            },
            virtio_id: target.virtio_id,
            serial: target.serial,
        };
        let io = Io {
            socket: &greeted.socket,
            stop,
            deadline,
            events,
        };
        let opening = greeted
            .client
            .open(open, &mut greeted.out)
            .map_err(LinkError::Send)?;
        io.exchange(
            &mut greeted.client,
            Message(&greeted.out[..], opening, proof),
            &mut greeted.received,
            |r| greeting(&r),
        )??;
        let Some(opened) = greeted.client.open_reply().copied() else {
            return Err(LinkError::Protocol(LostReason::Closed));
        };
        let Greeted {
            socket,
            client,
            out,
            received,
        } = greeted;
        Ok(Self {
            socket,
            client,
            opened,
            out,
            received,
        })
    }

    /// The socket, for notifications and to watch for its end.
    pub const fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// What the helper said about the VF.
    pub const fn opened(&self) -> &OpenReply {
        &self.opened
    }

    /// Sends a request and waits for its reply, which is passed to `f`. After an error the
    /// connection must not be used any more: the reply may still come.
    pub fn request<R>(
        &mut self,
        request: &Request,
        stop: &Stop,
        deadline: Instant,
        events: &dyn Fn(Event),
        f: impl FnOnce(Reply<'_>) -> R,
    ) -> Result<R, LinkError> {
        let io = Io {
            socket: &self.socket,
            stop,
            deadline,
            events,
        };
        let sent = self
            .client
            .request(request, &mut self.out)
            .map_err(LinkError::Send)?;
        io.exchange(
            &mut self.client,
            Message(&self.out[..], sent, None),
            &mut self.received,
            f,
        )
    }
}

/// A connection on which the helper has answered HELLO.
struct Greeted {
    socket: Arc<Socket>,
    client: Client,
    out: Box<MessageBuf>,
    received: Box<MessageBuf>,
}

impl Greeted {
    fn connect(
        path: &Path,
        stop: &Stop,
        deadline: Instant,
        events: &dyn Fn(Event),
    ) -> Result<Self, LinkError> {
        let socket = Arc::new(Socket::connect(path).map_err(LinkError::Connect)?);
        let mut client = Client::new(NAME, 0);
        let mut out = Box::new([0; MAX_MESSAGE]);
        let mut received = Box::new([0; MAX_MESSAGE]);
        let io = Io {
            socket: &socket,
            stop,
            deadline,
            events,
        };
        let hello = client.hello(&mut out).map_err(LinkError::Send)?;
        let message = Message(&out[..], hello, None);
        io.exchange(&mut client, message, &mut received, |r| greeting(&r))??;
        Ok(Self {
            socket,
            client,
            out,
            received,
        })
    }
}

/// Asks the helper for the token with which VF `member` is opened, on a connection of its own:
/// between this and OPEN lies the whole start of VFIO, which may pin all of the guest's memory.
pub fn fetch_token(path: &Path, member: u16, deadline: Instant) -> Result<[u8; 16], LinkError> {
    let stop = Stop::new().map_err(LinkError::Socket)?;
    let mut greeted = Greeted::connect(path, &stop, deadline, &|_| {})?;
    let io = Io {
        socket: &greeted.socket,
        stop: &stop,
        deadline,
        events: &|_| {},
    };
    let asked = greeted
        .client
        .request(&Request::Token { member }, &mut greeted.out)
        .map_err(LinkError::Send)?;
    let message = Message(&greeted.out[..], asked, None);
    io.exchange(
        &mut greeted.client,
        message,
        &mut greeted.received,
        |reply| match reply {
            Reply::Token { uuid } => Ok(uuid),
            Reply::Error(e) => Err(LinkError::Refused {
                code: e.code,
                text: Printable(e.text).to_string(),
            }),
            // The client state machine lets no other reply pass.
            _ => Err(LinkError::Protocol(LostReason::Closed)),
        },
    )?
}

/// A message to send: the buffer, what of it, and a file to attach.
struct Message<'a>(&'a [u8], Sent, Option<BorrowedFd<'a>>);

/// What an exchange needs besides the state of the protocol.
struct Io<'a> {
    socket: &'a Socket,
    stop: &'a Stop,
    deadline: Instant,
    events: &'a dyn Fn(Event),
}

impl Io<'_> {
    fn wait(&self, what: WaitFor) -> Result<(), LinkError> {
        match self.socket.wait(what, self.stop, Some(self.deadline)) {
            Ok(Woken::Ready) => Ok(()),
            Ok(Woken::Deadline) => Err(LinkError::Deadline),
            Ok(Woken::Stopped) => Err(LinkError::Stopped),
            Err(e) => Err(LinkError::Socket(e)),
        }
    }

    fn send(&self, message: &[u8], attach: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        loop {
            match self.socket.send(message, attach) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(WaitFor::Room)?,
                Err(e) if is_hang_up(&e) => return Err(LinkError::Closed),
                Err(e) => return Err(LinkError::Socket(e)),
            }
        }
    }

    fn exchange<R>(
        &self,
        client: &mut Client,
        Message(out, sent, attach): Message<'_>,
        buf: &mut MessageBuf,
        f: impl FnOnce(Reply<'_>) -> R,
    ) -> Result<R, LinkError> {
        self.send(out.get(..sent.len).unwrap_or_default(), attach)?;
        loop {
            let len = match self.socket.receive(buf) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(WaitFor::Message)?;
                    continue;
                }
                Err(e) if is_hang_up(&e) => return Err(LinkError::Closed),
                Err(e) => return Err(LinkError::Socket(e)),
            };
            match client.receive(buf.get(..len).unwrap_or_default()) {
                Received::Reply { seq: got, reply } if got == sent.seq => return Ok(f(reply)),
                Received::Event(event) => (self.events)(event),
                Received::Reply { .. } | Received::Stale { .. } => {}
                Received::Lost(LostReason::Closed) => return Err(LinkError::Closed),
                Received::Lost(reason) => return Err(LinkError::Protocol(reason)),
            }
            // A peer that sends without end must not keep this loop beyond the deadline.
            if Instant::now() >= self.deadline {
                return Err(LinkError::Deadline);
            }
        }
    }
}

/// The reply to HELLO or OPEN: only whether it was refused.
fn greeting(reply: &Reply<'_>) -> Result<(), LinkError> {
    match reply {
        Reply::Error(e) => Err(LinkError::Refused {
            code: e.code,
            text: Printable(e.text).to_string(),
        }),
        _ => Ok(()),
    }
}

/// Whether the other end is gone, as opposed to something being wrong.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionAborted
    )
}
