// SPDX-License-Identifier: GPL-2.0-or-later
//! What the tests of this crate share.
#![allow(dead_code, missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use helper_server::fake::{Control, FakeBackend};
use helper_server::listener::{Listener, SocketOptions};
use helper_server::session::SessionId;
use helper_server::{Ended, Hub, HubConfig, Peer, Reactor, ReactorConfig};
use legacy_vf_proto::{
    decode_incoming, ErrorCode, Event, Hello, Incoming, Name, Open, OpenReply, Proof, QueryKind,
    Reply, Request, MAX_MESSAGE, VERSION,
};
use rustix::cmsg_space;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    recv, send, sendmsg, socket_with, AddressFamily, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// A reply without borrowed parts.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Hello { version: u32, max_message: u32 },
    Open(OpenReply),
    Token([u8; 16]),
    Read([u8; 8]),
    Write,
    Notify,
    Json(serde_json::Value),
    Error(ErrorCode, u16, u16, String),
    Event(Event),
}

impl Answer {
    pub fn code(&self) -> ErrorCode {
        match self {
            Answer::Error(code, ..) => *code,
            _ => ErrorCode::OK,
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Answer::Error(_, _, _, text) => text,
            other => panic!("not an error: {other:?}"),
        }
    }
}

/// Decodes what the helper sent, which must be a message of the protocol.
pub fn decode(bytes: &[u8]) -> (u32, Answer) {
    match decode_incoming(bytes).unwrap() {
        Incoming::Event(e) => (0, Answer::Event(e)),
        Incoming::Reply(header, reply) => (
            header.seq,
            match reply {
                Reply::Hello(h) => Answer::Hello {
                    version: h.version,
                    max_message: h.max_message,
                },
                Reply::Open(o) => Answer::Open(o),
                Reply::Read { data } => Answer::Read(data),
                Reply::Write => Answer::Write,
                Reply::Notify => Answer::Notify,
                Reply::Query { json } => Answer::Json(serde_json::from_str(json).unwrap()),
                Reply::Token { uuid } => Answer::Token(uuid),
                Reply::Error(e) => {
                    Answer::Error(e.code, e.admin_status, e.admin_qualifier, e.text.to_owned())
                }
            },
        ),
    }
}

pub fn encode(request: &Request, seq: u32) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = request.encode(seq, &mut buf);
    buf[..len].to_vec()
}

pub fn hello() -> Request {
    Request::Hello(Hello {
        version: VERSION,
        max_message: MAX_MESSAGE as u32,
        features: 0,
        name: Name::new("test"),
    })
}

pub fn open(member: u16) -> Request {
    Request::Open(Open {
        member,
        proof: Proof::NONE,
        virtio_id: 0,
        serial: 0,
    })
}

pub fn read(offset: u8, len: u8) -> Request {
    Request::Read {
        space: legacy_vf_proto::Space::Common,
        offset,
        len,
    }
}

pub fn write(offset: u8, len: u8, value: u64) -> Request {
    Request::Write {
        space: legacy_vf_proto::Space::Common,
        offset,
        len,
        data: value.to_le_bytes(),
    }
}

pub fn query(what: QueryKind, member: u16) -> Request {
    Request::Query { what, member }
}

/// A hub with a fake PF, and a clock of its own.
pub struct Bench {
    pub hub: Hub<FakeBackend>,
    pub control: Control,
    pub now: Instant,
    seq: u32,
}

impl Bench {
    pub fn new(num_vfs: u16) -> Self {
        Self::with(num_vfs, HubConfig::default(), |_| {})
    }

    pub fn with(num_vfs: u16, config: HubConfig, change: impl FnOnce(&mut FakeBackend)) -> Self {
        let mut backend = FakeBackend::new(num_vfs).unwrap();
        change(&mut backend);
        let control = backend.control();
        Bench {
            hub: Hub::new(backend, config),
            control,
            now: Instant::now(),
            seq: 100,
        }
    }

    pub fn connect(&mut self) -> SessionId {
        self.connect_as(Peer::myself())
    }

    pub fn connect_as(&mut self, peer: Peer) -> SessionId {
        self.hub.connect(peer, self.now).unwrap()
    }

    pub fn bytes(&mut self, id: SessionId, bytes: &[u8]) {
        self.hub.receive(id, bytes, None, self.now);
    }

    /// Sends a request; returns its number.
    pub fn send(&mut self, id: SessionId, request: &Request) -> u32 {
        self.seq += 1;
        let bytes = encode(request, self.seq);
        self.bytes(id, &bytes);
        self.seq
    }

