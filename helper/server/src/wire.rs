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
    recvmsg, send, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags,
    SendFlags,
};

use crate::received::ReceivedFile;

/// Files of one message that are looked at.
const MAX_FILES: usize = 4;
/// Files that one message can bring (SCM_MAX_FD). There is room for all of them: those without are
/// closed by the kernel within the receive, which can take as long as their owner likes.
const MOST_FILES: usize = 253;

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

/// Receives a message with all of its files.
fn take(socket: impl AsFd, buf: &mut [u8]) -> Result<(RecvMsg, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(buf)], &mut control, flags)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    Ok((got, files))
}

/// Takes the next message of a connection that has ended, and gives its files; `None` if there is
/// none.
pub(crate) fn discard(socket: impl AsFd) -> Option<Vec<OwnedFd>> {
    // An empty message cannot be told from the end; what is behind it the kernel discards.
    match take(socket, &mut [0; 1]) {
        Ok((got, files)) if got.bytes > 0 => Some(files),
        _ => None,
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
