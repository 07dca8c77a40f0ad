// SPDX-License-Identifier: GPL-2.0-or-later
//! Any messages for the 9P server: every one gets a proper reply, and nothing but the shared
//! directory is read or changed.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use p9_server::{kind, Server, Settings};
use tempfile::TempDir;

use crate::Choices;

/// Names that lead somewhere, that do not exist yet, and that must lead nowhere.
const NAMES: [&[u8]; 20] = [
    b"f",
    b"d",
    b"e",
    b"g",
    b"new",
    b"other",
    b"link",
    b"up",
    b"away",
    b"loop",
    b"socket",
    b".",
    b"..",
    b"",
    b"/",
    b"../secret",
    b"d/../../secret",
    b"/etc/passwd",
    b"secret",
    b"nul\0",
];

/// Fids at the same time: few, so that the limit is met.
const MAX_FIDS: usize = 8;
const MAX_MESSAGES: usize = 200;
const SET_ID: u32 = 0o6000;

/// The shared directory and what is around it.
struct Place {
    around: TempDir,
}

impl Place {
    fn new() -> io::Result<Self> {
        // Synchronous writes take no time there.
        let memory = Path::new("/dev/shm");
        let around = match memory.is_dir() {
            true => TempDir::new_in(memory),
            false => TempDir::new(),
        }?;
        let (top, share) = (around.path(), around.path().join("share"));
        fs::write(top.join("secret"), secret())?;
        fs::create_dir(top.join("beside"))?;
        fs::write(top.join("beside/f"), secret())?;
        fs::create_dir_all(share.join("d/e"))?;
        fs::write(share.join("f"), "content")?;
        fs::write(share.join("d/g"), [7; 5000])?;
        symlink("../secret", share.join("link"))?;
        symlink("..", share.join("up"))?;
        symlink(top.join("beside"), share.join("away"))?;
        symlink("loop", share.join("loop"))?;
        drop(UnixListener::bind(share.join("socket"))?);
        Ok(Place { around })
    }

    fn share(&self) -> PathBuf {
        self.around.path().join("share")
    }

    /// Everything around the shared directory that a client could change.
    fn outside(&self) -> io::Result<Vec<(PathBuf, Facts)>> {
        let mut all = Vec::new();
        let (top, share) = (self.around.path(), self.share());
        for dir in [top, &top.join("beside")] {
            all.push((dir.to_owned(), Facts::of(dir)?));
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path != share {
                    let facts = Facts::of(&path)?;
                    all.push((path, facts));
                }
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

impl Drop for Place {
    /// Directories may have lost the permission to be emptied.
    fn drop(&mut self) {
        open_up(&self.share());
    }
}

fn open_up(dir: &Path) {
    // What cannot be removed after this is left to the user.
    let _left = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// What may not change about a file.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    links: u64,
    owner: (u32, u32),
    modified: (i64, i64),
    /// Also changes with attributes that are put back.
    changed: (i64, i64),
    content: Option<Vec<u8>>,
}

impl Facts {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Facts {
            mode: meta.mode(),
            links: meta.nlink(),
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            content: match meta.is_file() {
                true => Some(fs::read(path)?),
                false => None,
            },
        })
    }
}

/// What is in the files outside: no input can contain it, so a reply with it was read there.
fn secret() -> &'static [u8] {
    static SECRET: OnceLock<Vec<u8>> = OnceLock::new();
    SECRET.get_or_init(|| {
        (0..4u64)
            .flat_map(|n| RandomState::new().hash_one(n).to_le_bytes())
            .collect()
    })
}

/// No file has got set-user-ID or set-group-ID, and nothing is a device or a pipe. All directories
/// may be read by now.
fn check_inside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, meta) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
        assert_eq!(meta.mode() & SET_ID, 0, "{}: set-ID", path.display());
        let kind = meta.file_type();
        assert!(
            !kind.is_fifo() && !kind.is_char_device() && !kind.is_block_device(),
            "{}: {kind:?}",
            path.display()
        );
        if kind.is_dir() {
            check_inside(&path)?;
        }
    }
    Ok(())
}

