// SPDX-License-Identifier: GPL-2.0-or-later
//! The socket file: made so that at no time more may connect than the options say, owned by one
//! process at a time, and removed at the end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{chownat, flock, AtFlags, FlockOperation, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    bind, connect, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::closing;
use crate::peer::{Account, Peer};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Path of the socket file.
    pub path: PathBuf,
    /// Its mode; bits for others are refused.
    pub mode: u32,
    /// Its owner; this process's user if `None`.
    pub owner: Option<u32>,
    /// Its group; that of the directory or this process if `None`.
    pub group: Option<u32>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The directory is missing.
    #[error("Directory {0} does not exist; create it first: mkdir -m 0755 -p {0}")]
    NoDirectory(String),
    /// Somebody serves there.
    #[error("Another helper serves this PF: {path} is in use by {holder}; stop that one first")]
    InUse {
        /// The socket.
        path: String,
        /// Which process.
        holder: String,
    },
    /// Something else has that name.
    #[error("{0} exists and is not a socket; remove it or choose another --socket")]
    NotASocket(String),
    /// Too open.
    #[error("Socket mode {0:04o} would let every user reach the device; use 0660 or stricter")]
    ModeTooOpen(u32),
    /// The path does not fit a socket address.
    #[error("{0}: the path of a socket can have at most 107 bytes")]
    PathTooLong(String),
    /// A call failed.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// A listening socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    lock_path: PathBuf,
    /// Device and inode of the socket file, so that only the own one is removed.
    identity: (u64, u64),
    /// Held for as long as this process serves.
    _lock: File,
}

/// The file creation mask belongs to the whole process.
static UMASK: Mutex<()> = Mutex::new(());

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> ListenError {
    let path = shown(path);
    move |e| ListenError::Io {
        what,
        path,
        source: e.into(),
    }
}

/// Who listens on a socket file: `None` if nobody does.
fn holder(address: &SocketAddrUnix) -> Option<String> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    match connect(&socket, address) {
        // The kernel gives the credentials of who called listen().
        Ok(()) => Some(Peer::of(&socket).map_or_else(|_| "a process".into(), |p| p.to_string())),
        Err(Errno::CONNREFUSED | Errno::NOENT) => None,
        Err(Errno::ACCESS) => Some(
            "somebody whom this process may not ask (if nobody serves there, remove the file)"
                .into(),
        ),
        Err(Errno::PROTOTYPE) => Some("a process that serves something else".into()),
        Err(_) => Some("a process".into()),
    }
}

/// Takes the lock that says who may use the socket's path.
fn lock(path: &Path, lock_path: &Path, address: &SocketAddrUnix) -> Result<File, ListenError> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32)
            .open(lock_path)
            .map_err(|source| ListenError::Io {
                what: "Cannot open",
                path: shown(lock_path),
                source,
            })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(ListenError::InUse {
                    path: shown(path),
                    holder: holder(address)
                        .unwrap_or_else(|| "a helper that is starting or stopping".into()),
                })
            }
            Err(e) => return Err(io_error("Cannot lock", lock_path)(e)),
        }
        // Its last owner removes the file; a lock on a removed one says nothing.
        let same = match (file.metadata(), fs::metadata(lock_path)) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        };
        if same {
            return Ok(file);
        }
    }
}

impl Listener {
    /// Makes the socket and listens.
    ///
    /// # Errors
    /// [`ListenError`]; nothing is left behind then.
    pub fn bind(options: &SocketOptions) -> Result<Self, ListenError> {
        let path = &options.path;
        if options.mode & 0o007 != 0 {
            return Err(ListenError::ModeTooOpen(options.mode));
        }
        let directory = match path.parent() {
            Some(p) if p.as_os_str().is_empty() => Path::new("."),
            Some(p) => p,
            None => return Err(ListenError::NotASocket(shown(path))),
        };
        if !directory.is_dir() {
            return Err(ListenError::NoDirectory(shown(directory)));
        }
        let address =
            SocketAddrUnix::new(path).map_err(|_| ListenError::PathTooLong(shown(path)))?;
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(path, &lock_path, &address)?;
        match Self::make(options, &address) {
            Ok((socket, identity)) => Ok(Listener {
                socket,
                path: path.clone(),
                lock_path,
                identity,
                _lock: lock,
            }),
            Err(e) => {
                let _gone = fs::remove_file(&lock_path);
                Err(e)
            }
        }
    }

