// SPDX-License-Identifier: GPL-2.0-or-later
//! VFs that have VFIO device files: the token, proof by a file that really travels through the
//! socket, and the end when the host wants the PF back.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{create_dir_all, write as write_file, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use common::{encode, hello, open, read, Answer, TestClient, TestServer};
use helper_server::device_files::DeviceFiles;
use helper_server::proof::PciAddress;
use helper_server::{Ended, HubConfig, Peer, Policy};
use legacy_vf_proto::{ErrorCode, EventKind, Open, Proof, Request};
use pci_transport::vfio::Host;
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use test_kit::patience::OwnTime;
use virtio_pf::PfEvent;

const PF: &str = "0000:01:00.0";
const TOKEN: [u8; 16] = [7; 16];

/// A host whose kernel says of every file of this process that it is the VFIO device file of
/// `function`.
fn host(dir: &Path, function: &str) -> DeviceFiles {
    let host = Host {
        sysfs: dir.join("sys"),
        dev: "/dev".into(),
        proc: dir.join("proc"),
    };
    let devices = host.sysfs.join("bus/pci/devices");
    create_dir_all(devices.join(PF)).unwrap();
    for n in 0..4 {
        let vf = format!("../0000:01:00.{}", n + 1);
        symlink(vf, devices.join(PF).join(format!("virtfn{n}"))).unwrap();
    }
    for name in ["sriov_offset", "sriov_stride"] {
        write_file(devices.join(PF).join(name), "1\n").unwrap();
    }
    for sub in ["fd", "fdinfo"] {
        create_dir_all(host.proc.join("self").join(sub)).unwrap();
    }
    for fd in 0..500 {
        let own = host.proc.join("self");
        symlink("anon_inode:[vfio-device]", own.join(format!("fd/{fd}"))).unwrap();
        let info = format!("flags:\t02\nvfio-device-syspath: /sys/devices/x/{function}\n");
        write_file(own.join(format!("fdinfo/{fd}")), info).unwrap();
    }
    DeviceFiles::new(host.device(PciAddress::parse(PF).unwrap()).unwrap())
}

fn start(function: &str, config: HubConfig) -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let files = host(dir.path(), function);
    let server = TestServer::start_with(4, config, |b| b.on_vfio(TOKEN, files));
    (dir, server)
}

fn proven(member: u16) -> Request {
    Request::Open(Open {
        member,
        proof: Proof::VFIO_FD,
        virtio_id: 0,
        serial: 0,
    })
}

fn ask_with(c: &mut TestClient, request: &Request, files: &[BorrowedFd<'_>]) -> Answer {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    let bytes = encode(request, 77);
    let iov = [std::io::IoSlice::new(&bytes)];
    sendmsg(&c.socket, &iov, &mut control, SendFlags::NOSIGNAL).unwrap();
    let (seq, answer) = c.next().unwrap();
    assert_eq!(seq, 77);
    answer
}

fn file() -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
}

