// SPDX-License-Identifier: GPL-2.0-or-later
//! One connection's side of the protocol, without I/O: bytes and files in, [`Job`]s and replies
//! out. Requests are executed one after the other, so replies come in the order of requests.

mod dispatch;
mod share;
pub mod work;

use std::collections::VecDeque;
use std::time::Instant;

use legacy_vf_proto::limits::{MAX_QUEUED, MIN_MESSAGE};
use legacy_vf_proto::{
    flags, ErrorCode, ErrorReply, Event, Header, MessageType, Name, Open, QueryKind, Reply,
    Request, HEADER_LEN, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, DecodeError, EncodeEvent, EncodeReply};
use virtio_pf::{Access, LegacyOp};

use crate::peer::Peer;
use crate::received::ReceivedFile;

pub use share::SHARE;

/// Messages to a client that may wait for it to read before the session stops working for it.
const MAX_OUT: usize = 4;
/// Most messages that may ever wait: those of MAX_OUT, the one in flight, and events.
const HARD_MAX_OUT: usize = MAX_OUT + 16;

/// Names a connection for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// Place in the table of connections.
    pub slot: u32,
    /// How many connections had that place before.
    pub generation: u32,
}

impl SessionId {
    /// Both as one number.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// Back from [`SessionId::to_u64`].
    pub fn from_u64(value: u64) -> Self {
        SessionId {
            slot: value as u32,
            generation: (value >> 32) as u32,
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// HELLO has not come.
    New,
    /// HELLO was answered.
    Greeted,
    /// Bound to this member.
    Open(u16),
    /// To be closed once what is queued for the client is sent.
    Closing,
}

/// What identifies a request in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Its number.
    pub seq: u32,
    /// Its type, as it was sent.
    pub kind: u16,
    /// Nothing is to be answered.
    pub no_reply: bool,
    /// When it came.
    pub arrived: Instant,
}

impl RequestId {
    fn new(header: &Header, arrived: Instant) -> Self {
        RequestId {
            seq: header.seq,
            kind: header.kind,
            no_reply: header.flags & flags::NO_REPLY != 0,
            arrived,
        }
    }
}

/// What a session needs done by others. Every job is answered by [`Session::reply`] or
/// [`Session::fail`], at once or after [`Session::begin`].
#[derive(Debug)]
pub enum Job {
    /// Bind this connection; `file` came with the request. Success is [`Session::opened`].
    Open {
        /// What was asked for.
        open: Open,
        /// The proof.
        file: Option<ReceivedFile>,
    },
    /// Tell the VF token.
    Token {
        /// The VF.
        member: u16,
    },
    /// Access registers of the VF of this connection.
    Access {
        /// The VF.
        member: u16,
        /// The access.
        op: LegacyOp,
    },
    /// Notify a queue of the VF of this connection.
    Notify {
        /// The VF.
        member: u16,
        /// The queue.
        queue: u16,
    },
    /// Tell about the helper.
    Query {
        /// About what.
        what: QueryKind,
        /// About which VF.
        member: u16,
    },
}

#[derive(Debug)]
enum Item {
    Request(RequestId, Request, Option<ReceivedFile>),
    Bad(DecodeError, Instant),
}

/// What the backend does for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It finds out what is to be known of the VF that was opened.
    Open(u16),
    /// It accesses registers.
    Access(LegacyOp),
}

/// An operation that the backend works on.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// The backend's number of the operation.
    pub token: u64,
    /// Whom to answer.
    pub request: RequestId,
    /// What it is.
    pub work: Work,
}

