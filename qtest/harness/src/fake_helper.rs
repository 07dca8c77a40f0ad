// SPDX-License-Identifier: GPL-2.0-or-later
//! A helper that answers what a test wants, to see what QEMU makes of it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use legacy_vf_proto::{
    Header, HelloReply, MessageBuf, Name, NotifyKind, OpenReply, Reply, Request, MAX_MESSAGE,
};
use legacy_vf_proto_server::{decode_request, EncodeReply};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    accept, bind, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

/// What to do with a request.
#[derive(Debug)]
pub enum Answer {
    /// Send these messages, one after the other.
    Messages(Vec<Vec<u8>>),
    /// Send this message again and again.
    Endless(Vec<u8>),
    /// Close the connection.
    Close,
}

impl Answer {
    /// One reply.
    pub fn reply(header: &Header, reply: &Reply<'_>) -> Self {
        Answer::Messages(vec![encode(header.seq, reply)])
    }
}

/// A reply as bytes.
pub fn encode(seq: u32, reply: &Reply<'_>) -> Vec<u8> {
    let mut buffer: MessageBuf = [0; MAX_MESSAGE];
    let len = reply.encode(seq, &mut buffer);
    buffer.get(..len).unwrap_or_default().to_vec()
}

/// What a good helper says: HELLO and OPEN succeed, registers are zero.
pub fn good(header: &Header, request: &Request) -> Answer {
    let reply = match *request {
        Request::Hello(_) => Reply::Hello(HelloReply {
            version: 1,
            max_message: 4096,
            features: 0,
            name: Name::new("fake"),
        }),
        Request::Open(open) => Reply::Open(OpenReply {
            member: open.member,
            virtio_id: open.virtio_id,
            num_vfs: 1,
            notify_kind: NotifyKind::None,
            notify_bar: 0,
            notify_offset: 0,
            commands: 0x7f,
            deadline_ms: 100,
            session: 1,
        }),
        Request::Read { .. } => Reply::Read { data: [0; 8] },
        Request::Notify { .. } => return Answer::Messages(Vec::new()),
        _ => Reply::Write,
    };
    Answer::reply(header, &reply)
}

/// A listening fake, until it is dropped.
#[derive(Debug)]
pub struct FakeHelper {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeHelper {
    /// Listens on `path`; `answer` gets every request of every connection.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn start(
        path: &Path,
        answer: impl FnMut(&Header, &Request) -> Answer + Send + 'static,
    ) -> Result<Self> {
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&listener, &SocketAddrUnix::new(path)?)?;
        listen(&listener, 4)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &stopped, answer));
        Ok(FakeHelper {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }
}

impl Drop for FakeHelper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn readable(fd: &OwnedFd) -> bool {
    let soon = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&soon)).is_ok_and(|n| n > 0)
}

fn serve(
    listener: &OwnedFd,
    stop: &AtomicBool,
    mut answer: impl FnMut(&Header, &Request) -> Answer,
) {
    while !stop.load(Ordering::Relaxed) {
        if !readable(listener) {
            continue;
        }
        let Ok(client) = accept(listener) else {
            return;
        };
        while !stop.load(Ordering::Relaxed) {
            if !readable(&client) {
                continue;
            }
            let mut buffer: MessageBuf = [0; MAX_MESSAGE];
            let len = match recv(&client, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, len)) if len > 0 => len,
                _ => break,
            };
            let Ok((header, request)) = decode_request(buffer.get(..len).unwrap_or_default())
            else {
                break;
            };
            match answer(&header, &request) {
                Answer::Close => break,
                Answer::Endless(message) => {
                    while !stop.load(Ordering::Relaxed) {
                        match send(&client, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                            Ok(_) => {}
                            Err(Errno::AGAIN) => std::thread::yield_now(),
                            Err(_) => break,
                        }
                    }
                }
                Answer::Messages(list) => {
                    for message in list {
                        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                        if send(&client, &message, flags).is_err() {
                            break;
                        }
                    }
                }
            }
        }
    }
}
