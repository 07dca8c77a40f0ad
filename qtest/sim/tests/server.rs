// SPDX-License-Identifier: GPL-2.0-or-later
//! The server as a raw client sees it: every command, wrong input, leaving in the middle.

mod common;
use common::*;
use serde_json::Value;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use vfio_user_wire::*;
use virtio_pf_sim::event_loop::Options;
use virtio_pf_sim::server::session::SessionOptions;

#[test]
fn the_device_is_described_as_qemu_expects() {
    let sim = Running::start(1);
    let mut c = Client::connect(&sim.path("vf1.sock"));
    let v = c.hello();
    assert_eq!((v.major, v.minor), (0, 0));
    assert!(!v.capabilities.write_multiple);
    assert_eq!(v.capabilities.max_msg_fds, 16);
    assert_eq!(v.capabilities.pgsizes, 4096);
    let answer = c.ask(&Request::GetInfo { argsz: 16 });
    assert_eq!(answer.payload.len(), 16);
    let Reply::Info(info) = c.decode(&answer) else {
        panic!()
    };
    assert_eq!((info.num_regions, info.num_irqs), (9, 5));
    assert_eq!(info.flags, device_flags::RESET | device_flags::PCI);
    for index in 0..9 {
        let answer = c.ask(&Request::GetRegionInfo { argsz: 32, index });
        assert_eq!(answer.payload.len(), 32);
        assert!(answer.fds.is_empty());
        let Reply::RegionInfo(r) = c.decode(&answer) else {
            panic!()
        };
        let want = match index {
            0 => BAR_LEN,
            7 => 4096,
            _ => 0,
        };
        assert_eq!((r.index, r.size, r.argsz), (index, want, 32));
        assert_eq!(r.flags & region_flags::MMAP, 0);
        assert_eq!(r.flags & region_flags::READ != 0, want != 0);
    }
    assert_eq!(
        c.error(
            &Request::GetRegionInfo {
                argsz: 32,
                index: 9
            },
            &[]
        ),
        errno::EINVAL
    );
    for (index, want) in [(0, 0), (1, 0), (2, 4), (3, 1), (4, 0)] {
        let answer = c.ask(&Request::GetIrqInfo { argsz: 16, index });
        let Reply::IrqInfo(i) = c.decode(&answer) else {
            panic!()
        };
        assert_eq!((i.index, i.count), (index, want));
    }
    assert_eq!(
        c.error(
            &Request::GetIrqInfo {
                argsz: 16,
                index: 5
            },
            &[]
        ),
        errno::EINVAL
    );
}

#[test]
fn registers_keep_what_is_written_and_reset_reaches_the_device() {
    let sim = Running::start(2);
    let (mut a, mut b) = (sim.client("vf1.sock"), sim.client("vf2.sock"));
    a.write(0, 0x20, &[1, 2, 3, 4]);
    b.write(0, 0x20, &[5]);
    a.post(REGION_CONFIG, 4, &[6, 0]);
    assert_eq!(a.read(0, 0x20, 4), [1, 2, 3, 4]);
    assert_eq!(b.read(0, 0x20, 1), [5]);
    assert_eq!(a.read(REGION_CONFIG, 0, 4096)[4], 6);
    assert_eq!(a.error(&Request::DeviceReset, &[]), 0);
    assert_eq!(a.read(0, 0x20, 4), [0; 4]);
    assert_eq!(b.read(0, 0x20, 1), [5]);
    // A client that comes back finds its configuration as after power-on (COMMAND 0).
    drop(a);
    let mut a = sim.client("vf1.sock");
    assert_eq!(a.read(REGION_CONFIG, 4, 2), [0, 0]);
}

#[test]
fn accesses_outside_a_region_fail_and_change_nothing() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    for (region, offset, count) in [
        (0, BAR_LEN - 1, 2),
        (0, BAR_LEN, 1),
        (0, u64::MAX - 4, 4),
        (1, 0, 1),
        (6, 0, 4),
        (REGION_CONFIG, 4095, 2),
        (9, 0, 1),
        (u32::MAX, 0, 1),
    ] {
        let access = RegionAccess {
            offset,
            region,
            count,
        };
        assert_eq!(
            c.error(&Request::RegionRead(access), &[]),
            errno::EINVAL,
            "{access:?}"
        );
        let data = vec![0xff; count as usize];
        let write = Request::RegionWrite {
            access,
            data: &data,
        };
        assert_eq!(c.error(&write, &[]), errno::EINVAL, "{access:?}");
    }
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: u32::MAX,
    };
    assert_eq!(c.error(&Request::RegionRead(access), &[]), errno::E2BIG);
    assert_eq!(c.read(0, 0, 16), [0; 16]);
    // An access of no bytes is fine.
    assert!(c.read(0, BAR_LEN, 0).is_empty());
}