    fn make(
        options: &SocketOptions,
        address: &SocketAddrUnix,
    ) -> Result<(OwnedFd, (u64, u64)), ListenError> {
        let path = &options.path;
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(ListenError::NotASocket(shown(path)))
            }
            Ok(_) => {
                if let Some(holder) = holder(address) {
                    return Err(ListenError::InUse {
                        path: shown(path),
                        holder,
                    });
                }
                tracing::info!(path = %path.display(), "Replacing a stale socket");
                fs::remove_file(path).map_err(|source| ListenError::Io {
                    what: "Cannot remove the stale socket",
                    path: shown(path),
                    source,
                })?;
            }
            Err(_) => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io_error("Cannot make a socket for", path))?;
        {
            // Nobody but the owner until owner and group are set; nobody at all before listen().
            let _guard = UMASK.lock();
            let old = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound = bind(&socket, address);
            rustix::process::umask(old);
            bound.map_err(io_error("Cannot bind", path))?;
        }
        let made = Self::restrict(options).and_then(|identity| {
            listen(&socket, BACKLOG).map_err(io_error("Cannot listen on", path))?;
            Ok(identity)
        });
        match made {
            Ok(identity) => Ok((socket, identity)),
            Err(e) => {
                let _gone = fs::remove_file(path);
                Err(e)
            }
        }
    }

    /// Sets owner, group and mode; returns which file it is.
    fn restrict(options: &SocketOptions) -> Result<(u64, u64), ListenError> {
        let path = &options.path;
        let fail = |what| {
            move |source| ListenError::Io {
                what,
                path: shown(path),
                source,
            }
        };
        // Whoever may write to the directory can put another file there meanwhile: what is changed
        // is the file that was looked at, and a socket.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32)
            .open(path)
            .map_err(fail("Cannot look at"))?;
        let meta = file.metadata().map_err(fail("Cannot look at"))?;
        if !meta.file_type().is_socket() {
            return Err(ListenError::NotASocket(shown(path)));
        }
        if options.owner.is_some() || options.group.is_some() {
            let owner = options.owner.map(Uid::from_raw);
            let group = options.group.map(Gid::from_raw);
            chownat(&file, "", owner, group, AtFlags::EMPTY_PATH)
                .map_err(|e| fail("Cannot set owner and group of")(e.into()))?;
        }
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(same, fs::Permissions::from_mode(options.mode))
            .map_err(fail("Cannot set the mode of"))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// The path of the socket file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let own = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if own {
            let _gone = fs::remove_file(&self.path);
        }
        let _gone = fs::remove_file(&self.lock_path);
        // Closing it would discard, and wait for, files that are in connections not yet accepted.
        let _shut = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        while let Ok(waiting) = rustix::net::accept(&self.socket) {
            let unknown = Account {
                uid: u32::MAX,
                pid: 0,
            };
            let account = Peer::of(&waiting).map_or(unknown, |peer| peer.account());
            closing::hang_up(account, waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &tempfile::TempDir) -> SocketOptions {
        SocketOptions {
            path: dir.path().join("pf.sock"),
            mode: 0o660,
            owner: None,
            group: None,
        }
    }

    #[test]
    fn the_file_has_the_mode_asked_for_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660] {
            let o = SocketOptions {
                mode,
                ..options(&dir)
            };
            let l = Listener::bind(&o).unwrap();
            let meta = fs::metadata(&o.path).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode);
            drop(l);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let o = SocketOptions {
            mode: 0o666,
            ..options(&dir)
        };
        assert_eq!(
            Listener::bind(&o).unwrap_err().to_string(),
            "Socket mode 0666 would let every user reach the device; use 0660 or stricter"
        );
        assert!(!o.path.exists());
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let o = options(&dir);
        let first = Listener::bind(&o).unwrap();
        let text = Listener::bind(&o).unwrap_err().to_string();
        let me = std::process::id();
        assert!(text.starts_with("Another helper serves this PF:"), "{text}");
        assert!(text.contains(&format!("pid {me} ")), "{text}");
        assert!(o.path.exists());
        drop(first);

        // Without a lock, as left by something else: live, then stale.
        let socket = std::os::unix::net::UnixListener::bind(&o.path).unwrap();
        let text = Listener::bind(&o).unwrap_err().to_string();
        assert!(text.contains("serves something else"), "{text}");
        drop(socket);
        assert!(o.path.exists());
        let l = Listener::bind(&o).unwrap();
        assert!(holder(&SocketAddrUnix::new(&o.path).unwrap()).is_some());
        drop(l);
    }

    #[test]
    fn another_file_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let o = options(&dir);
        fs::write(&o.path, "data").unwrap();
        assert!(matches!(
            Listener::bind(&o),
            Err(ListenError::NotASocket(_))
        ));
        assert_eq!(fs::read(&o.path).unwrap(), b"data");
        fs::remove_file(&o.path).unwrap();

        // A successor's socket is not removed by its predecessor.
        let l = Listener::bind(&o).unwrap();
        fs::remove_file(&o.path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&o.path).unwrap();
        drop(l);
        assert!(o.path.exists());
        drop(other);
    }

    #[test]
    fn links_and_pipes_in_the_way_are_not_followed_or_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let o = options(&dir);
        // Where somebody else may write, the socket can be exchanged before its mode is set.
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&other, &o.path).unwrap();
        assert!(matches!(
            Listener::restrict(&o),
            Err(ListenError::NotASocket(_))
        ));
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&o.path).unwrap();
        // The lock's place, with nobody at the other end.
        let lock = dir.path().join("pf.sock.lock");
        let (fifo, mode) = (rustix::fs::FileType::Fifo, Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &lock, fifo, mode, 0).unwrap();
        let text = Listener::bind(&o).unwrap_err().to_string();
        assert!(text.starts_with("Cannot open"), "{text}");
    }

    #[test]
    fn a_missing_directory_is_named_with_the_command_to_make_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut o = options(&dir);
        o.path = dir.path().join("none/pf.sock");
        let text = Listener::bind(&o).unwrap_err().to_string();
        let missing = shown(&dir.path().join("none"));
        assert_eq!(
            text,
            format!(
                "Directory {missing} does not exist; create it first: mkdir -m 0755 -p {missing}"
            )
        );
        o.path = dir.path().join("x".repeat(200));
        assert!(matches!(
            Listener::bind(&o),
            Err(ListenError::PathTooLong(_))
        ));
    }
}
