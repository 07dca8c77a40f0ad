// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The client's side of a connection as a state machine without I/O.
//!
//! The caller moves the bytes and watches the clock:
//!
//! 1. [`Client::request`] gives messages to send, one at a time: first [`Client::hello`], then OPEN
//!    unless it only asks questions;
//! 2. the caller attaches its proof to OPEN;
//! 3. every message received goes to [`Client::receive`];
//! 4. when a deadline passes, [`Client::abandon`] gives the request up, and its late reply will be
//!    dropped;
//! 5. at end of file, or after [`Received::Lost`], close the socket and start over with a new
//!    `Client`.
//!
//! The helper answers the requests of a connection in their order. So replies to abandoned requests
//! come before all others, and only the oldest request that is not answered can be answered next.
//! A helper that does otherwise cannot be told from one whose numbers are wrong.

use core::fmt;

use crate::error::{ErrorCode, Reason};
use crate::limits::{MAX_MESSAGE, MAX_QUEUED, MIN_MESSAGE, VERSION};
use crate::message::{
    decode_incoming, masked, Event, Hello, Incoming, MessageType, Reply, Request,
};
use crate::text::Name;
use crate::MessageBuf;

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// HELLO was not answered yet.
    Start,
    /// HELLO was answered; TOKEN, QUERY and OPEN may be sent.
    Greeted,
    /// OPEN was answered; everything but HELLO and OPEN may be sent.
    Ready,
    /// The connection is of no use any more.
    Lost(LostReason),
}

/// Why a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The helper closed the connection.
    Closed,
    /// HELLO or OPEN was given up, so where the connection stands is not known.
    GivenUp,
    /// The helper sent bytes that are not a message of this protocol.
    BadBytes(Reason),
    /// A reply to a request that was never sent, or that it was not the turn of.
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
            Self::GivenUp => f.write_str("the helper did not answer HELLO or OPEN in time"),
            Self::BadBytes(e) => write!(f, "the helper sent a bad message: {e}"),
            Self::UnknownSeq(seq) => write!(f, "the helper answered request {seq} out of turn"),
            Self::WrongType { want, got } => {
                write!(f, "the helper answered {} with type {got}", want.name())
            }
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
    /// The request before it is neither answered nor abandoned.
    Busy,
    /// With this one, more requests would be unanswered than a helper queues.
    TooMany,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no request can be sent now: {self:?}")
    }
}

impl core::error::Error for SendError {}

/// What a received message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The reply to the request, an error reply included.
    Reply(Reply<'a>),
    /// Something the helper tells unasked.
    Event(Event),
    /// The reply to a request that was abandoned; drop it.
    Stale,
    /// The connection cannot go on.
    Lost(LostReason),
}

/// Abandoned requests that may be unanswered at a time: one more still fits the helper's queue.
const MAX_OWED: usize = MAX_QUEUED - 1;

/// One connection.
#[derive(Clone, Debug)]
pub struct Client {
    state: State,
    /// What this side says in HELLO.
    hello: Hello,
    /// Number of the next request.
    next: u32,
    /// Number of the next reply, that is of the oldest request without one.
    due: u32,
    /// Replies to abandoned requests that are still to come.
    owed: usize,
    /// The request that somebody waits for.
    pending: Option<Request>,
}

impl Client {
    /// A client that calls itself `name` and would use `features`.
    pub const fn new(name: Name, features: u64) -> Self {
        Client {
            state: State::Start,
            hello: Hello {
                version: VERSION,
                max_message: MAX_MESSAGE as u32,
                features,
                name,
            },
            next: 1,
            due: 1,
            owed: 0,
            pending: None,
        }
    }

    /// How far the connection has come.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Replies to abandoned requests that are still to come.
    pub const fn owed(&self) -> usize {
        self.owed
    }

    /// The first request of a connection.
    pub const fn hello(&self) -> Request {
        Request::Hello(self.hello)
    }

