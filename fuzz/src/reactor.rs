// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper's loop over real sockets: any messages, with any files, and connections that end at any
//! moment. Whatever comes, another client is answered, and no file stays.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use helper_server::device_files::DeviceFiles;
use helper_server::fake::FakeBackend;
use helper_server::listener::{Listener, SocketOptions};
use helper_server::{Hub, HubConfig, Reactor, ReactorConfig};
use legacy_vf_proto::{Hello, Name, Open, Proof, QueryKind, Request, Space, MAX_MESSAGE, VERSION};
use pci_transport::vfio::Host;
use pci_transport::PciAddress;
use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    connect, recv, send, sendmsg, socket_with, AddressFamily, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::Choices;

const VFS: u16 = 4;
/// The other client must be answered within this time, also with a sanitizer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);
/// Files of this process beyond those of its start: one connection, what is being closed.
const MAX_FILES: usize = 400;

/// The loop, and the client that must be answered.
struct Server {
    path: PathBuf,
    other: Mutex<OwnedFd>,
    files: usize,
}

fn encode(request: &Request, seq: u32) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = request.encode(seq, &mut buf);
    buf[..len].to_vec()
}

fn client(path: &PathBuf) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let socket = socket.expect("a socket");
    let address = SocketAddrUnix::new(path).expect("a path");
    // libFuzzer's timer interrupts calls.
    retry_on_intr(|| connect(&socket, &address)).expect("a connection");
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).expect("a timeout");
    socket
}

fn ask(socket: &OwnedFd, request: &Request) {
    let message = encode(request, 7);
    retry_on_intr(|| send(socket, &message, SendFlags::NOSIGNAL)).expect("a helper that reads");
    let mut buf = [0; MAX_MESSAGE];
    let got = retry_on_intr(|| recv(socket, &mut buf[..], RecvFlags::empty()).map(|(_, len)| len));
    let len = got.expect("an answer");
    assert!(
        len >= 16 && buf[4..8] == 7u32.to_le_bytes(),
        "{:?}",
        &buf[..len]
    );
}

fn hello() -> Request {
    Request::Hello(Hello {
        version: VERSION,
        max_message: MAX_MESSAGE as u32,
        features: 0,
        name: Name::new("fuzz"),
    })
}

fn open(member: u16, proof: Proof) -> Request {
    Request::Open(Open {
        member,
        proof,
        virtio_id: 0,
        serial: 0,
    })
}

fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// One for all runs.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let path = tempfile::tempdir()
            .expect("a directory")
            .keep()
            .join("pf.sock");
        let options = SocketOptions {
            path: path.clone(),
            mode: 0o600,
            owner: None,
            group: None,
        };
        let listener = Listener::bind(&options).expect("a socket");
        let mut backend = FakeBackend::new(VFS).expect("a backend");
        // A PF of this host, so that files are looked at; none of these is one of its VFs'.
        let sysfs = path.with_file_name("sys");
        let device = sysfs.join("bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(device).expect("a directory");
        let address = PciAddress::parse("0000:03:00.0").expect("an address");
        let host = Host {
            sysfs,
            ..Host::default()
        };
        let device = host.device(address).expect("a function");
        backend.on_vfio([7; 16], DeviceFiles::new(device));
        std::thread::spawn(move || {
            let (_stop, stopped) = UnixStream::pair().expect("a pair");
            let hub = Hub::new(backend, HubConfig::default());
            let config = ReactorConfig {
                spin: Duration::ZERO,
                ..ReactorConfig::default()
            };
            let reactor = Reactor::new(hub, listener, stopped.into(), config);
            let ended = reactor.expect("a loop").run(|_| {});
            panic!("the loop ended: {ended:?}");
        });
        let other = client(&path);
        ask(&other, &hello());
        ask(
            &other,
            &Request::Query {
                what: QueryKind::HELPER,
                member: 0,
            },
        );
        Server {
            path,
            other: Mutex::new(other),
            files: files(),
        }
    })
}

fn request(choices: &mut Choices<'_>) -> Request {
    let member = choices.u16() % (VFS + 2);
    match choices.u8() % 8 {
        0 => hello(),
        1 => open(member, Proof::NONE),
        2 => open(member, Proof::VFIO_FD),
        3 => Request::Token { member },
        4 => Request::Read {
            space: Space::Common,
            offset: choices.u8(),
            len: choices.u8() % 8 + 1,
        },
        5 => Request::Write {
            space: Space::Device,
            offset: choices.u8(),
            len: choices.u8() % 8 + 1,
            data: choices
                .u32()
                .to_le_bytes()
                .repeat(2)
                .try_into()
                .expect("8 bytes"),
        },
        6 => Request::Notify {
            queue: choices.u16(),
        },
        _ => Request::Query {
            what: QueryKind(choices.u16() % 8),
            member,
        },
    }
}

/// A file such as somebody who wants to harm would send.
fn file(choices: &mut Choices<'_>) -> Option<OwnedFd> {
    match choices.u8() % 4 {
        0 => File::open("/dev/null").ok().map(OwnedFd::from),
        1 => rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC).ok(),
        2 => UnixStream::pair().ok().map(|(one, _)| one.into()),
        _ => {
            // A socket in which a file waits: closing it closes that, too.
            let (one, two) = UnixStream::pair().ok()?;
            let inner = File::open("/dev/null").ok()?;
            deliver(two.as_fd(), b"x", &[inner.as_fd()]);
            Some(one.into())
        }
    }
}

fn deliver(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // Full, or hung up on: both are for the helper to decide.
    let _refused = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
}

/// One run: one connection.
pub fn run(data: &[u8]) {
    let server = server();
    let mut choices = Choices::new(data);
    let socket = client(&server.path);
    let mut seq = 1;
    while !choices.is_empty() {
        let what = choices.u8();
        let bytes = match what & 0x0f {
            0..=11 => encode(&request(&mut choices), seq),
            12 | 13 => {
                let mut bytes = encode(&request(&mut choices), seq);
                let (at, value) = (usize::from(choices.u8()), choices.u8());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
                bytes
            }
            14 => {
                let n = usize::from(choices.u16()) % (MAX_MESSAGE + 64);
                choices.bytes(n)
            }
            _ => {
                // What it has answered is taken, so that it goes on.
                let mut buf = [0; MAX_MESSAGE];
                while recv(&socket, &mut buf[..], RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0) {}
                continue;
            }
        };
        seq += 1;
        let with: Vec<OwnedFd> = (0..what >> 4 & 3)
            .filter_map(|_| file(&mut choices))
            .collect();
        let with: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
        deliver(socket.as_fd(), &bytes, &with);
    }
    drop(socket);
    let other = server.other.lock().unwrap_or_else(PoisonError::into_inner);
    ask(
        &other,
        &Request::Query {
            what: QueryKind::HELPER,
            member: 0,
        },
    );
    // Closed elsewhere, and so perhaps a little later.
    let begun = Instant::now();
    while files() > server.files + MAX_FILES {
        assert!(begun.elapsed() < PATIENCE, "{} files are open", files());
        std::thread::sleep(Duration::from_millis(1));
    }
}
