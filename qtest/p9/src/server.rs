// SPDX-License-Identifier: GPL-2.0-or-later
//! A session: requests in, replies out.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FileType};
use rustix::io::{Errno, Result};

use crate::attributes;
use crate::fids::{Fid, Fids};
use crate::files::{self, How};
use crate::message::{decode, header, kind, Malformed, Request};
use crate::tree::{self, qid, Node};
use crate::wire::{finish, Writer, ERROR_LEN, HEADER_LEN};

/// Smallest message size a client may ask for.
pub const MIN_MSIZE: u32 = 4096;
/// Largest message size that is agreed to: what 128 pages hold, as Linux's client uses at most.
pub const MAX_MSIZE: u32 = 512 << 10;

/// File descriptors that a server takes at most for each fid it allows: those of the paths, shared
/// by all fids, and the one for I/O.
pub const DESCRIPTORS_PER_FID: usize = NODES_PER_FID + 1;
/// Descriptors of paths for each fid.
const NODES_PER_FID: usize = 4;

/// The protocol.
const VERSION: &[u8] = b"9P2000.L";
/// Number that stands for no fid.
const NO_FID: u32 = u32::MAX;
/// Bit of unlinkat's flags: a directory is meant.
const REMOVE_DIRECTORY: u32 = 0x200;

/// What a server may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Nothing is changed in the directory.
    pub read_only: bool,
    /// Fids at the same time; see [`DESCRIPTORS_PER_FID`].
    pub max_fids: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            read_only: false,
            max_fids: 1024,
        }
    }
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
}

/// A 9P server of one directory, with one client at a time.
#[derive(Debug)]
pub struct Server {
    root: Arc<Node>,
    settings: Settings,
    fids: Fids,
    /// Agreed message size; 0 before the version is agreed upon.
    msize: u32,
    counts: Counts,
}

/// What became of a request: the type of the reply, or an error.
type Done = Result<u8>;

