// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that clients sent, and the clients' connections, which may hold more of them. Closing one
//! can take long: the last user of a VFIO device file resets the device, a socket may linger, and a
//! file system that the client itself serves may never answer. So a thread of its own closes them.

use std::fs::File;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, SyncSender, TrySendError};
use std::sync::OnceLock;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg};

/// Files that one message can bring (SCM_MAX_FD). There is room for all of them: those without are
/// closed by the kernel within the receive, which can take as long as their owner likes.
const MOST_FILES: usize = 253;
/// Files that may wait to be closed.
const MAX_WAITING: usize = 4096;

/// What is to be closed.
enum Closing {
    File(OwnedFd),
    /// A client's connection, with what was not read.
    Connection(OwnedFd),
}

static CLOSER: OnceLock<Option<SyncSender<Closing>>> = OnceLock::new();
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A file that a client sent; dropping it never waits.
#[derive(Debug)]
pub struct ReceivedFile {
    /// `None` only while being dropped.
    file: Option<File>,
}

impl From<File> for ReceivedFile {
    fn from(file: File) -> Self {
        ReceivedFile { file: Some(file) }
    }
}

impl ReceivedFile {
    /// The file.
    pub fn get(&self) -> Option<&File> {
        self.file.as_ref()
    }
}

/// Whether another message with files can be taken. If not, some client's files do not get closed.
pub(crate) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < MAX_WAITING / 2
}

/// Receives a message with all of its files.
pub(crate) fn take(socket: impl AsFd, buf: &mut [u8]) -> Result<(RecvMsg, Vec<OwnedFd>), Errno> {
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
fn discard(socket: impl AsFd) -> Option<Vec<OwnedFd>> {
    // An empty message cannot be told from the end; what is behind it the kernel discards.
    match take(socket, &mut [0; 1]) {
        Ok((got, files)) if got.bytes > 0 => Some(files),
        _ => None,
    }
}

fn closer() -> Option<&'static SyncSender<Closing>> {
    let make = || {
        let (sender, receiver) = sync_channel::<Closing>(MAX_WAITING);
        let closing = move || {
            for what in receiver {
                match what {
                    Closing::File(file) => close_now(file),
                    Closing::Connection(socket) => {
                        while let Some(files) = discard(&socket) {
                            files.into_iter().for_each(close_now);
                        }
                    }
                }
                WAITING.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let thread = std::thread::Builder::new()
            .name("close".into())
            .spawn(closing);
        thread.ok().map(|_| sender)
    };
    CLOSER.get_or_init(make).as_ref()
}

/// Starts what closes files and waits until it does, for a process that may not start threads later,
/// nor make the system calls of a thread that starts. Without, it is started when it is needed.
///
/// # Errors
/// If there is no file to try it with.
pub fn prepare() -> std::io::Result<()> {
    let (mut here, there) = UnixStream::pair()?;
    drop(ReceivedFile::from(File::from(OwnedFd::from(there))));
    // Until the other end is closed.
    here.read(&mut [0]).map(drop)
}

/// Closes a file. A socket of the client does not linger; a file system of its own still may.
fn close_now(file: OwnedFd) {
    let _no_socket = rustix::net::sockopt::set_socket_linger(&file, None);
}

fn hand_over(what: Closing) {
    let Some(closer) = closer() else { return };
    WAITING.fetch_add(1, Ordering::Relaxed);
    if let Err(TrySendError::Full(what) | TrySendError::Disconnected(what)) = closer.try_send(what)
    {
        // More than [`has_room`] lets in. Better one file kept than everybody kept waiting.
        WAITING.fetch_sub(1, Ordering::Relaxed);
        std::mem::forget(what);
    }
}

/// Ends a connection: the client sees it at once. The kernel's work with what the client had sent and
/// nobody had read is not waited for.
pub(crate) fn hang_up(socket: OwnedFd) {
    let _gone = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
    hand_over(Closing::Connection(socket));
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            hand_over(Closing::File(file.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_is_closed() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let file = ReceivedFile::from(File::from(OwnedFd::from(there)));
        assert!(file.get().is_some());
        drop(file);
        // End of file is seen when the other end is closed.
        assert_eq!(here.read(&mut [0]).unwrap(), 0);
        assert!(has_room());
    }
}
