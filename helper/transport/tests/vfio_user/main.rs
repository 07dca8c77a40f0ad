// SPDX-License-Identifier: GPL-2.0-or-later
//! The vfio-user client against a good server; bad ones are in `bad_peer.rs`.

#![allow(clippy::unwrap_used)]

mod bad_peer;
mod later;
mod server;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pci_transport::vfio_user::{Options, VfioUserFunction};
use pci_transport::{Cause, Order, PciFunction, Posted, Width};
use rustix::event::{eventfd, EventfdFlags};
use rustix::io::{pread, pwrite, Errno};
use server::{open, options, server, server_with, Instead, Rule, BAR2_LEN};
use test_kit::patience::OwnTime;
use vfio_user_wire::{IoEventFd, IoFdsReply, Limits, Request, IO_FD_TYPE_IOEVENTFD};

fn good() -> Rule {
    Box::new(|_, _| Instead::Answer)
}

#[test]
fn registers_configuration_space_and_interrupts() {
    let s = server(good());
    let mut f = open(&s).unwrap();
    assert_eq!(f.config_size().unwrap(), 4096);
    assert_eq!(f.bar(2).unwrap().size, BAR2_LEN);
    for bar in [0, 1, 5, 6, 255] {
        assert_eq!(f.bar(bar).unwrap_err().cause(), &Cause::NoSuchBar);
    }
    // Longer than the server transfers at a time.
    let mut all = vec![0xff; 4096];
    f.config_read(0, &mut all).unwrap();
    assert_eq!(all[..4], [0xf4, 0x1a, 0x41, 0x10]);
    assert_eq!(all[4095], 0);
    f.config_write(0x80, &[1, 2, 3, 4]).unwrap();
    let mut part = [0; 2];
    f.config_read(0x82, &mut part).unwrap();
    assert_eq!(part, [3, 4]);

    f.bar_write(2, 0x20, Width::B4, 0x0403_0201, Posted::No)
        .unwrap();
    assert_eq!(f.bar_read(2, 0x20, Width::B2).unwrap(), 0x0201);
    assert_eq!(f.bar_read(2, 0x23, Width::B1).unwrap(), 4);
    assert_eq!(f.bar_read(2, 0x24, Width::B4).unwrap(), 0x5a5a_5a5a);
    f.bar_write(2, 0x20, Width::B2, 0xbeef, Posted::Yes)
        .unwrap();
    assert_eq!(f.bar_read(2, 0x20, Width::B4).unwrap(), 0x0403_beef);

    // The capability has 5 vectors though the interrupt description says 2048.
    assert_eq!(f.irq_count().unwrap(), 5);
    let irqs = f.enable_irqs(5).unwrap();
    let mut control = [0; 2];
    f.config_read(0x42, &mut control).unwrap();
    assert_eq!(u16::from_le_bytes(control), 0x8004);
    let mut vectors = Vec::new();
    let mut posted = 0;
    for seen in s.seen.try_iter() {
        posted += u32::from(seen.header.no_reply());
        if let Ok(Request::SetIrqs(set)) =
            Request::decode(&seen.header, &seen.payload, &Limits::default())
        {
            for (i, fd) in (0u32..).zip(seen.fds) {
                assert!(i < set.count);
                vectors.push((set.start + i, fd));
            }
        }
    }
    assert_eq!(posted, 1);
    assert_eq!(vectors.len(), 5, "two by two, as the server can take them");
    for (vector, fd) in vectors {
        rustix::io::write(&fd, &3u64.to_ne_bytes()).unwrap();
        assert_eq!(irqs[vector as usize].drain().unwrap(), 3);
    }
    assert!(f.enable_irqs(6).is_err());
    f.disable_irqs().unwrap();
    f.function_reset().unwrap();
    assert_eq!(f.service().unwrap(), []);
}

#[test]
fn both_sides_see_the_same_memory() {
    let s = server(good());
    let mut f = open(&s).unwrap();
    let region = f.dma_alloc(8192).unwrap();
    region.store_u32(4096, 0xcafe_f00d, Order::Ordered).unwrap();
    let (map, fd) = s
        .seen
        .try_iter()
        .find_map(|seen| {
            let request = Request::decode(&seen.header, &seen.payload, &Limits::default());
            match request {
                Ok(Request::DmaMap(map)) => Some((map, seen.fds.into_iter().next().unwrap())),
                _ => None,
            }
        })
        .unwrap();
    let at = map.offset + (region.iova() - map.iova);
    let mut word = [0; 4];
    pread(&fd, &mut word, at + 4096).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0xcafe_f00d);
    pwrite(&fd, &[7], at + 1).unwrap();
    assert_eq!(region.load_u8(1, Order::Relaxed).unwrap(), 7);
    assert!(region.iova() + region.len() as u64 <= map.iova + map.size);
}

