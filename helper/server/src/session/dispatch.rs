// SPDX-License-Identifier: GPL-2.0-or-later
//! What a request means in the state that the connection is in.

use std::time::Instant;

use legacy_vf_proto::limits::MIN_MESSAGE;
use legacy_vf_proto::{
    ErrorCode, Header, Hello, HelloReply, Name, Proof, Reply, Request, MAX_MESSAGE, VERSION,
};
use legacy_vf_proto_server::{decode_request, DecodeError};
use virtio_pf::{LegacyOp, Space};

use super::{Item, Job, Phase, RequestId, Session, MAX_OUT};
use crate::received::ReceivedFile;

/// Features of the protocol that this helper knows.
const FEATURES: u64 = 0;

/// The driver's name of a register space of the protocol.
fn registers(space: legacy_vf_proto::Space) -> Space {
    match space {
        legacy_vf_proto::Space::Common => Space::Common,
        legacy_vf_proto::Space::Device => Space::Device,
    }
}

impl Session {
    /// The next thing to be done by others. Requests that the session can answer itself are
    /// answered on the way.
    pub fn next_job(&mut self) -> Option<(RequestId, Job)> {
        loop {
            if self.in_flight.is_some() || self.phase == Phase::Closing || self.out.len() >= MAX_OUT
            {
                return None;
            }
            if let Some(stalled) = self.stalled.take() {
                return Some(stalled);
            }
            match self.queue.pop_front()? {
                Item::Bad(e, arrived) => self.answer_bad(&e, arrived),
                Item::Request(id, request, file) => {
                    if let Some(job) = self.job(id, request, file) {
                        return Some((id, job));
                    }
                }
            }
        }
    }

    /// Whether the file that comes with a message is wanted.
    ///
    /// # Errors
    /// Code and text for the client, which is to be hung up.
    pub fn wants_file(&self, bytes: &[u8]) -> Result<(), (ErrorCode, &'static str)> {
        match decode_request(bytes) {
            Ok((_, Request::Open(open))) if open.proof != Proof::NONE => {}
            _ => {
                let text = "A file may come with an OPEN with proof, and with nothing else";
                return Err((ErrorCode::BAD_MESSAGE, text));
            }
        }
        let waiting = |item: &Item| matches!(item, Item::Request(_, _, Some(_)));
        if self.phase != Phase::Greeted || self.queue.iter().any(waiting) {
            let text = "A file may come with the OPEN that is due, and with no other";
            return Err((ErrorCode::BAD_STATE, text));
        }
        Ok(())
    }

    /// Refuses a message with files, which nobody has received, and ends the connection.
    pub fn refuse_files(&mut self, bytes: &[u8], code: ErrorCode, text: &str, now: Instant) {
        self.counters.requests += 1;
        self.counters.bad += 1;
        // Out of turn, an answer would be taken for that to another request.
        let quiet = self.queue.is_empty() && self.in_flight.is_none() && self.stalled.is_none();
        match Header::split(bytes) {
            Ok((header, _)) if quiet && self.phase != Phase::Closing => {
                let id = RequestId {
                    no_reply: false,
                    ..RequestId::new(&header, now)
                };
                self.fail(id, code, text);
                self.close();
            }
            _ => self.abort(),
        }
    }

    fn answer_bad(&mut self, e: &DecodeError, arrived: Instant) {
        if let Some(header) = &e.header {
            // An answer is due even if the flags ask for none: they are part of what is wrong.
            let id = RequestId {
                no_reply: false,
                ..RequestId::new(header, arrived)
            };
            self.fail(id, e.code(), &e.to_string());
        }
        if e.closes() {
            self.close();
        }
    }

    /// The job of a request, or `None` if it was answered.
    fn job(&mut self, id: RequestId, request: Request, file: Option<ReceivedFile>) -> Option<Job> {
        match (request, self.phase) {
            (Request::Hello(hello), Phase::New) => self.hello(id, &hello),
            (_, Phase::New) => {
                self.fail(id, ErrorCode::BAD_STATE, "HELLO must come first");
                self.close();
            }
            (Request::Hello(_), _) => {
                self.fail(id, ErrorCode::BAD_STATE, "HELLO was answered already");
            }
            (Request::Open(open), Phase::Greeted) => return Some(Job::Open { open, file }),
            (Request::Open(_), Phase::Open(member)) => {
                let text = format!(
                    "This connection is bound to VF {member} already; use one connection per VF"
                );
                self.fail(id, ErrorCode::BAD_STATE, &text);
            }
            (Request::Token { member }, _) => return Some(Job::Token { member }),
            (Request::Query { what, member }, _) => return Some(Job::Query { what, member }),
            (Request::Read { space, offset, len }, Phase::Open(member)) => {
                let op = LegacyOp::read(registers(space), offset, len);
                return Some(Job::Access { member, op });
            }
            (
                Request::Write {
                    space,
                    offset,
                    len,
                    data,
                },
                Phase::Open(member),
            ) => {
                let op = LegacyOp::write(registers(space), offset, data, len);
                return Some(Job::Access { member, op });
            }
            (Request::Notify { queue }, Phase::Open(member)) => {
                return Some(Job::Notify { member, queue })
            }
            (_, _) => self.fail(
                id,
                ErrorCode::BAD_STATE,
                "This connection is bound to no VF; send OPEN first",
            ),
        }
        None
    }

    fn hello(&mut self, id: RequestId, hello: &Hello) {
        self.name = hello.name;
        if hello.version == 0 {
            let text = format!(
                "This helper speaks protocol versions 1 to {VERSION}; the client named version 0"
            );
            self.fail(id, ErrorCode::UNSUPPORTED_VERSION, &text);
            return self.close();
        }
        if (hello.max_message as usize) < MIN_MESSAGE {
            let text = format!(
                "max_message is {}; the least that any version works with is {MIN_MESSAGE}",
                hello.max_message
            );
            self.fail(id, ErrorCode::OUT_OF_RANGE, &text);
            return self.close();
        }
        self.max_message = (hello.max_message as usize).min(MAX_MESSAGE);
        self.phase = Phase::Greeted;
        self.reply(
            id,
            &Reply::Hello(HelloReply {
                version: hello.version.min(VERSION),
                max_message: MAX_MESSAGE as u32,
                features: hello.features & FEATURES,
                name: Name::new(concat!(
                    "qemu-virtio-admin-helper ",
                    env!("CARGO_PKG_VERSION")
                )),
            }),
        );
    }
}
