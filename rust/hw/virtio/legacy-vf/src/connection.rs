// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection to the helper: HELLO and OPEN, then requests one at a time.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use legacy_vf_proto::{
    client::{Client, LostReason, Received, SendError},
    limits::MAX_MESSAGE,
    ErrorCode, Event, MessageBuf, Name, Open, OpenReply, Printable, Proof, Reply, Request,
};
use legacy_window::{Command, CommandKind};
use virtio_pci_spec::legacy::Register;

use crate::socket::{EventFd, Over, Patience, Socket, Who};

/// Which VF to open, and where.
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
    pub proof: Option<OwnedFd>,
    /// Gets events of the helper.
    pub events: Events,
}

/// Why a connection could not be made, or has ended.
#[derive(Debug)]
pub enum LinkError {
    /// The socket could not be connected.
    Connect(io::Error),
    /// The deadline passed.
    Deadline,
    /// Somebody waits for the one who waits; the connection is as good as before.
    GivenUp,
    /// The device goes away.
    Stopped,
    /// The helper closed the connection.
    Closed,
    /// The socket failed.
    Socket(io::Error),
    /// The helper does not keep to the protocol.
    Protocol(LostReason),
    /// The helper refused HELLO, TOKEN or OPEN.
    Refused(Refusal),
}

/// A refused request.
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

/// How this program calls itself.
const NAME: Name = Name::new("qemu virtio-legacy-vf");

