// SPDX-License-Identifier: GPL-2.0-or-later
//! Messages of a SEQPACKET socket. Nothing here blocks.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use legacy_vf_proto::MAX_MESSAGE;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    recv, recvmsg, send, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendFlags,
};

use crate::received::ReceivedFile;

/// Files that one message can bring; the kernel drops those above.
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

/// Receives a message. Unless `files` are wanted, the kernel discards them.
pub(crate) fn receive(socket: impl AsFd, buf: &mut Buffer, files: bool) -> Received {
    if !files {
        return match recv(socket, &mut buf[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Received::End,
            Ok((_, len)) => Received::Message(len, Vec::new()),
            Err(e) => outcome(e),
        };
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = match recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags) {
        Ok(got) => got,
        Err(e) => return outcome(e),
    };
    let mut files: Vec<ReceivedFile> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds.map(|fd: OwnedFd| ReceivedFile::from(File::from(fd))));
        }
    }
    match got.bytes {
        0 => Received::End,
        _ if got.flags.contains(ReturnFlags::TRUNC) => Received::Message(MAX_MESSAGE + 1, files),
        len => Received::Message(len, files),
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
