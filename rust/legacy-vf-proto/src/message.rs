// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Requests, replies and events as values.

use crate::error::ErrorCode;
use crate::header::MessageType;
use crate::text::Name;

/// Which of a VF's legacy register spaces an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The legacy common configuration (the header of BAR0, vectors included).
    Common,
    /// The device configuration; offset 0 is its first byte whatever the MSI-X state.
    Device,
}

impl Space {
    /// The value on the wire.
    pub const fn to_u8(self) -> u8 {
        match self {
            Self::Common => 0,
            Self::Device => 1,
        }
    }

    /// The space with this value.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Common),
            1 => Some(Self::Device),
            _ => None,
        }
    }
}

/// HELLO: what the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Highest protocol version the client speaks.
    pub version: u32,
    /// Largest message the client takes, in bytes (at least 1024).
    pub max_message: u32,
    /// Features the client would use; none are defined in version 1.
    pub features: u64,
    /// Who is calling, for logs.
    pub name: Name,
}

/// The answer to HELLO: what holds for this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Version of this connection, at most the client's.
    pub version: u32,
    /// Largest message the helper takes, in bytes.
    pub max_message: u32,
    /// The subset of the client's features that is in use.
    pub features: u64,
    /// Who answers, for logs.
    pub name: Name,
}

/// How a client shows that it holds the VF. Open: other values are for later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proof(pub u16);

impl Proof {
    /// None; the helper's policy decides.
    pub const NONE: Proof = Proof(0);
    /// The VF's VFIO device file is attached to the message (`SCM_RIGHTS`).
    pub const VFIO_FD: Proof = Proof(1);
}

/// OPEN: which VF this connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Member id, from 1; 0: take it from the proof.
    pub member: u16,
    /// How the client shows that it holds the VF.
    pub proof: Proof,
    /// The virtio device ID the client expects; 0: any.
    pub virtio_id: u16,
    /// PCIe Device Serial Number seen on the VF, which is that of its PF; 0: none.
    pub serial: u64,
}

/// Where notifications of a VF go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotifyKind {
    /// No address: only NOTIFY messages (or commands) reach the device.
    None,
    /// An address in a BAR of the PF, which the helper writes.
    Owner,
    /// An address in a BAR of the VF, which the client writes.
    Member,
}

impl NotifyKind {
    /// The value on the wire.
    pub const fn to_u8(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Owner => 1,
            Self::Member => 2,
        }
    }

    /// The kind with this value.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::None),
            1 => Some(Self::Owner),
            2 => Some(Self::Member),
            _ => None,
        }
    }
}

/// The answer to OPEN: what the client needs to know about its VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenReply {
    /// Member id of the VF.
    pub member: u16,
    /// Its virtio device ID.
    pub virtio_id: u16,
    /// VFs that the PF has enabled.
    pub num_vfs: u16,
    /// Where notifications go.
    pub notify_kind: NotifyKind,
    /// BAR of the notify address (1 to 5), 0 if there is none.
    pub notify_bar: u8,
    /// Offset of the notify address in that BAR, a multiple of 2.
    pub notify_offset: u64,
    /// Admin commands in use, bit n for opcode n.
    pub commands: u64,
    /// The helper answers any request within this time, in milliseconds, retries included.
    pub deadline_ms: u32,
    /// Number of this helper process's session with the PF. If it differs after a reconnection,
    /// the PF was initialised anew meanwhile; the VFs' own state is not touched by that.
    pub session: u64,
}

/// What a QUERY asks about. Open: other values are for later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryKind(pub u16);

impl QueryKind {
    /// The helper and its PF.
    pub const HELPER: QueryKind = QueryKind(0);
    /// One VF, named by `member`.
    pub const VF: QueryKind = QueryKind(1);
    /// Counters of one VF, or of the helper for member 0.
    pub const COUNTERS: QueryKind = QueryKind(2);
}

/// A request of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// First message of a connection.
    Hello(Hello),
    /// Binds the connection to a VF.
    Open(Open),
    /// Asks for the VF token.
    Token {
        /// Member id.
        member: u16,
    },
    /// Reads registers.
    Read {
        /// Register space.
        space: Space,
        /// First byte.
        offset: u8,
        /// Bytes, 1 to 8; the range must lie inside one field.
        len: u8,
    },
    /// Writes registers.
    Write {
        /// Register space.
        space: Space,
        /// First byte.
        offset: u8,
        /// Bytes, 1 to 8; the range must lie inside one field.
        len: u8,
        /// The bytes, little-endian; those after `len` are zero.
        data: [u8; 8],
    },
    /// Notifies a queue.
    Notify {
        /// Queue index.
        queue: u16,
    },
    /// Asks for information.
    Query {
        /// About what.
        what: QueryKind,
        /// Member id, or 0.
        member: u16,
    },
}

impl Request {
    /// The type of this message.
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Hello(_) => MessageType::Hello,
            Self::Open(_) => MessageType::Open,
            Self::Token { .. } => MessageType::Token,
            Self::Read { .. } => MessageType::Read,
            Self::Write { .. } => MessageType::Write,
            Self::Notify { .. } => MessageType::Notify,
            Self::Query { .. } => MessageType::Query,
        }
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

impl Reply<'_> {
    /// The type number of this message: that of the request.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => MessageType::Hello as u16,
            Self::Open(_) => MessageType::Open as u16,
            Self::Token { .. } => MessageType::Token as u16,
            Self::Read { .. } => MessageType::Read as u16,
            Self::Write => MessageType::Write as u16,
            Self::Notify => MessageType::Notify as u16,
            Self::Query { .. } => MessageType::Query as u16,
            Self::Error(e) => e.kind,
        }
    }
}

/// What an event tells. Open: unknown kinds are to be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKind(pub u16);

impl EventKind {
    /// The helper is going away; the connection will close.
    pub const SHUTDOWN: EventKind = EventKind(1);
    /// The PF was reset and initialised anew.
    pub const PF_RESET: EventKind = EventKind(2);
    /// The PF has failed.
    pub const PF_FAILED: EventKind = EventKind(3);
    /// The number of enabled VFs has changed; it is in `detail`.
    pub const VFS_CHANGED: EventKind = EventKind(4);

    /// The name in the protocol description; "UNKNOWN" for others.
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "SHUTDOWN",
            2 => "PF_RESET",
            3 => "PF_FAILED",
            4 => "VFS_CHANGED",
            _ => "UNKNOWN",
        }
    }
}

/// An event of the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// More about it, by kind; 0 otherwise.
    pub detail: u32,
}

/// The bytes of an access: those after `len` are zero.
pub(crate) fn masked(data: [u8; 8], len: u8) -> [u8; 8] {
    let mut out = data;
    for b in out.iter_mut().skip(usize::from(len)) {
        *b = 0;
    }
    out
}