#[test]
fn dma_and_interrupts_reach_their_client_only() {
    let sim = Running::start(2);
    let (mut a, mut b) = (sim.client("vf1.sock"), sim.client("vf2.sock"));
    let memory = memfd(0x3000);
    rustix::io::pwrite(&memory, b"abcdefgh", 0x1000).unwrap();
    assert_eq!(a.map(0, 0x3000, 0, &memory), 0);
    assert_eq!(a.map(0x2000, 0x1000, 0, &memory), errno::EEXIST);
    let irqs: Vec<OwnedFd> = (0..4).map(|_| eventfd()).collect();
    assert_eq!(a.eventfds(0, &irqs), 0);
    let other = eventfd();
    assert_eq!(b.eventfds(2, std::slice::from_ref(&other)), 0);

    a.post(0, KICK, &[2, 0]);
    assert_eq!(count(&irqs[2], PATIENCE), 1);
    let mut copy = [0; 8];
    rustix::io::pread(&memory, &mut copy, 0x2000).unwrap();
    assert_eq!(&copy, b"abcdefgh");
    assert_eq!(count(&other, Duration::from_millis(50)), 0);

    // After the reply to an unmap nothing is touched any more.
    assert_eq!(a.unmap(0x2000, u64::MAX), 0);
    rustix::io::pwrite(&memory, b"ABCDEFGH", 0x1000).unwrap();
    a.write(0, KICK, &[1, 0]);
    assert_eq!(count(&irqs[1], PATIENCE), 1);
    rustix::io::pread(&memory, &mut copy, 0x2000).unwrap();
    assert_eq!(&copy, b"abcdefgh");
    assert_eq!(a.unmap(0, 0xffff_ffff_0110_0000), 0);
    assert_eq!(a.unmap(1 << 40, 1 << 47), 0);
}

#[test]
fn vectors_are_attached_taken_away_and_triggered() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    let irqs: Vec<OwnedFd> = (0..4).map(|_| eventfd()).collect();
    assert_eq!(c.eventfds(0, &irqs), 0);
    let set = |flags, start, count, data| SetIrqs {
        flags,
        index: IRQ_MSIX,
        start,
        count,
        data,
    };
    use irq_flags::*;
    // Triggered by the client itself.
    let s = set(SET_DATA_BOOL | SET_ACTION_TRIGGER, 0, 4, &[0, 1, 0, 1][..]);
    assert_eq!(c.error(&Request::SetIrqs(s), &[]), 0);
    assert_eq!(count(&irqs[1], PATIENCE), 1);
    assert_eq!(count(&irqs[3], PATIENCE), 1);
    let s = set(SET_DATA_NONE | SET_ACTION_TRIGGER, 2, 1, &[]);
    assert_eq!(c.error(&Request::SetIrqs(s), &[]), 0);
    assert_eq!(count(&irqs[2], PATIENCE), 1);
    // One taken away: a message without descriptors.
    let s = set(SET_DATA_EVENTFD | SET_ACTION_TRIGGER, 1, 1, &[]);
    assert_eq!(c.error(&Request::SetIrqs(s), &[]), 0);
    c.write(0, KICK, &[1, 0]);
    c.write(0, KICK, &[0, 0]);
    assert_eq!(count(&irqs[0], PATIENCE), 1);
    assert_eq!(count(&irqs[1], Duration::from_millis(20)), 0);
    // All taken away.
    let s = set(SET_DATA_NONE | SET_ACTION_TRIGGER, 0, 0, &[]);
    assert_eq!(c.error(&Request::SetIrqs(s), &[]), 0);
    c.write(0, KICK, &[0, 0]);
    assert_eq!(count(&irqs[0], Duration::from_millis(20)), 0);
    let counters = sim.ctl(r#"{"cmd":"counters"}"#);
    assert_eq!(counters["front"]["interrupts_lost"], 2);
}