/// Counts of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SessionCounters {
    /// Messages received.
    pub requests: u64,
    /// Replies sent or queued.
    pub replies: u64,
    /// Of these, error replies.
    pub errors: u64,
    /// Messages that are not requests.
    pub bad: u64,
    /// Events sent or queued.
    pub events: u64,
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    peer: Peer,
    name: Name,
    phase: Phase,
    /// The member it was bound to, also while closing.
    member: Option<u16>,
    connected: Instant,
    /// When it was last heard of.
    active: Instant,
    /// Largest message the client takes.
    max_message: usize,
    queue: VecDeque<Item>,
    /// A job that could not be started yet, before those of `queue`.
    stalled: Option<(RequestId, Job)>,
    in_flight: Option<InFlight>,
    out: VecDeque<Vec<u8>>,
    /// Since when the client has not taken what is in `out`.
    blocked_since: Option<Instant>,
    share: share::Share,
    counters: SessionCounters,
    /// Codes of error replies that the owner of this session has not counted yet.
    errors: Vec<ErrorCode>,
}

impl Session {
    /// A new connection.
    pub fn new(id: SessionId, peer: Peer, now: Instant) -> Self {
        Session {
            id,
            peer,
            name: Name::default(),
            phase: Phase::New,
            member: None,
            connected: now,
            active: now,
            max_message: MIN_MESSAGE,
            queue: VecDeque::new(),
            stalled: None,
            in_flight: None,
            out: VecDeque::new(),
            blocked_since: None,
            share: share::Share::default(),
            counters: SessionCounters::default(),
            errors: Vec::new(),
        }
    }

    /// Its name in the table.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Who connected.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// What the client calls itself; empty before HELLO.
    pub fn name(&self) -> Name {
        self.name
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The member it is bound to; it stays so until the connection is forgotten.
    pub fn member(&self) -> Option<u16> {
        self.member
    }

    /// When it connected.
    pub fn connected(&self) -> Instant {
        self.connected
    }

    /// When it was last heard of.
    pub fn active(&self) -> Instant {
        self.active
    }

    /// Counts.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// Largest QUERY answer that the client takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.max_message.min(MAX_MESSAGE) - HEADER_LEN
    }

