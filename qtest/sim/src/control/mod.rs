// SPDX-License-Identifier: GPL-2.0-or-later
//! The control socket: one JSON object per line in, one per line out.
//!
//! A request is `{"cmd": NAME, ...}`. A reply is `{"ok": true, ...}` or
//! `{"ok": false, "error": TEXT}`. Commands of the front end: `ping`, `status`, `counters`,
//! `events` (`since`, `max`), `disconnect` (`function`), `raise-error` (`function`), `quit`. All
//! others go to the hardware.

pub mod client;

use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags};
use serde_json::Value;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest request line.
const MAX_LINE: usize = 64 * 1024;
/// Replies that may wait for a client that does not read.
const MAX_WAITING: usize = 32 << 20;

/// A client of the control socket.
pub struct ControlConnection {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    broken: bool,
}

impl ControlConnection {
    /// Wraps a connected, non-blocking socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            broken: false,
        }
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the client broke the rules (a line too long, replies not read).
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Receives what is there.
    ///
    /// # Errors
    /// The client is gone.
    pub fn receive(&mut self) -> Result<(), Errno> {
        let mut chunk = [0; 4096];
        loop {
            match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(Errno::PIPE),
                Ok((_, n)) => self.input.extend_from_slice(chunk.get(..n).unwrap_or(&[])),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
            if self.input.len() > MAX_LINE && !self.input.contains(&b'\n') {
                self.broken = true;
                return Err(Errno::MSGSIZE);
            }
            if self.input.len() > 4 * MAX_LINE {
                return Ok(());
            }
        }
    }

    /// The next complete line, without its end.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|b| *b == b'\n')?;
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Queues a reply.
    pub fn reply(&mut self, reply: &Value) {
        self.output.extend_from_slice(reply.to_string().as_bytes());
        self.output.push(b'\n');
        self.broken |= self.output.len() > MAX_WAITING;
    }

    /// Sends what the socket takes; `true` if something is left.
    ///
    /// # Errors
    /// The client is gone.
    pub fn flush(&mut self) -> Result<bool, Errno> {
        while !self.output.is_empty() {
            match send(
                &self.socket,
                &self.output,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}
