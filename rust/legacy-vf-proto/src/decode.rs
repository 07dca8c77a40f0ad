// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Messages from bytes.

use core::fmt;

use virtio_pci_spec::bytes::{get_u16, get_u32, get_u64, get_u8};

use crate::error::{ErrorCode, Reason};
use crate::header::{flags, Header, MessageType};
use crate::limits::{HEADER_LEN, MAX_ACCESS, MAX_PAYLOAD, MAX_TEXT};
use crate::message::{
    masked, ErrorReply, Event, EventKind, Hello, HelloReply, NotifyKind, Open, OpenReply, Proof,
    QueryKind, Reply, Request, Space,
};
use crate::text::Name;

const HELLO_LEN: usize = 48;
const OPEN_LEN: usize = 16;
const OPEN_REPLY_LEN: usize = 40;
const TOKEN_LEN: usize = 8;
const TOKEN_REPLY_LEN: usize = 16;
const READ_LEN: usize = 8;
const READ_REPLY_LEN: usize = 8;
const WRITE_LEN: usize = 16;
const NOTIFY_LEN: usize = 8;
const QUERY_LEN: usize = 8;
const EVENT_LEN: usize = 8;

/// A message that is not one of this protocol, with what could be read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The header, if there were enough bytes for one: a reply can name its `seq`.
    pub header: Option<Header>,
    /// What is wrong.
    pub reason: Reason,
}

impl DecodeError {
    /// The error code that the sender gets.
    pub const fn code(&self) -> ErrorCode {
        match self.reason {
            Reason::UnknownType { .. } => ErrorCode::UNKNOWN_TYPE,
            Reason::BadField { .. } => ErrorCode::OUT_OF_RANGE,
            _ => ErrorCode::BAD_MESSAGE,
        }
    }

    /// Whether the connection must be closed: the peer does not speak this protocol. Unknown types
    /// and values out of range leave it usable.
    pub const fn closes(&self) -> bool {
        !matches!(
            self.reason,
            Reason::UnknownType { .. } | Reason::BadField { .. }
        )
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl core::error::Error for DecodeError {}

/// A payload of known length. Its length is checked once; reads past the end cannot happen after
/// that, and would give zero.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn exact(bytes: &'a [u8], want: usize) -> Result<Self, Reason> {
        if bytes.len() == want {
            Ok(Reader { bytes })
        } else {
            Err(Reason::BadLength {
                got: bytes.len(),
                want,
            })
        }
    }

    fn u8(&self, off: usize) -> u8 {
        get_u8(self.bytes, off).unwrap_or(0)
    }

    fn u16(&self, off: usize) -> u16 {
        get_u16(self.bytes, off).unwrap_or(0)
    }

    fn u32(&self, off: usize) -> u32 {
        get_u32(self.bytes, off).unwrap_or(0)
    }

    fn u64(&self, off: usize) -> u64 {
        get_u64(self.bytes, off).unwrap_or(0)
    }

    fn array<const N: usize>(&self, off: usize) -> [u8; N] {
        let mut out = [0; N];
        for (dst, src) in out.iter_mut().zip(self.bytes.iter().skip(off)) {
            *dst = *src;
        }
        out
    }
}

fn bad<T>(field: &'static str, value: impl Into<u64>) -> Result<T, Reason> {
    Err(Reason::BadField {
        field,
        value: value.into(),
    })
}

fn split(message: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    let header = Header::parse(message).map_err(|reason| DecodeError {
        header: None,
        reason,
    })?;
    Ok((header, message.get(HEADER_LEN..).unwrap_or(&[])))
}

/// Decodes a message that a client sent.
///
/// # Errors
/// A [`DecodeError`] for anything that is not a request of this version.
pub fn decode_request(message: &[u8]) -> Result<(Header, Request), DecodeError> {
    let (header, payload) = split(message)?;
    match request_payload(&header, payload) {
        Ok(request) => Ok((header, request)),
        Err(reason) => Err(DecodeError {
            header: Some(header),
            reason,
        }),
    }
}

fn access(r: &Reader<'_>) -> Result<(Space, u8, u8), Reason> {
    let Some(space) = Space::from_u8(r.u8(0)) else {
        return bad("space", r.u8(0));
    };
    let len = r.u8(2);
    if len == 0 || usize::from(len) > MAX_ACCESS {
        return bad("len", len);
    }
    Ok((space, r.u8(1), len))
}