    /// A request to send. Gives its length.
    ///
    /// # Errors
    /// [`SendError`]; nothing is to be sent then.
    pub fn request(&mut self, request: &Request, buf: &mut MessageBuf) -> Result<usize, SendError> {
        let allowed = match request {
            Request::Hello(_) => self.state == State::Start,
            Request::Open(_) => self.state == State::Greeted,
            Request::Token { .. } | Request::Query { .. } => {
                matches!(self.state, State::Greeted | State::Ready)
            }
            _ => self.state == State::Ready,
        };
        if !allowed {
            return Err(SendError::State(self.state));
        }
        if self.pending.is_some() {
            return Err(SendError::Busy);
        }
        if self.owed >= MAX_OWED {
            return Err(SendError::TooMany);
        }
        let len = request.encode(self.next, buf);
        self.next = following(self.next);
        self.pending = Some(*request);
        Ok(len)
    }

    /// Gives up waiting for the reply to the request. Without an answer to HELLO or OPEN the
    /// connection is lost.
    pub fn abandon(&mut self) {
        match self.pending.take() {
            Some(Request::Hello(_) | Request::Open(_)) => self.lose(LostReason::GivenUp),
            Some(_) => self.owed += 1,
            None => {}
        }
    }

    /// Takes one message of the helper. Any bytes are fine; an empty message is end of file.
    pub fn receive<'a>(&mut self, message: &'a [u8]) -> Received<'a> {
        self.judge(message).unwrap_or_else(|reason| {
            self.lose(reason);
            Received::Lost(reason)
        })
    }

    fn lose(&mut self, reason: LostReason) {
        self.state = State::Lost(reason);
        self.pending = None;
        self.owed = 0;
    }

    fn judge<'a>(&mut self, message: &'a [u8]) -> Result<Received<'a>, LostReason> {
        if let State::Lost(reason) = self.state {
            return Err(reason);
        }
        if message.is_empty() {
            return Err(LostReason::Closed);
        }
        let (header, mut reply) = match decode_incoming(message).map_err(LostReason::BadBytes)? {
            Incoming::Event(event) => return Ok(Received::Event(event)),
            Incoming::Reply(header, reply) => (header, reply),
        };
        let unknown = LostReason::UnknownSeq(header.seq);
        if header.seq != self.due {
            return Err(unknown);
        }
        if self.owed > 0 {
            self.owed -= 1;
            self.due = following(self.due);
            return Ok(Received::Stale);
        }
        let request = self.pending.take().ok_or(unknown)?;
        self.due = following(self.due);
        let (want, got) = (request.kind(), header.kind);
        if got != want as u16 {
            return Err(LostReason::WrongType { want, got });
        }
        match (request, &mut reply) {
            (Request::Hello(asked), Reply::Hello(hello)) => {
                if !(1..=VERSION).contains(&hello.version)
                    || (hello.max_message as usize) < MIN_MESSAGE
                    || hello.features & !asked.features != 0
                {
                    return Err(LostReason::BadHello);
                }
                self.state = State::Greeted;
            }
            (Request::Open(asked), Reply::Open(opened)) => {
                let (want, got) = (asked.member, opened.member);
                if got == 0 || (want != 0 && got != want) {
                    return Err(LostReason::WrongMember { want, got });
                }
                self.state = State::Ready;
            }
            (Request::Hello(_) | Request::Open(_), Reply::Error(e)) => {
                self.state = State::Lost(LostReason::Refused(e.code));
            }
            (Request::Read { len, .. }, Reply::Read { data }) => *data = masked(*data, len),
            _ => {}
        }
        Ok(Received::Reply(reply))
    }
}

/// The number after `seq`; 0 is none.
fn following(seq: u32) -> u32 {
    seq.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{flags, Field, Header};

    #[test]
    fn numbers_start_over_and_leave_out_zero() {
        let mut c = Client::new(Name::new("test"), 0);
        (c.state, c.next, c.due) = (State::Ready, u32::MAX, u32::MAX);
        let mut buf = [0; MAX_MESSAGE];
        for seq in [u32::MAX, 1] {
            let len = c.request(&Request::Notify { queue: 0 }, &mut buf);
            assert_eq!((len, &buf[4..8]), (Ok(24), &seq.to_le_bytes()[..]));
            c.abandon();
        }
        for seq in [u32::MAX, 1] {
            let header = Header::new(MessageType::Notify as u16, flags::REPLY, seq);
            let left = header.put(&mut buf).len();
            assert_eq!(c.receive(&buf[..MAX_MESSAGE - left]), Received::Stale);
        }
    }
}
