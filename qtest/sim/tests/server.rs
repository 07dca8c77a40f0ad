// SPDX-License-Identifier: GPL-2.0-or-later
//! The server as a raw client sees it: every command, and what it answers to wrong ones.

mod common;
use common::*;
use serde_json::Value;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
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
fn a_function_that_cannot_be_reset_says_so_and_is_not() {
    let sim = Running::start(3);
    let mut c = sim.client("vf3.sock");
    let answer = c.ask(&Request::GetInfo { argsz: 16 });
    let Reply::Info(info) = c.decode(&answer) else {
        panic!()
    };
    assert_eq!(info.flags, device_flags::PCI);
    c.write(0, 0x20, &[1, 2, 3, 4]);
    assert_eq!(c.error(&Request::DeviceReset, &[]), errno::EINVAL);
    assert_eq!(c.read(0, 0x20, 4), [1, 2, 3, 4]);
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
