// SPDX-License-Identifier: GPL-2.0-or-later
//! Attributes of files and of the file system.

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::fs::{UTIME_NOW, UTIME_OMIT};
use rustix::io::{Errno, Result};

use crate::fids::Fid;
use crate::message::{SetAttr, SetTime};
use crate::tree::{qid, Node, SETTABLE};
use crate::wire::Writer;

/// Fields of getattr's reply that mean something: all but creation time, generation and version.
const VALID: u64 = 0x7ff;
/// What `statfs` on a 9P mount tells as its type.
const FS_TYPE: u32 = 0x0102_1997;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// Appends the reply to getattr.
// The types of these fields differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn get(node: &Node, w: &mut Writer<'_>) -> Result<()> {
    let s = node.stat()?;
    w.u64(VALID);
    w.qid(&qid(&s));
    w.u32(s.st_mode);
    w.u32(s.st_uid);
    w.u32(s.st_gid);
    w.u64(s.st_nlink as u64);
    w.u64(s.st_rdev as u64);
    w.u64(s.st_size as u64);
    w.u64(s.st_blksize as u64);
    w.u64(s.st_blocks as u64);
    for (sec, nsec) in [
        (s.st_atime as u64, s.st_atime_nsec as u64),
        (s.st_mtime as u64, s.st_mtime_nsec as u64),
        (s.st_ctime as u64, s.st_ctime_nsec as u64),
        // Creation time, then generation and data version.
        (0, 0),
        (0, 0),
    ] {
        w.u64(sec);
        w.u64(nsec);
    }
    Ok(())
}

fn timespec(time: Option<SetTime>) -> Result<Timespec> {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => Ok(special(UTIME_OMIT)),
        Some(SetTime::Now) => Ok(special(UTIME_NOW)),
        Some(SetTime::To { sec, nsec }) => Ok(Timespec {
            tv_sec: sec as i64,
            tv_nsec: i64::try_from(nsec)
                .ok()
                .filter(|n| *n < 1_000_000_000)
                .ok_or(Errno::INVAL)?,
        }),
    }
}

/// An owner that can be set: -1 means something else.
fn owner(id: Option<u32>) -> Result<Option<u32>> {
    match id {
        Some(u32::MAX) => Err(Errno::INVAL),
        id => Ok(id),
    }
}

/// Changes attributes; the first that cannot be changed is the error.
pub(crate) fn set(fid: &Fid, set: &SetAttr) -> Result<()> {
    let node = &fid.node;
    if let Some(mode) = set.mode {
        if mode & SET_ID != 0 {
            return Err(Errno::PERM);
        }
        if node.kind() == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let (dir, name) = node.by_path();
        let mode = Mode::from_raw_mode(mode & SETTABLE);
        fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    let (uid, gid) = (owner(set.uid)?, owner(set.gid)?);
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fs::chownat(node.fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if let Some(size) = set.size {
        if node.kind() == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        match fid.writable_file() {
            Some(file) => fs::ftruncate(file, size)?,
            None => fs::ftruncate(node.open(OFlags::WRONLY)?, size)?,
        }
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let times = Timestamps {
            last_access: timespec(set.atime)?,
            last_modification: timespec(set.mtime)?,
        };
        let (dir, name) = node.by_path();
        fs::utimensat(dir, name, &times, AtFlags::empty())?;
    }
    Ok(())
}

/// Appends the reply to statfs.
pub(crate) fn file_system(node: &Node, w: &mut Writer<'_>) -> Result<()> {
    let s = fs::fstatvfs(node.fd())?;
    w.u32(FS_TYPE);
    w.u32(u32::try_from(s.f_bsize).unwrap_or(4096));
    for v in [
        s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_fsid,
    ] {
        w.u64(v);
    }
    w.u32(u32::try_from(s.f_namemax).unwrap_or(255));
    Ok(())
}