/// A message that is put together.
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, value: u64, bytes: usize) {
        self.0.extend(value.to_le_bytes().into_iter().take(bytes));
    }

    fn string(&mut self, s: &[u8]) {
        self.number(s.len() as u64, 2);
        self.0.extend_from_slice(s);
    }

    /// Size and all.
    fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        for (to, from) in self.0.iter_mut().zip(len.to_le_bytes()) {
            *to = from;
        }
        self.0
    }
}

fn name(c: &mut Choices<'_>) -> Vec<u8> {
    match c.u8() {
        0xf0 => {
            let n = usize::from(c.u16() % 300);
            c.bytes(n)
        }
        0xf1 => vec![b'x'; 256],
        n => NAMES[usize::from(n) % NAMES.len()].to_vec(),
    }
}

/// The fields of the messages: f a fid, n a name, digits so many bytes of a number, w a walk's
/// names, d data with its length.
const MESSAGES: [(u8, &str); 26] = [
    (kind::WALK, "ffw"),
    (kind::WALK, "ffw"),
    (kind::ATTACH, "fann4"),
    (kind::LOPEN, "fo"),
    (kind::LCREATE, "fno44"),
    (kind::READ, "f84"),
    (kind::WRITE, "f8d"),
    (kind::READDIR, "f84"),
    (kind::GETATTR, "f8"),
    (kind::SETATTR, "fv44488888"),
    (kind::MKDIR, "fn44"),
    (kind::SYMLINK, "fnn4"),
    (kind::LINK, "ffn"),
    (kind::RENAME, "ffn"),
    (kind::RENAMEAT, "fnfn"),
    (kind::UNLINKAT, "fnu"),
    (kind::READLINK, "f"),
    (kind::STATFS, "f"),
    (kind::FSYNC, "f4"),
    (kind::CLUNK, "f"),
    (kind::REMOVE, "f"),
    (kind::FLUSH, "2"),
    (kind::AUTH, "fnn4"),
    (kind::MKNOD, "fn4444"),
    (kind::XATTRWALK, "ffn"),
    (kind::LOCK, "f1488n"),
];

fn message(c: &mut Choices<'_>) -> Vec<u8> {
    let choice = c.u8();
    let tag = c.u8();
    let mut m = Message(vec![0; 4]);
    match choice {
        // Any bytes, with a size that is right or not.
        0xff => {
            let n = usize::from(c.u16());
            return c.bytes(n);
        }
        0xfe => {
            m.number(c.u8().into(), 1);
            m.number(tag.into(), 2);
            let n = usize::from(c.u8());
            m.0.extend(c.bytes(n));
            return m.finish();
        }
        0xfd => {
            m.number(kind::VERSION.into(), 1);
            m.number(tag.into(), 2);
            m.number(c.u32().into(), 4);
            m.string(b"9P2000.L");
            return m.finish();
        }
        _ => {}
    }
    let (kind, fields) = MESSAGES[usize::from(choice) % MESSAGES.len()];
    m.number(kind.into(), 1);
    m.number(tag.into(), 2);
    for field in fields.chars() {
        match field {
            'f' => m.number(u64::from(c.u8()) % (MAX_FIDS as u64 + 2), 4),
            'a' => m.number(u32::MAX.into(), 4),
            'n' => m.string(&name(c)),
            'o' => m.number(
                [0, 1, 2, 0o201, 0o1002, 0o20_0000, c.u32()][usize::from(c.u8()) % 7].into(),
                4,
            ),
            'u' => m.number([0, 0x200][usize::from(c.u8()) % 2], 4),
            'v' => m.number(c.u16().into(), 4),
            'w' => {
                let n = c.u8() % 6;
                m.number(n.into(), 2);
                for _ in 0..n {
                    m.string(&name(c));
                }
            }
            'd' => {
                let n = usize::from(c.u8());
                let data = c.bytes(n);
                m.number(data.len() as u64, 4);
                m.0.extend(data);
            }
            digit => {
                // Mostly small, now and then anything.
                let bytes = digit.to_digit(10).unwrap_or(1) as usize;
                match c.u8() {
                    0xf0 => m.number(u64::MAX, bytes),
                    0xf1 => {
                        let value = u64::from(c.u32()) << 32 | u64::from(c.u32());
                        m.number(value, bytes);
                    }
                    0xf2 => m.number(c.u16().into(), bytes),
                    n => m.number(n.into(), bytes),
                }
            }
        }
    }
    if tag == 0xff {
        // Cut off, or with something behind.
        match c.u8() {
            0 => m.0.push(0),
            n => m.0.truncate(m.0.len().saturating_sub(n.into()).max(7)),
        }
    }
    m.finish()
}

