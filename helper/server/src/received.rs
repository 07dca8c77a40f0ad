// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that clients sent. Closing one can take long: the last user of a VFIO device file resets
//! the device, a socket may linger, and a file system that the client itself serves may never answer.
//! So a thread of its own closes them.

use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, SyncSender, TrySendError};
use std::sync::OnceLock;

/// Files that may wait to be closed.
const MAX_WAITING: usize = 64;

static CLOSER: OnceLock<Option<SyncSender<File>>> = OnceLock::new();
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

/// Whether another message with files can be taken. If not, some client's files do not get closed,
/// and the kernel can discard those of new messages: that does not wait.
pub(crate) fn has_room() -> bool {
    WAITING.load(Ordering::Relaxed) < MAX_WAITING / 2
}

fn closer() -> Option<&'static SyncSender<File>> {
    let make = || {
        let (sender, receiver) = sync_channel::<File>(MAX_WAITING);
        let closing = move || {
            for file in receiver {
                drop(file);
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

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let Some(closer) = closer() else { return };
        WAITING.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(file) | TrySendError::Disconnected(file)) =
            closer.try_send(file)
        {
            // More than [`has_room`] lets in, which only several messages at once can do. Better
            // one file kept than everybody kept waiting.
            std::mem::forget(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

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
