// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients that break the rules, leave in the middle, come twice or all at once: nobody else notices.

mod common;
use common::*;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use vfio_user_wire::*;

#[test]
fn a_full_blocking_eventfd_stops_nobody() {
    use rustix::event::{eventfd, EventfdFlags};
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(c.eventfds(0, &[full]), 0);
    c.write(0, KICK, &[0, 0]);
    assert_eq!(c.read(0, KICK, 1), [0]);
}

#[test]
fn a_second_client_is_told_and_the_first_goes_on() {
    let sim = Running::start(1);
    let mut first = sim.client("vf1.sock");
    first.write(REGION_CONFIG, 4, &[6]);
    let mut second = Client::connect(&sim.path("vf1.sock"));
    assert_eq!(second.error(&Client::version(0, false), &[]), errno::EBUSY);
    assert!(second.is_closed());
    assert_eq!(first.read(REGION_CONFIG, 4, 1), [6]);
    // Second clients that say nothing do not pile up.
    let silent: Vec<_> = (0..40)
        .map(|_| Client::connect(&sim.path("vf1.sock")))
        .collect();
    assert_eq!(first.read(REGION_CONFIG, 4, 1), [6]);
    let refused = || sim.ctl(r#"{"cmd":"counters"}"#)["front"]["refused"].as_u64();
    let end = Instant::now() + PATIENCE;
    while refused() != Some(41) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(refused(), Some(41));
    drop(silent);
    drop(first);
    let mut next = sim.client("vf1.sock");
    assert_eq!(next.read(REGION_CONFIG, 4, 1), [0]);
    // One that leaves and one that comes in the same moment are told apart.
    for _ in 0..200 {
        drop(next);
        next = sim.client("vf1.sock");
    }
}

#[test]
fn nothing_comes_before_version_and_versions_must_fit() {
    let sim = Running::start(1);
    let path = sim.path("vf1.sock");
    let mut c = Client::connect(&path);
    assert_eq!(c.error(&Request::DeviceReset, &[]), errno::EINVAL);
    assert!(c.is_closed());
    let mut c = Client::connect(&path);
    let Request::Version(v) = Client::version(0, false) else {
        panic!()
    };
    let v = Request::Version(Version { major: 1, ..v });
    assert_eq!(c.error(&v, &[]), errno::EPROTO);
    assert!(c.is_closed());
    // A later minor version is answered with ours; saying it twice is an error, not the end.
    let mut c = Client::connect(&path);
    let answer = c.ask(&Client::version(9, false));
    let Reply::Version(v) = c.decode(&answer) else {
        panic!()
    };
    assert_eq!(v.minor, 0);
    assert_eq!(c.error(&Client::version(0, false), &[]), errno::EINVAL);
    assert_eq!(c.read(0, 0, 1), [0]);
}

#[test]
fn commands_that_are_not_done_are_refused_and_the_stream_stays_in_step() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    let list = [
        (11, 95),
        (12, 95),
        (14, 95),
        (16, 95),
        (17, 95),
        (18, 95),
        (0, 38),
        (19, 38),
    ];
    for (command, want) in list {
        let command = Command(command);
        let header = Header {
            id: 7,
            command,
            size: 16 + 100,
            flags: 0,
            errno: 0,
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(116, 0xee);
        c.send_raw(&bytes, &[]);
        let answer = c.receive().unwrap();
        assert!(answer.header.is_error());
        assert_eq!(
            (answer.header.id, answer.header.errno),
            (7, want),
            "{command}"
        );
    }
    // The same without wanting a reply: there is none, and the next request is answered.
    let header = Header {
        id: 8,
        command: Command(99),
        size: 20,
        flags: 0x10,
        errno: 0,
    };
    let mut bytes = header.encode().to_vec();
    bytes.resize(20, 1);
    c.send_raw(&bytes, &[]);
    // A reply that nobody asked for is ignored.
    let header = Header {
        id: 8,
        command: Command::DMA_READ,
        size: 16,
        flags: 1,
        errno: 0,
    };
    c.send_raw(&header.encode(), &[]);
    // Descriptors with a command that takes none.
    let fd = eventfd();
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: 1,
    };
    assert_eq!(
        c.error(&Request::RegionRead(access), &[fd.as_fd()]),
        errno::EINVAL
    );
    assert_eq!(c.read(0, 0, 1), [0]);
}

#[test]
fn garbage_hurts_only_who_sends_it() {
    let sim = Running::start(2);
    let mut good = sim.client("vf2.sock");
    let mut x = 42u64;
    let mut random = |n: usize| -> Vec<u8> {
        let mut next = || {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (x >> 33) as u8
        };
        (0..n).map(|_| next()).collect()
    };
    for round in 0..200 {
        let mut c = match round % 2 {
            0 => Client::connect(&sim.path("vf1.sock")),
            _ => sim.client("vf1.sock"),
        };
        let mut bytes = random(round * 7 % 400 + 1);
        if round % 4 == 3 && bytes.len() >= 16 {
            // A header that is right, around a payload that is not.
            let size = bytes.len() as u32;
            let command = Command(round as u16 / 4 % 16);
            let header = Header {
                id: 1,
                command,
                size,
                flags: 0,
                errno: 0,
            };
            bytes[..16].copy_from_slice(&header.encode());
        }
        let _ = c.socket.write_all(&bytes);
        if round % 3 == 0 {
            let _ = c.socket.shutdown(std::net::Shutdown::Write);
        }
        drop(c);
        assert_eq!(good.read(0, 0, 4), [0; 4], "round {round}");
    }
    for size in [0u32, 15, 70_000, 1 << 24, u32::MAX] {
        let mut c = sim.client("vf1.sock");
        let header = Header {
            id: 1,
            command: Command::REGION_WRITE,
            size,
            flags: 0,
            errno: 0,
        };
        c.send_raw(&header.encode(), &[]);
        assert!(c.is_closed(), "size {size}");
    }
    assert_eq!(good.read(0, 0, 4), [0; 4]);
}

