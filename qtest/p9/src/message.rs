// SPDX-License-Identifier: GPL-2.0-or-later
//! The T-messages of 9P2000.L, decoded.

use std::fmt;

use crate::wire::{CutOff, Reader, HEADER_LEN};

/// Message types; the reply to each has the next number.
pub mod kind {
    /// Reply in place of any other: an error number of Linux.
    pub const RLERROR: u8 = 7;
    /// File system figures.
    pub const STATFS: u8 = 8;
    /// Open a file for I/O.
    pub const LOPEN: u8 = 12;
    /// Create and open a regular file.
    pub const LCREATE: u8 = 14;
    /// Create a symbolic link.
    pub const SYMLINK: u8 = 16;
    /// Create a device file.
    pub const MKNOD: u8 = 18;
    /// Rename the file of a fid.
    pub const RENAME: u8 = 20;
    /// Target of a symbolic link.
    pub const READLINK: u8 = 22;
    /// Attributes.
    pub const GETATTR: u8 = 24;
    /// Change attributes.
    pub const SETATTR: u8 = 26;
    /// Begin reading extended attributes.
    pub const XATTRWALK: u8 = 30;
    /// Begin writing an extended attribute.
    pub const XATTRCREATE: u8 = 32;
    /// Directory entries.
    pub const READDIR: u8 = 40;
    /// Make a file permanent.
    pub const FSYNC: u8 = 50;
    /// Take or release a lock.
    pub const LOCK: u8 = 52;
    /// Ask about a lock.
    pub const GETLOCK: u8 = 54;
    /// Create a hard link.
    pub const LINK: u8 = 70;
    /// Create a directory.
    pub const MKDIR: u8 = 72;
    /// Rename by directory and name.
    pub const RENAMEAT: u8 = 74;
    /// Remove by directory and name.
    pub const UNLINKAT: u8 = 76;
    /// Begin a session.
    pub const VERSION: u8 = 100;
    /// Authentication.
    pub const AUTH: u8 = 102;
    /// A fid for the root.
    pub const ATTACH: u8 = 104;
    /// Forget a request.
    pub const FLUSH: u8 = 108;
    /// A fid for a file below another.
    pub const WALK: u8 = 110;
    /// Read a file.
    pub const READ: u8 = 116;
    /// Write a file.
    pub const WRITE: u8 = 118;
    /// Let go of a fid.
    pub const CLUNK: u8 = 120;
    /// Remove the file of a fid and let go of the fid.
    pub const REMOVE: u8 = 122;
}

/// Names in one walk at most.
pub(crate) const MAX_WALK: usize = 16;
/// Bytes of a name at most, as on Linux.
pub(crate) const MAX_NAME: usize = 255;

/// Why bytes are no message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No room for a header.
    NoHeader,
    /// The size in the header is not that of the bytes, or above the agreed size.
    Size,
    /// The message ends before its last field.
    CutOff,
    /// Bytes follow the last field.
    Surplus,
    /// More names than a walk may have.
    WalkTooLong,
    /// A type that is not a T-message of the protocol.
    UnknownType,
    /// Anything before the version was agreed upon.
    NoVersion,
    /// The room for the reply is too small for an error, let alone the answer.
    NoRoom,
}

impl Malformed {
    /// A name for logs and counts.
    pub fn name(self) -> &'static str {
        match self {
            Malformed::NoHeader => "p9_no_header",
            Malformed::Size => "p9_size",
            Malformed::CutOff => "p9_cut_off",
            Malformed::Surplus => "p9_surplus",
            Malformed::WalkTooLong => "p9_walk_too_long",
            Malformed::UnknownType => "p9_unknown_type",
            Malformed::NoVersion => "p9_no_version",
            Malformed::NoRoom => "p9_no_room",
        }
    }
}

