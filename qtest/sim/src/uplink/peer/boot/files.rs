// SPDX-License-Identifier: GPL-2.0-or-later
//! The files that are served. Names come from guests: only regular files below the directory can
//! be reached.

use rustix::fs::{openat2, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Longest name, directories included.
const MAX_NAME: usize = 128;

/// A directory whose files are served.
#[derive(Debug)]
pub struct BootDir {
    dir: OwnedFd,
}

/// Why a name gives no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoFile {
    /// There is none.
    Missing,
    /// It is a name that is not looked for, or not a regular file, or not readable.
    Refused,
}

/// A file that is being served, with its length at that time.
pub(super) struct BootFile {
    file: File,
    pub(super) len: u64,
}

impl BootDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// It is missing, no directory, or not accessible.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir })
    }

    /// Opens a file for a guest. A slash in front is left out.
    pub(super) fn file(&self, name: &str) -> Result<BootFile, NoFile> {
        let name = name.trim_start_matches('/');
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
        };
        if name.len() > MAX_NAME || !name.split('/').all(plain) {
            return Err(NoFile::Refused);
        }
        // Not blocking: it could be a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&self.dir, name, flags, Mode::empty(), resolve) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                return Err(NoFile::Missing)
            }
            Err(_) => return Err(NoFile::Refused),
        };
        match file.metadata() {
            Ok(data) if data.is_file() => Ok(BootFile {
                file,
                len: data.len(),
            }),
            _ => Err(NoFile::Refused),
        }
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).is_ok()
    }
}

impl BootFile {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// The file cannot be read, or has become shorter.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}
