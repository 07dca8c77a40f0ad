// SPDX-License-Identifier: GPL-2.0-or-later
//! Messages of a SEQPACKET socket. Nothing here blocks.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};

use legacy_vf_proto::MAX_MESSAGE;
use rustix::io::Errno;
use rustix::net::{recvmsg, send, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags};

use crate::received::{take, ReceivedFile};

/// Files of one message that are looked at.
const MAX_FILES: usize = 4;

/// One byte more than a message, so that a longer one is seen to be too long.
pub(crate) type Buffer = [u8; MAX_MESSAGE + 1];

/// What a receive gave.
pub(crate) enum Received {
    /// A message: bytes of the buffer (4097 for one that was cut), and its files.
    Message(usize, Vec<ReceivedFile>),
    /// Nothing there.
    Nothing,
    /// The client is gone (or sent an empty message, which is none of this protocol).
    End,
    /// A message with files, which are not wanted now. It was left where it is.
    Unwanted,
    /// The socket is broken.
    Failed(Errno),
}

fn outcome(e: Errno) -> Received {
    match e {
        Errno::AGAIN | Errno::INTR => Received::Nothing,
        Errno::CONNRESET | Errno::PIPE => Received::End,
        e => Received::Failed(e),
    }
}

/// Receives a message; if it has files, only if `files` are wanted.
pub(crate) fn receive(socket: impl AsFd, buf: &mut Buffer, files: bool) -> Received {
    if !files {
        // Only a look, which closes nothing.
        let look = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let mut none = RecvAncillaryBuffer::default();
        match recvmsg(&socket, &mut [IoSliceMut::new(buf)], &mut none, look) {
            Ok(seen) if seen.flags.contains(ReturnFlags::CTRUNC) => return Received::Unwanted,
            Ok(_) => {}
            Err(e) => return outcome(e),
        }
    }
    let (got, mut files) = match take(&socket, buf) {
        Ok(taken) => taken,
        Err(e) => return outcome(e),
    };
    let rest = files.split_off(files.len().min(MAX_FILES));
    let files: Vec<ReceivedFile> = files.into_iter().map(into_received).collect();
    // Each is closed elsewhere.
    rest.into_iter().map(into_received).for_each(drop);
    match got.bytes {
        0 => Received::End,
        _ if got.flags.contains(ReturnFlags::TRUNC) => Received::Message(MAX_MESSAGE + 1, files),
        len => Received::Message(len, files),
    }
}

fn into_received(fd: OwnedFd) -> ReceivedFile {
    ReceivedFile::from(File::from(fd))
}

/// What a send did.
pub(crate) enum Sent {
    /// The message is on its way.
    Done,
    /// No room now.
    Full,
    /// The client is gone.
    End,
}

/// Sends a message.
pub(crate) fn transmit(socket: impl AsFd, message: &[u8]) -> Sent {
    match send(socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) => Sent::Done,
        Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Sent::Full,
        Err(_) => Sent::End,
    }
}