    /// Takes one message. `bytes` longer than 4096 stand for a message that was cut.
    ///
    /// Returns whether the bytes were a request.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        file: Option<ReceivedFile>,
        now: Instant,
    ) -> Result<(), DecodeError> {
        self.counters.requests += 1;
        self.active = now;
        if self.phase == Phase::Closing || !self.has_room() {
            return Ok(());
        }
        match decode_request(bytes) {
            Ok((header, request)) => {
                let id = RequestId::new(&header, now);
                self.queue.push_back(Item::Request(id, request, file));
                Ok(())
            }
            Err(e) => {
                self.counters.bad += 1;
                self.queue.push_back(Item::Bad(e, now));
                Err(e)
            }
        }
    }

    fn has_room(&self) -> bool {
        self.queue.len() + usize::from(self.stalled.is_some()) < MAX_QUEUED
    }

    /// Whether the caller may read more from the client. If not, the client waits.
    pub fn wants_input(&self) -> bool {
        self.phase != Phase::Closing && self.has_room() && self.out.len() < MAX_OUT
    }

    /// The connection is bound to `member` from now on.
    pub fn opened(&mut self, member: u16) {
        if self.phase == Phase::Greeted {
            self.phase = Phase::Open(member);
            self.member = Some(member);
        }
    }

    /// Keeps a job for later: [`Session::next_job`] gives it again, before any other.
    pub fn stall(&mut self, request: RequestId, job: Job) {
        self.stalled = Some((request, job));
    }

    /// Whether a job was kept.
    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// A job has been started; its answer comes later.
    pub fn begin(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// The job that was started as `token` has ended: it must be answered now.
    pub fn end(&mut self, token: u64) -> Option<InFlight> {
        match self.in_flight {
            Some(f) if f.token == token => self.in_flight.take(),
            _ => None,
        }
    }

    /// Whether the backend works for this session.
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether nothing of this session is in progress or queued, in either direction.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_none()
            && self.stalled.is_none()
            && self.queue.is_empty()
            && self.out.is_empty()
    }

    /// Answers a request.
    pub fn reply(&mut self, id: RequestId, reply: &Reply<'_>) {
        if let Reply::Error(e) = reply {
            self.errors.push(e.code);
        }
        if id.no_reply {
            return;
        }
        let mut message = vec![0; reply.room()];
        let len = reply.encode(id.seq, &mut message);
        message.truncate(len);
        self.counters.replies += 1;
        if matches!(reply, Reply::Error(_)) {
            self.counters.errors += 1;
        }
        self.queue_out(message);
    }

    /// Answers a request with an error.
    pub fn fail(&mut self, id: RequestId, code: ErrorCode, text: &str) {
        self.fail_device(id, code, 0, 0, text);
    }

    /// Answers a request with an error and what the device said.
    pub fn fail_device(
        &mut self,
        id: RequestId,
        code: ErrorCode,
        admin_status: u16,
        admin_qualifier: u16,
        text: &str,
    ) {
        let reply = Reply::Error(ErrorReply {
            kind: id.kind,
            code,
            admin_status,
            admin_qualifier,
            text,
        });
        self.reply(id, &reply);
    }

    /// Codes of the failures since the last call, also of requests that wanted no reply.
    pub fn take_errors(&mut self) -> Vec<ErrorCode> {
        std::mem::take(&mut self.errors)
    }

    /// Tells something unasked. A client that has not said HELLO is told nothing.
    pub fn event(&mut self, event: Event) {
        if matches!(self.phase, Phase::Greeted | Phase::Open(_)) {
            let mut message = vec![0; MIN_MESSAGE];
            let len = event.encode(&mut message);
            message.truncate(len);
            self.counters.events += 1;
            self.queue_out(message);
        }
    }

    fn queue_out(&mut self, message: Vec<u8>) {
        if self.out.len() < HARD_MAX_OUT {
            self.out.push_back(message);
        } else {
            // Only a flood of events to a client that does not read gets here.
            self.out.clear();
            self.phase = Phase::Closing;
        }
    }

    /// Takes nothing more; what is queued for the client may still be sent.
    pub fn close(&mut self) {
        self.phase = Phase::Closing;
        self.queue.clear();
        self.stalled = None;
    }

    /// Takes nothing and sends nothing more.
    pub fn abort(&mut self) {
        self.close();
        self.out.clear();
        self.in_flight = None;
    }

    /// Fails what is queued but not started, with this error.
    pub fn refuse_queued(&mut self, code: ErrorCode, text: &str) {
        let stalled = self.stalled.take().map(|(id, _)| id);
        let queued: Vec<RequestId> = self
            .queue
            .drain(..)
            .filter_map(|item| match item {
                Item::Request(id, ..) => Some(id),
                Item::Bad(..) => None,
            })
            .collect();
        for id in stalled.into_iter().chain(queued) {
            self.fail(id, code, text);
        }
    }

    /// The next message for the client.
    pub fn outgoing(&self) -> Option<&[u8]> {
        self.out.front().map(Vec::as_slice)
    }

    /// The message of [`Session::outgoing`] was sent.
    pub fn sent(&mut self) {
        self.out.pop_front();
        self.blocked_since = None;
    }

    /// The client's socket takes no more.
    pub fn blocked(&mut self, now: Instant) {
        self.blocked_since.get_or_insert(now);
    }

    /// Since when the client has not taken a message that was there for it.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Whether the connection can be closed now.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Closing && self.out.is_empty() && self.in_flight.is_none()
    }
}

/// The request's type for a job, for counters.
pub fn job_kind(job: &Job) -> MessageType {
    match job {
        Job::Open { .. } => MessageType::Open,
        Job::Token { .. } => MessageType::Token,
        Job::Access { op, .. } => match op.access {
            Access::Read { .. } => MessageType::Read,
            Access::Write { .. } => MessageType::Write,
        },
        Job::Notify { .. } => MessageType::Notify,
        Job::Query { .. } => MessageType::Query,
    }
}