#[test]
fn accesses_outside_are_refused_here() {
    let s = server(good());
    let f = open(&s).unwrap();
    let sent = s.seen.try_iter().count();
    assert!(sent > 0);
    let size = BAR2_LEN;
    for offset in [size, size - 2, u64::MAX - 1] {
        let e = f.bar_read(2, offset, Width::B4).unwrap_err();
        assert_eq!(e.cause(), &Cause::OutOfRange { size }, "{offset:#x}");
    }
    let e = f.bar_read(2, 2, Width::B4).unwrap_err();
    assert_eq!(e.cause(), &Cause::Unaligned);
    let mut b = [0xaa; 8];
    assert!(f.config_read(4092, &mut b).is_err());
    assert_eq!(b, [0; 8], "no stale bytes");
    assert!(f.config_write(u16::MAX, &[0]).is_err());
    assert_eq!(s.seen.try_iter().count(), 0, "nothing was sent");
}

#[test]
fn an_ioeventfd_is_used_only_for_the_write_it_stands_for() {
    let entry = |offset, size, flags, datamatch, fd_index, kind| IoEventFd {
        offset,
        size,
        fd_index,
        kind,
        flags,
        datamatch,
    };
    let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    let table = IoFdsReply {
        argsz: 0,
        index: 2,
        entries: vec![
            entry(0x10, 2, 0, 0, 0, 9),
            entry(0x10, 4, 0, 0, 0, IO_FD_TYPE_IOEVENTFD),
            entry(0x10, 2, IoEventFd::DATAMATCH, 6, 0, IO_FD_TYPE_IOEVENTFD),
            entry(0x10, 2, IoEventFd::DATAMATCH, 5, 0, IO_FD_TYPE_IOEVENTFD),
            entry(0x20, 2, 0, 0, 1, IO_FD_TYPE_IOEVENTFD),
            entry(0x30, 2, 0, 0, 14, IO_FD_TYPE_IOEVENTFD),
        ],
    };
    let watch = bell.try_clone().unwrap();
    let s = server_with(good(), Some((table, vec![bell, file])));
    let mut f = open(&s).unwrap();
    let d = f.doorbell(2, 0x10, Width::B2, 5).unwrap().unwrap();
    d.ring().unwrap();
    d.ring().unwrap();
    let mut count = [0; 8];
    rustix::io::read(&watch, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2);
    assert!(f.doorbell(2, 0x10, Width::B2, 4).unwrap().is_none());
    assert!(f.doorbell(2, 0x12, Width::B2, 5).unwrap().is_none());
    assert!(
        f.doorbell(2, 0x20, Width::B2, 0).unwrap().is_none(),
        "a file is no eventfd"
    );
    assert!(
        f.doorbell(2, 0x30, Width::B2, 0).unwrap().is_none(),
        "no such descriptor"
    );
    // A server without the command.
    let s = server(good());
    let mut f = open(&s).unwrap();
    assert!(f.doorbell(2, 0x10, Width::B2, 5).unwrap().is_none());
    assert_eq!(f.bar_read(2, 0, Width::B1).unwrap(), 0x5a);
}

#[test]
fn a_socket_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let begun = OwnTime::start();
    let e = VfioUserFunction::open(&path, options()).unwrap_err();
    assert_eq!(e.cause(), &Cause::Connect(Errno::NOENT));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(e.to_string().contains("none.sock"));

    let mut o = Options {
        wait_for_socket: true,
        ..options()
    };
    o.deadlines.connect = Duration::from_millis(150);
    let (begun, own) = (Instant::now(), OwnTime::start());
    let e = VfioUserFunction::open(&path, o).unwrap_err();
    assert_eq!(e.cause(), &Cause::Connect(Errno::NOENT));
    assert!(begun.elapsed() >= Duration::from_millis(150));
    assert!(own.elapsed() < Duration::from_secs(2));

    let long = dir.path().join("x".repeat(200));
    assert!(VfioUserFunction::open(&long, options()).is_err());
}
