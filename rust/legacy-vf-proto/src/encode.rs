// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Messages to bytes.

use crate::error::ErrorCode;
use crate::header::{flags, Header, MessageType};
use crate::limits::{MAX_MESSAGE, MAX_PAYLOAD, MAX_TEXT};
use crate::message::{masked, ErrorReply, Event, Hello, HelloReply, Reply, Request};
use crate::text::prefix;
use crate::MessageBuf;

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
