// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Messages to bytes and from bytes: the header that starts every message, and what belongs to it.

use core::fmt;

use crate::error::{ErrorCode, Reason};
use crate::kind::MessageType;
use crate::layout::{exact, field, layout, put_bytes, Field};
use crate::limits::{MAX_MESSAGE, MAX_PAYLOAD, MAX_TEXT};
use crate::message::{ErrorReply, Event, Reply, Request};
use crate::text::prefix;
use crate::MessageBuf;

/// Bits of the flags field; others are sent as zero and ignored.
pub mod flags {
    /// The message is a reply.
    pub const REPLY: u16 = 1;
    /// The message is an event: neither request nor reply.
    pub const EVENT: u16 = 2;
    /// The client wants no reply, neither for success nor for failure (NOTIFY only).
    pub const NO_REPLY: u16 = 4;
}

field! { ErrorCode as u16, |v| v.0, |b| Ok(ErrorCode(b)) }

layout! {
    /// The header, as it lies on the wire.
    pub struct Header {
        /// Message type; see [`MessageType`].
        kind: u16,
        /// Flags; see [`flags`].
        flags: u16,
        /// Number of the request, chosen by the client and repeated in its reply; 0 in events.
        seq: u32,
        /// Result; 0 in requests and events.
        error: ErrorCode,
        /// Status of the failed admin command; valid with [`ErrorCode::DEVICE`].
        admin_status: u16,
        /// Its status qualifier.
        admin_qualifier: u16 [2],
    }
}

impl Header {
    /// Header of a message that tells of no error.
    pub(crate) const fn new(kind: u16, flags: u16, seq: u32) -> Self {
        Header {
            kind,
            flags,
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

    /// Header and payload of a whole message; the content is not judged here.
    pub(crate) fn split(message: &[u8]) -> Result<(Self, &[u8]), Reason> {
        let len = message.len();
        if len > MAX_MESSAGE {
            return Err(Reason::TooLong(len));
        }
        let mut rest = message;
        match Header::get(&mut rest) {
            Ok(header) => Ok((header, rest)),
            Err(_) => Err(Reason::TooShort(len)),
        }
    }
}

impl Request {
    /// Writes the message into `buf` and returns its length. The caller chooses `seq` (not 0).
    pub fn encode(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        self.encode_with(0, seq, buf)
    }

    /// Like [`Request::encode`], with the wish for no reply. Only NOTIFY may be sent so.
    pub fn encode_no_reply(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        self.encode_with(flags::NO_REPLY, seq, buf)
    }

    fn encode_with(&self, flags: u16, seq: u32, buf: &mut MessageBuf) -> usize {
        let payload = Header::new(self.kind() as u16, flags, seq).put(buf);
        MAX_MESSAGE - self.masked().put(payload).len()
    }
}

impl Reply<'_> {
    /// Writes the message into `buf` and returns its length. `seq` is that of the request. An
    /// error text is cut at 512 bytes; JSON that does not fit becomes an error reply.
    pub fn encode(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        let to = |kind: MessageType| Header::new(kind as u16, flags::REPLY, seq);
        let rest = match *self {
            Reply::Hello(hello) => hello.put(to(MessageType::Hello).put(buf)),
            Reply::Open(open) => open.put(to(MessageType::Open).put(buf)),
            Reply::Token { uuid } => uuid.put(to(MessageType::Token).put(buf)),
            Reply::Read { data } => data.put(to(MessageType::Read).put(buf)),
            Reply::Write => to(MessageType::Write).put(buf),
            Reply::Notify => to(MessageType::Notify).put(buf),
            Reply::Query { json } if json.len() <= MAX_PAYLOAD => {
                put_bytes(json.as_bytes(), to(MessageType::Query).put(buf))
            }
            Reply::Query { .. } => {
                let long = ErrorReply {
                    kind: MessageType::Query as u16,
                    code: ErrorCode::OUT_OF_RANGE,
                    admin_status: 0,
                    admin_qualifier: 0,
                    text: "the answer is longer than a message can be; ask about one VF",
                };
                return Reply::Error(long).encode(seq, buf);
            }
            Reply::Error(e) => {
                let mut header = Header::new(e.kind, flags::REPLY, seq);
                // An error reply must never look like success.
                header.error = match e.code {
                    ErrorCode::OK => ErrorCode::BAD_STATE,
                    code => code,
                };
                header.admin_status = e.admin_status;
                header.admin_qualifier = e.admin_qualifier;
                put_bytes(prefix(e.text, MAX_TEXT).as_bytes(), header.put(buf))
            }
        };
        MAX_MESSAGE - rest.len()
    }
}

impl Event {
    /// Writes the message into `buf` and returns its length.
    pub fn encode(&self, buf: &mut MessageBuf) -> usize {
        let payload = Header::new(MessageType::Event as u16, flags::EVENT, 0).put(buf);
        MAX_MESSAGE - self.put(payload).len()
    }
}

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
            Reason::UnknownType(_) => ErrorCode::UNKNOWN_TYPE,
            Reason::BadField(..) => ErrorCode::OUT_OF_RANGE,
            _ => ErrorCode::BAD_MESSAGE,
        }
    }

    /// Whether the connection must be closed: the peer does not speak this protocol. Unknown types
    /// and values out of range leave it usable.
    pub fn closes(&self) -> bool {
        self.code() == ErrorCode::BAD_MESSAGE
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl core::error::Error for DecodeError {}

/// A message that the helper sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The reply to a request.
    Reply(Header, Reply<'a>),
    /// Something the helper tells unasked.
    Event(Event),
}

/// Decodes a message that a client sent.
///
/// # Errors
/// A [`DecodeError`] for anything that is not a request of this version.
pub fn decode_request(message: &[u8]) -> Result<(Header, Request), DecodeError> {
    decode(message, request)
}

/// Decodes a message that the helper sent.
///
/// # Errors
/// A [`DecodeError`] for anything that is neither a reply nor an event of this version.
pub fn decode_incoming(message: &[u8]) -> Result<Incoming<'_>, DecodeError> {
    let incoming = decode(message, |header, payload| {
        match header.flags & (flags::REPLY | flags::EVENT) {
            flags::EVENT if header.kind != MessageType::Event as u16 => {
                Err(Reason::UnknownType(header.kind))
            }
            flags::EVENT => exact(payload).map(Incoming::Event),
            _ => reply(header, payload).map(|reply| Incoming::Reply(*header, reply)),
        }
    });
    Ok(incoming?.1)
}

