// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The 16-byte header that starts every message.

use virtio_pci_spec::bytes::get_u16;

use crate::error::{ErrorCode, Reason};
use crate::limits::{HEADER_LEN, MAX_MESSAGE};

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

impl MessageType {
    /// Every type, ascending.
    pub const ALL: [MessageType; 8] = [
        Self::Hello,
        Self::Open,
        Self::Token,
        Self::Read,
        Self::Write,
        Self::Notify,
        Self::Query,
        Self::Event,
    ];

    /// The type with this number.
    pub const fn from_u16(kind: u16) -> Option<Self> {
        Some(match kind {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Token,
            4 => Self::Read,
            5 => Self::Write,
            6 => Self::Notify,
            7 => Self::Query,
            8 => Self::Event,
            _ => return None,
        })
    }

    /// The name in the protocol description.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Open => "OPEN",
            Self::Token => "TOKEN",
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Notify => "NOTIFY",
            Self::Query => "QUERY",
            Self::Event => "EVENT",
        }
    }
}

/// Bits of the flags field; others are sent as zero and ignored.
pub mod flags {
    /// The message is a reply.
    pub const REPLY: u16 = 1;
    /// The message is an event: neither request nor reply.
    pub const EVENT: u16 = 2;
    /// The client wants no reply, neither for success nor for failure (NOTIFY only).
    pub const NO_REPLY: u16 = 4;
}

/// The header, as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message type (offset 0); see [`MessageType`].
    pub kind: u16,
    /// Flags (offset 2); see [`flags`].
    pub flags: u16,
    /// Number of the request, chosen by the client and repeated in its reply (offset 4); 0 in
    /// events.
    pub seq: u32,
    /// Result (offset 8); 0 in requests and events.
    pub error: ErrorCode,
    /// Status of the failed admin command (offset 10); valid with [`ErrorCode::DEVICE`].
    pub admin_status: u16,
    /// Its status qualifier (offset 12).
    pub admin_qualifier: u16,
}

impl Header {
    /// Header of a request.
    pub const fn request(kind: MessageType, seq: u32) -> Self {
        Header {
            kind: kind as u16,
            flags: 0,
            seq,
            error: ErrorCode::OK,
            admin_status: 0,
            admin_qualifier: 0,
        }
    }

    /// Header of the successful reply to a request of this type.
    pub const fn reply(kind: u16, seq: u32) -> Self {
        Header {
            kind,
            flags: flags::REPLY,
            seq,
            error: ErrorCode::OK,
            admin_status: 0,
            admin_qualifier: 0,
        }
    }

    /// Whether the sender of this request wants no reply.
    pub const fn no_reply(&self) -> bool {
        self.flags & flags::NO_REPLY != 0
    }

    /// The header as 16 bytes.
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let k = self.kind.to_le_bytes();
        let f = self.flags.to_le_bytes();
        let s = self.seq.to_le_bytes();
        let e = self.error.0.to_le_bytes();
        let a = self.admin_status.to_le_bytes();
        let q = self.admin_qualifier.to_le_bytes();
        [
            k[0], k[1], f[0], f[1], s[0], s[1], s[2], s[3], e[0], e[1], a[0], a[1], q[0], q[1], 0,
            0,
        ]
    }

    /// Reads the header of a whole message; the reserved field is ignored.
    ///
    /// # Errors
    /// [`Reason::TooShort`] or [`Reason::TooLong`]; the content is not judged here.
    pub fn parse(message: &[u8]) -> Result<Self, Reason> {
        let len = message.len();
        let short = Reason::TooShort { len };
        if len > MAX_MESSAGE {
            return Err(Reason::TooLong { len });
        }
        if len < HEADER_LEN {
            return Err(short);
        }
        Ok(Header {
            kind: get_u16(message, 0).ok_or(short)?,
            flags: get_u16(message, 2).ok_or(short)?,
            seq: virtio_pci_spec::bytes::get_u32(message, 4).ok_or(short)?,
            error: ErrorCode(get_u16(message, 8).ok_or(short)?),
            admin_status: get_u16(message, 10).ok_or(short)?,
            admin_qualifier: get_u16(message, 12).ok_or(short)?,
        })
    }
}
