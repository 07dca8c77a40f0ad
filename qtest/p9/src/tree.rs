// SPDX-License-Identifier: GPL-2.0-or-later
//! Files of the shared directory as open descriptors. Everything that is reached from the root is
//! beneath it; see the crate's documentation.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, CWD};
use rustix::io::{Errno, Result};

use crate::message::MAX_NAME;
use crate::wire::Qid;

/// Directories from the root to a file at most.
const MAX_DEPTH: usize = 256;

/// `st_mode` bits that a client may set.
pub(crate) const SETTABLE: u32 = 0o1777;

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_XDEV
}

/// A checked name: one component, neither "." nor "..".
pub(crate) fn component(name: &[u8]) -> Result<&OsStr> {
    if name.len() > MAX_NAME {
        return Err(Errno::NAMETOOLONG);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        return Err(Errno::INVAL);
    }
    Ok(OsStr::from_bytes(name))
}

/// What all nodes of a tree share.
#[derive(Debug)]
struct Shared {
    /// `/proc/self/fd`, through which a descriptor is opened once more for I/O.
    descriptors: OwnedFd,
    nodes: AtomicUsize,
    max_nodes: usize,
}

/// A file that was reached from the root; its descriptor is for the path only (O_PATH).
pub(crate) struct Node {
    fd: OwnedFd,
    parent: Option<Arc<Node>>,
    /// The name under which it was found.
    name: Vec<u8>,
    depth: usize,
    kind: FileType,
    shared: Arc<Shared>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &OsStr::from_bytes(&self.name))
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.nodes.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn qid(stat: &Stat) -> Qid {
    // Differs whenever the content or the attributes did, as far as the clock can tell.
    let version = (stat.st_mtime as u32) ^ (stat.st_mtime_nsec as u32) ^ (stat.st_size as u32) << 8;
    Qid {
        kind: qid_kind(FileType::from_raw_mode(stat.st_mode)),
        version,
        path: stat.st_ino,
    }
}

pub(crate) fn qid_kind(kind: FileType) -> u8 {
    match kind {
        FileType::Directory => 0x80,
        FileType::Symlink => 0x02,
        _ => 0,
    }
}

/// The root of a tree; `max_nodes` bounds the descriptors its nodes take.
///
/// # Errors
/// It is not a directory that can be opened, the kernel has no `openat2`, or /proc is not mounted.
pub(crate) fn root(dir: &Path, max_nodes: usize) -> Result<Arc<Node>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = fs::openat(CWD, dir, flags, Mode::empty())?;
    fs::openat2(&fd, ".", flags, Mode::empty(), beneath())?;
    let descriptors = fs::openat(CWD, "/proc/self/fd", flags, Mode::empty())?;
    if fs::fstatfs(&descriptors)?.f_type != fs::PROC_SUPER_MAGIC {
        return Err(Errno::NOSYS);
    }
    let shared = Shared {
        descriptors,
        nodes: AtomicUsize::new(1),
        max_nodes,
    };
    Ok(Arc::new(Node {
        fd,
        parent: None,
        name: Vec::new(),
        depth: 0,
        kind: FileType::Directory,
        shared: Arc::new(shared),
    }))
}

impl Node {
    pub(crate) fn kind(&self) -> FileType {
        self.kind
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        fs::statat(&self.fd, "", AtFlags::EMPTY_PATH)
    }

