// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The client's side of a connection as a state machine without I/O.
//!
//! The caller moves the bytes and watches the clock:
//!
//! 1. [`Client::hello`] and, unless it only asks questions, [`Client::open`] give messages to send;
//! 2. [`Client::request`] gives a message and the number of the request;
//! 3. every message received goes to [`Client::receive`];
//! 4. when a deadline passes, [`Client::abandon`] forgets the request, and its late reply will be
//!    counted and dropped;
//! 5. at end of file, or after [`Received::Lost`], close the socket and start over with
//!    [`Client::reset`].

use core::fmt;

use crate::decode::{decode_incoming, DecodeError, Incoming};
use crate::error::ErrorCode;
use crate::header::MessageType;
use crate::limits::{MAX_MESSAGE, MAX_QUEUED, MIN_MESSAGE, VERSION};
use crate::message::{Event, Hello, HelloReply, Open, OpenReply, Reply, Request};
use crate::text::Name;
use crate::MessageBuf;

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was sent.
    Start,
    /// HELLO was sent.
    HelloSent,
    /// HELLO was answered; TOKEN, QUERY and OPEN may be sent.
    Greeted,
    /// OPEN was sent.
    OpenSent,
    /// OPEN was answered; everything but HELLO and OPEN may be sent.
    Ready,
    /// The connection is of no use any more.
    Lost(LostReason),
}

/// Why a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The socket was closed or failed; told by the caller.
    Closed,
    /// The helper sent bytes that are not a message of this protocol.
    BadBytes(DecodeError),
    /// A reply to a request that was never sent.
    UnknownSeq(u32),
    /// A reply of another type than its request.
    WrongType {
        /// Type of the request.
        want: MessageType,
        /// Type of the reply.
        got: u16,
    },
    /// The helper answered HELLO with a version or limit that this client cannot use.
    BadHello,
    /// The helper answered OPEN for another VF than was asked for.
    WrongMember {
        /// The VF asked for.
        want: u16,
        /// The VF in the reply.
        got: u16,
    },
    /// The helper refused HELLO or OPEN with this code; the reply itself was given to the caller.
    Refused(ErrorCode),
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the helper closed the connection"),
            Self::BadBytes(e) => write!(f, "the helper sent a bad message: {e}"),
            Self::UnknownSeq(seq) => {
                write!(f, "the helper answered request {seq}, which was never sent")
            }
            Self::WrongType { want, got } => write!(
                f,
                "the helper answered {} with message type {got}",
                want.name()
            ),
            Self::BadHello => f.write_str("the helper's HELLO has an unusable version or limit"),
            Self::WrongMember { want, got } => {
                write!(f, "the helper opened VF {got} instead of VF {want}")
            }
            Self::Refused(code) => write!(f, "the helper refused the connection: {code}"),
        }
    }
}

/// Why a request cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection is not in a state that allows this request.
    State(State),
    /// As many requests are unanswered as the helper queues.
    TooMany,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "the connection is in state {state:?}"),
            Self::TooMany => write!(f, "{MAX_QUEUED} requests are unanswered"),
        }
    }
}

impl core::error::Error for SendError {}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the buffer that make the message.
    pub len: usize,
    /// The request's number.
    pub seq: u32,
}

/// What a received message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The reply to request `seq`, an error reply included.
    Reply {
        /// The request's number.
        seq: u32,
        /// The reply.
        reply: Reply<'a>,
    },
    /// Something the helper tells unasked.
    Event(Event),
    /// The reply to a request that was abandoned; drop it.
    Stale {
        /// The request's number.
        seq: u32,
    },
    /// The connection cannot go on.
    Lost(LostReason),
}

/// What a connection has seen, over all resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests sent.
    pub requests: u64,
    /// Replies that matched a request.
    pub replies: u64,
    /// Of these, error replies.
    pub errors: u64,
    /// Replies to abandoned requests.
    pub stale: u64,
    /// Events.
    pub events: u64,
    /// Messages or replies that ended the connection.
    pub bad: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    seq: u32,
    kind: MessageType,
    /// Bytes asked for by READ; the rest of the reply is cleared.
    len: u8,
    /// Replies to abandoned requests are dropped.
    abandoned: bool,
}