    /// Everything that is there for the client.
    pub fn take(&mut self, id: SessionId) -> Vec<(u32, Answer)> {
        let mut out = Vec::new();
        while let Some(bytes) = self.hub.outgoing(id) {
            out.push(decode(bytes));
            self.hub.sent(id, self.now);
        }
        out
    }

    /// Sends a request, lets the backend work, and takes the one answer.
    pub fn ask(&mut self, id: SessionId, request: &Request) -> Answer {
        let seq = self.send(id, request);
        self.hub.poll(self.now);
        let mut answers = self.take(id);
        assert_eq!(answers.len(), 1, "{answers:?}");
        let (got, answer) = answers.remove(0);
        assert_eq!(got, seq);
        answer
    }

    pub fn opened(&mut self, member: u16) -> SessionId {
        let id = self.connect();
        assert!(matches!(self.ask(id, &hello()), Answer::Hello { .. }));
        assert!(matches!(self.ask(id, &open(member)), Answer::Open(_)));
        id
    }

    pub fn finished(&self, id: SessionId) -> bool {
        self.hub.session(id).is_none_or(|s| s.is_finished())
    }

    pub fn later(&mut self, by: Duration) {
        self.now += by;
        self.hub.poll(self.now);
    }
}

/// A blocking client of a real socket.
pub struct TestClient {
    pub socket: OwnedFd,
    seq: u32,
}

impl TestClient {
    pub fn connect(path: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10))).unwrap();
        TestClient { socket, seq: 0 }
    }

    pub fn opened(path: &Path, member: u16) -> Self {
        let mut c = Self::connect(path);
        assert!(matches!(c.ask(&hello()), Answer::Hello { .. }));
        assert!(matches!(c.ask(&open(member)), Answer::Open(_)));
        c
    }

    pub fn send_bytes(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        send(&self.socket, bytes, SendFlags::NOSIGNAL)
    }

    pub fn send_files(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let bytes = &[IoSlice::new(bytes)];
        sendmsg(&self.socket, bytes, &mut control, SendFlags::NOSIGNAL)
    }

    pub fn send(&mut self, request: &Request) -> u32 {
        self.seq += 1;
        self.send_bytes(&encode(request, self.seq)).unwrap();
        self.seq
    }

    /// The next message; `None` if the helper closed the connection.
    pub fn next(&self) -> Option<(u32, Answer)> {
        let mut buf = [0; MAX_MESSAGE];
        match recv(&self.socket, &mut buf[..], RecvFlags::empty()) {
            Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => None,
            Ok((_, len)) => Some(decode(&buf[..len])),
            Err(e) => panic!("no answer: {e}"),
        }
    }

    pub fn ask(&mut self, request: &Request) -> Answer {
        let seq = self.send(request);
        let (got, answer) = self.next().unwrap();
        assert_eq!(got, seq, "{answer:?}");
        answer
    }
}

/// A helper with a fake PF in a thread.
pub struct TestServer {
    pub path: PathBuf,
    pub control: Control,
    pub stop: UnixStream,
    pub thread: Option<JoinHandle<Ended>>,
    _dir: tempfile::TempDir,
}

impl TestServer {
    pub fn start(num_vfs: u16, config: HubConfig) -> Self {
        Self::start_with(num_vfs, config, |_| {})
    }

    pub fn start_with(
        num_vfs: u16,
        config: HubConfig,
        change: impl FnOnce(&mut FakeBackend),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pf.sock");
        let listener = Listener::bind(&SocketOptions {
            path: path.clone(),
            mode: 0o600,
            owner: None,
            group: None,
        })
        .unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let mut backend = FakeBackend::new(num_vfs).unwrap();
        change(&mut backend);
        let control = backend.control();
        let thread = std::thread::spawn(move || {
            let hub = Hub::new(backend, config);
            // The fake has nothing that would be found by spinning.
            let config = ReactorConfig {
                spin: Duration::ZERO,
                ..ReactorConfig::default()
            };
            let reactor = Reactor::new(hub, listener, stopped.into(), config).unwrap();
            reactor.run(|_| {})
        });
        TestServer {
            path,
            control,
            stop,
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// Asks the loop to end, a second time to end at once; it may have ended already.
    pub fn signal(&self) {
        let _ended = rustix::io::write(self.stop.as_fd(), &[1]);
    }

    /// Waits for the end of the loop.
    pub fn ended(&mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.signal();
            self.signal();
            let _ended = self.ended();
        }
    }
}
