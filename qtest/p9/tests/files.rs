// SPDX-License-Identifier: GPL-2.0-or-later
//! What clients do with files and directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{errno, m, Client, ROOT};
use p9_server::{kind, Settings, MAX_MSIZE};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const RDONLY: u32 = 0;
const WRONLY: u32 = 1;
const RDWR: u32 = 2;
const EXCL: u32 = 0o200;
const TRUNC: u32 = 0o1000;

#[test]
fn a_session_begins_with_a_version() {
    let mut c = Client::bare(Settings::default());
    let (done, reply) = c.send(&m().u32(ROOT).u32(0).message(kind::CLUNK));
    assert!(done.is_err());
    assert_eq!(reply[4], kind::RLERROR);
    assert_eq!(reply[7..], errno::PROTO.to_le_bytes());
    // Sizes are cut to what the server can do, and not below what is useful.
    let agreed = c.version(u32::MAX);
    assert_eq!(agreed[..4], MAX_MSIZE.to_le_bytes());
    assert_eq!(agreed[6..], *b"9P2000.L");
    assert_eq!(c.version(8192)[..4], 8192u32.to_le_bytes());
    let small = c.ask(kind::VERSION, m().u32(4095).s("9P2000.L"));
    assert_eq!(small, Err(errno::MSGSIZE));
    // Another protocol: named unknown, and nothing but a new version works.
    let other = c.ask(kind::VERSION, m().u32(8192).s("9P2000")).unwrap();
    assert_eq!(other[6..], *b"unknown");
    assert!(c.send(&m().u32(ROOT).message(kind::CLUNK)).0.is_err());
    // A new version ends the session before.
    c.version(8192);
    c.attach(ROOT).unwrap();
    assert_eq!(c.server.fids(), 1);
    c.version(8192);
    assert_eq!(c.server.fids(), 0);
}

#[test]
fn attach_gives_the_root_and_nothing_else() {
    let mut c = Client::new();
    assert_eq!(c.attach(ROOT), Err(errno::BADF), "in use");
    assert_eq!(c.attach(u32::MAX), Err(errno::BADF));
    let other = m().u32(2).u32(u32::MAX).s("u").s("/etc").u32(0);
    assert_eq!(c.ask(kind::ATTACH, other), Err(errno::NOENT));
    let auth = m().u32(2).u32(7).s("u").s("").u32(0);
    assert_eq!(c.ask(kind::ATTACH, auth), Err(errno::INVAL));
    let auth = m().u32(2).s("u").s("").u32(0);
    assert_eq!(c.ask(kind::AUTH, auth), Err(errno::OPNOTSUPP));
    let share = std::fs::metadata(c.dir()).unwrap();
    let attr = c.getattr(ROOT);
    assert_eq!((attr.kind, attr.ino), (0x80, share.ino()));
}

