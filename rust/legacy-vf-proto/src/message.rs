// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Requests, replies and events: as values, and to bytes and back as far as a client needs it.

use virtio_pci_spec::bytes::le_bytes;
pub use virtio_pci_spec::legacy::Space;

use crate::error::{ErrorCode, Reason};
use crate::layout::{exact, field, flags, layout, Field, Header};
use crate::limits::{MAX_PAYLOAD, MAX_TEXT, NAME_LEN};
use crate::numbers::numbers;
use crate::text::Name;

/// Message types of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MessageType {
    /// Versions, limits, names; first on every connection.
    Hello = 1,
    /// Binds the connection to one VF.
    Open = 2,
    /// The VF token that QEMU needs to open the VF.
    Token = 3,
    /// Reads legacy registers.
    Read = 4,
    /// Writes legacy registers.
    Write = 5,
    /// Notifies a queue.
    Notify = 6,
    /// Information for people and tools, as JSON.
    Query = 7,
    /// From the helper, unasked.
    Event = 8,
}

/// Every type with its name in the protocol description, ascending.
const TYPES: [(MessageType, &str); 8] = [
    (MessageType::Hello, "HELLO"),
    (MessageType::Open, "OPEN"),
    (MessageType::Token, "TOKEN"),
    (MessageType::Read, "READ"),
    (MessageType::Write, "WRITE"),
    (MessageType::Notify, "NOTIFY"),
    (MessageType::Query, "QUERY"),
    (MessageType::Event, "EVENT"),
];

impl MessageType {
    /// The type with this number.
    pub fn from_u16(kind: u16) -> Option<Self> {
        let (found, _) = TYPES.get(usize::from(kind).checked_sub(1)?)?;
        Some(*found)
    }

    /// The name in the protocol description.
    pub const fn name(self) -> &'static str {
        TYPES[self as usize - 1].1
    }
}

field! { Space as u8, |v| *v as u8, |b| match b {
    0 => Ok(Space::Common),
    1 => Ok(Space::Device),
    _ => Err(Reason::BadField("space", b)),
} }

field! { Name as [u8; NAME_LEN], |v| *v.bytes(), |b| Ok(Name::from_bytes(&b)) }

layout! {
    /// HELLO: what the client speaks, and in the answer what holds for this connection.
    pub struct Hello {
        /// Highest protocol version the client speaks; the answer is not above it.
        version: u32,
        /// Largest message the sender takes, in bytes (at least 1024).
        max_message: u32,
        /// Features the client would use, of which the answer has those in use; none are defined
        /// in version 1.
        features: u64,
        /// Who the sender is, for logs.
        name: Name,
    }
}

/// The answer to HELLO looks like it.
pub type HelloReply = Hello;

numbers! {
    /// How a client shows that it holds the VF. Open: other values are for later versions.
    pub struct Proof {
        /// None; the helper's policy decides.
        NONE = 0,
        /// The VF's VFIO device file is attached to the message (`SCM_RIGHTS`).
        VFIO_FD = 1,
    }
}

field! { Proof as u16, |v| v.0, |b| Ok(Proof(b)) }

layout! {
    /// OPEN: which VF this connection is for.
    pub struct Open {
        /// Member id, from 1; 0: take it from the proof.
        member: u16,
        /// How the client shows that it holds the VF.
        proof: Proof,
        /// The virtio device ID the client expects; 0: any.
        virtio_id: u16 [2],
        /// PCIe Device Serial Number seen on the VF, which is that of its PF; 0: none.
        serial: u64,
    }
}

/// Where notifications of a VF go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NotifyKind {
    /// No address: only NOTIFY messages (or commands) reach the device.
    None = 0,
    /// An address in a BAR of the PF, which the helper writes.
    Owner = 1,
    /// An address in a BAR of the VF, which the client writes.
    Member = 2,
}

field! { NotifyKind as u8, |v| *v as u8, |b| match b {
    0 => Ok(NotifyKind::None),
    1 => Ok(NotifyKind::Owner),
    2 => Ok(NotifyKind::Member),
    _ => Err(Reason::BadField("notify_kind", b)),
} }

