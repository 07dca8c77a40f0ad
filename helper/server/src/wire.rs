// SPDX-License-Identifier: GPL-2.0-or-later
//! Messages of a SEQPACKET socket. Nothing here blocks.

use std::io::IoSliceMut;
use std::os::fd::AsFd;

use legacy_vf_proto::MAX_MESSAGE;
use rustix::io::Errno;
use rustix::net::{recv, recvmsg, send, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags};

use crate::peer::Account;
use crate::received::{peek_file, ReceivedFile};

/// One byte more than a message, so that a longer one is seen to be too long.
pub(crate) type Buffer = [u8; MAX_MESSAGE + 1];

/// What a receive gave.
pub(crate) enum Received {
    /// A message: bytes of the buffer (4097 for one that was cut), and its file.
    Message(usize, Option<ReceivedFile>),
    /// Nothing there.
    Nothing,
    /// The client is gone (or sent an empty message, which is none of this protocol).
    End,
    /// A message of so many bytes with files that are not wanted, or with more than one. It was left
    /// where it is: receiving it would close them here.
    Unwanted(usize),
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

/// Receives a message. One with files only if there is one and `wants_file` says so of its bytes.
pub(crate) fn receive(
    socket: impl AsFd,
    buf: &mut Buffer,
    account: Account,
    wants_file: impl FnOnce(&[u8]) -> bool,
) -> Received {
    // A look takes no files, closes none, and tells whether there are any.
    let look = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let mut none = RecvAncillaryBuffer::default();
    let seen = match recvmsg(&socket, &mut [IoSliceMut::new(buf)], &mut none, look) {
        Ok(seen) => seen,
        Err(e) => return outcome(e),
    };
    let len = match seen.flags.contains(ReturnFlags::TRUNC) {
        true => MAX_MESSAGE + 1,
        false => seen.bytes,
    };
    let mut file = None;
    if seen.flags.contains(ReturnFlags::CTRUNC) {
        if wants_file(buf.get(..len).unwrap_or(&[])) {
            file = peek_file(&socket, account);
        }
        if file.is_none() {
            return Received::Unwanted(len);
        }
    } else if len == 0 {
        return Received::End;
    }
    // The bytes are here already. A file in the message is held by this process, so that its going
    // closes nothing.
    match recv(&socket, &mut [0u8; 1][..], RecvFlags::DONTWAIT) {
        Ok(_) => Received::Message(len, file),
        Err(e) => outcome(e),
    }
}

/// Receives a message of a socket to which no file can be sent: one call is enough.
pub(crate) fn receive_bytes(socket: impl AsFd, buf: &mut Buffer) -> Received {
    match recv(&socket, &mut buf[..], RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Received::End,
        Ok((len, _)) => Received::Message(len, None),
        Err(e) => outcome(e),
    }
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