#[test]
fn what_is_written_is_on_the_host_and_back() {
    let mut c = Client::new();
    c.walk(ROOT, 2, &[]).unwrap();
    c.create(2, "file", RDWR | EXCL).unwrap();
    let data: Vec<u8> = (0..200_000u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    for (n, part) in data.chunks(60_000).enumerate() {
        assert_eq!(c.write(2, n as u64 * 60_000, part), Ok(part.len() as u32));
    }
    c.ask(kind::FSYNC, m().u32(2).u32(0)).unwrap();
    c.ask(kind::FSYNC, m().u32(2).u32(1)).unwrap();
    assert_eq!(std::fs::read(c.dir().join("file")).unwrap(), data);
    let mode = std::fs::metadata(c.dir().join("file")).unwrap().mode();
    assert_eq!(mode, 0o100_644, "whatever the process's umask is");
    // Reads end with the message size, and with the file.
    let part = c.read(2, 100, u32::MAX).unwrap();
    assert_eq!(part.len(), (64 << 10) - 11);
    assert_eq!(part, data[100..100 + part.len()]);
    assert_eq!(c.read(2, 199_990, 100).unwrap(), data[199_990..]);
    assert_eq!(c.read(2, 200_000, 100).unwrap(), []);
    assert_eq!(c.read(2, u64::MAX, 100), Err(errno::INVAL));
    let counts = c.server.counts();
    assert_eq!(counts.bytes_written, 200_000);
    assert_eq!(counts.bytes_read, part.len() as u64 + 10);
    assert_eq!(c.clunk(2), Ok(()));
    assert_eq!(c.clunk(2), Err(errno::BADF));
}

#[test]
fn access_is_what_the_fid_was_opened_for() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("f"), "hello").unwrap();
    for fid in 2..6 {
        c.walk(ROOT, fid, &["f"]).unwrap();
    }
    assert_eq!(c.read(2, 0, 5), Err(errno::BADF), "not open");
    assert_eq!(c.write(2, 0, b"x"), Err(errno::BADF));
    c.open(2, RDONLY).unwrap();
    assert_eq!(c.open(2, RDONLY), Err(errno::BUSY));
    assert_eq!(c.read(2, 0, 5).unwrap(), b"hello");
    assert_eq!(c.write(2, 0, b"x"), Err(errno::BADF));
    c.open(3, WRONLY).unwrap();
    assert_eq!(c.read(3, 0, 5), Err(errno::BADF));
    assert_eq!(c.write(3, 0, b"J"), Ok(1));
    assert_eq!(c.open(4, 3), Err(errno::INVAL));
    c.open(4, RDWR | TRUNC).unwrap();
    assert_eq!(c.read(4, 0, 5).unwrap(), b"");
    assert_eq!(c.open(5, 0o20_0000), Err(errno::NOTDIR));
    // Directories are opened to be listed only.
    c.walk(ROOT, 7, &[]).unwrap();
    assert_eq!(c.open(7, WRONLY), Err(errno::ISDIR));
    c.open(7, RDONLY).unwrap();
    assert_eq!(c.read(7, 0, 5), Err(errno::ISDIR));
    let body = m().u32(2).u64(0).u32(100);
    assert_eq!(c.ask(kind::READDIR, body), Err(errno::NOTDIR));
    let body = m().u32(5).u64(0).u32(100);
    assert_eq!(c.ask(kind::READDIR, body), Err(errno::BADF));
    // An open fid may be cloned but not walked on itself.
    assert_eq!(c.walk(7, 7, &["f"]), Err(errno::INVAL));
    assert_eq!(c.walk(7, 8, &["f"]), Ok(1));
}

#[test]
fn create_opens_what_is_there_unless_told_otherwise() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("f"), "old").unwrap();
    std::fs::create_dir(c.dir().join("d")).unwrap();
    c.walk(ROOT, 2, &[]).unwrap();
    assert_eq!(c.create(2, "f", RDWR | EXCL), Err(errno::EXIST));
    assert_eq!(c.create(2, "d", RDWR), Err(errno::ISDIR));
    c.create(2, "f", RDWR).unwrap();
    assert_eq!(c.read(2, 0, 9).unwrap(), b"old");
    c.walk(ROOT, 3, &[]).unwrap();
    c.create(3, "f", WRONLY | TRUNC).unwrap();
    assert_eq!(c.read(2, 0, 9).unwrap(), b"");
    // The fid is the file's now.
    assert_eq!(c.getattr(3).kind, 0);
    c.walk(ROOT, 4, &["f"]).unwrap();
    assert_eq!(c.create(4, "g", RDWR), Err(errno::NOTDIR));
}