layout! {
    /// The answer to OPEN: what the client needs to know about its VF.
    pub struct OpenReply {
        /// Member id of the VF.
        member: u16,
        /// Its virtio device ID.
        virtio_id: u16,
        /// VFs that the PF has enabled.
        num_vfs: u16,
        /// Where notifications go.
        notify_kind: NotifyKind,
        /// BAR of the notify address (1 to 5), 0 if there is none.
        notify_bar: u8,
        /// Offset of the notify address in that BAR, a multiple of 2.
        notify_offset: u64,
        /// Admin commands in use, bit n for opcode n.
        commands: u64,
        /// The helper answers any request within this time, in milliseconds, retries included.
        deadline_ms: u32 [4],
        /// Number of this helper process's session with the PF. If it differs after a reconnection,
        /// the PF was initialised anew meanwhile; the VFs' own state is not touched by that.
        session: u64,
    }
}

numbers! {
    /// What a QUERY asks about. Open: other values are for later versions.
    pub struct QueryKind {
        /// The helper and its PF.
        HELPER = 0,
        /// One VF, named by `member`.
        VF = 1,
        /// Counters of one VF, or of the helper for member 0.
        COUNTERS = 2,
        /// Counters and latencies of the VFs from `member` on, as many as fit.
        METRICS = 3,
    }
}

field! { QueryKind as u16, |v| v.0, |b| Ok(QueryKind(b)) }

layout! {
    /// A request of the client.
    pub enum Request {
        /// First message of a connection.
        Hello(hello: Hello),
        /// Binds the connection to a VF.
        Open(open: Open),
        /// Asks for the VF token.
        Token {
            /// Member id.
            member: u16 [6],
        },
        /// Reads registers.
        Read {
            /// Register space.
            space: Space,
            /// First byte.
            offset: u8,
            /// Bytes, 1 to 8; the range must lie inside one field.
            len: u8 [5],
        },
        /// Writes registers.
        Write {
            /// Register space.
            space: Space,
            /// First byte.
            offset: u8,
            /// Bytes, 1 to 8; the range must lie inside one field.
            len: u8 [5],
            /// The bytes, little-endian; those after `len` are zero.
            data: [u8; 8],
        },
        /// Notifies a queue.
        Notify {
            /// Queue index.
            queue: u16 [6],
        },
        /// Asks for information.
        Query {
            /// About what.
            what: QueryKind,
            /// Member id, or 0.
            member: u16 [4],
        },
    }
}

impl Request {
    /// Writes the message into `buf`, which has room for any request ([`MIN_MESSAGE`] does), and returns its
    /// length. The caller chooses `seq` (not 0).
    ///
    /// [`MIN_MESSAGE`]: crate::limits::MIN_MESSAGE
    pub fn encode(&self, seq: u32, buf: &mut [u8]) -> usize {
        self.encode_with(0, seq, buf)
    }

    /// Like [`Request::encode`], with the wish for no reply. Only NOTIFY may be sent so.
    pub fn encode_no_reply(&self, seq: u32, buf: &mut [u8]) -> usize {
        self.encode_with(flags::NO_REPLY, seq, buf)
    }

    fn encode_with(&self, flags: u16, seq: u32, buf: &mut [u8]) -> usize {
        let room = buf.len();
        let payload = Header::new(self.kind() as u16, flags, seq).put(buf);
        room - self.masked().put(payload).len()
    }

    /// The same, with the bytes that are not to be written cleared.
    #[must_use]
    pub fn masked(mut self) -> Self {
        if let Request::Write { len, data, .. } = &mut self {
            *data = masked(*data, *len);
        }
        self
    }
}

/// The reply to a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReply<'a> {
    /// Type of the request, as it was sent.
    pub kind: u16,
    /// What went wrong; never [`ErrorCode::OK`].
    pub code: ErrorCode,
    /// Status of the admin command, with [`ErrorCode::DEVICE`]; else 0.
    pub admin_status: u16,
    /// Its qualifier.
    pub admin_qualifier: u16,
    /// For people; at most 512 bytes are sent. Show it through [`crate::Printable`].
    pub text: &'a str,
}

