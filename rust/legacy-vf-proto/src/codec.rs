// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Messages to bytes and back.

use virtio_pci_spec::bytes::{get_u16, get_u32, get_u64, get_u8};

use crate::error::{DecodeError, ErrorCode, Reason};
use crate::header::{flags, Header, MessageType};
use crate::limits::{HEADER_LEN, MAX_ACCESS, MAX_MESSAGE, MAX_PAYLOAD, MAX_TEXT};
use crate::message::{
    ErrorReply, Event, EventKind, Hello, HelloReply, NotifyKind, Open, OpenReply, Proof, QueryKind,
    Reply, Request, Space,
};
use crate::text::{prefix, Name};
use crate::MessageBuf;

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

/// Appends to a message; the buffer holds any message, so nothing is ever cut.
struct Writer<'a> {
    buf: &'a mut MessageBuf,
    len: usize,
}

impl<'a> Writer<'a> {
    fn new(buf: &'a mut MessageBuf, header: &Header) -> Self {
        let mut w = Writer { buf, len: 0 };
        w.bytes(&header.to_bytes());
        w
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for (dst, src) in self.buf.iter_mut().skip(self.len).zip(bytes) {
            *dst = *src;
        }
        self.len = (self.len + bytes.len()).min(MAX_MESSAGE);
    }

    fn zeros(&mut self, n: usize) {
        for dst in self.buf.iter_mut().skip(self.len).take(n) {
            *dst = 0;
        }
        self.len = (self.len + n).min(MAX_MESSAGE);
    }

    fn u8(&mut self, v: u8) {
        self.bytes(&[v]);
    }

    fn u16(&mut self, v: u16) {
        self.bytes(&v.to_le_bytes());
    }

    fn u32(&mut self, v: u32) {
        self.bytes(&v.to_le_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.bytes(&v.to_le_bytes());
    }
}

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

/// The bytes of an access: those after `len` are zero.
fn masked(data: [u8; 8], len: u8) -> [u8; 8] {
    let mut out = data;
    for b in out.iter_mut().skip(usize::from(len)) {
        *b = 0;
    }
    out
}

impl Request {
    /// Writes the message into `buf` and returns its length. The caller chooses `seq` (not 0).
    pub fn encode(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        self.encode_with(Header::request(self.kind(), seq), buf)
    }

    /// Like [`Request::encode`], with the wish for no reply. Only NOTIFY may be sent so.
    pub fn encode_no_reply(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        let mut header = Header::request(self.kind(), seq);
        header.flags = flags::NO_REPLY;
        self.encode_with(header, buf)
    }

    fn encode_with(&self, header: Header, buf: &mut MessageBuf) -> usize {
        let mut w = Writer::new(buf, &header);
        match *self {
            Request::Hello(Hello {
                version,
                max_message,
                features,
                name,
            }) => {
                w.u32(version);
                w.u32(max_message);
                w.u64(features);
                w.bytes(name.bytes());
            }
            Request::Open(open) => {
                w.u16(open.member);
                w.u16(open.proof.0);
                w.u16(open.virtio_id);
                w.zeros(2);
                w.u64(open.serial);
            }
            Request::Token { member } => {
                w.u16(member);
                w.zeros(6);
            }
            Request::Read { space, offset, len } => {
                w.bytes(&[space.to_u8(), offset, len]);
                w.zeros(5);
            }
            Request::Write {
                space,
                offset,
                len,
                data,
            } => {
                w.bytes(&[space.to_u8(), offset, len]);
                w.zeros(5);
                w.bytes(&masked(data, len));
            }
            Request::Notify { queue } => {
                w.u16(queue);
                w.zeros(6);
            }
            Request::Query { what, member } => {
                w.u16(what.0);
                w.u16(member);
                w.zeros(4);
            }
        }
        w.len
    }
}

impl Reply<'_> {
    /// Writes the message into `buf` and returns its length. `seq` is that of the request. An
    /// error text is cut at 512 bytes; JSON that does not fit becomes an error reply.
    pub fn encode(&self, seq: u32, buf: &mut MessageBuf) -> usize {
        let mut header = Header::reply(self.kind(), seq);
        match *self {
            Reply::Error(e) => {
                // An error reply must never look like success.
                header.error = match e.code {
                    ErrorCode::OK => ErrorCode::BAD_STATE,
                    code => code,
                };
                header.admin_status = e.admin_status;
                header.admin_qualifier = e.admin_qualifier;
                let mut w = Writer::new(buf, &header);
                w.bytes(prefix(e.text, MAX_TEXT).as_bytes());
                w.len
            }
            Reply::Query { json } if json.len() > MAX_PAYLOAD => Reply::Error(ErrorReply {
                kind: self.kind(),
                code: ErrorCode::OUT_OF_RANGE,
                admin_status: 0,
                admin_qualifier: 0,
                text: "the answer is longer than a message can be; ask about one VF",
            })
            .encode(seq, buf),
            _ => self.encode_success(&header, buf),
        }
    }

    fn encode_success(&self, header: &Header, buf: &mut MessageBuf) -> usize {
        let mut w = Writer::new(buf, header);
        match *self {
            Reply::Hello(HelloReply {
                version,
                max_message,
                features,
                name,
            }) => {
                w.u32(version);
                w.u32(max_message);
                w.u64(features);
                w.bytes(name.bytes());
            }
            Reply::Open(open) => {
                w.u16(open.member);
                w.u16(open.virtio_id);
                w.u16(open.num_vfs);
                w.u8(open.notify_kind.to_u8());
                w.u8(open.notify_bar);
                w.u64(open.notify_offset);
                w.u64(open.commands);
                w.u32(open.deadline_ms);
                w.zeros(4);
                w.u64(open.session);
            }
            Reply::Token { uuid } => w.bytes(&uuid),
            Reply::Read { data } => w.bytes(&data),
            Reply::Query { json } => w.bytes(json.as_bytes()),
            Reply::Write | Reply::Notify | Reply::Error(_) => {}
        }
        w.len
    }
}

impl Event {
    /// Writes the message into `buf` and returns its length.
    pub fn encode(&self, buf: &mut MessageBuf) -> usize {
        let mut header = Header::request(MessageType::Event, 0);
        header.flags = flags::EVENT;
        let mut w = Writer::new(buf, &header);
        w.u16(self.kind.0);
        w.zeros(2);
        w.u32(self.detail);
        w.len
    }
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
