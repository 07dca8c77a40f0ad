// SPDX-License-Identifier: GPL-2.0-or-later
//! Listening Unix sockets in the simulator's directory.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    bind, connect, listen as start, socket_with, AddressFamily, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::umask;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 16;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The directory cannot be made.
    #[error("cannot create directory {0}: {1}")]
    Directory(PathBuf, std::io::Error),
    /// A socket cannot be made.
    #[error("cannot listen on {0}: {1}")]
    Socket(PathBuf, Errno),
    /// Somebody answers on a socket already.
    #[error("{0} is in use by another simulator; choose another --dir or stop that one")]
    InUse(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{0} exists and is not a socket; it is left alone")]
    NotASocket(PathBuf),
    /// Waiting cannot be set up.
    #[error("cannot set up waiting: {0}")]
    Waiting(Errno),
}

/// Makes the directory of the sockets (mode 0700) if it is missing.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(dir: &Path) -> Result<(), ListenError> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| ListenError::Directory(dir.to_owned(), e))
}

/// Listens on a socket that its owner and group may connect to. A socket that nobody listens on any
/// more is replaced.
///
/// # Errors
/// Somebody else uses the path, or the socket cannot be made.
pub fn listen(path: &Path) -> Result<OwnedFd, ListenError> {
    let failed = |e| ListenError::Socket(path.to_owned(), e);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    if let Some(dir) = path.parent() {
        make_directory(dir)?;
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !meta.file_type().is_socket() {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        // EAGAIN: somebody listens and its queue is full.
        match connect(new().map_err(failed)?, &address) {
            Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::InUse(path.to_owned())),
            Err(_) => {
                let _ = std::fs::remove_file(path);
            }
        }
    }
    let socket = new().map_err(failed)?;
    // The mode of a socket file is set by the umask alone when it is made.
    let before = umask(Mode::from_raw_mode(0o117));
    let bound = bind(&socket, &address);
    umask(before);
    bound.map_err(failed)?;
    if let Err(e) = start(&socket, BACKLOG) {
        let _ = std::fs::remove_file(path);
        return Err(failed(e));
    }
    Ok(socket)
}
