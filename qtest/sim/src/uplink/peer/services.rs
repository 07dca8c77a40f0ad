// SPDX-License-Identifier: GPL-2.0-or-later
//! The peer's TCP services.

use super::stream::{fill, hex, StreamHash, MAX_MIB};
use sha2::{Digest, Sha256};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

/// Bytes in flight towards a guest: 96 full frames, which fit a ring of 128 buffers and more.
const SEND_BUFFER: usize = 96 * 1448;
const RECEIVE_BUFFER: usize = 256 * 1024;
/// A connection on which nothing moves is given up after this.
const IDLE: Duration = Duration::from_secs(60);
/// Longest first line of a request.
const MAX_LINE: usize = 32;
/// Bytes hashed at a time, so that other connections and the functions get their turn.
const HASH_BUDGET: usize = 1 << 20;
const MIB: u64 = 1 << 20;

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Echo,
    Discard,
    Checksum,
    Generate,
    GenerateSum,
}

impl Service {
    pub(super) const ALL: [Service; 5] = [
        Self::Echo,
        Self::Discard,
        Self::Checksum,
        Self::Generate,
        Self::GenerateSum,
    ];

    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Echo => 7,
            Self::Discard => 9,
            Self::Checksum => 9001,
            Self::Generate => 9002,
            Self::GenerateSum => 9003,
        }
    }

    /// Connections served at a time.
    const fn sockets(self) -> usize {
        match self {
            Self::Echo | Self::Checksum | Self::Generate => 16,
            Self::Discard | Self::GenerateSum => 8,
        }
    }

    const fn receive_buffer(self) -> usize {
        match self {
            Self::Generate | Self::GenerateSum => 512,
            _ => RECEIVE_BUFFER,
        }
    }

    const fn send_buffer(self) -> usize {
        match self {
            Self::Echo | Self::Generate => SEND_BUFFER,
            _ => 256,
        }
    }
}

/// What a connection is doing.
enum Work {
    /// Waiting for the first line.
    Line(Vec<u8>),
    /// Taking what comes.
    Receive(Sha256),
    /// Sending `done..total` of the stream.
    Send { done: u64, total: u64 },
    /// Hashing the stream.
    Hash(Box<StreamHash>),
    /// Sending a short answer.
    Answer(Vec<u8>),
    /// Nothing more to do but to close.
    Finish,
}

impl Work {
    fn start(service: Service) -> Self {
        match service {
            Service::Generate | Service::GenerateSum => Self::Line(Vec::new()),
            _ => Self::Receive(Sha256::new()),
        }
    }
}

struct Slot {
    service: Service,
    handle: SocketHandle,
    work: Work,
    fresh: bool,
}

/// All services with their sockets.
pub(super) struct Services {
    slots: Vec<Slot>,
}

fn listening(service: Service) -> Socket<'static> {
    let rx = SocketBuffer::new(vec![0; service.receive_buffer()]);
    let tx = SocketBuffer::new(vec![0; service.send_buffer()]);
    let mut socket = Socket::new(rx, tx);
    socket.set_nagle_enabled(false);
    // Without it a full window is sent again after every loss, and little gets through.
    socket.set_congestion_control(CongestionControl::Reno);
    socket.set_timeout(Some(IDLE));
    // The port is not 0 and the socket is new: listening cannot fail.
    let _ = socket.listen(service.port());
    socket
}

impl Services {
    pub(super) fn listen(sockets: &mut SocketSet<'static>, services: &[Service]) -> Self {
        let mut slots = Vec::new();
        for service in services {
            for _ in 0..service.sockets() {
                slots.push(Slot {
                    service: *service,
                    handle: sockets.add(listening(*service)),
                    work: Work::start(*service),
                    fresh: true,
                });
            }
        }
        Self { slots }
    }