#[test]
fn wrong_interrupt_requests_have_a_proper_error_number() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    use irq_flags::*;
    let trigger = SET_DATA_EVENTFD | SET_ACTION_TRIGGER;
    let set = |flags, index, start, count| SetIrqs {
        flags,
        index,
        start,
        count,
        data: &[],
    };
    let fd = eventfd();
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let cases: [(SetIrqs<'_>, Vec<&OwnedFd>, u32); 10] = [
        (set(trigger, IRQ_MSIX, 4, 1), vec![&fd], errno::EINVAL),
        (set(trigger, IRQ_MSIX, 0, 5), vec![], errno::EINVAL),
        (
            set(trigger, IRQ_MSIX, u32::MAX, u32::MAX),
            vec![],
            errno::E2BIG,
        ),
        (set(trigger, IRQ_MSIX, 0, 2), vec![&fd], errno::EINVAL),
        (set(trigger, IRQ_INTX, 0, 1), vec![&fd], errno::EINVAL),
        (set(trigger, 5, 0, 1), vec![&fd], errno::EINVAL),
        (set(trigger, IRQ_MSIX, 0, 1), vec![&file], errno::EINVAL),
        (set(trigger, IRQ_MSIX, 0, 1), vec![&pipe], errno::EINVAL),
        (
            set(SET_DATA_NONE | SET_ACTION_MASK, IRQ_MSIX, 0, 1),
            vec![],
            errno::EOPNOTSUPP,
        ),
        (set(0, IRQ_MSIX, 0, 1), vec![], errno::EINVAL),
    ];
    for (set, fds, want) in cases {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        assert_eq!(c.error(&Request::SetIrqs(set), &fds), want, "{set:?}");
    }
}

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
fn doorbells_through_eventfds() {
    let sim = Running::start(1);
    let mut c = sim.client("vf1.sock");
    let irq = eventfd();
    assert_eq!(c.eventfds(3, std::slice::from_ref(&irq)), 0);
    let answer = c.ask(&Request::GetRegionIoFds {
        argsz: 4096,
        index: 0,
    });
    let Reply::IoFds(fds) = c.decode(&answer) else {
        panic!()
    };
    assert_eq!((fds.entries.len(), answer.fds.len()), (16, 16));
    let entry = fds.entries[3];
    assert_eq!((entry.offset, entry.size, entry.datamatch), (KICK, 2, 3));
    assert_eq!(entry.flags, IoEventFd::DATAMATCH);
    rustix::io::write(&answer.fds[entry.fd_index as usize], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(count(&irq, PATIENCE), 1);
    assert_eq!(c.read(0, KICK, 2), [3, 0]);
    // Asked again, the same eventfds come; with too little room only the size.
    let again = c.ask(&Request::GetRegionIoFds {
        argsz: 16 + 40 * 4,
        index: 0,
    });
    assert_eq!(again.fds.len(), 4);
    let none = c.ask(&Request::GetRegionIoFds {
        argsz: 16,
        index: 0,
    });
    let Reply::IoFds(fds) = c.decode(&none) else {
        panic!()
    };
    assert_eq!((none.fds.len(), fds.argsz), (0, 16 + 40 * 16));
    let other = c.ask(&Request::GetRegionIoFds {
        argsz: 4096,
        index: 1,
    });
    assert!(other.fds.is_empty());
    // They outlive neither the client nor disturb the next one.
    drop(c);
    let mut c = sim.client("vf1.sock");
    rustix::io::write(&answer.fds[3], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(c.read(0, KICK, 2), [3, 0]);
    let status = sim.ctl(r#"{"cmd":"status"}"#);
    assert_eq!(status["clients"][0]["messages"]["doorbells"], 0);
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
fn several_writes_in_one_message_only_if_agreed() {
    let mut payload = 2u64.to_ne_bytes().to_vec();
    for (offset, value) in [(0x40u64, 1u8), (0x48, 2)] {
        payload.extend_from_slice(&offset.to_ne_bytes());
        payload.extend_from_slice(&0u32.to_ne_bytes());
        payload.extend_from_slice(&8u32.to_ne_bytes());
        payload.extend_from_slice(&[value; 8]);
    }
    let size = 16 + payload.len() as u32;
    let command = Command::REGION_WRITE_MULTI;
    let header = Header {
        id: 9,
        command,
        size,
        flags: 0,
        errno: 0,
    };
    let message = [&header.encode()[..], &payload].concat();
    for agreed in [false, true] {
        let session = SessionOptions {
            write_multiple: agreed,
        };
        let options = Options {
            session,
            ..Options::default()
        };
        let sim = Running::start_with(Box::new(|| Box::new(Toy::new(1))), options);
        let mut c = sim.client("vf1.sock");
        c.send_raw(&message, &[]);
        let answer = c.receive().unwrap();
        assert_eq!(answer.header.is_error(), !agreed);
        assert_eq!(c.read(0, 0x48, 1), [if agreed { 2 } else { 0 }]);
    }
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
    let end = Instant::now() + Duration::from_secs(3);
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

#[test]
fn the_control_socket_answers_and_survives_nonsense() {
    let sim = Running::start(1);
    assert_eq!(sim.ctl(r#"{"cmd":"ping"}"#)["ok"], true);
    for bad in ["", "x", "[]", "{}", r#"{"cmd":3}"#, r#"{"cmd":"nonsense"}"#] {
        let reply = sim.ctl(bad);
        assert_eq!(reply["ok"], false, "{bad}");
        assert!(reply["error"].as_str().is_some_and(|e| !e.is_empty()));
    }
    let mut c = sim.client("vf1.sock");
    c.write(0, KICK, &[1, 0]);
    let events = sim.ctl(r#"{"cmd":"events"}"#);
    let names: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["event"].as_str())
        .collect();
    assert_eq!(names, ["connected", "kick"]);
    let next = events["next"].as_u64().unwrap();
    let more = sim.ctl(&format!(r#"{{"cmd":"events","since":{next}}}"#));
    assert_eq!(more["events"], Value::Array(Vec::new()));
    // The error interrupt, and cutting a client off.
    let err = eventfd();
    let flags = irq_flags::SET_DATA_EVENTFD | irq_flags::SET_ACTION_TRIGGER;
    let set = SetIrqs {
        flags,
        index: IRQ_ERR,
        start: 0,
        count: 1,
        data: &[],
    };
    assert_eq!(sim.ctl(r#"{"cmd":"raise-error","vf":1}"#)["ok"], false);
    assert_eq!(c.error(&Request::SetIrqs(set), &[err.as_fd()]), 0);
    assert_eq!(
        sim.ctl(r#"{"cmd":"raise-error","function":"vf1"}"#)["ok"],
        true
    );
    assert_eq!(count(&err, PATIENCE), 1);
    assert_eq!(sim.ctl(r#"{"cmd":"disconnect","vf":1}"#)["ok"], true);
    assert!(c.is_closed());
    assert_eq!(sim.ctl(r#"{"cmd":"disconnect","vf":7}"#)["ok"], false);
    // A line without end is cut off, and the next client is served.
    let mut s = std::os::unix::net::UnixStream::connect(sim.path("ctl.sock")).unwrap();
    let _ = s.write_all(&vec![b'x'; 200_000]);
    assert_eq!(sim.ctl(r#"{"cmd":"quit"}"#)["ok"], true);
}

#[test]
fn sockets_are_private_and_removed_and_a_running_simulator_is_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    use virtio_pf_sim::event_loop::Simulator;
    let sim = Running::start(1);
    let path = sim.path("vf1.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let options = Options {
        dir: sim.dir.path().to_owned(),
        ..Options::default()
    };
    let (_keep, signal) = std::os::unix::net::UnixStream::pair().unwrap();
    let again = Simulator::new(&options, Box::new(Toy::new(1)), signal)
        .err()
        .unwrap();
    assert!(
        again.to_string().contains("in use by another simulator"),
        "{again}"
    );
    sim.client("vf1.sock").read(0, 0, 1);
    sim.stop();
    assert!(!path.exists());

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vf1.sock"), "mine").unwrap();
    let options = Options {
        dir: dir.path().to_owned(),
        ..Options::default()
    };
    let (_keep, signal) = std::os::unix::net::UnixStream::pair().unwrap();
    let e = Simulator::new(&options, Box::new(Toy::new(1)), signal)
        .err()
        .unwrap();
    assert!(e.to_string().contains("is not a socket"), "{e}");
    assert!(!dir.path().join("pf.sock").exists());
    // A socket that a killed simulator left behind is replaced.
    std::fs::remove_file(dir.path().join("vf1.sock")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("pf.sock")).unwrap());
    let (_keep, signal) = std::os::unix::net::UnixStream::pair().unwrap();
    Simulator::new(&options, Box::new(Toy::new(1)), signal).unwrap();
}