/// Decodes a reply; an event is an error here.
///
/// # Errors
/// A [`DecodeError`] for anything that is not a reply of this version.
pub fn decode_reply(message: &[u8]) -> Result<(Header, Reply<'_>), DecodeError> {
    decode(message, reply)
}

fn decode<'a, T>(
    message: &'a [u8],
    judge: impl FnOnce(&Header, &'a [u8]) -> Result<T, Reason>,
) -> Result<(Header, T), DecodeError> {
    let fail = |header, reason| DecodeError { header, reason };
    let (header, payload) = Header::split(message).map_err(|e| fail(None, e))?;
    match judge(&header, payload) {
        Ok(message) => Ok((header, message)),
        Err(reason) => Err(fail(Some(header), reason)),
    }
}

fn text(payload: &[u8], want: usize) -> Result<&str, Reason> {
    let got = payload.len();
    if got > want {
        return Err(Reason::BadLength { got, want });
    }
    core::str::from_utf8(payload).map_err(|_| Reason::BadText)
}

fn request(header: &Header, payload: &[u8]) -> Result<Request, Reason> {
    if header.flags & (flags::REPLY | flags::EVENT) != 0 {
        return Err(Reason::BadFlags(header.flags));
    }
    let kind = MessageType::from_u16(header.kind).ok_or(Reason::UnknownType(header.kind))?;
    if header.no_reply() && kind != MessageType::Notify {
        return Err(Reason::BadFlags(header.flags));
    }
    let request = Request::get(kind, payload)?;
    match request {
        Request::Read { len, .. } | Request::Write { len, .. } if !matches!(len, 1..=8) => {
            Err(Reason::BadField("len", len))
        }
        request => Ok(request.masked()),
    }
}

fn reply<'a>(header: &Header, payload: &'a [u8]) -> Result<Reply<'a>, Reason> {
    if header.flags & (flags::REPLY | flags::EVENT) != flags::REPLY {
        return Err(Reason::BadFlags(header.flags));
    }
    if header.error != ErrorCode::OK {
        return Ok(Reply::Error(ErrorReply {
            kind: header.kind,
            code: header.error,
            admin_status: header.admin_status,
            admin_qualifier: header.admin_qualifier,
            text: text(payload, MAX_TEXT)?,
        }));
    }
    match MessageType::from_u16(header.kind).ok_or(Reason::UnknownType(header.kind))? {
        MessageType::Hello => exact(payload).map(Reply::Hello),
        MessageType::Open => exact(payload).map(Reply::Open),
        MessageType::Token => exact(payload).map(|uuid| Reply::Token { uuid }),
        MessageType::Read => exact(payload).map(|data| Reply::Read { data }),
        MessageType::Write => exact(payload).map(|[]: [u8; 0]| Reply::Write),
        MessageType::Notify => exact(payload).map(|[]: [u8; 0]| Reply::Notify),
        MessageType::Query => text(payload, MAX_PAYLOAD).map(|json| Reply::Query { json }),
        MessageType::Event => Err(Reason::UnknownType(header.kind)),
    }
}