#[test]
fn walks_stop_where_the_path_ends() {
    let mut c = Client::new();
    std::fs::create_dir_all(c.dir().join("a/b/c")).unwrap();
    std::fs::write(c.dir().join("a/b/f"), "").unwrap();
    assert_eq!(c.walk(ROOT, 2, &["a", "b", "c"]), Ok(3));
    assert_eq!(c.walk(ROOT, 3, &["a", "b", "x", "y"]), Ok(2));
    assert_eq!(c.clunk(3), Err(errno::BADF), "not found, so no fid");
    assert_eq!(c.walk(ROOT, 3, &["x"]), Err(errno::NOENT));
    assert_eq!(c.walk(ROOT, 3, &["a", "b", "f", "g"]), Ok(3));
    assert_eq!(c.walk(99, 3, &[]), Err(errno::BADF));
    assert_eq!(c.walk(ROOT, 2, &[]), Err(errno::BADF), "in use");
    assert_eq!(c.walk(2, 3, &["..", "f"]), Ok(2));
    assert_eq!(c.getattr(3).kind, 0);
    assert_eq!(c.walk(2, 2, &["..", ".."]), Ok(2), "itself");
    let a = std::fs::metadata(c.dir().join("a")).unwrap().ino();
    assert_eq!(c.getattr(2).ino, a);
}

#[test]
fn two_hundred_files_are_listed_once_each() {
    let mut c = Client::new();
    for i in 0..200 {
        std::fs::write(c.dir().join(format!("file-{i:03}")), "x").unwrap();
    }
    std::fs::create_dir(c.dir().join("dir")).unwrap();
    c.walk(ROOT, 2, &[]).unwrap();
    c.open(2, RDONLY).unwrap();
    let root = std::fs::metadata(c.dir()).unwrap().ino();
    for count in [40, 300, 8000, u32::MAX] {
        let mut all = c.list(2, count);
        all.sort();
        assert_eq!(all.len(), 203, "{count} bytes at a time");
        // Of what is above the root nothing is told.
        assert_eq!(all[0], (".".to_owned(), 4, root));
        assert_eq!(all[1], ("..".to_owned(), 4, root));
        assert_eq!((all[2].0.as_str(), all[2].1), ("dir", 4));
        for (i, entry) in all[3..].iter().enumerate() {
            let name = format!("file-{i:03}");
            let ino = std::fs::metadata(c.dir().join(&name)).unwrap().ino();
            assert_eq!(entry, &(name, 8, ino));
        }
    }
    // Too little room for one entry is an error and not the end.
    let body = m().u32(2).u64(0).u32(10);
    assert_eq!(c.ask(kind::READDIR, body), Err(errno::INVAL));
    let body = m().u32(2).u64(u64::MAX).u32(1000);
    assert_eq!(c.ask(kind::READDIR, body), Err(errno::INVAL));
}

#[test]
fn renames_and_removals() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("one"), "1").unwrap();
    c.mkdir(ROOT, "d").unwrap();
    assert_eq!(c.mkdir(ROOT, "d"), Err(errno::EXIST));
    c.walk(ROOT, 2, &["d"]).unwrap();
    // Whatever the process's umask is, and without set-user-ID.
    assert_eq!(c.getattr(2).mode, 0o40_777);
    let body = m().u32(ROOT).s("one").u32(2).s("two");
    c.ask(kind::RENAMEAT, body).unwrap();
    assert_eq!(std::fs::read(c.dir().join("d/two")).unwrap(), b"1");
    // By fid: it goes on under its new name.
    c.walk(2, 3, &["two"]).unwrap();
    c.ask(kind::RENAME, m().u32(3).u32(ROOT).s("three"))
        .unwrap();
    assert!(c.dir().join("three").exists());
    c.ask(kind::RENAME, m().u32(3).u32(ROOT).s("four")).unwrap();
    assert!(c.dir().join("four").exists() && !c.dir().join("three").exists());
    // A name that now leads elsewhere is not touched.
    c.walk(ROOT, 4, &["four"]).unwrap();
    std::fs::rename(c.dir().join("four"), c.dir().join("five")).unwrap();
    std::fs::write(c.dir().join("four"), "new").unwrap();
    assert_eq!(c.ask(kind::REMOVE, m().u32(4)), Err(errno::STALE));
    assert_eq!(c.clunk(4), Err(errno::BADF), "the fid is gone all the same");
    assert_eq!(std::fs::read(c.dir().join("four")).unwrap(), b"new");
    // Files and directories by name.
    let unlink = |c: &mut Client, name: &str, flags: u32| {
        c.ask(kind::UNLINKAT, m().u32(ROOT).s(name).u32(flags))
    };
    std::fs::write(c.dir().join("d/x"), "").unwrap();
    assert_eq!(unlink(&mut c, "d", 0x200), Err(errno::NOTEMPTY));
    assert_eq!(unlink(&mut c, "d", 0), Err(errno::ISDIR));
    assert_eq!(unlink(&mut c, "four", 0x200), Err(errno::NOTDIR));
    std::fs::remove_file(c.dir().join("d/x")).unwrap();
    unlink(&mut c, "d", 0x200).unwrap();
    unlink(&mut c, "four", 0).unwrap();
    assert_eq!(unlink(&mut c, "four", 0), Err(errno::NOENT));
    c.walk(ROOT, 6, &["five"]).unwrap();
    c.ask(kind::REMOVE, m().u32(6)).unwrap();
    assert_eq!(std::fs::read_dir(c.dir()).unwrap().count(), 0);
    // The root stays.
    assert_eq!(c.ask(kind::REMOVE, m().u32(ROOT)), Err(errno::BUSY));
}

