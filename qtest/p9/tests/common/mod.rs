// SPDX-License-Identifier: GPL-2.0-or-later
//! A client of the server under test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, missing_docs, unreachable_pub)]

use p9_server::{kind, Malformed, Server, Settings};
use tempfile::TempDir;

pub const ROOT: u32 = 1;
pub const NO_FID: u32 = u32::MAX;
pub const TAG: u16 = 0x1234;

pub mod errno {
    pub const PERM: u32 = 1;
    pub const NOENT: u32 = 2;
    pub const NXIO: u32 = 6;
    pub const BADF: u32 = 9;
    pub const BUSY: u32 = 16;
    pub const EXIST: u32 = 17;
    pub const NOTDIR: u32 = 20;
    pub const ISDIR: u32 = 21;
    pub const INVAL: u32 = 22;
    pub const NFILE: u32 = 23;
    pub const ROFS: u32 = 30;
    pub const NAMETOOLONG: u32 = 36;
    pub const NOTEMPTY: u32 = 39;
    pub const LOOP: u32 = 40;
    pub const PROTO: u32 = 71;
    pub const MSGSIZE: u32 = 90;
    pub const OPNOTSUPP: u32 = 95;
    pub const STALE: u32 = 116;
}

/// Puts a request together.
#[derive(Clone, Debug, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn u16(mut self, v: u16) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub fn s(mut self, s: impl AsRef<[u8]>) -> Self {
        let s = s.as_ref();
        self.0.extend((s.len() as u16).to_le_bytes());
        self.0.extend(s);
        self
    }
    pub fn raw(mut self, s: &[u8]) -> Self {
        self.0.extend(s);
        self
    }
    pub fn message(self, kind: u8) -> Vec<u8> {
        let mut m = (self.0.len() as u32 + 7).to_le_bytes().to_vec();
        m.push(kind);
        m.extend(TAG.to_le_bytes());
        m.extend(self.0);
        m
    }
}

pub fn m() -> Message {
    Message::default()
}

pub struct Client {
    pub server: Server,
    /// The directory above the shared one; "secret" is in it.
    pub outside: TempDir,
    pub room: usize,
}

pub type Answer = Result<Vec<u8>, u32>;

impl Client {
    pub fn bare(settings: Settings) -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let dir = outside.path().join("share");
        std::fs::create_dir(&dir).unwrap();
        Client {
            server: Server::new(&dir, settings).unwrap(),
            outside,
            room: 1 << 20,
        }
    }

    pub fn with(settings: Settings) -> Self {
        let mut c = Self::bare(settings);
        c.version(64 << 10);
        c.attach(ROOT).unwrap();
        c
    }

    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    pub fn dir(&self) -> std::path::PathBuf {
        self.outside.path().join("share")
    }

    /// Raw bytes in, raw bytes out.
    pub fn send(&mut self, message: &[u8]) -> (Result<(), Malformed>, Vec<u8>) {
        let mut reply = vec![7; 3];
        let done = self.server.answer(message, self.room, &mut reply);
        assert!(reply.len() <= self.room, "{} bytes", reply.len());
        (done, reply)
    }

    /// A request that keeps to the protocol; the reply's body or the error number.
    pub fn ask(&mut self, kind: u8, body: Message) -> Answer {
        let (done, reply) = self.send(&body.message(kind));
        done.unwrap();
        let size = u32::from_le_bytes(reply[..4].try_into().unwrap());
        assert_eq!(size as usize, reply.len());
        assert_eq!(reply[5..7], TAG.to_le_bytes());
        if reply[4] == kind::RLERROR {
            assert_eq!(reply.len(), 11);
            return Err(u32::from_le_bytes(reply[7..].try_into().unwrap()));
        }
        assert_eq!(reply[4], kind + 1);
        Ok(reply[7..].to_vec())
    }

    pub fn version(&mut self, msize: u32) -> Vec<u8> {
        let body = m().u32(msize).s("9P2000.L");
        self.ask(kind::VERSION, body).unwrap()
    }

    pub fn attach(&mut self, fid: u32) -> Answer {
        let body = m().u32(fid).u32(NO_FID).s("root").s("").u32(0);
        self.ask(kind::ATTACH, body)
    }

    /// Walks; gives the number of qids.
    pub fn walk(&mut self, fid: u32, newfid: u32, names: &[&str]) -> Result<u16, u32> {
        let mut body = m().u32(fid).u32(newfid).u16(names.len() as u16);
        for name in names {
            body = body.s(name);
        }
        let reply = self.ask(kind::WALK, body)?;
        let n = u16::from_le_bytes(reply[..2].try_into().unwrap());
        assert_eq!(reply.len(), 2 + 13 * usize::from(n));
        Ok(n)
    }

    pub fn open(&mut self, fid: u32, flags: u32) -> Answer {
        self.ask(kind::LOPEN, m().u32(fid).u32(flags))
    }

    pub fn create(&mut self, fid: u32, name: &str, flags: u32) -> Answer {
        let body = m().u32(fid).s(name).u32(flags).u32(0o644).u32(0);
        self.ask(kind::LCREATE, body)
    }

    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Answer {
        let reply = self.ask(kind::READ, m().u32(fid).u64(offset).u32(count))?;
        let n = u32::from_le_bytes(reply[..4].try_into().unwrap());
        assert_eq!(reply.len(), 4 + n as usize);
        Ok(reply[4..].to_vec())
    }

    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, u32> {
        let body = m().u32(fid).u64(offset).u32(data.len() as u32).raw(data);
        let reply = self.ask(kind::WRITE, body)?;
        Ok(u32::from_le_bytes(reply.try_into().unwrap()))
    }

    pub fn clunk(&mut self, fid: u32) -> Result<(), u32> {
        self.ask(kind::CLUNK, m().u32(fid)).map(|_| ())
    }

    pub fn mkdir(&mut self, fid: u32, name: &str) -> Answer {
        self.ask(kind::MKDIR, m().u32(fid).s(name).u32(0o6777).u32(0))
    }

    pub fn getattr(&mut self, fid: u32) -> Attr {
        let b = self.ask(kind::GETATTR, m().u32(fid).u64(0x7ff)).unwrap();
        assert_eq!(b.len(), 153);
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        assert_eq!(u64_at(0), 0x7ff);
        Attr {
            kind: b[8],
            ino: u64_at(13),
            mode: u32_at(21),
            nlink: u64_at(33),
            size: u64_at(49),
            mtime: (u64_at(89), u64_at(97)),
        }
    }

    /// All entries: (name, type, inode), asked for with this many bytes at a time.
    pub fn list(&mut self, fid: u32, count: u32) -> Vec<(String, u8, u64)> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let body = m().u32(fid).u64(offset).u32(count);
            let reply = self.ask(kind::READDIR, body).unwrap();
            let n = u32::from_le_bytes(reply[..4].try_into().unwrap());
            assert_eq!(reply.len(), 4 + n as usize);
            assert!(n <= count);
            let mut rest = &reply[4..];
            if rest.is_empty() {
                return all;
            }
            while !rest.is_empty() {
                let ino = u64::from_le_bytes(rest[5..13].try_into().unwrap());
                offset = u64::from_le_bytes(rest[13..21].try_into().unwrap());
                let kind = rest[21];
                let len = usize::from(u16::from_le_bytes(rest[22..24].try_into().unwrap()));
                let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
                all.push((name, kind, ino));
                rest = &rest[24 + len..];
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub kind: u8,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub size: u64,
    pub mtime: (u64, u64),
}