/// One connection, again and again.
#[derive(Clone, Debug)]
pub struct Client {
    state: State,
    name: Name,
    features: u64,
    want_member: u16,
    next_seq: u32,
    pending: [Option<Pending>; MAX_QUEUED],
    hello: Option<HelloReply>,
    opened: Option<OpenReply>,
    counters: Counters,
}

impl Client {
    /// A client that calls itself `name` and would use `features`.
    pub const fn new(name: Name, features: u64) -> Self {
        Client {
            state: State::Start,
            name,
            features,
            want_member: 0,
            next_seq: 1,
            pending: [None; MAX_QUEUED],
            hello: None,
            opened: None,
            counters: Counters {
                requests: 0,
                replies: 0,
                errors: 0,
                stale: 0,
                events: 0,
                bad: 0,
            },
        }
    }

    /// How far the connection has come.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The helper's answer to HELLO on this connection.
    pub const fn hello_reply(&self) -> Option<&HelloReply> {
        self.hello.as_ref()
    }

    /// The helper's answer to OPEN on this connection.
    pub const fn open_reply(&self) -> Option<&OpenReply> {
        self.opened.as_ref()
    }

    /// Counts over the life of this value.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests that wait for a reply; abandoned ones do not count.
    pub fn outstanding(&self) -> usize {
        self.pending
            .iter()
            .flatten()
            .filter(|p| !p.abandoned)
            .count()
    }