/// A reply of the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To HELLO.
    Hello(HelloReply),
    /// To OPEN.
    Open(OpenReply),
    /// To TOKEN.
    Token {
        /// The token, in the byte order of its text form.
        uuid: [u8; 16],
    },
    /// To READ.
    Read {
        /// As many bytes as were asked for, little-endian; the rest is zero.
        data: [u8; 8],
    },
    /// To WRITE.
    Write,
    /// To NOTIFY sent without `NO_REPLY`.
    Notify,
    /// To QUERY.
    Query {
        /// JSON, at most 4080 bytes.
        json: &'a str,
    },
    /// To any request that failed.
    Error(ErrorReply<'a>),
}

numbers! {
    /// What an event tells. Open: unknown kinds are to be ignored.
    pub struct EventKind {
        /// The helper is going away; the connection will close.
        SHUTDOWN = 1,
        /// The PF was reset and initialised anew.
        PF_RESET = 2,
        /// The PF has failed.
        PF_FAILED = 3,
        /// The number of enabled VFs has changed; it is in `detail`.
        VFS_CHANGED = 4,
    }
}

field! { EventKind as u16, |v| v.0, |b| Ok(EventKind(b)) }

layout! {
    /// An event of the helper.
    pub struct Event {
        /// What happened.
        kind: EventKind [2],
        /// More about it, by kind; 0 otherwise.
        detail: u32,
    }
}

/// A message that the helper sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The reply to a request.
    Reply(Header, Reply<'a>),
    /// Something the helper tells unasked.
    Event(Event),
}

/// Decodes a message that the helper sent.
///
/// # Errors
/// A [`Reason`] for anything that is neither a reply nor an event of this version.
pub fn decode_incoming(message: &[u8]) -> Result<Incoming<'_>, Reason> {
    let (header, payload) = Header::split(message)?;
    let unknown = Reason::UnknownType(header.kind);
    match header.flags & (flags::REPLY | flags::EVENT) {
        flags::EVENT if header.kind != MessageType::Event as u16 => Err(unknown),
        flags::EVENT => exact(payload).map(Incoming::Event),
        flags::REPLY => Ok(Incoming::Reply(header, reply(&header, payload)?)),
        _ => Err(Reason::BadFlags(header.flags)),
    }
}

fn reply<'a>(header: &Header, payload: &'a [u8]) -> Result<Reply<'a>, Reason> {
    if header.error != ErrorCode::OK {
        return Ok(Reply::Error(ErrorReply {
            kind: header.kind,
            code: header.error,
            admin_status: header.admin_status,
            admin_qualifier: header.admin_qualifier,
            text: text(payload, MAX_TEXT)?,
        }));
    }
    let unknown = Reason::UnknownType(header.kind);
    match MessageType::from_u16(header.kind).ok_or(unknown)? {
        MessageType::Hello => exact(payload).map(Reply::Hello),
        MessageType::Open => exact(payload).map(Reply::Open),
        MessageType::Token => exact(payload).map(|uuid| Reply::Token { uuid }),
        MessageType::Read => exact(payload).map(|data| Reply::Read { data }),
        MessageType::Write => exact(payload).map(|[]: [u8; 0]| Reply::Write),
        MessageType::Notify => exact(payload).map(|[]: [u8; 0]| Reply::Notify),
        MessageType::Query => text(payload, MAX_PAYLOAD).map(|json| Reply::Query { json }),
        MessageType::Event => Err(unknown),
    }
}

fn text(payload: &[u8], want: usize) -> Result<&str, Reason> {
    let got = payload.len();
    if got > want {
        return Err(Reason::BadLength { got, want });
    }
    core::str::from_utf8(payload).map_err(|_| Reason::BadText)
}

/// The bytes of an access: those after `len` are zero.
pub(crate) fn masked(data: [u8; 8], len: u8) -> [u8; 8] {
    le_bytes(u64::from_le_bytes(data), len.into())
}