/// Sends one message and checks the reply's form.
fn ask(server: &mut Server, message: &[u8], room: usize, reply: &mut Vec<u8>) {
    let done = server.answer(message, room, reply);
    assert!(reply.len() <= room, "{} bytes in {room}", reply.len());
    assert!(
        !reply.windows(secret().len()).any(|part| part == secret()),
        "a reply has what is outside"
    );
    let Some(header) = reply.get(..7) else {
        assert!(reply.is_empty(), "half a reply");
        assert!(done.is_err(), "a request without a reply");
        return;
    };
    assert_eq!(header[..4], (reply.len() as u32).to_le_bytes(), "size");
    assert_eq!(header[5..7], message[5..7], "tag");
    if header[4] == kind::RLERROR {
        assert_eq!(reply.len(), 11, "an error is a number");
    } else {
        assert!(done.is_ok(), "an answer to {done:?}");
        assert_eq!(header[4], message[4] + 1, "type");
    }
    assert!(server.fids() <= MAX_FIDS);
}

/// One run.
pub fn run(data: &[u8]) {
    let place = Place::new().expect("a place for the shared directory");
    let mut c = Choices::new(data);
    let first = c.u8();
    let settings = Settings {
        read_only: first == 0xf0,
        max_fids: MAX_FIDS,
    };
    let mut server = Server::new(&place.share(), settings).expect("a server");
    let before = place.outside().expect("what is outside");
    let mut reply = Vec::new();
    if first != 0xf1 {
        // As every client begins.
        let mut version = Message(vec![0, 0, 0, 0, kind::VERSION, 1, 0]);
        version.number(8192, 4);
        version.string(b"9P2000.L");
        ask(&mut server, &version.finish(), 8192, &mut reply);
        let mut attach = Message(vec![0, 0, 0, 0, kind::ATTACH, 1, 0]);
        attach.number(0, 4);
        attach.number(u32::MAX.into(), 4);
        attach.string(b"user");
        attach.string(b"");
        attach.number(0, 4);
        ask(&mut server, &attach.finish(), 8192, &mut reply);
        assert_eq!(server.fids(), 1);
    }
    let mut messages = 0;
    while !c.is_empty() && messages < MAX_MESSAGES {
        messages += 1;
        let room = match c.u8() {
            0xf0 => usize::from(c.u8()),
            0xf1 => usize::from(c.u16()),
            0xf2 => {
                server.reset();
                assert_eq!(server.fids(), 0);
                8192
            }
            _ => 8192,
        };
        let message = message(&mut c);
        ask(&mut server, &message, room, &mut reply);
    }
    drop(server);
    let after = place.outside().expect("what is outside");
    assert_eq!(before, after, "the surroundings have changed");
    // A client may take away its own permission to look.
    open_up(&place.share());
    check_inside(&place.share()).expect("what is inside");
}
