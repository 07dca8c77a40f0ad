// SPDX-License-Identifier: GPL-2.0-or-later
//! Files that clients send: which one is taken, what becomes of the others, and of their senders.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{encode, hello, open, query, read, Answer, TestClient, TestServer};
use helper_server::HubConfig;
use legacy_vf_proto::{ErrorCode, Open, Proof, QueryKind, Request};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

fn proven(member: u16) -> Request {
    Request::Open(Open {
        member,
        proof: Proof::VFIO_FD,
        virtio_id: 0,
        serial: 0,
    })
}

fn greeted(server: &TestServer) -> TestClient {
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    c
}

fn unwanted(c: &mut TestClient) -> u64 {
    let Answer::Json(v) = c.ask(&query(QueryKind::COUNTERS, 0)) else {
        panic!()
    };
    v["helper"]["unwanted_files"].as_u64().unwrap()
}

/// Who sends files that nobody asked for is told so and hung up; the files are not received.
#[test]
fn files_are_taken_with_an_open_with_proof_only() {
    let server = TestServer::start(2, HubConfig::default());
    let null = File::open("/dev/null").unwrap();
    let mut good = TestClient::opened(&server.path, 1);
    let vfio_user = ErrorCode::BAD_PROOF;
    let cases = [
        (query(QueryKind::HELPER, 0), 1, ErrorCode::BAD_MESSAGE),
        (open(2), 1, ErrorCode::BAD_MESSAGE),
        (hello(), 3, ErrorCode::BAD_MESSAGE),
        // The VFs of this PF have no device files.
        (proven(2), 1, vfio_user),
        (proven(2), 16, vfio_user),
    ];
    for (n, (request, count, code)) in cases.iter().enumerate() {
        let c = greeted(&server);
        let fds = vec![null.as_fd(); *count];
        c.send_files(&encode(request, 5), &fds).unwrap();
        let (seq, answer) = c.next().unwrap();
        assert_eq!((seq, answer.code()), (5, *code), "{answer:?}");
        assert_eq!(c.next(), None);
        assert_eq!(unwanted(&mut good), n as u64 + 1);
    }
    // Without a header to answer, and out of turn: the end alone.
    let c = greeted(&server);
    c.send_files(b"xx", &[null.as_fd()]).unwrap();
    assert_eq!(c.next(), None);
    let mut busy = greeted(&server);
    {
        let _waits = server.control.get();
        busy.send(&open(2));
        busy.send(&read(0, 4));
        busy.send_files(&encode(&proven(2), 9), &[null.as_fd()])
            .unwrap();
    }
    while busy.next().is_some() {}
    assert_eq!(unwanted(&mut good), cases.len() as u64 + 2);
}

/// A TCP connection that is closed only after a long time: its peer does not read what was sent.
fn lingering(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    let long = Duration::from_secs(3000);
    rustix::net::sockopt::set_socket_linger(&here, Some(long)).unwrap();
    here.set_nonblocking(true).unwrap();
    while (&here).write(&[0; 65536]).is_ok() {}
    (here, there)
}

/// The same in flight inside another socket, where nobody can change how long it lingers.
fn nested(listener: &TcpListener) -> (UnixStream, TcpStream) {
    let (slow, peer) = lingering(listener);
    let (outer, inner) = UnixStream::pair().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [slow.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [IoSlice::new(b"z")];
    sendmsg(&inner, &bytes, &mut control, SendFlags::NOSIGNAL).unwrap();
    (outer, peer)
}

/// Makes sure that what is sent is last held by the helper: it is sent to a helper that waits, and is then
/// closed here.
fn leave_behind(server: &TestServer, fds: Vec<OwnedFd>) {
    let mut c = greeted(server);
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let waits = server.control.get();
    // As long as it has no VF, files can be sent.
    c.send(&open(2));
    c.send(&read(0, 4));
    c.send_files(&encode(&proven(2), 99), &borrowed).unwrap();
    drop(fds);
    drop(waits);
    while c.next().is_some() {}
}

/// The kernel refuses files of who has a VF, where it can; otherwise the helper does.
#[test]
fn who_has_a_vf_cannot_send_files() {
    let server = TestServer::start(2, HubConfig::default());
    let null = File::open("/dev/null").unwrap();
    let mut c = TestClient::opened(&server.path, 1);
    // From the first request on, and without a gap: what is sent with it is seen.
    for _ in 0..4 {
        assert!(matches!(c.ask(&read(8, 4)), Answer::Read(_)));
    }
    match c.send_files(&encode(&read(8, 4), 77), &[null.as_fd()]) {
        Err(e) => {
            assert_eq!(e, rustix::io::Errno::PERM);
            assert!(matches!(c.ask(&read(8, 4)), Answer::Read(_)));
        }
        Ok(_) => {
            assert_eq!(c.next().unwrap().1.code(), ErrorCode::BAD_MESSAGE);
            assert_eq!(c.next(), None);
        }
    }
}

/// A close that would take as long as the sender likes keeps nobody waiting: neither requests of
/// others, nor what else is to be closed.
#[test]
fn files_that_take_long_to_close_keep_nobody_waiting() {
    let server = TestServer::start(2, HubConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut owner = TestClient::opened(&server.path, 1);
    let mut peers = Vec::new();
    for round in 0..8 {
        let file: OwnedFd = if round % 2 == 0 {
            let (outer, peer) = nested(&listener);
            peers.push(peer);
            outer.into()
        } else {
            let (slow, peer) = lingering(&listener);
            peers.push(peer);
            slow.into()
        };
        leave_behind(&server, vec![file]);
        assert!(matches!(owner.ask(&read(8, 4)), Answer::Read(_)));
        // What comes later is closed as well.
        let (mut here, there) = UnixStream::pair().unwrap();
        here.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        leave_behind(&server, vec![there.into()]);
        assert_eq!(here.read(&mut [0]).unwrap(), 0);
        assert!(matches!(owner.ask(&read(8, 4)), Answer::Read(_)));
    }
}