fn request_payload(header: &Header, payload: &[u8]) -> Result<Request, Reason> {
    if header.flags & (flags::REPLY | flags::EVENT) != 0 {
        return Err(Reason::BadFlags {
            flags: header.flags,
        });
    }
    let unknown = Reason::UnknownType { kind: header.kind };
    let kind = MessageType::from_u16(header.kind).ok_or(unknown)?;
    if header.no_reply() && kind != MessageType::Notify {
        return Err(Reason::BadFlags {
            flags: header.flags,
        });
    }
    let exact = |want| Reader::exact(payload, want);
    Ok(match kind {
        MessageType::Hello => {
            let r = exact(HELLO_LEN)?;
            Request::Hello(Hello {
                version: r.u32(0),
                max_message: r.u32(4),
                features: r.u64(8),
                name: Name::from_bytes(&r.array::<32>(16)),
            })
        }
        MessageType::Open => {
            let r = exact(OPEN_LEN)?;
            Request::Open(Open {
                member: r.u16(0),
                proof: Proof(r.u16(2)),
                virtio_id: r.u16(4),
                serial: r.u64(8),
            })
        }
        MessageType::Token => Request::Token {
            member: exact(TOKEN_LEN)?.u16(0),
        },
        MessageType::Read => {
            let (space, offset, len) = access(&exact(READ_LEN)?)?;
            Request::Read { space, offset, len }
        }
        MessageType::Write => {
            let r = exact(WRITE_LEN)?;
            let (space, offset, len) = access(&r)?;
            Request::Write {
                space,
                offset,
                len,
                data: masked(r.array(8), len),
            }
        }
        MessageType::Notify => Request::Notify {
            queue: exact(NOTIFY_LEN)?.u16(0),
        },
        MessageType::Query => {
            let r = exact(QUERY_LEN)?;
            Request::Query {
                what: QueryKind(r.u16(0)),
                member: r.u16(2),
            }
        }
        MessageType::Event => return Err(unknown),
    })
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
/// A [`DecodeError`] for anything that is neither a reply nor an event of this version.
pub fn decode_incoming(message: &[u8]) -> Result<Incoming<'_>, DecodeError> {
    let (header, payload) = split(message)?;
    let fail = |reason| DecodeError {
        header: Some(header),
        reason,
    };
    match header.flags & (flags::REPLY | flags::EVENT) {
        flags::REPLY => {
            let reply = reply_payload(&header, payload).map_err(fail)?;
            Ok(Incoming::Reply(header, reply))
        }
        flags::EVENT => {
            if header.kind != MessageType::Event as u16 {
                return Err(fail(Reason::UnknownType { kind: header.kind }));
            }
            let r = Reader::exact(payload, EVENT_LEN).map_err(fail)?;
            Ok(Incoming::Event(Event {
                kind: EventKind(r.u16(0)),
                detail: r.u32(4),
            }))
        }
        _ => Err(fail(Reason::BadFlags {
            flags: header.flags,
        })),
    }
}

/// Decodes a reply; an event is an error here.
///
/// # Errors
/// A [`DecodeError`] for anything that is not a reply of this version.
pub fn decode_reply(message: &[u8]) -> Result<(Header, Reply<'_>), DecodeError> {
    match decode_incoming(message)? {
        Incoming::Reply(header, reply) => Ok((header, reply)),
        Incoming::Event(_) => {
            let (header, _) = split(message)?;
            Err(DecodeError {
                header: Some(header),
                reason: Reason::BadFlags {
                    flags: header.flags,
                },
            })
        }
    }
}

fn text(payload: &[u8], max: usize) -> Result<&str, Reason> {
    if payload.len() > max {
        return Err(Reason::BadLength {
            got: payload.len(),
            want: max,
        });
    }
    core::str::from_utf8(payload).map_err(|_| Reason::BadText)
}

fn reply_payload<'a>(header: &Header, payload: &'a [u8]) -> Result<Reply<'a>, Reason> {
    if header.error != ErrorCode::OK {
        return Ok(Reply::Error(ErrorReply {
            kind: header.kind,
            code: header.error,
            admin_status: header.admin_status,
            admin_qualifier: header.admin_qualifier,
            text: text(payload, MAX_TEXT)?,
        }));
    }
    let unknown = Reason::UnknownType { kind: header.kind };
    let exact = |want| Reader::exact(payload, want);
    Ok(match MessageType::from_u16(header.kind).ok_or(unknown)? {
        MessageType::Hello => {
            let r = exact(HELLO_LEN)?;
            Reply::Hello(HelloReply {
                version: r.u32(0),
                max_message: r.u32(4),
                features: r.u64(8),
                name: Name::from_bytes(&r.array::<32>(16)),
            })
        }
        MessageType::Open => {
            let r = exact(OPEN_REPLY_LEN)?;
            let Some(notify_kind) = NotifyKind::from_u8(r.u8(6)) else {
                return bad("notify_kind", r.u8(6));
            };
            Reply::Open(OpenReply {
                member: r.u16(0),
                virtio_id: r.u16(2),
                num_vfs: r.u16(4),
                notify_kind,
                notify_bar: r.u8(7),
                notify_offset: r.u64(8),
                commands: r.u64(16),
                deadline_ms: r.u32(24),
                session: r.u64(32),
            })
        }
        MessageType::Token => Reply::Token {
            uuid: exact(TOKEN_REPLY_LEN)?.array(0),
        },
        MessageType::Read => Reply::Read {
            data: exact(READ_REPLY_LEN)?.array(0),
        },
        MessageType::Write => {
            exact(0)?;
            Reply::Write
        }
        MessageType::Notify => {
            exact(0)?;
            Reply::Notify
        }
        MessageType::Query => Reply::Query {
            json: text(payload, MAX_PAYLOAD)?,
        },
        MessageType::Event => return Err(unknown),
    })
}