#[test]
fn a_removed_file_lives_on_in_its_fids() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("f"), "text").unwrap();
    c.walk(ROOT, 2, &["f"]).unwrap();
    c.walk(ROOT, 3, &["f"]).unwrap();
    c.open(2, RDWR).unwrap();
    c.ask(kind::UNLINKAT, m().u32(ROOT).s("f").u32(0)).unwrap();
    assert_eq!(c.read(2, 0, 10).unwrap(), b"text");
    assert_eq!(c.getattr(3).nlink, 0);
    c.open(3, RDONLY).unwrap();
    assert_eq!(c.read(3, 1, 2).unwrap(), b"ex");
}

#[test]
fn attributes_are_read_and_set() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("f"), "hello").unwrap();
    c.walk(ROOT, 2, &["f"]).unwrap();
    let set = |c: &mut Client, valid: u32, mode: u32, size: u64, mtime: (u64, u64)| {
        let body = m()
            .u32(2)
            .u32(valid)
            .u32(mode)
            .u32(u32::MAX)
            .u32(u32::MAX)
            .u64(size);
        let body = body.u64(1).u64(2).u64(mtime.0).u64(mtime.1);
        c.ask(kind::SETATTR, body).map(|_| ())
    };
    set(&mut c, 0x1 | 0x8 | 0x20 | 0x100, 0o640, 3, (1_000_000, 5)).unwrap();
    let attr = c.getattr(2);
    assert_eq!(
        (attr.mode, attr.size, attr.mtime),
        (0o100_640, 3, (1_000_000, 5))
    );
    let meta = std::fs::metadata(c.dir().join("f")).unwrap();
    assert_eq!(
        (meta.atime() == 1, meta.len()),
        (false, 3),
        "atime was not asked for"
    );
    set(&mut c, 0x10 | 0x80, 0, 0, (0, 0)).unwrap();
    let meta = std::fs::metadata(c.dir().join("f")).unwrap();
    assert_eq!(
        (meta.atime(), meta.atime_nsec(), meta.mtime()),
        (1, 2, 1_000_000)
    );
    set(&mut c, 0x20, 0, 0, (0, 0)).unwrap();
    assert!(c.getattr(2).mtime.0 > 1_600_000_000, "now");
    // What must not be, and what cannot.
    assert_eq!(set(&mut c, 1, 0o4755, 0, (0, 0)), Err(errno::PERM));
    assert_eq!(set(&mut c, 1, 0o2755, 0, (0, 0)), Err(errno::PERM));
    assert_eq!(set(&mut c, 2, 0, 0, (0, 0)), Err(errno::INVAL));
    assert_eq!(
        set(&mut c, 0x120, 0, 0, (0, 1_000_000_000)),
        Err(errno::INVAL)
    );
    assert_eq!(c.getattr(2).mode, 0o100_640);
    // Through an open fid too.
    c.open(2, RDWR).unwrap();
    set(&mut c, 8, 0, 100, (0, 0)).unwrap();
    assert_eq!(c.read(2, 90, 100).unwrap(), [0; 10]);
    let fs = c.ask(kind::STATFS, m().u32(2)).unwrap();
    assert_eq!(
        (fs.len(), &fs[..4]),
        (60, &0x0102_1997u32.to_le_bytes()[..])
    );
}