    pub(crate) fn qid(&self) -> Result<Qid> {
        Ok(qid(&self.stat()?))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The directory through which this file was reached; the root's is the root.
    pub(crate) fn up(self: &Arc<Self>) -> Arc<Self> {
        Arc::clone(self.parent.as_ref().unwrap_or(self))
    }

    /// Whether the limits allow one more node below this one. What creates files asks first, so that
    /// an error leaves none behind.
    fn may_have_child(&self) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        if self.shared.nodes.load(Ordering::Relaxed) >= self.shared.max_nodes {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    /// The file `name` in this directory.
    pub(crate) fn child(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Self>> {
        if self.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let name = component(name)?;
        self.may_have_child()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A symbolic link itself may be opened with O_PATH and O_NOFOLLOW; it is never followed.
        let fd = fs::openat2(&self.fd, name, flags, Mode::empty(), beneath())?;
        let stat = fs::statat(&fd, "", AtFlags::EMPTY_PATH)?;
        self.shared.nodes.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Node {
            fd,
            parent: Some(Arc::clone(self)),
            name: name.as_bytes().to_vec(),
            depth: self.depth + 1,
            kind: FileType::from_raw_mode(stat.st_mode),
            shared: Arc::clone(&self.shared),
        }))
    }

    /// Name of this file's descriptor in [`Shared::descriptors`].
    fn descriptor(&self) -> String {
        self.fd.as_raw_fd().to_string()
    }

    /// Opens the file for I/O; only regular files and directories.
    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        match self.kind {
            FileType::Directory => {
                let flags = flags | OFlags::DIRECTORY;
                fs::openat2(&self.fd, ".", flags, Mode::empty(), beneath())
            }
            // The magic link leads to this very file and nowhere else.
            FileType::RegularFile => {
                let (dir, name) = (&self.shared.descriptors, self.descriptor());
                fs::openat(dir, name, flags, Mode::empty())
            }
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    /// Creates a regular file in this directory, which must not exist, and opens it.
    pub(crate) fn create(&self, name: &[u8], flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let name = component(name)?;
        self.may_have_child()?;
        let mode = Mode::from_raw_mode(mode & SETTABLE);
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat2(&self.fd, name, flags, mode, beneath())?;
        // Beside the process's umask: the client has applied its own.
        fs::fchmod(&fd, mode)?;
        Ok(fd)
    }

    /// Creates a directory in this one; gives its attributes.
    pub(crate) fn mkdir(self: &Arc<Self>, name: &[u8], mode: u32) -> Result<Stat> {
        self.may_have_child()?;
        let mode = Mode::from_raw_mode(mode & SETTABLE);
        fs::mkdirat(&self.fd, component(name)?, mode)?;
        // Beside the process's umask, as with files.
        let new = self.child(name)?;
        if new.kind != FileType::Directory {
            return Err(Errno::STALE);
        }
        let (dir, name) = new.by_path();
        fs::chmodat(dir, name, mode, AtFlags::empty())?;
        new.stat()
    }

    pub(crate) fn symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        if target.is_empty() || target.contains(&0) {
            return Err(Errno::INVAL);
        }
        fs::symlinkat(OsStr::from_bytes(target), &self.fd, component(name)?)
    }

    /// Attributes of `name` in this directory, a symbolic link's own.
    pub(crate) fn stat_child(&self, name: &[u8]) -> Result<Stat> {
        fs::statat(&self.fd, component(name)?, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Gives the file another name in `dir`.
    pub(crate) fn link(&self, dir: &Node, name: &[u8]) -> Result<()> {
        if self.kind != FileType::RegularFile {
            return Err(Errno::PERM);
        }
        let (descriptors, own) = (&self.shared.descriptors, self.descriptor());
        let flags = AtFlags::SYMLINK_FOLLOW;
        fs::linkat(descriptors, own, &dir.fd, component(name)?, flags)
    }

    pub(crate) fn rename(&self, old: &[u8], new_dir: &Node, new: &[u8]) -> Result<()> {
        fs::renameat(&self.fd, component(old)?, &new_dir.fd, component(new)?)
    }

    pub(crate) fn unlink(&self, name: &[u8], directory: bool) -> Result<()> {
        let flags = match directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        fs::unlinkat(&self.fd, component(name)?, flags)
    }

    pub(crate) fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        Ok(fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Where this file is now known to be: its directory and name, if the name still leads to it.
    pub(crate) fn place(&self) -> Result<(&Arc<Node>, &[u8])> {
        let parent = self.parent.as_ref().ok_or(Errno::BUSY)?;
        let (own, found) = (self.stat()?, parent.stat_child(&self.name)?);
        if (own.st_dev, own.st_ino) != (found.st_dev, found.st_ino) {
            return Err(Errno::STALE);
        }
        Ok((parent, &self.name))
    }

    /// Directory and name for calls that need a path and follow links: they lead to this file.
    pub(crate) fn by_path(&self) -> (impl AsFd + '_, String) {
        (&self.shared.descriptors, self.descriptor())
    }
}
