// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The helper's side of the socket's messages: requests from bytes; replies and events to bytes.
//! The messages themselves, and the client's side, are those of `legacy_vf_proto`.

#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

use legacy_vf_proto::layout::{Field, Header};
use legacy_vf_proto::limits::{MAX_PAYLOAD, MAX_TEXT, MIN_MESSAGE};
use legacy_vf_proto::{
    flags, ErrorCode, ErrorReply, Event, MessageType, Reason, Reply, Request, HEADER_LEN,
};

/// Replies to bytes.
pub trait EncodeReply {
    /// Bytes that [`EncodeReply::encode`] needs at most.
    fn room(&self) -> usize;

    /// Writes the message into `buf`, which has as many bytes as [`EncodeReply::room`] says, and returns its
    /// length. `seq` is that of the request. An error text is cut at 512 bytes; JSON that is longer than a
    /// message can be becomes an error reply.
    fn encode(&self, seq: u32, buf: &mut [u8]) -> usize;
}

/// Events to bytes.
pub trait EncodeEvent {
    /// Writes the message into `buf`, which has at least [`MIN_MESSAGE`] bytes, and returns its length.
    fn encode(&self, buf: &mut [u8]) -> usize;
}

impl EncodeReply for Reply<'_> {
    fn room(&self) -> usize {
        match self {
            Reply::Read { .. } | Reply::Write | Reply::Notify => HEADER_LEN + 8,
            Reply::Query { json } if json.len() <= MAX_PAYLOAD => HEADER_LEN + json.len(),
            // Every other one fits into what any client takes.
            _ => MIN_MESSAGE,
        }
    }

    fn encode(&self, seq: u32, buf: &mut [u8]) -> usize {
        let room = buf.len();
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
        room - rest.len()
    }
}

impl EncodeEvent for Event {
    fn encode(&self, buf: &mut [u8]) -> usize {
        let room = buf.len();
        let payload = Header::new(MessageType::Event as u16, flags::EVENT, 0).put(buf);
        room - self.put(payload).len()
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

/// Decodes a message that a client sent.
///
/// # Errors
/// A [`DecodeError`] for anything that is not a request of this version.
pub fn decode_request(message: &[u8]) -> Result<(Header, Request), DecodeError> {
    let fail = |header, reason| DecodeError { header, reason };
    let (header, payload) = Header::split(message).map_err(|e| fail(None, e))?;
    match request(&header, payload) {
        Ok(request) => Ok((header, request)),
        Err(reason) => Err(fail(Some(header), reason)),
    }
}

fn request(header: &Header, payload: &[u8]) -> Result<Request, Reason> {
    if header.flags & (flags::REPLY | flags::EVENT) != 0 {
        return Err(Reason::BadFlags(header.flags));
    }
    let kind = MessageType::from_u16(header.kind).ok_or(Reason::UnknownType(header.kind))?;
    if header.flags & flags::NO_REPLY != 0 && kind != MessageType::Notify {
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

/// Stores bytes at the start of `out` and gives the rest. No message is longer than the buffers.
fn put_bytes<'a>(bytes: &[u8], out: &'a mut [u8]) -> &'a mut [u8] {
    let (used, rest) = out.split_at_mut(bytes.len().min(out.len()));
    for (dst, src) in used.iter_mut().zip(bytes) {
        *dst = *src;
    }
    rest
}

/// The longest prefix of `text` that has at most `max` bytes and ends between characters.
fn prefix(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::{vec, vec::Vec};
    use legacy_vf_proto::{HelloReply, Name};

    #[test]
    fn replies_need_no_more_room_than_they_say() {
        let text = core::str::from_utf8(&[b'x'; MAX_PAYLOAD + 1]).unwrap();
        let error = ErrorReply {
            kind: MessageType::Read as u16,
            code: ErrorCode::BAD_STATE,
            admin_status: 0,
            admin_qualifier: 0,
            text,
        };
        let hello = HelloReply {
            version: 1,
            max_message: 4096,
            features: 0,
            name: Name::new("x"),
        };
        let replies = [
            Reply::Hello(hello),
            Reply::Token { uuid: [7; 16] },
            Reply::Read { data: [7; 8] },
            Reply::Write,
            Reply::Notify,
            Reply::Query {
                json: &text[..MAX_PAYLOAD],
            },
            Reply::Query { json: text },
            Reply::Error(error),
        ];
        for reply in replies {
            let encoded = |room: usize| -> Vec<u8> {
                let mut buf = vec![0xaa; room];
                let len = reply.encode(7, &mut buf);
                buf.truncate(len);
                buf
            };
            assert_eq!(encoded(reply.room()), encoded(8192), "{reply:?}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(prefix("a\u{20ac}b", 2), "a");
        assert_eq!(prefix("a\u{20ac}b", 4), "a\u{20ac}");
        assert_eq!(prefix("", 4), "");
    }
}