impl From<CutOff> for Malformed {
    fn from(_: CutOff) -> Self {
        Malformed::CutOff
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Changes of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SetAttr {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SetTime>,
    pub(crate) mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetTime {
    Now,
    To { sec: u64, nsec: u64 },
}

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Version {
        msize: u32,
        version: &'a [u8],
    },
    Auth,
    Attach {
        fid: u32,
        afid: u32,
        aname: &'a [u8],
    },
    Flush,
    Walk {
        fid: u32,
        newfid: u32,
        names: Vec<&'a [u8]>,
    },
    Statfs {
        fid: u32,
    },
    Lopen {
        fid: u32,
        flags: u32,
    },
    Lcreate {
        fid: u32,
        name: &'a [u8],
        flags: u32,
        mode: u32,
    },
    Symlink {
        fid: u32,
        name: &'a [u8],
        target: &'a [u8],
    },
    Mkdir {
        fid: u32,
        name: &'a [u8],
        mode: u32,
    },
    Link {
        dir: u32,
        fid: u32,
        name: &'a [u8],
    },
    Rename {
        fid: u32,
        dir: u32,
        name: &'a [u8],
    },
    Renameat {
        old: u32,
        old_name: &'a [u8],
        new: u32,
        new_name: &'a [u8],
    },
    Unlinkat {
        dir: u32,
        name: &'a [u8],
        flags: u32,
    },
    Readlink {
        fid: u32,
    },
    Getattr {
        fid: u32,
    },
    Setattr {
        fid: u32,
        set: SetAttr,
    },
    Readdir {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Read {
        fid: u32,
        offset: u64,
        count: u32,
    },
    Write {
        fid: u32,
        offset: u64,
        data: &'a [u8],
    },
    Fsync {
        fid: u32,
        data_only: bool,
    },
    Clunk {
        fid: u32,
    },
    Remove {
        fid: u32,
    },
    /// A message of the protocol that this server does not carry out.
    Unsupported,
}

/// Bits of setattr's `valid`.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 2;
    pub(super) const GID: u32 = 4;
    pub(super) const SIZE: u32 = 8;
    pub(super) const ATIME: u32 = 0x10;
    pub(super) const MTIME: u32 = 0x20;
    pub(super) const ATIME_SET: u32 = 0x80;
    pub(super) const MTIME_SET: u32 = 0x100;
}

fn set_attr(r: &mut Reader<'_>) -> Result<SetAttr, Malformed> {
    let bits = r.u32()?;
    let (mode, uid, gid, size) = (r.u32()?, r.u32()?, r.u32()?, r.u64()?);
    let (a_sec, a_nsec, m_sec, m_nsec) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let has = |bit: u32| bits & bit != 0;
    let time = |on: u32, set: u32, sec, nsec| {
        has(on).then_some(match has(set) {
            true => SetTime::To { sec, nsec },
            false => SetTime::Now,
        })
    };
    Ok(SetAttr {
        mode: has(valid::MODE).then_some(mode),
        uid: has(valid::UID).then_some(uid),
        gid: has(valid::GID).then_some(gid),
        size: has(valid::SIZE).then_some(size),
        atime: time(valid::ATIME, valid::ATIME_SET, a_sec, a_nsec),
        mtime: time(valid::MTIME, valid::MTIME_SET, m_sec, m_nsec),
    })
}

/// Type and tag of a message, and what follows; checks the size field.
pub(crate) fn header(message: &[u8]) -> Result<(u8, u16, &[u8]), Malformed> {
    let mut r = Reader::new(message.get(..HEADER_LEN).ok_or(Malformed::NoHeader)?);
    let (size, kind, tag) = (r.u32()?, r.u8()?, r.u16()?);
    let body = message.get(HEADER_LEN..).unwrap_or_default();
    if usize::try_from(size) != Ok(message.len()) {
        return Err(Malformed::Size);
    }
    Ok((kind, tag, body))
}

/// Decodes the part behind the header.
pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Request<'_>, Malformed> {
    let r = &mut Reader::new(body);
    let request = match kind {
        kind::VERSION => Request::Version {
            msize: r.u32()?,
            version: r.string()?,
        },
        kind::ATTACH => {
            let (fid, afid) = (r.u32()?, r.u32()?);
            let (_uname, aname, _n_uname) = (r.string()?, r.string()?, r.u32()?);
            Request::Attach { fid, afid, aname }
        }
        kind::FLUSH => {
            let _oldtag = r.u16()?;
            Request::Flush
        }
        kind::WALK => {
            let (fid, newfid, count) = (r.u32()?, r.u32()?, r.u16()?);
            if usize::from(count) > MAX_WALK {
                return Err(Malformed::WalkTooLong);
            }
            let names = (0..count).map(|_| r.string()).collect::<Result<_, _>>()?;
            Request::Walk { fid, newfid, names }
        }
        kind::STATFS => Request::Statfs { fid: r.u32()? },
        kind::LOPEN => Request::Lopen {
            fid: r.u32()?,
            flags: r.u32()?,
        },
        kind::LCREATE => {
            let (fid, name, flags, mode) = (r.u32()?, r.string()?, r.u32()?, r.u32()?);
            let _gid = r.u32()?;
            Request::Lcreate {
                fid,
                name,
                flags,
                mode,
            }
        }
        kind::SYMLINK => {
            let (fid, name, target) = (r.u32()?, r.string()?, r.string()?);
            let _gid = r.u32()?;
            Request::Symlink { fid, name, target }
        }
        kind::MKDIR => {
            let (fid, name, mode) = (r.u32()?, r.string()?, r.u32()?);
            let _gid = r.u32()?;
            Request::Mkdir { fid, name, mode }
        }
        kind::LINK => Request::Link {
            dir: r.u32()?,
            fid: r.u32()?,
            name: r.string()?,
        },
        kind::RENAME => Request::Rename {
            fid: r.u32()?,
            dir: r.u32()?,
            name: r.string()?,
        },
        kind::RENAMEAT => Request::Renameat {
            old: r.u32()?,
            old_name: r.string()?,
            new: r.u32()?,
            new_name: r.string()?,
        },
        kind::UNLINKAT => Request::Unlinkat {
            dir: r.u32()?,
            name: r.string()?,
            flags: r.u32()?,
        },
        kind::READLINK => Request::Readlink { fid: r.u32()? },
        kind::GETATTR => {
            let (fid, _mask) = (r.u32()?, r.u64()?);
            Request::Getattr { fid }
        }
        kind::SETATTR => Request::Setattr {
            fid: r.u32()?,
            set: set_attr(r)?,
        },
        kind::READDIR => Request::Readdir {
            fid: r.u32()?,
            offset: r.u64()?,
            count: r.u32()?,
        },
        kind::READ => Request::Read {
            fid: r.u32()?,
            offset: r.u64()?,
            count: r.u32()?,
        },
        kind::WRITE => {
            let (fid, offset, count) = (r.u32()?, r.u64()?, r.u32()?);
            let count = usize::try_from(count).map_err(|_| Malformed::CutOff)?;
            let data = r.bytes(count)?;
            Request::Write { fid, offset, data }
        }
        kind::FSYNC => {
            let fid = r.u32()?;
            // Clients of before Linux 2.6.39 send no second field.
            let data_only = !r.is_empty() && r.u32()? != 0;
            Request::Fsync { fid, data_only }
        }
        kind::CLUNK => Request::Clunk { fid: r.u32()? },
        kind::REMOVE => Request::Remove { fid: r.u32()? },
        kind::AUTH => return Ok(Request::Auth),
        kind::MKNOD | kind::XATTRWALK | kind::XATTRCREATE | kind::LOCK | kind::GETLOCK => {
            return Ok(Request::Unsupported)
        }
        _ => return Err(Malformed::UnknownType),
    };
    if !r.is_empty() {
        return Err(Malformed::Surplus);
    }
    Ok(request)
}