    /// Moves every connection on; `true` if one has more to do that depends on nothing outside.
    pub(super) fn run(&mut self, sockets: &mut SocketSet<'static>) -> bool {
        let mut more = false;
        for slot in &mut self.slots {
            let socket = sockets.get_mut::<Socket<'_>>(slot.handle);
            match socket.state() {
                // Nothing can be said yet, and an unfinished handshake looks like an ended stream.
                State::Listen | State::SynReceived => continue,
                // A socket that only waits for old duplicates would be missing for 10 seconds.
                State::Closed | State::TimeWait => {
                    if !slot.fresh {
                        sockets.remove(slot.handle);
                        slot.handle = sockets.add(listening(slot.service));
                        slot.work = Work::start(slot.service);
                        slot.fresh = true;
                    }
                    continue;
                }
                _ => slot.fresh = false,
            }
            more |= slot.step(sockets.get_mut::<Socket<'_>>(slot.handle));
        }
        more
    }
}

impl Slot {
    fn step(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut more = false;
        match &mut self.work {
            Work::Line(line) => {
                let took = socket.recv(|data| {
                    let end = data.iter().position(|b| *b == b'\n');
                    let n = end.map_or(data.len(), |at| at + 1);
                    line.extend_from_slice(data.get(..n).unwrap_or(&[]));
                    (n, end.is_some())
                });
                let ended = took.unwrap_or(false) || !socket.may_recv();
                if ended || line.len() > MAX_LINE {
                    self.work = ask(self.service, line);
                    more = true;
                }
            }
            Work::Receive(hash) => {
                receive(self.service, hash, socket);
                if !socket.may_recv() && socket.recv_queue() == 0 {
                    self.work = match self.service {
                        Service::Checksum => {
                            Work::Answer(format!("{}\n", hex(hash.clone())).into_bytes())
                        }
                        _ => Work::Finish,
                    };
                    more = true;
                }
            }
            Work::Send { done, total } => {
                while socket.can_send() && done < total {
                    let left = *total - *done;
                    let sent = socket.send(|buf| {
                        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                        if let Some(part) = buf.get_mut(..n) {
                            fill(*done, part);
                        }
                        (n, n)
                    });
                    match sent {
                        Ok(n) if n > 0 => *done += n as u64,
                        _ => break,
                    }
                }
                drain(socket);
                if done >= total {
                    self.work = Work::Finish;
                    more = true;
                }
            }
            Work::Hash(hash) => {
                drain(socket);
                if let Some(text) = hash.advance(HASH_BUDGET) {
                    self.work = Work::Answer(format!("{text}\n").into_bytes());
                }
                more = true;
            }
            Work::Answer(text) => {
                drain(socket);
                if let Ok(n) = socket.send_slice(text) {
                    text.drain(..n.min(text.len()));
                }
                if text.is_empty() {
                    self.work = Work::Finish;
                    more = true;
                }
            }
            Work::Finish => {
                drain(socket);
                socket.close();
            }
        }
        more
    }
}

/// Takes what came: hashed, echoed or dropped.
fn receive(service: Service, hash: &mut Sha256, socket: &mut Socket<'_>) {
    while socket.can_recv() {
        let room = match service {
            Service::Echo => socket.send_capacity().saturating_sub(socket.send_queue()),
            _ => usize::MAX,
        };
        if room == 0 {
            return;
        }
        let mut echo = Vec::new();
        let took = socket.recv(|data| {
            let n = data.len().min(room);
            let data = data.get(..n).unwrap_or(&[]);
            match service {
                Service::Echo => echo.extend_from_slice(data),
                Service::Checksum => hash.update(data),
                _ => {}
            }
            (n, n)
        });
        let sent = echo.is_empty() || socket.send_slice(&echo).is_ok();
        if took.is_err() || !sent {
            return;
        }
    }
}

/// Drops what a client sends after its request.
fn drain(socket: &mut Socket<'_>) {
    while socket.can_recv() {
        if socket.recv(|data| (data.len(), ())).is_err() {
            return;
        }
    }
}

/// What the first line asks for.
fn ask(service: Service, line: &[u8]) -> Work {
    let number = std::str::from_utf8(line)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .filter(|n| *n <= MAX_MIB);
    match (number, service) {
        (None, _) => {
            let text = format!("expected a number of MiB from 0 to {MAX_MIB} and a newline\n");
            Work::Answer(text.into_bytes())
        }
        (Some(n), Service::Generate) => Work::Send {
            done: 0,
            total: n * MIB,
        },
        (Some(n), _) => Work::Hash(Box::new(StreamHash::new(n * MIB))),
    }
}
