// SPDX-License-Identifier: GPL-2.0-or-later
//! Whether messages of a connection can have files. What is received without a look first closes them, which
//! can take as long as the sender likes; a look costs a system call for each message.

use std::os::fd::AsFd;

use pci_transport::refuse_files;

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// They can.
    Possible,
    /// The kernel takes no more; what was sent before can have some. That is over when nothing was there
    /// twice: a sender that was at it the first time held the lock that finding nothing takes.
    Refused {
        /// Nothing was there once.
        empty: bool,
    },
    /// They cannot.
    Impossible,
    /// They can, as this kernel does not know how to refuse them.
    Unrefusable,
}

impl Files {
    /// From now on `socket` is to have none: its client has nothing more to prove.
    pub(super) fn refuse(&mut self, socket: impl AsFd) {
        if *self == Files::Possible {
            *self = match refuse_files(socket.as_fd()) {
                Ok(()) => Files::Refused { empty: false },
                Err(_) => Files::Unrefusable,
            };
        }
    }

    /// Nothing was there to be received. Returns whether to look again at once.
    pub(super) fn nothing_there(&mut self) -> bool {
        let Files::Refused { empty } = *self else {
            return false;
        };
        *self = match empty {
            false => Files::Refused { empty: true },
            true => Files::Impossible,
        };
        !empty
    }

    /// Whether it is still to be found out that there are none.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Files::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn two_looks_at_an_empty_queue_are_needed() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let mut files = Files::Possible;
        assert!(!files.nothing_there() && !files.is_open());
        files.refuse(&socket);
        if files == Files::Unrefusable {
            // A kernel before 6.16: it stays so.
            files.refuse(&socket);
            assert!(!files.nothing_there() && files == Files::Unrefusable);
            return;
        }
        assert!(files.is_open() && files.nothing_there() && files.is_open());
        assert!(!files.nothing_there());
        assert_eq!(files, Files::Impossible);
        files.refuse(&socket);
        assert_eq!(files, Files::Impossible);
    }
}