#[test]
fn who_holds_the_device_file_of_a_vf_may_open_it() {
    let (_dir, server) = start("0000:01:00.3", HubConfig::default());
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    assert_eq!(
        c.ask(&Request::Token { member: 3 }),
        Answer::Token(TOKEN),
        "whoever may connect may know it"
    );
    assert_eq!(
        c.ask(&Request::Token { member: 5 }).code(),
        ErrorCode::NO_SUCH_VF
    );
    let file = file();
    // Each refusal leaves the connection as it was.
    for (request, files, code, text) in [
        (open(3), 0, ErrorCode::ACCESS_DENIED, "--allow-unproven-uid"),
        (proven(3), 0, ErrorCode::BAD_PROOF, "no file was sent"),
        (
            proven(2),
            1,
            ErrorCode::BAD_PROOF,
            "the file is that of VF 3, not of VF 2",
        ),
        (
            Request::Open(Open {
                member: 3,
                proof: Proof(9),
                virtio_id: 0,
                serial: 0,
            }),
            1,
            ErrorCode::BAD_PROOF,
            "Unknown kind of proof 9",
        ),
    ] {
        let answer = ask_with(&mut c, &request, &vec![file.as_fd(); files]);
        assert_eq!(answer.code(), code, "{answer:?}");
        assert!(answer.text().contains(text), "{answer:?}");
        assert_eq!(c.ask(&read(0, 4)).code(), ErrorCode::BAD_STATE);
    }
    // Several files are not even received, and end the connection.
    let mut several = TestClient::connect(&server.path);
    several.ask(&hello());
    let answer = ask_with(&mut several, &proven(3), &[file.as_fd(), file.as_fd()]);
    assert_eq!(answer.code(), ErrorCode::BAD_PROOF);
    assert_eq!(several.next(), None);
    // The member comes from the proof.
    let Answer::Open(o) = ask_with(&mut c, &proven(0), &[file.as_fd()]) else {
        panic!()
    };
    assert_eq!(o.member, 3);
    assert!(matches!(c.ask(&read(0, 4)), Answer::Read(_)));
    // Whoever shows the file later has the VF; the connection from before reaches it no more.
    let mut other = TestClient::connect(&server.path);
    other.ask(&hello());
    let answer = ask_with(&mut other, &proven(3), &[file.as_fd()]);
    assert!(matches!(answer, Answer::Open(o) if o.member == 3));
    assert!(matches!(other.ask(&read(0, 4)), Answer::Read(_)));
    assert!(
        c.next().is_none(),
        "the former owner's connection is closed"
    );
    let mut last = TestClient::connect(&server.path);
    last.ask(&hello());
    let answer = ask_with(&mut last, &proven(3), &[]);
    assert_eq!(
        answer.code(),
        ErrorCode::BAD_PROOF,
        "without file nothing changes"
    );
    assert!(matches!(other.ask(&read(0, 4)), Answer::Read(_)));
}

#[test]
fn a_vf_of_another_pf_is_not_opened_here() {
    let (_dir, server) = start("0000:02:00.1", HubConfig::default());
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    for member in [0, 1] {
        let answer = ask_with(&mut c, &proven(member), &[file().as_fd()]);
        assert_eq!(answer.code(), ErrorCode::WRONG_OWNER);
        assert_eq!(
            answer.text(),
            "the file is that of 0000:02:00.1, which is not a VF of 0000:01:00.0"
        );
    }
}

#[test]
fn listed_users_need_no_proof() {
    let config = HubConfig {
        policy: Policy {
            uids: vec![],
            gids: vec![],
            unproven_uids: vec![Peer::myself().uid],
        },
        ..HubConfig::default()
    };
    let (_dir, server) = start("0000:01:00.1", config);
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    assert!(matches!(c.ask(&open(4)), Answer::Open(o) if o.member == 4));
}

#[test]
fn files_sent_as_proof_are_closed() {
    let (_dir, server) = start("0000:01:00.2", HubConfig::default());
    let (mut here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    here.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    for member in [1, 2] {
        let answer = ask_with(&mut c, &proven(member), &[there.as_fd()]);
        assert_eq!(answer.code() == ErrorCode::OK, member == 2, "{answer:?}");
    }
    drop(there);
    // End of file comes when the helper's copies are closed as well.
    assert_eq!(std::io::Read::read(&mut here, &mut [0]).unwrap(), 0);
}

#[test]
fn the_host_gets_its_pf_back_and_clients_are_told() {
    let (_dir, mut server) = start("0000:01:00.1", HubConfig::default());
    let mut c = TestClient::connect(&server.path);
    c.ask(&hello());
    assert!(matches!(
        ask_with(&mut c, &proven(1), &[file().as_fd()]),
        Answer::Open(_)
    ));
    server.control.set(|b| {
        b.stuck = true;
        b.keep_log = true;
    });
    let seq = c.send(&read(0, 4));
    while server.control.get().log.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = OwnTime::start();
    // The kernel asks more than once.
    server.control.set(|b| {
        b.events = vec![PfEvent::RemovalRequested; 3];
    });
    assert!(matches!(c.next(), Some((0, Answer::Event(e))) if e.kind == EventKind::SHUTDOWN));
    // What was in flight is finished.
    server.control.set(|b| b.stuck = false);
    assert!(matches!(c.next(), Some((got, Answer::Read(_))) if got == seq));
    assert_eq!(server.ended(), Ended::Returned);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(c.next(), None);
    assert!(server.control.get().shut_down, "the PF was reset");
    assert!(!server.path.exists());
}
