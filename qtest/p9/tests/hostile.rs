// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients that want out, or more than there is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{errno, m, Client, NO_FID, ROOT, TAG};
use p9_server::{kind, Malformed, Settings};
use proptest::prelude::*;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;

#[test]
fn no_name_leads_out() {
    let mut c = Client::new();
    std::fs::create_dir(c.dir().join("d")).unwrap();
    let root = c.getattr(ROOT).ino;
    // Up from the root is the root.
    assert_eq!(c.walk(ROOT, 2, &["..", "..", ".."]), Ok(3));
    assert_eq!(c.getattr(2).ino, root);
    assert_eq!(c.walk(ROOT, 3, &["d", "..", "..", "secret"]), Ok(3));
    let long = "x".repeat(256);
    for name in [
        "../secret",
        "/",
        "/etc",
        "d/..",
        "d/../../secret",
        "",
        "a\0b",
        &long,
    ] {
        let expected = if name.len() > 255 {
            errno::NAMETOOLONG
        } else {
            errno::INVAL
        };
        assert_eq!(c.walk(ROOT, 9, &[name]), Err(expected), "{name:?}");
    }
    c.walk(ROOT, 4, &["d"]).unwrap();
    for name in ["..", ".", "../x", "/tmp/x", ""] {
        assert_eq!(c.mkdir(4, name), Err(errno::INVAL), "{name:?}");
        c.walk(ROOT, 5, &["d"]).unwrap();
        assert_eq!(c.create(5, name, 2), Err(errno::INVAL), "{name:?}");
        c.clunk(5).unwrap();
        for (kind, body) in [
            (kind::SYMLINK, m().u32(4).s(name).s("t").u32(0)),
            (kind::RENAMEAT, m().u32(ROOT).s("d").u32(4).s(name)),
            (kind::RENAMEAT, m().u32(4).s(name).u32(ROOT).s("y")),
            (kind::RENAME, m().u32(4).u32(ROOT).s(name)),
            (kind::UNLINKAT, m().u32(4).s(name).u32(0)),
            (kind::UNLINKAT, m().u32(4).s(name).u32(0x200)),
        ] {
            assert_eq!(c.ask(kind, body), Err(errno::INVAL), "type {kind} {name:?}");
        }
    }
    assert_eq!(
        std::fs::read(c.outside.path().join("secret")).unwrap(),
        b"secret"
    );
}

#[test]
fn symbolic_links_are_never_followed() {
    let mut c = Client::new();
    let secret = c.outside.path().join("secret");
    symlink(&secret, c.dir().join("file")).unwrap();
    symlink(c.outside.path(), c.dir().join("dir")).unwrap();
    symlink("d", c.dir().join("inner")).unwrap();
    std::fs::create_dir(c.dir().join("d")).unwrap();
    c.walk(ROOT, 2, &["file"]).unwrap();
    assert_eq!(c.getattr(2).kind, 2, "the link itself");
    assert_eq!(c.open(2, 0), Err(errno::LOOP));
    assert_eq!(c.walk(ROOT, 3, &["dir", "secret"]), Ok(1));
    assert_eq!(
        c.walk(ROOT, 3, &["inner", ".."]),
        Ok(2),
        "back the way it came"
    );
    assert_eq!(c.getattr(3).ino, c.getattr(ROOT).ino);
    c.walk(ROOT, 4, &["dir"]).unwrap();
    assert_eq!(c.open(4, 0), Err(errno::LOOP));
    assert_eq!(c.mkdir(4, "x"), Err(errno::NOTDIR));
    assert_eq!(c.create(4, "x", 2), Err(errno::NOTDIR));
    let unlink = m().u32(4).s("secret").u32(0);
    assert_eq!(c.ask(kind::UNLINKAT, unlink), Err(errno::NOTDIR));
    // Creating where a link is does not write through it.
    c.walk(ROOT, 5, &[]).unwrap();
    assert_eq!(c.create(5, "file", 1 | 0o1000), Err(errno::LOOP));
    for valid in [1u32, 8] {
        let body = m().u32(2).u32(valid).u32(0).raw(&[0; 48]);
        assert!(c.ask(kind::SETATTR, body).is_err());
    }
    // Times of a link are the link's.
    let body = m()
        .u32(2)
        .u32(0x120)
        .raw(&[0; 12])
        .raw(&[0; 24])
        .raw(&[0; 16]);
    c.ask(kind::SETATTR, body).unwrap();
    assert_ne!(
        std::fs::metadata(&secret).unwrap().modified().unwrap(),
        std::time::UNIX_EPOCH
    );
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
}