#[test]
fn links() {
    let mut c = Client::new();
    std::fs::write(c.dir().join("f"), "hello").unwrap();
    let body = m().u32(ROOT).s("soft").s("f").u32(0);
    assert_eq!(c.ask(kind::SYMLINK, body).unwrap()[0], 2);
    c.walk(ROOT, 2, &["soft"]).unwrap();
    assert_eq!(c.getattr(2).kind, 2);
    assert_eq!(c.ask(kind::READLINK, m().u32(2)).unwrap(), b"\x01\0f");
    c.walk(ROOT, 3, &["f"]).unwrap();
    assert_eq!(c.ask(kind::READLINK, m().u32(3)), Err(errno::INVAL));
    c.ask(kind::LINK, m().u32(ROOT).u32(3).s("hard")).unwrap();
    assert_eq!(c.getattr(3).nlink, 2);
    let hard = m().u32(ROOT).u32(2).s("hard2");
    assert_eq!(c.ask(kind::LINK, hard), Err(errno::PERM));
    // Device files, locks, extended attributes: said plainly.
    let mknod = m().u32(ROOT).s("n").u32(0o20_666).u32(1).u32(3).u32(0);
    assert_eq!(c.ask(kind::MKNOD, mknod), Err(errno::OPNOTSUPP));
    let xattr = m().u32(3).u32(9).s("user.x");
    assert_eq!(c.ask(kind::XATTRWALK, xattr), Err(errno::OPNOTSUPP));
    c.ask(kind::FLUSH, m().u16(5)).unwrap();
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let mut c = Client::with(Settings {
        read_only: true,
        ..Settings::default()
    });
    std::fs::write(c.dir().join("f"), "hello").unwrap();
    std::fs::set_permissions(c.dir().join("f"), PermissionsExt::from_mode(0o644)).unwrap();
    let before = std::fs::metadata(c.dir().join("f")).unwrap();
    for fid in [2, 3] {
        c.walk(ROOT, fid, &["f"]).unwrap();
    }
    assert_eq!(c.open(2, RDWR), Err(errno::ROFS));
    assert_eq!(c.open(2, RDONLY | TRUNC), Err(errno::ROFS));
    c.open(2, RDONLY).unwrap();
    assert_eq!(c.read(2, 0, 9).unwrap(), b"hello");
    c.walk(ROOT, 4, &[]).unwrap();
    assert_eq!(c.create(4, "g", RDONLY), Err(errno::ROFS));
    assert_eq!(c.mkdir(ROOT, "d"), Err(errno::ROFS));
    for (kind, body) in [
        (kind::SYMLINK, m().u32(ROOT).s("s").s("t").u32(0)),
        (kind::LINK, m().u32(ROOT).u32(3).s("h")),
        (kind::RENAME, m().u32(3).u32(ROOT).s("r")),
        (kind::RENAMEAT, m().u32(ROOT).s("f").u32(ROOT).s("r")),
        (kind::UNLINKAT, m().u32(ROOT).s("f").u32(0)),
        (kind::SETATTR, m().u32(3).u32(1).raw(&[0; 52])),
        (kind::REMOVE, m().u32(3)),
    ] {
        assert_eq!(c.ask(kind, body), Err(errno::ROFS), "type {kind}");
    }
    let after = std::fs::metadata(c.dir().join("f")).unwrap();
    assert_eq!(
        (before.mode(), before.ctime_nsec()),
        (after.mode(), after.ctime_nsec())
    );
    assert_eq!(std::fs::read_dir(c.dir()).unwrap().count(), 1);
}
