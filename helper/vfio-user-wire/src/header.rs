// SPDX-License-Identifier: GPL-2.0-or-later
//! The 16 bytes in front of every message.

use crate::bytes::Put;
use crate::limits::{Limits, HEADER_LEN};
use crate::{Command, WireError};

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of a command, echoed in its reply.
    pub id: u16,
    /// What is asked or answered.
    pub command: Command,
    /// Bytes of the whole message, this header included.
    pub size: u32,
    /// Type in bits 0 to 3, then [`Header::NO_REPLY`] and [`Header::ERROR`].
    pub flags: u32,
    /// Linux error number of a failed command; may be 0 even then.
    pub errno: u32,
}

impl Header {
    /// Mask of the type bits in `flags`.
    pub const TYPE_MASK: u32 = 0xf;
    /// Type of a command.
    pub const TYPE_COMMAND: u32 = 0;
    /// Type of a reply.
    pub const TYPE_REPLY: u32 = 1;
    /// The sender of this command does not want a reply.
    pub const NO_REPLY: u32 = 0x10;
    /// This reply tells of a failure.
    pub const ERROR: u32 = 0x20;

    /// Decodes and checks a header: size between the header's own and what `limits` allow, type
    /// bits that mean something. Every error of this function is fatal for the connection.
    pub fn decode(bytes: &[u8; HEADER_LEN], limits: &Limits) -> Result<Self, WireError> {
        let [i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, e0, e1, e2, e3] = *bytes;
        let header = Self {
            id: u16::from_ne_bytes([i0, i1]),
            command: Command(u16::from_ne_bytes([c0, c1])),
            size: u32::from_ne_bytes([s0, s1, s2, s3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            errno: u32::from_ne_bytes([e0, e1, e2, e3]),
        };
        if (header.size as usize) < HEADER_LEN {
            return Err(WireError::SizeTooSmall(header.size));
        }
        let limit = limits.max_message();
        if header.size > limit {
            return Err(WireError::SizeTooLarge {
                size: header.size,
                limit,
            });
        }
        if header.flags & Self::TYPE_MASK > Self::TYPE_REPLY {
            return Err(WireError::BadType(header.flags));
        }
        Ok(header)
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut v = Vec::with_capacity(HEADER_LEN);
        self.encode_into(&mut v);
        for (dst, src) in out.iter_mut().zip(v) {
            *dst = src;
        }
        out
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u16(self.id);
        out.put_u16(self.command.0);
        out.put_u32(self.size);
        out.put_u32(self.flags);
        out.put_u32(self.errno);
    }

    /// Bytes that follow the header.
    pub fn payload_len(&self) -> usize {
        (self.size as usize).saturating_sub(HEADER_LEN)
    }

    /// Whether this is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags & Self::TYPE_MASK == Self::TYPE_REPLY
    }

    /// Whether the sender of this command wants no reply.
    pub fn no_reply(&self) -> bool {
        self.flags & Self::NO_REPLY != 0
    }

    /// Whether this reply tells of a failure.
    pub fn is_error(&self) -> bool {
        self.is_reply() && self.flags & Self::ERROR != 0
    }
}

/// Writes header and payload of one message to `out` (cleared first) and fixes the size field.
pub(crate) fn frame(
    out: &mut Vec<u8>,
    id: u16,
    command: Command,
    flags: u32,
    errno: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    out.clear();
    let mut header = Header {
        id,
        command,
        size: 0,
        flags,
        errno,
    };
    header.encode_into(out);
    body(out);
    header.size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    if let Some(size) = out.get_mut(4..8) {
        size.copy_from_slice(&header.size.to_ne_bytes());
    }
}
