// SPDX-License-Identifier: GPL-2.0-or-later
//! Opening, creating, reading, writing and listing.

use std::mem::MaybeUninit;

use rustix::fs::{self, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::{pread, pwrite, Errno, Result};

use crate::fids::{Fid, Open};
use crate::tree::{qid, qid_kind};
use crate::wire::{Qid, Writer, QID_LEN};

/// Bytes of directory entries taken from the kernel at once.
const LIST_CHUNK: usize = 16 << 10;

/// Bits of open flags as the protocol has them.
mod flag {
    pub(super) const ACCESS: u32 = 3;
    pub(super) const WRITE_ONLY: u32 = 1;
    pub(super) const READ_WRITE: u32 = 2;
    pub(super) const EXCLUSIVE: u32 = 0o200;
    pub(super) const TRUNCATE: u32 = 0o1000;
    pub(super) const DSYNC: u32 = 0o1_0000;
    pub(super) const DIRECTORY: u32 = 0o20_0000;
    pub(super) const SYNC: u32 = 0o400_0000;
}

/// How a file is to be opened: the flags of lopen and lcreate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    oflags: OFlags,
    readable: bool,
    writable: bool,
    directory: bool,
    exclusive: bool,
}

impl How {
    /// Checks the flags.
    pub(crate) fn decode(flags: u32) -> Result<Self> {
        let (mut oflags, readable, writable) = match flags & flag::ACCESS {
            flag::WRITE_ONLY => (OFlags::WRONLY, false, true),
            flag::READ_WRITE => (OFlags::RDWR, true, true),
            flag::ACCESS => return Err(Errno::INVAL),
            _ => (OFlags::RDONLY, true, false),
        };
        for (bit, with) in [
            (flag::TRUNCATE, OFlags::TRUNC),
            (flag::DSYNC, OFlags::DSYNC),
            (flag::SYNC, OFlags::SYNC),
        ] {
            if flags & bit == bit {
                oflags |= with;
            }
        }
        Ok(How {
            oflags,
            readable,
            writable,
            directory: flags & flag::DIRECTORY != 0,
            exclusive: flags & flag::EXCLUSIVE != 0,
        })
    }

    /// Whether it may change the file.
    pub(crate) fn changes(&self) -> bool {
        self.writable || self.oflags.contains(OFlags::TRUNC)
    }
}

/// Opens the file of a fid.
pub(crate) fn open(fid: &mut Fid, how: &How, w: &mut Writer<'_>) -> Result<()> {
    if fid.open.is_some() {
        return Err(Errno::BUSY);
    }
    let open = match fid.node.kind() {
        FileType::Directory if how.writable => return Err(Errno::ISDIR),
        FileType::Directory => Open::Directory(fid.node.open(OFlags::RDONLY)?),
        _ if how.directory => return Err(Errno::NOTDIR),
        _ => Open::File {
            fd: fid.node.open(how.oflags)?,
            readable: how.readable,
            writable: how.writable,
        },
    };
    w.qid(&fid.node.qid()?);
    // No unit of I/O but the message size.
    w.u32(0);
    fid.open = Some(open);
    Ok(())
}

/// The fid of the directory becomes the fid of the file.
pub(crate) fn create(
    fid: &mut Fid,
    name: &[u8],
    how: &How,
    mode: u32,
    w: &mut Writer<'_>,
) -> Result<()> {
    if fid.open.is_some() {
        return Err(Errno::BUSY);
    }
    let created = fid
        .node
        .create(name, how.oflags.difference(OFlags::TRUNC), mode);
    let (node, fd) = match created {
        Ok(fd) => (fid.node.child(name)?, fd),
        // Opened by way of its path, so that only what may be opened is.
        Err(Errno::EXIST) if !how.exclusive => {
            let node = fid.node.child(name)?;
            if node.kind() == FileType::Directory {
                return Err(Errno::ISDIR);
            }
            let fd = node.open(how.oflags)?;
            (node, fd)
        }
        Err(error) => return Err(error),
    };
    w.qid(&qid(&fs::fstat(&fd)?));
    w.u32(0);
    fid.node = node;
    fid.open = Some(Open::File {
        fd,
        readable: how.readable,
        writable: how.writable,
    });
    Ok(())
}

/// Room for data behind the count of a reply, at most `count`.
fn room(w: &Writer<'_>, count: u32) -> usize {
    usize::try_from(count)
        .unwrap_or(usize::MAX)
        .min(w.left().saturating_sub(4))
}

/// Reads from a file; gives how many bytes that were.
pub(crate) fn read(fid: &Fid, offset: u64, count: u32, w: &mut Writer<'_>) -> Result<u64> {
    let fd = fid.readable_file()?;
    let room = room(w, count);
    let at = w.position();
    w.u32(0);
    let mut done = 0;
    w.fill(room, |mut buf| {
        while !buf.is_empty() {
            match pread(fd, &mut *buf, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    buf = buf.get_mut(n..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    })?;
    w.put_u32(at, done as u32);
    Ok(done as u64)
}

/// Writes to a file; gives how many bytes that were.
pub(crate) fn write(fid: &Fid, offset: u64, data: &[u8], w: &mut Writer<'_>) -> Result<u64> {
    let Some(fd) = fid.writable_file() else {
        return Err(fid.any().map_or_else(|e| e, |_| Errno::BADF));
    };
    let mut rest = data;
    let mut done: u32 = 0;
    while !rest.is_empty() {
        match pwrite(fd, rest, offset.saturating_add(done.into())) {
            Ok(0) => break,
            Ok(n) => {
                done += n as u32;
                rest = rest.get(n..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    w.u32(done);
    Ok(done.into())
}

/// Entries from the position that an earlier reply gave; none at the end.
pub(crate) fn list(fid: &Fid, offset: u64, count: u32, w: &mut Writer<'_>) -> Result<()> {
    let fd = fid.directory()?;
    if i64::try_from(offset).is_err() {
        return Err(Errno::INVAL);
    }
    fs::seek(fd, SeekFrom::Start(offset))?;
    let mut left = room(w, count);
    let at = w.position();
    w.u32(0);
    let mut chunk = [MaybeUninit::uninit(); LIST_CHUNK];
    let mut entries = RawDir::new(fd, &mut chunk);
    let mut some = false;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let len = QID_LEN + 8 + 1 + 2 + name.len();
        if len > left {
            // Without a single entry the client would take this for the end.
            if !some {
                return Err(Errno::INVAL);
            }
            break;
        }
        left -= len;
        some = true;
        let (mut kind, mut ino) = (entry.file_type(), entry.ino());
        if name == b".." {
            // Of what is above the root the client learns nothing.
            let up = fid.node.up().stat()?;
            (kind, ino) = (FileType::Directory, up.st_ino);
        } else if kind == FileType::Unknown && name != b"." {
            if let Ok(stat) = fid.node.stat_child(name) {
                kind = FileType::from_raw_mode(stat.st_mode);
            }
        }
        w.qid(&Qid {
            kind: qid_kind(kind),
            version: 0,
            path: ino,
        });
        w.u64(entry.next_entry_cookie());
        w.u8(directory_type(kind));
        w.string(name);
    }
    let bytes = w.position().saturating_sub(at + 4);
    w.put_u32(at, bytes as u32);
    Ok(())
}

/// DT_* of Linux.
fn directory_type(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
