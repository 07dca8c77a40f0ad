// SPDX-License-Identifier: GPL-2.0-or-later
//! The HTTP server: one GET or HEAD of a whole file per connection.

use super::files::{BootDir, BootFile, NoFile};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

const PORT: u16 = 80;
/// Connections at a time.
const CONNECTIONS: usize = 8;
/// Longest request with all its headers.
const MAX_REQUEST: usize = 8192;
/// Bytes in flight towards a guest: as for the other services, what fits a ring of 128 buffers.
const SEND_BUFFER: usize = 96 * 1448;
/// A connection on which nothing moves is given up after this.
const IDLE: Duration = Duration::from_secs(60);

enum Work {
    /// Waiting for the empty line behind the headers.
    Request(Vec<u8>),
    /// Sending an answer, then a file from `done` on.
    Send {
        head: Vec<u8>,
        file: Option<BootFile>,
        done: u64,
    },
    /// Nothing more to do but to close.
    Finish,
}

struct Connection {
    handle: SocketHandle,
    work: Work,
    fresh: bool,
}

pub(super) struct Http {
    connections: Vec<Connection>,
}

fn listening() -> Socket<'static> {
    let rx = SocketBuffer::new(vec![0; MAX_REQUEST]);
    let tx = SocketBuffer::new(vec![0; SEND_BUFFER]);
    let mut socket = Socket::new(rx, tx);
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(CongestionControl::Reno);
    socket.set_timeout(Some(IDLE));
    // The port is not 0 and the socket is new: listening cannot fail.
    let _ = socket.listen(PORT);
    socket
}

impl Http {
    pub(super) fn listen(sockets: &mut SocketSet<'static>) -> Self {
        let connections = (0..CONNECTIONS)
            .map(|_| Connection {
                handle: sockets.add(listening()),
                work: Work::Request(Vec::new()),
                fresh: true,
            })
            .collect();
        Self { connections }
    }

    /// Moves every connection on; `true` if one has more to do that depends on nothing outside.
    pub(super) fn run(&mut self, sockets: &mut SocketSet<'static>, files: &BootDir) -> bool {
        let mut more = false;
        for connection in &mut self.connections {
            let socket = sockets.get_mut::<Socket<'_>>(connection.handle);
            match socket.state() {
                State::Listen | State::SynReceived => continue,
                State::Closed | State::TimeWait => {
                    if !connection.fresh {
                        sockets.remove(connection.handle);
                        *connection = Connection {
                            handle: sockets.add(listening()),
                            work: Work::Request(Vec::new()),
                            fresh: true,
                        };
                    }
                    continue;
                }
                _ => connection.fresh = false,
            }
            more |= connection.work.step(socket, files);
        }
        more
    }
}

impl Work {
    fn step(&mut self, socket: &mut Socket<'_>, files: &BootDir) -> bool {
        match self {
            Self::Request(text) => {
                let room = MAX_REQUEST.saturating_sub(text.len());
                let _ = socket.recv(|data| {
                    let taken = data.get(..room).unwrap_or(data);
                    text.extend_from_slice(taken);
                    (taken.len(), ())
                });
                let complete = text.windows(4).any(|end| end == b"\r\n\r\n");
                if complete || text.len() >= MAX_REQUEST {
                    *self = answer(text, complete, files);
                    return true;
                }
                if !socket.may_recv() {
                    *self = Self::Finish;
                    return true;
                }
                false
            }
            Self::Send { head, file, done } => {
                drain(socket);
                if !head.is_empty() {
                    if let Ok(sent) = socket.send_slice(head) {
                        head.drain(..sent.min(head.len()));
                    }
                }
                let mut broken = false;
                if let Some(file) = file.as_ref().filter(|_| head.is_empty()) {
                    while *done < file.len && socket.can_send() && !broken {
                        let left = usize::try_from(file.len - *done).unwrap_or(usize::MAX);
                        let sent = socket.send(|buf| {
                            let n = left.min(buf.len());
                            let read = buf.get_mut(..n).map(|part| file.read(*done, part));
                            match read {
                                Some(Ok(())) => (n, n),
                                _ => (0, 0),
                            }
                        });
                        match sent {
                            Ok(n) if n > 0 => *done += n as u64,
                            _ => broken = true,
                        }
                    }
                }
                if broken {
                    // The client must see that the file did not end here.
                    socket.abort();
                    return false;
                }
                let rest = file.as_ref().map_or(0, |file| file.len - *done);
                if head.is_empty() && rest == 0 {
                    *self = Self::Finish;
                    return true;
                }
                false
            }
            Self::Finish => {
                drain(socket);
                socket.close();
                false
            }
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

/// What a request asks for.
fn answer(request: &[u8], complete: bool, files: &BootDir) -> Work {
    let line = request.split(|byte| *byte == b'\r').next();
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let known = complete && version.is_some_and(|version| version.starts_with("HTTP/1."));
    let (status, file) = match (method, target) {
        (Some("GET" | "HEAD"), Some(target)) if known => {
            // What follows a question mark is for programs.
            let path = target.split('?').next().unwrap_or_default();
            match files.file(path) {
                Ok(file) => ("200 OK", Some(file)),
                Err(NoFile::Missing) => ("404 Not Found", None),
                Err(NoFile::Refused) => ("403 Forbidden", None),
            }
        }
        (Some(_), Some(_)) if known => ("405 Method Not Allowed", None),
        _ => ("400 Bad Request", None),
    };
    let length = file.as_ref().map_or(0, |file| file.len);
    let head = format!(
        "HTTP/1.1 {status}\r\nServer: virtio-pf-sim\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    Work::Send {
        head: head.into_bytes(),
        file: file.filter(|_| method == Some("GET")),
        done: 0,
    }
}