#[test]
fn a_directory_that_moves_out_gives_no_way_up() {
    let mut c = Client::new();
    std::fs::create_dir_all(c.dir().join("a/b")).unwrap();
    c.walk(ROOT, 2, &["a", "b"]).unwrap();
    std::fs::rename(c.dir().join("a/b"), c.outside.path().join("b")).unwrap();
    // Back the way that was walked, not to where the directory is now.
    assert_eq!(c.walk(2, 3, &["..", "..", "secret"]), Ok(2));
    assert_eq!(c.walk(2, 3, &["..", ".."]), Ok(2));
    assert_eq!(c.getattr(3).ino, c.getattr(ROOT).ino);
}

#[test]
fn what_could_block_is_not_opened() {
    let mut c = Client::new();
    let made = Command::new("mkfifo")
        .arg(c.dir().join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    let _socket = UnixListener::bind(c.dir().join("socket")).unwrap();
    for (fid, name) in [(2, "fifo"), (3, "socket")] {
        c.walk(ROOT, fid, &[name]).unwrap();
        for flags in [0, 1, 2] {
            assert_eq!(c.open(fid, flags), Err(errno::NXIO), "{name}");
        }
        c.walk(ROOT, 9, &[]).unwrap();
        assert_eq!(c.create(9, name, 0), Err(errno::NXIO));
        c.clunk(9).unwrap();
    }
}

#[test]
fn limits_hold() {
    let mut c = Client::with(Settings {
        max_fids: 20,
        ..Settings::default()
    });
    for fid in 2..=20 {
        c.walk(ROOT, fid, &[]).unwrap();
    }
    assert_eq!(c.walk(ROOT, 21, &[]), Err(errno::NFILE));
    assert_eq!(c.attach(21), Err(errno::NFILE));
    // Depth: each fid holds the way to it open.
    let mut deepest = 0;
    for _ in 0..300 {
        if c.mkdir(2, "d").is_err() {
            break;
        }
        match c.walk(2, 2, &["d"]) {
            Ok(1) => deepest += 1,
            Err(errno::NFILE) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(deepest, 4 * 20 - 1, "four descriptors for each fid");
    c.server.reset();
    c.version(8192);
    c.attach(ROOT).unwrap();
    assert_eq!(c.walk(ROOT, 2, &["d"; 16]), Ok(16), "given back");
}

#[test]
fn paths_are_not_endless() {
    let mut c = Client::new();
    c.walk(ROOT, 2, &[]).unwrap();
    for _ in 0..256 {
        c.mkdir(2, "d").unwrap();
        c.walk(2, 2, &["d"]).unwrap();
    }
    assert_eq!(c.mkdir(2, "d"), Err(errno::NAMETOOLONG));
    assert_eq!(c.create(2, "f", 2), Err(errno::NAMETOOLONG));
    c.open(2, 0).unwrap();
    assert_eq!(c.list(2, 1000).len(), 2, "an error leaves nothing behind");
}

#[test]
fn broken_messages_get_an_error_and_the_session_goes_on() {
    let mut c = Client::new();
    let good = m().u32(ROOT).u64(0x7ff).message(kind::GETATTR);
    for len in 0..7 {
        let (done, reply) = c.send(&good[..len]);
        assert_eq!((done, reply.len()), (Err(Malformed::NoHeader), 0));
    }
    for len in 7..good.len() {
        assert_eq!(c.send(&good[..len]).0, Err(Malformed::Size));
        // With the right size it is cut off.
        let mut short = good[..len].to_vec();
        short[..4].copy_from_slice(&(len as u32).to_le_bytes());
        let (done, reply) = c.send(&short);
        assert_eq!(done, Err(Malformed::CutOff));
        assert_eq!(reply[4], kind::RLERROR);
        assert_eq!(reply[5..7], TAG.to_le_bytes());
    }
    let surplus = m().u32(ROOT).u64(0).u16(0).message(kind::GETATTR);
    assert_eq!(c.send(&surplus).0, Err(Malformed::Surplus));
    let mut walk = m().u32(ROOT).u32(2).u16(17);
    for _ in 0..17 {
        walk = walk.s("d");
    }
    assert_eq!(
        c.send(&walk.message(kind::WALK)).0,
        Err(Malformed::WalkTooLong)
    );
    let write = m()
        .u32(ROOT)
        .u64(0)
        .u32(u32::MAX)
        .raw(b"x")
        .message(kind::WRITE);
    assert_eq!(c.send(&write).0, Err(Malformed::CutOff));
    // R-messages and numbers nobody uses.
    for kind in [0, 1, 6, 7, 9, 101, 123, 255] {
        let (done, reply) = c.send(&m().message(kind));
        assert_eq!(done, Err(Malformed::UnknownType));
        assert_eq!(reply[7..], errno::OPNOTSUPP.to_le_bytes());
    }
    let big = m()
        .u32(ROOT)
        .u64(0)
        .u32(70_000)
        .raw(&[0; 70_000])
        .message(kind::WRITE);
    assert_eq!(
        c.send(&big).0,
        Err(Malformed::Size),
        "above the agreed size"
    );
    // No room for the reply.
    c.room = 10;
    let (done, reply) = c.send(&good);
    assert_eq!((done, reply.len()), (Err(Malformed::NoRoom), 0));
    c.room = 100;
    let (done, reply) = c.send(&good);
    assert_eq!(done, Err(Malformed::NoRoom));
    assert_eq!(reply[7..], errno::MSGSIZE.to_le_bytes());
    c.room = 1 << 20;
    c.getattr(ROOT);
}

/// A number that is often one that means something.
fn fid() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..6u32, 1 => Just(NO_FID), 1 => any::<u32>()]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "a",
        "b",
        "d",
        "link",
        "out",
        "fifo",
        "..",
        ".",
        "",
        "../secret",
        "/",
        "a/b",
    ];
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// A message with fields of the right shape, or with anything behind the header.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let kinds = [
        8u8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 100, 102, 104,
        108, 110, 116, 118, 120, 122,
    ];
    let kind = prop_oneof![9 => prop::sample::select(kinds.to_vec()), 1 => any::<u8>()];
    let numbers = prop::collection::vec(prop_oneof![0..8u32, any::<u32>()], 12);
    let names = prop::collection::vec(name(), 3);
    let noise = prop::collection::vec(any::<u8>(), 0..40);
    (kind, fid(), fid(), numbers, names, noise, 0..20u8).prop_map(
        |(kind, a, b, n, names, noise, how)| {
            let body = match kind {
                110 => {
                    let mut body = m().u32(a).u32(b).u16(names.len() as u16);
                    for name in &names {
                        body = body.s(name);
                    }
                    body
                }
                104 => m().u32(a).u32(NO_FID).s("u").s("").u32(0),
                14 => m().u32(a).s(&names[0]).u32(n[0]).u32(n[1]).u32(0),
                16 => m().u32(a).s(&names[0]).s(&names[1]).u32(0),
                72 => m().u32(a).s(&names[0]).u32(n[0]).u32(0),
                20 => m().u32(a).u32(b).s(&names[0]),
                70 => m().u32(a).u32(b).s(&names[0]),
                74 => m().u32(a).s(&names[0]).u32(b).s(&names[1]),
                76 => m().u32(a).s(&names[0]).u32(n[0] << 9),
                118 => m()
                    .u32(a)
                    .u64(n[0].into())
                    .u32(noise.len() as u32)
                    .raw(&noise),
                40 | 116 => m().u32(a).u64(n[0].into()).u32(n[1]),
                100 => m().u32(n[0].max(4096)).s("9P2000.L"),
                // Sizes stay small: the file system is real.
                26 => m()
                    .u32(a)
                    .u32(n[0])
                    .u32(n[1])
                    .u32(n[2])
                    .u32(n[3])
                    .u64(1 << 12)
                    .raw(&[0; 32]),
                _ => n.iter().take(3).fold(m().u32(a), |body, v| body.u32(*v)),
            };
            let mut bytes = match how {
                0 => m().raw(&noise).message(kind),
                _ => body.message(kind),
            };
            match how {
                1 => bytes.truncate(bytes.len() / 2),
                2 => bytes.extend(noise),
                _ => {}
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes, there is an answer, nothing breaks, and nothing outside changes.
    #[test]
    fn any_bytes_are_answered(
        messages in prop::collection::vec((message(), prop_oneof![Just(1usize << 20), 0..300usize]), 1..60),
        raw in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
    ) {
        let mut c = Client::with(Settings { max_fids: 8, ..Settings::default() });
        std::fs::create_dir(c.dir().join("d")).unwrap();
        std::fs::write(c.dir().join("a"), "a").unwrap();
        symlink("..", c.dir().join("link")).unwrap();
        symlink(c.outside.path(), c.dir().join("out")).unwrap();
        for (message, room) in &messages {
            c.room = *room;
            let (done, reply) = c.send(message);
            if let Ok(()) = done {
                prop_assert!(reply.len() >= 7);
            }
            if reply.len() >= 7 {
                let size = u32::from_le_bytes(reply[..4].try_into().unwrap());
                prop_assert_eq!(size as usize, reply.len());
                prop_assert!(reply[4] == kind::RLERROR || reply[4] == message[4].wrapping_add(1));
                prop_assert_eq!(&reply[5..7], &message[5..7]);
            }
            prop_assert!(c.server.fids() <= 8);
        }
        c.room = 1 << 20;
        for message in &raw {
            let _answered_or_not = c.send(message);
        }
        let outside: Vec<_> = std::fs::read_dir(c.outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert_eq!(outside.len(), 2, "{:?}", outside);
        prop_assert_eq!(std::fs::read(c.outside.path().join("secret")).unwrap(), b"secret");
        // It still works.
        c.version(8192);
        c.attach(ROOT).unwrap();
        c.getattr(ROOT);
    }
}