impl Server {
    /// A server of `dir`.
    ///
    /// # Errors
    /// It is not a directory that can be opened, or the kernel lacks what is needed to keep a
    /// client inside of it (`openat2`, /proc).
    pub fn new(dir: &Path, settings: Settings) -> io::Result<Self> {
        Ok(Server {
            root: tree::root(
                dir,
                settings
                    .max_fids
                    .saturating_mul(NODES_PER_FID)
                    .max(NODES_PER_FID),
            )?,
            settings,
            fids: Fids::new(settings.max_fids),
            msize: 0,
            counts: Counts::default(),
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Fids in use.
    pub fn fids(&self) -> usize {
        self.fids.len()
    }

    /// Ends the session: no fid is left, and a version has to be agreed upon again.
    pub fn reset(&mut self) {
        self.fids.clear();
        self.msize = 0;
    }

    /// Largest message that [`answer`](Self::answer) takes.
    pub fn max_message(&self) -> usize {
        match self.msize {
            0 => MAX_MSIZE as usize,
            n => n as usize,
        }
    }

    /// Carries out one T-message and puts the R-message into `reply`, which becomes at most `room`
    /// bytes long. Whatever a well-formed request leads to, there is a reply.
    ///
    /// # Errors
    /// The client broke the protocol. If `reply` is not empty it tells the client so.
    pub fn answer(
        &mut self,
        message: &[u8],
        room: usize,
        reply: &mut Vec<u8>,
    ) -> std::result::Result<(), Malformed> {
        reply.clear();
        self.counts.requests += 1;
        let room = room.min(self.max_message());
        // The tag is known of anything that has a header.
        let tag = match message {
            [_, _, _, _, _, a, b, ..] => u16::from_le_bytes([*a, *b]),
            _ => return Err(Malformed::NoHeader),
        };
        if room < ERROR_LEN {
            return Err(Malformed::NoRoom);
        }
        let request = match self.decode(message) {
            Ok(request) => request,
            Err(why) => {
                let code = match why {
                    Malformed::UnknownType => Errno::OPNOTSUPP,
                    _ => Errno::PROTO,
                };
                self.refuse(code, tag, room, reply);
                return Err(why);
            }
        };
        let mut writer = Writer::new(reply, room);
        match self.carry_out(&request, &mut writer) {
            Ok(kind) if finish(reply, kind, tag, room) => Ok(()),
            Ok(_) => {
                self.refuse(Errno::MSGSIZE, tag, room, reply);
                Err(Malformed::NoRoom)
            }
            Err(code) => {
                self.refuse(code, tag, room, reply);
                Ok(())
            }
        }
    }

    fn decode<'a>(&self, message: &'a [u8]) -> std::result::Result<Request<'a>, Malformed> {
        let (kind, _, body) = header(message)?;
        if message.len() > self.max_message() {
            return Err(Malformed::Size);
        }
        let request = decode(kind, body)?;
        if self.msize == 0 && !matches!(request, Request::Version { .. }) {
            return Err(Malformed::NoVersion);
        }
        Ok(request)
    }

    fn refuse(&mut self, code: Errno, tag: u16, room: usize, reply: &mut Vec<u8>) {
        self.counts.errors += 1;
        Writer::new(reply, room).u32(code.raw_os_error().unsigned_abs());
        if !finish(reply, kind::RLERROR, tag, room) {
            reply.clear();
        }
    }

    fn may_write(&self) -> Result<()> {
        match self.settings.read_only {
            true => Err(Errno::ROFS),
            false => Ok(()),
        }
    }

    /// How a file is to be opened, if that is allowed.
    fn how(&self, flags: u32) -> Result<How> {
        let how = How::decode(flags)?;
        if how.changes() {
            self.may_write()?;
        }
        Ok(how)
    }

    fn carry_out(&mut self, request: &Request<'_>, w: &mut Writer<'_>) -> Done {
        match *request {
            Request::Version { msize, version } => self.version(msize, version, w),
            Request::Auth | Request::Unsupported => Err(Errno::OPNOTSUPP),
            Request::Attach { fid, afid, aname } => self.attach(fid, afid, aname, w),
            // Everything before was answered before.
            Request::Flush => Ok(kind::FLUSH + 1),
            Request::Walk {
                fid,
                newfid,
                ref names,
            } => self.walk(fid, newfid, names, w),
            Request::Statfs { fid } => {
                attributes::file_system(&self.fids.get(fid)?.node, w)?;
                Ok(kind::STATFS + 1)
            }
            Request::Lopen { fid, flags } => {
                let how = self.how(flags)?;
                files::open(self.fids.get_mut(fid)?, &how, w)?;
                Ok(kind::LOPEN + 1)
            }
            Request::Lcreate {
                fid,
                name,
                flags,
                mode,
            } => {
                self.may_write()?;
                let how = self.how(flags)?;
                files::create(self.fids.get_mut(fid)?, name, &how, mode, w)?;
                Ok(kind::LCREATE + 1)
            }
            Request::Symlink { fid, name, target } => {
                self.may_write()?;
                let dir = &self.fids.get(fid)?.node;
                dir.symlink(name, target)?;
                w.qid(&qid(&dir.stat_child(name)?));
                Ok(kind::SYMLINK + 1)
            }
            Request::Mkdir { fid, name, mode } => {
                self.may_write()?;
                let dir = &self.fids.get(fid)?.node;
                w.qid(&qid(&dir.mkdir(name, mode)?));
                Ok(kind::MKDIR + 1)
            }
            Request::Link { dir, fid, name } => {
                self.may_write()?;
                let dir = &self.fids.get(dir)?.node;
                self.fids.get(fid)?.node.link(dir, name)?;
                Ok(kind::LINK + 1)
            }
            Request::Rename { fid, dir, name } => self.rename(fid, dir, name),
            Request::Renameat {
                old,
                old_name,
                new,
                new_name,
            } => {
                self.may_write()?;
                let new = &self.fids.get(new)?.node;
                self.fids.get(old)?.node.rename(old_name, new, new_name)?;
                Ok(kind::RENAMEAT + 1)
            }
            Request::Unlinkat { dir, name, flags } => {
                self.may_write()?;
                let dir = &self.fids.get(dir)?.node;
                dir.unlink(name, flags & REMOVE_DIRECTORY != 0)?;
                Ok(kind::UNLINKAT + 1)
            }
            Request::Readlink { fid } => {
                w.string(&self.fids.get(fid)?.node.readlink()?);
                Ok(kind::READLINK + 1)
            }
            Request::Getattr { fid } => {
                attributes::get(&self.fids.get(fid)?.node, w)?;
                Ok(kind::GETATTR + 1)
            }
            Request::Setattr { fid, set } => {
                self.may_write()?;
                attributes::set(self.fids.get(fid)?, &set)?;
                Ok(kind::SETATTR + 1)
            }
            Request::Readdir { fid, offset, count } => {
                files::list(self.fids.get(fid)?, offset, count, w)?;
                Ok(kind::READDIR + 1)
            }
            Request::Read { fid, offset, count } => {
                let read = files::read(self.fids.get(fid)?, offset, count, w)?;
                self.counts.bytes_read += read;
                Ok(kind::READ + 1)
            }
            Request::Write { fid, offset, data } => {
                let written = files::write(self.fids.get(fid)?, offset, data, w)?;
                self.counts.bytes_written += written;
                Ok(kind::WRITE + 1)
            }
            Request::Fsync { fid, data_only } => {
                let fd = self.fids.get(fid)?.any()?;
                match data_only {
                    true => fs::fdatasync(fd)?,
                    false => fs::fsync(fd)?,
                }
                Ok(kind::FSYNC + 1)
            }
            Request::Clunk { fid } => {
                self.fids.remove(fid)?;
                Ok(kind::CLUNK + 1)
            }
            Request::Remove { fid } => {
                // The fid is gone even if the file stays.
                let gone = self.fids.remove(fid)?;
                self.may_write()?;
                let (dir, name) = gone.node.place()?;
                dir.unlink(name, gone.node.kind() == FileType::Directory)?;
                Ok(kind::REMOVE + 1)
            }
        }
    }

    fn version(&mut self, msize: u32, version: &[u8], w: &mut Writer<'_>) -> Done {
        self.reset();
        if msize < MIN_MSIZE {
            return Err(Errno::MSGSIZE);
        }
        let msize = msize.min(MAX_MSIZE);
        w.u32(msize);
        if version == VERSION {
            self.msize = msize;
            w.string(VERSION);
        } else {
            w.string(b"unknown");
        }
        Ok(kind::VERSION + 1)
    }

    fn attach(&mut self, fid: u32, afid: u32, aname: &[u8], w: &mut Writer<'_>) -> Done {
        if afid != NO_FID {
            return Err(Errno::INVAL);
        }
        if !matches!(aname, b"" | b"/") {
            return Err(Errno::NOENT);
        }
        self.fids.check_new(fid)?;
        w.qid(&self.root.qid()?);
        self.fids.put(fid, Fid::new(Arc::clone(&self.root)));
        Ok(kind::ATTACH + 1)
    }

    fn walk(&mut self, fid: u32, newfid: u32, names: &[&[u8]], w: &mut Writer<'_>) -> Done {
        let from = self.fids.get(fid)?;
        let same = fid == newfid;
        if same && from.open.is_some() {
            return Err(Errno::INVAL);
        }
        let mut node = Arc::clone(&from.node);
        if !same {
            self.fids.check_new(newfid)?;
        }
        let at = w.position();
        w.u16(0);
        let mut found: u16 = 0;
        for name in names {
            let next = match *name {
                b"." => Ok(Arc::clone(&node)),
                b".." => Ok(node.up()),
                name => node.child(name),
            };
            match next.and_then(|n| Ok((n.qid()?, n))) {
                Ok((qid, next)) => {
                    w.qid(&qid);
                    node = next;
                    found += 1;
                }
                // Only a first name that is not there is an error.
                Err(error) if found == 0 => return Err(error),
                Err(_) => break,
            }
        }
        w.put_u16(at, found);
        if usize::from(found) == names.len() {
            self.fids.put(newfid, Fid::new(node));
        }
        Ok(kind::WALK + 1)
    }

    fn rename(&mut self, fid: u32, dir: u32, name: &[u8]) -> Done {
        self.may_write()?;
        let node = self.fids.node(fid)?;
        let dir = self.fids.node(dir)?;
        let (old_dir, old_name) = node.place()?;
        old_dir.rename(old_name, &dir, name)?;
        // The fid goes on under the new name.
        let moved = dir.child(name)?;
        self.fids.get_mut(fid)?.node = moved;
        Ok(kind::RENAME + 1)
    }
}

const _: () = assert!(HEADER_LEN + 4 == ERROR_LEN && MIN_MSIZE as usize > ERROR_LEN);