#[test]
fn leaving_in_the_middle_of_a_message_frees_the_function() {
    let sim = Running::start(1);
    let mut whole = Vec::new();
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: 64,
    };
    Request::RegionWrite {
        access,
        data: &[9; 64],
    }
    .encode(1, false, &mut whole);
    for cut in [1, 15, 16, 17, 31, 32, 33, whole.len() - 1] {
        let mut c = sim.client("vf1.sock");
        c.send_raw(&whole[..cut], &[]);
        drop(c);
        let mut c = sim.client("vf1.sock");
        assert_eq!(c.read(0, 0, 1), [0], "cut {cut}");
    }
    // In pieces it works.
    let mut c = sim.client("vf1.sock");
    for b in &whole {
        c.send_raw(&[*b], &[]);
    }
    assert!(!c.receive().unwrap().header.is_error());
    assert_eq!(c.read(0, 0, 1), [9]);
}

#[test]
fn descriptors_stay_with_their_message_however_it_is_cut() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    let memory = memfd(0x4000);
    // Ten requests at once, the descriptor with the fifth.
    let mut bytes = Vec::new();
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: 1,
    };
    let mut all = Vec::new();
    for id in 0..10 {
        if id == 5 {
            c.send_raw(&all, &[]);
            all.clear();
            let flags = dma_flags::MAP_READ | dma_flags::MAP_WRITE;
            let map = DmaMap {
                flags,
                offset: 0,
                iova: 0,
                size: 0x4000,
            };
            Request::DmaMap(map).encode(id, false, &mut bytes);
            // Header with the descriptor, payload byte by byte without.
            c.send_raw(&bytes[..16], &[memory.as_fd()]);
            for b in &bytes[16..] {
                c.send_raw(&[*b], &[]);
            }
        } else {
            Request::RegionRead(access).encode(id, false, &mut bytes);
            all.extend_from_slice(&bytes);
        }
    }
    c.send_raw(&all, &[]);
    for id in 0..10 {
        let answer = c.receive().unwrap();
        assert_eq!(answer.header.id, id);
        assert!(!answer.header.is_error(), "{answer:?}");
    }
    let status = sim.ctl(r#"{"cmd":"status"}"#);
    assert_eq!(status["clients"][0]["dma"]["mappings"], 1);
    assert_eq!(status["clients"][0]["dma"]["unreachable"], 0);
}

#[test]
fn a_flood_of_descriptors_ends_that_connection() {
    let sim = Running::start(2);
    let mut good = sim.client("vf2.sock");
    let mut c = sim.client("vf1.sock");
    let fd = eventfd();
    let fds = [fd.as_fd(); 16];
    let header = Header {
        id: 1,
        command: Command::DMA_MAP,
        size: 4000,
        flags: 0,
        errno: 0,
    };
    c.send_raw(&header.encode(), &fds);
    for _ in 0..20 {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        let iov = [std::io::IoSlice::new(&[0])];
        let flags = rustix::net::SendFlags::NOSIGNAL;
        if rustix::net::sendmsg(&c.socket, &iov, &mut control, flags).is_err() {
            break;
        }
    }
    assert!(c.is_closed());
    assert_eq!(good.read(0, 0, 1), [0]);
}

#[test]
fn a_client_that_does_not_read_is_held_back_and_others_are_not() {
    let sim = Running::start(2);
    let mut good = sim.client("vf2.sock");
    let mut deaf = sim.client("vf1.sock");
    deaf.socket.set_nonblocking(true).unwrap();
    let access = RegionAccess {
        offset: 0,
        region: REGION_CONFIG,
        count: 4096,
    };
    let mut bytes = Vec::new();
    Request::RegionRead(access).encode(1, false, &mut bytes);
    let (mut sent, mut full) = (0usize, 0);
    let end = Instant::now() + Duration::from_secs(60);
    while full < 20 && Instant::now() < end {
        match deaf.socket.write(&bytes[sent % bytes.len()..]) {
            Ok(n) => (sent, full) = (sent + n, 0),
            Err(_) => {
                full += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        good.read(0, 0, 1);
    }
    assert_eq!(full, 20, "the server went on reading: {sent} bytes");
    // Once it reads, everything is answered.
    deaf.socket.set_nonblocking(false).unwrap();
    for _ in 0..sent / bytes.len() {
        assert_eq!(deaf.receive().unwrap().payload.len(), 16 + 4096);
    }
    good.read(0, 0, 1);
}

#[test]
fn sixty_four_vfs_at_once() {
    let sim = Running::start(64);
    let mut clients: Vec<Client> = (1..=64)
        .map(|n| sim.client(&format!("vf{n}.sock")))
        .collect();
    let mut pf = sim.client("pf.sock");
    for (n, c) in clients.iter_mut().enumerate() {
        c.write(0, 0x100, &[n as u8 + 1]);
    }
    // All ask at once, then all read: nobody gets another's answer.
    let access = RegionAccess {
        offset: 0x100,
        region: 0,
        count: 1,
    };
    for _ in 0..20 {
        for c in &mut clients {
            c.send(&Request::RegionRead(access), false, &[]);
        }
        for (n, c) in clients.iter_mut().enumerate() {
            let answer = c.receive().unwrap();
            assert_eq!(answer.payload[16], n as u8 + 1);
        }
    }
    assert_eq!(pf.read(0, 0x100, 1), [0]);
    let status = sim.ctl(r#"{"cmd":"status"}"#);
    assert_eq!(status["clients"].as_array().map(Vec::len), Some(65));
}