impl Refusal {
    fn of(e: &legacy_vf_proto::ErrorReply<'_>) -> Self {
        Self {
            code: e.code,
            admin_status: e.admin_status,
            admin_qualifier: e.admin_qualifier,
            text: Printable(e.text).to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.code == ErrorCode::DEVICE {
            let (status, qualifier) = (self.admin_status, self.admin_qualifier);
            write!(f, " (status {status}, qualifier {qualifier})")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Gets what the helper tells unasked.
pub type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// A connection on which the helper has answered HELLO.
pub struct Connection {
    /// The socket, for notifications and to watch for its end.
    pub socket: Arc<Socket>,
    client: Client,
    events: Events,
    out: Box<MessageBuf>,
    received: Box<MessageBuf>,
}

impl Connection {
    /// Connects and opens the VF. Also what the helper says about the VF.
    pub fn open(
        target: &Target,
        patience: &mut Patience<'_>,
    ) -> Result<(Self, OpenReply), LinkError> {
        let proof = target.proof.as_ref().map(|p| p.as_fd());
        let proven = Self::open_with(target, proof, patience);
        match (&proof, &proven) {
            // The kernel does not tell the helper whose file it is. The helper may be told to trust
            // this user without; if not, its first answer has the better text.
            (Some(_), Err(LinkError::Refused(why))) if why.code == ErrorCode::NOT_SUPPORTED => {
                Self::open_with(target, None, patience).or(proven)
            }
            _ => proven,
        }
    }

    fn open_with(
        target: &Target,
        proof: Option<BorrowedFd<'_>>,
        patience: &mut Patience<'_>,
    ) -> Result<(Self, OpenReply), LinkError> {
        let mut connection = Self::connect(&target.path, target.events.clone(), patience)?;
        let open = Request::Open(Open {
            member: target.member,
            proof: proof.map_or(Proof::NONE, |_| Proof::VFIO_FD),
            virtio_id: target.virtio_id,
            serial: target.serial,
        });
        let opened = connection.exchange(&open, proof, patience, |reply| match reply {
            Reply::Open(opened) => Ok(opened),
            other => Err(refused(other)),
        })??;
        Ok((connection, opened))
    }

    fn connect(
        path: &Path,
        events: Events,
        patience: &mut Patience<'_>,
    ) -> Result<Self, LinkError> {
        let mut connection = Self {
            socket: Arc::new(Socket::connect(path).map_err(LinkError::Connect)?),
            client: Client::new(NAME, 0),
            events,
            out: Box::new([0; MAX_MESSAGE]),
            received: Box::new([0; MAX_MESSAGE]),
        };
        let hello = connection.client.hello();
        connection.exchange(&hello, None, patience, |reply| match reply {
            Reply::Hello(_) => Ok(()),
            other => Err(refused(other)),
        })??;
        Ok(connection)
    }

    /// Whether requests were given up whose replies are still to come.
    pub fn is_behind(&self) -> bool {
        self.client.owed() > 0
    }

    /// Has a command carried out and waits for the reply: the bytes read, or zeroes. After an error
    /// other than [`LinkError::GivenUp`] the connection must not be used any more.
    pub fn command(
        &mut self,
        command: &Command,
        patience: &mut Patience<'_>,
    ) -> Result<Result<[u8; 8], Refusal>, LinkError> {
        let (space, offset, len) = (command.space, command.offset, command.len);
        let request = match command.kind {
            CommandKind::Read => Request::Read { space, offset, len },
            CommandKind::Write(data) => Request::Write {
                space,
                offset,
                len,
                data,
            },
        };
        self.exchange(&request, None, patience, |reply| match reply {
            Reply::Read { data } => Ok(data),
            Reply::Error(e) => Err(Refusal::of(&e)),
            _ => Ok([0; 8]),
        })
    }

    /// Reads the device status of the VF, or writes it; `None` if the device or the helper refuses.
    pub fn status(
        &mut self,
        write: Option<u8>,
        patience: &mut Patience<'_>,
    ) -> Result<Option<u8>, LinkError> {
        let command = Command::register(Register::DeviceStatus, write.map(u64::from));
        let done = self.command(&command, patience)?;
        Ok(done.ok().map(|[status, ..]| status))
    }

    fn exchange<R>(
        &mut self,
        request: &Request,
        attach: Option<BorrowedFd<'_>>,
        patience: &mut Patience<'_>,
        f: impl FnOnce(Reply<'_>) -> R,
    ) -> Result<R, LinkError> {
        let len = loop {
            match self.client.request(request, &mut self.out) {
                Ok(len) => break len,
                // As many replies are owed as the helper queues requests: one must come first.
                Err(SendError::TooMany) => {
                    self.receive(patience, |_| ())?;
                }
                Err(SendError::Busy | SendError::State(_)) => return Err(LinkError::Closed),
            }
        };
        let message = self.out.get(..len).unwrap_or_default();
        match self
            .socket
            .send(message, attach, patience)
            .map_err(broken)?
        {
            // What was not sent cannot be answered late.
            Err(Over::GivenUp) => return Err(LinkError::Deadline),
            sent => sent?,
        }
        let mut f = Some(f);
        loop {
            match self.receive(patience, |reply| f.take().map(|f| f(reply))) {
                Ok(Some(Some(result))) => return Ok(result),
                Ok(_) => {}
                Err(error) => {
                    if matches!(error, LinkError::GivenUp) {
                        self.client.abandon();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Waits for a message. A reply is passed to `f`; what came was something else if the result is
    /// `None`.
    fn receive<R>(
        &mut self,
        patience: &mut Patience<'_>,
        f: impl FnOnce(Reply<'_>) -> R,
    ) -> Result<Option<R>, LinkError> {
        let received = self.socket.receive(&mut self.received[..], patience);
        let len = received.map_err(broken)??;
        let message = self.received.get(..len).unwrap_or_default();
        match self.client.receive(message) {
            Received::Reply(reply) => return Ok(Some(f(reply))),
            Received::Event(event) => (self.events)(event),
            Received::Stale => {}
            Received::Lost(LostReason::Closed) => return Err(LinkError::Closed),
            Received::Lost(reason) => return Err(LinkError::Protocol(reason)),
        }
        // A peer that sends without end must not keep this side beyond its patience.
        patience.look();
        patience.slice()?;
        Ok(None)
    }
}

impl From<Over> for LinkError {
    fn from(over: Over) -> Self {
        match over {
            Over::Deadline => Self::Deadline,
            Over::GivenUp => Self::GivenUp,
            Over::Stopped => Self::Stopped,
        }
    }
}

/// Asks the helper for the token with which VF `member` is opened, on a connection of its own:
/// between this and OPEN lies the whole start of VFIO, which may pin all of the guest's memory.
pub fn fetch_token(path: &Path, member: u16, limit: Duration) -> Result<[u8; 16], LinkError> {
    let stop = EventFd::new().map_err(LinkError::Socket)?;
    let patience = &mut Patience::new(&stop, limit, Who::User);
    let mut connection = Connection::connect(path, Arc::new(|_| {}), patience)?;
    let request = Request::Token { member };
    connection.exchange(&request, None, patience, |reply| match reply {
        Reply::Token { uuid } => Ok(uuid),
        other => Err(refused(other)),
    })?
}

/// A reply other than that to the request. The client state machine lets only refusals pass.
fn refused(reply: Reply<'_>) -> LinkError {
    match reply {
        Reply::Error(e) => LinkError::Refused(Refusal::of(&e)),
        _ => LinkError::Protocol(LostReason::Closed),
    }
}

/// Whether the other end is gone, as opposed to something being wrong.
fn broken(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected
        | io::ErrorKind::ConnectionAborted => LinkError::Closed,
        _ => LinkError::Socket(error),
    }
}