    /// Forgets the connection, for a new one. Request numbers go on, so that replies of the old
    /// connection could never be taken for new ones.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.want_member = 0;
        self.pending = [None; MAX_QUEUED];
        self.hello = None;
        self.opened = None;
    }

    /// The socket was closed or failed.
    pub fn closed(&mut self) {
        if !matches!(self.state, State::Lost(_)) {
            self.state = State::Lost(LostReason::Closed);
        }
        self.pending = [None; MAX_QUEUED];
    }

    /// The first message of a connection.
    ///
    /// # Errors
    /// [`SendError::State`] unless the connection is new.
    pub fn hello(&mut self, buf: &mut MessageBuf) -> Result<Sent, SendError> {
        self.request(
            &Request::Hello(Hello {
                version: VERSION,
                max_message: MAX_MESSAGE as u32,
                features: self.features,
                name: self.name,
            }),
            buf,
        )
    }

    /// Binds the connection to a VF. The caller attaches the proof to the message.
    ///
    /// # Errors
    /// [`SendError::State`] unless HELLO was answered and OPEN not yet sent.
    pub fn open(&mut self, open: Open, buf: &mut MessageBuf) -> Result<Sent, SendError> {
        self.request(&Request::Open(open), buf)
    }

    fn allowed(&self, kind: MessageType) -> bool {
        match kind {
            MessageType::Hello => self.state == State::Start,
            MessageType::Open => self.state == State::Greeted,
            MessageType::Token | MessageType::Query => {
                matches!(self.state, State::Greeted | State::OpenSent | State::Ready)
            }
            MessageType::Read | MessageType::Write | MessageType::Notify => {
                self.state == State::Ready
            }
            MessageType::Event => false,
        }
    }

    fn take_seq(&mut self) -> u32 {
        let seq = self.next_seq;
        self.next_seq = match seq.wrapping_add(1) {
            0 => 1,
            next => next,
        };
        seq
    }

    /// A request to send.
    ///
    /// # Errors
    /// [`SendError`]; nothing is to be sent then.
    pub fn request(&mut self, request: &Request, buf: &mut MessageBuf) -> Result<Sent, SendError> {
        let kind = request.kind();
        if !self.allowed(kind) {
            return Err(SendError::State(self.state));
        }
        let Some(free) = self.pending.iter().position(Option::is_none) else {
            return Err(SendError::TooMany);
        };
        let seq = self.take_seq();
        if let Some(slot) = self.pending.get_mut(free) {
            *slot = Some(Pending {
                seq,
                kind,
                len: match *request {
                    Request::Read { len, .. } => len,
                    _ => 0,
                },
                abandoned: false,
            });
        }
        match *request {
            Request::Hello(_) => self.state = State::HelloSent,
            Request::Open(open) => {
                self.state = State::OpenSent;
                self.want_member = open.member;
            }
            _ => {}
        }
        self.counters.requests += 1;
        Ok(Sent {
            len: request.encode(seq, buf),
            seq,
        })
    }

    /// A notification that wants no reply.
    ///
    /// # Errors
    /// [`SendError::State`] unless the connection is ready.
    pub fn notify(&mut self, queue: u16, buf: &mut MessageBuf) -> Result<Sent, SendError> {
        if !self.allowed(MessageType::Notify) {
            return Err(SendError::State(self.state));
        }
        let seq = self.take_seq();
        self.counters.requests += 1;
        Ok(Sent {
            len: Request::Notify { queue }.encode_no_reply(seq, buf),
            seq,
        })
    }

    /// Gives up waiting for the reply to request `seq`. Returns whether it was outstanding.
    ///
    /// An abandoned request still counts against the helper's queue until its reply comes, so a
    /// helper that answers nothing runs into [`SendError::TooMany`].
    pub fn abandon(&mut self, seq: u32) -> bool {
        match self
            .pending
            .iter_mut()
            .flatten()
            .find(|p| p.seq == seq && !p.abandoned)
        {
            Some(p) => {
                p.abandoned = true;
                true
            }
            None => false,
        }
    }

    /// Takes one message of the helper. Any bytes are fine; an empty message is end of file.
    pub fn receive<'a>(&mut self, message: &'a [u8]) -> Received<'a> {
        if let State::Lost(reason) = self.state {
            return Received::Lost(reason);
        }
        if message.is_empty() {
            self.closed();
            return Received::Lost(LostReason::Closed);
        }
        let (header, reply) = match decode_incoming(message) {
            Err(e) => return self.lose(LostReason::BadBytes(e)),
            Ok(Incoming::Event(event)) => {
                self.counters.events += 1;
                return Received::Event(event);
            }
            Ok(Incoming::Reply(header, reply)) => (header, reply),
        };
        let seq = header.seq;
        let found = self
            .pending
            .iter_mut()
            .find(|p| p.is_some_and(|p| p.seq == seq));
        let Some(pending) = found.and_then(Option::take) else {
            return self.lose(LostReason::UnknownSeq(seq));
        };
        if reply.kind() != pending.kind as u16 {
            return self.lose(LostReason::WrongType {
                want: pending.kind,
                got: reply.kind(),
            });
        }
        if pending.abandoned {
            self.counters.stale += 1;
            // A late answer to HELLO or OPEN still says where the connection stands.
            return match self.advance(&reply) {
                Ok(()) => Received::Stale { seq },
                Err(reason) => self.lose(reason),
            };
        }
        self.counters.replies += 1;
        if matches!(reply, Reply::Error(_)) {
            self.counters.errors += 1;
        }
        if let Err(reason) = self.advance(&reply) {
            if !matches!(reason, LostReason::Refused(_)) {
                return self.lose(reason);
            }
            self.state = State::Lost(reason);
        }
        let reply = match reply {
            Reply::Read { mut data } => {
                for b in data.iter_mut().skip(usize::from(pending.len)) {
                    *b = 0;
                }
                Reply::Read { data }
            }
            other => other,
        };
        Received::Reply { seq, reply }
    }

    fn lose<'a>(&mut self, reason: LostReason) -> Received<'a> {
        self.counters.bad += 1;
        self.state = State::Lost(reason);
        self.pending = [None; MAX_QUEUED];
        Received::Lost(reason)
    }

    fn advance(&mut self, reply: &Reply<'_>) -> Result<(), LostReason> {
        match *reply {
            Reply::Hello(hello) => {
                if hello.version == 0
                    || hello.version > VERSION
                    || (hello.max_message as usize) < MIN_MESSAGE
                    || hello.features & !self.features != 0
                {
                    return Err(LostReason::BadHello);
                }
                self.hello = Some(hello);
                self.state = State::Greeted;
            }
            Reply::Open(opened) => {
                if opened.member == 0
                    || (self.want_member != 0 && opened.member != self.want_member)
                {
                    return Err(LostReason::WrongMember {
                        want: self.want_member,
                        got: opened.member,
                    });
                }
                self.opened = Some(opened);
                self.state = State::Ready;
            }
            Reply::Error(e)
                if e.kind == MessageType::Hello as u16 || e.kind == MessageType::Open as u16 =>
            {
                return Err(LostReason::Refused(e.code));
            }
            _ => {}
        }
        Ok(())
    }
}
