// SPDX-License-Identifier: GPL-2.0-or-later
//! A file that a client sent. No other than the one that is wanted gets into this process, and this
//! one is closed elsewhere: see [`crate::closing`].

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};

use crate::closing::{close, closers, Closing};
use crate::peer::Account;

/// A file that a client sent; dropping it never waits.
#[derive(Debug)]
pub struct ReceivedFile {
    /// `None` only while being dropped.
    file: Option<File>,
    account: Account,
}

impl ReceivedFile {
    /// A file that came from this peer.
    pub fn new(file: OwnedFd, account: Account) -> Self {
        ReceivedFile {
            file: Some(file.into()),
            account,
        }
    }

    /// The file.
    pub fn get(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            close(self.account, Closing::File(file.into()));
        }
    }
}

/// Starts what closes files and waits until it does, for a process that may not start threads later,
/// nor make the system calls of a thread that starts. Without, it is started when serving begins.
///
/// # Errors
/// If a thread cannot be started.
pub fn prepare() -> std::io::Result<()> {
    closers().map(drop)
}

/// Takes the file of the next message, which stays where it is; `None` if that has not exactly one.
/// The message keeps its files until it is received, so that none is closed by this.
pub(crate) fn peek_file(socket: impl AsFd, account: Account) -> Option<ReceivedFile> {
    // Room for one, and for another one by the alignment: enough to see that there are more.
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let mut first = [0; 1];
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut first)],
        &mut control,
        flags,
    )
    .ok()?;
    let mut files: Vec<ReceivedFile> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds.map(|fd| ReceivedFile::new(fd, account)));
        }
    }
    let only = files.pop()?;
    (files.is_empty() && !got.flags.contains(ReturnFlags::CTRUNC)).then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_dropped_file_is_closed() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let account = Account { uid: 0, pid: 1 };
        let file = ReceivedFile::new(OwnedFd::from(there), account);
        assert!(file.get().is_some());
        drop(file);
        // End of file is seen when the other end is closed.
        assert_eq!(here.read(&mut [0]).unwrap(), 0);
    }
}
