// SPDX-License-Identifier: GPL-2.0-or-later
//! The vfio-user server of one function: what arrives on a connection, and what goes back.

pub mod doorbell;
pub mod irq;
pub mod session;
pub mod stream;

use crate::hardware::Function;
use session::{Session, Shared};
use std::time::Instant;
use stream::{Stream, StreamError};

/// A client.
pub struct Connection {
    /// Socket and buffers.
    pub stream: Stream,
    /// Conversation.
    pub session: Session,
    /// Process id of the client, for the log.
    pub pid: i32,
    /// A client that has not agreed on a version by then is cut off.
    pub greet_by: Instant,
    /// What the event loop waits for on this socket.
    pub interest: Interest,
    /// Close once all replies are sent.
    pub closing: bool,
    /// Complaints logged so far; see [`Connection::complain`].
    complaints: u64,
}

/// What to wait for on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Wait for requests.
    pub read: bool,
    /// Wait for room for replies.
    pub write: bool,
}

/// Complaints about one connection that are logged one by one.
const LOUD_COMPLAINTS: u64 = 10;

impl Connection {
    /// A new client.
    pub fn new(stream: Stream, session: Session, pid: i32, greet_by: Instant) -> Self {
        Self {
            stream,
            session,
            pid,
            greet_by,
            interest: Interest {
                read: true,
                write: false,
            },
            closing: false,
            complaints: 0,
        }
    }

    /// The function the client uses.
    pub fn function(&self) -> Function {
        self.session.function()
    }

    /// Logs what the client did wrong: the first ones, then every power of two.
    pub fn complain(&mut self, text: &str) {
        self.complaints += 1;
        let n = self.complaints;
        if n <= LOUD_COMPLAINTS || n.is_power_of_two() {
            let (function, pid) = (self.function(), self.pid);
            tracing::warn!(%function, pid, complaint = n, "{text}");
        }
    }

    /// Receives once. `Ok(false)`: there was nothing.
    ///
    /// # Errors
    /// The connection is over.
    pub fn receive(&mut self) -> Result<bool, StreamError> {
        self.stream.fill()
    }

    /// Handles the next complete message. `Ok(None)`: there is none, or the client has to read its
    /// replies first. `Ok(Some(true))`: eventfds were handed out and are to be waited on.
    ///
    /// # Errors
    /// The connection is over.
    pub fn handle_one(
        &mut self,
        shared: &mut Shared<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<bool>, StreamError> {
        if self.closing || self.stream.is_clogged() {
            return Ok(None);
        }
        let Some(header) = self.stream.peek(self.session.limits())? else {
            return Ok(None);
        };
        let fds = self.stream.take_fds(&header);
        let payload = self.stream.payload(&header);
        let outcome = self.session.handle(&header, payload, fds, shared, scratch);
        self.stream.consume(&header);
        if let Some(text) = &outcome.complaint {
            self.complain(text);
        }
        if outcome.reply {
            self.stream.send(scratch, outcome.fds)?;
        }
        self.closing |= outcome.close;
        Ok(Some(outcome.new_doorbells))
    }
}
