// SPDX-License-Identifier: GPL-2.0-or-later
//! A non-blocking Unix stream socket that carries vfio-user messages and file descriptors.
//!
//! Descriptors belong to the message whose bytes they came with: the kernel ends a `recvmsg` at
//! the piece of data that carried descriptors, so they go with the last byte that call returned.

use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vfio_user_wire::{Header, Limits, WireError, HEADER_LEN};

/// Descriptors accepted with one message; QEMU's own limit.
pub const MAX_MESSAGE_FDS: usize = 16;
/// Descriptors that may wait for their messages to become complete.
const MAX_WAITING_FDS: usize = 2 * MAX_MESSAGE_FDS;
/// Free space offered to one receive call.
const READ_CHUNK: usize = 16 * 1024;
/// Replies that may wait for a client that does not read; then nothing more is read from it.
pub const MAX_WAITING_OUT: usize = 256 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer closed its end.
    #[error("the client closed the connection")]
    Closed,
    /// The socket failed.
    #[error("socket error: {0}")]
    Io(#[from] Errno),
    /// The byte stream makes no sense.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More descriptors than any message may carry.
    #[error("more than {MAX_WAITING_FDS} file descriptors wait for their messages")]
    TooManyFds,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<Arc<OwnedFd>>,
}

/// One connection's socket and buffers.
pub struct Stream {
    socket: OwnedFd,
    input: Vec<u8>,
    /// Valid bytes of `input` are `start..end`.
    start: usize,
    end: usize,
    /// Position in the stream of `input[start]`.
    position: u64,
    /// Descriptors by stream position of the last byte they came with.
    fds: VecDeque<(u64, OwnedFd)>,
    output: VecDeque<Outgoing>,
    waiting_out: usize,
}

impl Stream {
    /// Wraps a connected, non-blocking socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: Vec::new(),
            start: 0,
            end: 0,
            position: 0,
            fds: VecDeque::new(),
            output: VecDeque::new(),
            waiting_out: 0,
        }
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Receives what is there, one call's worth. `Ok(false)`: nothing more for now.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn fill(&mut self) -> Result<bool, StreamError> {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let want = self.end.saturating_add(READ_CHUNK);
        if self.input.len() < want {
            self.input.resize(want, 0);
        }
        let Some(free) = self.input.get_mut(self.end..) else {
            return Ok(false);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(free)],
            &mut control,
            flags,
        ) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(e) => return Err(e.into()),
        };
        if got.bytes == 0 {
            return Err(StreamError::Closed);
        }
        self.end += got.bytes;
        let last = self.position + (self.end - self.start) as u64 - 1;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds.map(|fd| (last, fd)));
            }
        }
        if self.fds.len() > MAX_WAITING_FDS {
            return Err(StreamError::TooManyFds);
        }
        Ok(true)
    }

    /// The header of the next message if all of it is here.
    ///
    /// # Errors
    /// The stream cannot be followed; the connection must be closed.
    pub fn peek(&self, limits: &Limits) -> Result<Option<Header>, StreamError> {
        let here = self.input.get(self.start..self.end).unwrap_or(&[]);
        let Some(head) = here.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::decode(head, limits)?;
        Ok((here.len() >= header.size as usize).then_some(header))
    }

    /// The payload of the message that `peek` showed.
    pub fn payload(&self, header: &Header) -> &[u8] {
        let from = self.start.saturating_add(HEADER_LEN);
        let to = self.start.saturating_add(header.size as usize);
        self.input.get(from..to.min(self.end)).unwrap_or(&[])
    }

    /// The descriptors of the message that `peek` showed.
    pub fn take_fds(&mut self, header: &Header) -> Vec<OwnedFd> {
        let end = self.position + u64::from(header.size);
        let mut out = Vec::new();
        while self.fds.front().is_some_and(|(at, _)| *at < end) {
            out.extend(self.fds.pop_front().map(|(_, fd)| fd));
        }
        out
    }

    /// Drops the message that `peek` showed.
    pub fn consume(&mut self, header: &Header) {
        let n = (header.size as usize).min(self.end - self.start);
        self.start += n;
        self.position += n as u64;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // A large transfer does not keep its memory.
            if self.input.len() > 4 * READ_CHUNK {
                self.input = Vec::new();
            }
        }
    }

    /// Queues a message and sends what can be sent.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn send(&mut self, bytes: &[u8], fds: Vec<Arc<OwnedFd>>) -> Result<(), StreamError> {
        self.waiting_out += bytes.len();
        match self.output.back_mut() {
            Some(last) if fds.is_empty() => last.bytes.extend_from_slice(bytes),
            _ => self.output.push_back(Outgoing {
                bytes: bytes.to_vec(),
                sent: 0,
                fds,
            }),
        }
        self.flush()
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn flush(&mut self) -> Result<(), StreamError> {
        while let Some(front) = self.output.front_mut() {
            let rest = front.bytes.get(front.sent..).unwrap_or(&[]);
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let fds: Vec<BorrowedFd<'_>> = front.fds.iter().map(|fd| fd.as_fd()).collect();
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if front.sent == 0 && !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(n) => {
                    front.sent += n;
                    self.waiting_out = self.waiting_out.saturating_sub(n);
                    if front.sent >= front.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(StreamError::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Whether replies wait for the client to read.
    pub fn must_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether so many replies wait that no more requests are taken.
    pub fn is_clogged(&self) -> bool {
        self.waiting_out > MAX_WAITING_OUT
    }
}
