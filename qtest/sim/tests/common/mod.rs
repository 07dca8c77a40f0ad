// SPDX-License-Identifier: GPL-2.0-or-later
//! A raw vfio-user client, a small piece of hardware, and a simulator running in a thread.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde_json::{json, Value};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vfio_user_wire::*;
use virtio_pf_sim::dma::DmaSpace;
use virtio_pf_sim::event_loop::{Options, Simulator};
use virtio_pf_sim::hardware::{Doorbell, Effect, Function, Hardware};

/// Offset in BAR 0 of [`Toy`] whose write makes it copy memory, interrupt and send a frame.
pub const KICK: u64 = 0x10;
pub const BAR_LEN: u64 = 0x1000;

/// Hardware that remembers its registers. A write of `n` to [`KICK`] reads 8 bytes at IOVA
/// 0x1000, writes them to 0x2000 and signals vector `n`.
pub struct Toy {
    vfs: u16,
    config: Vec<Vec<u8>>,
    bar: Vec<Vec<u8>>,
    memory: Vec<Option<Arc<DmaSpace>>>,
    effects: Vec<Effect>,
    resets: u64,
    disconnects: u64,
}

impl Toy {
    pub fn new(vfs: u16) -> Self {
        let n = usize::from(vfs) + 1;
        Self {
            vfs,
            config: vec![vec![0; 4096]; n],
            bar: vec![vec![0; BAR_LEN as usize]; n],
            memory: vec![None; n],
            effects: Vec::new(),
            resets: 0,
            disconnects: 0,
        }
    }
}

impl Hardware for Toy {
    fn total_vfs(&self) -> u16 {
        self.vfs
    }
    fn config_read(&mut self, f: Function, offset: u16, buf: &mut [u8]) {
        let at = usize::from(offset);
        buf.copy_from_slice(&self.config[f.index()][at..at + buf.len()]);
    }
    fn config_write(&mut self, f: Function, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        self.config[f.index()][at..at + data.len()].copy_from_slice(data);
    }
    fn bar_size(&self, _f: Function, bar: u8) -> u64 {
        if bar == 0 {
            BAR_LEN
        } else {
            0
        }
    }
    fn bar_read(&mut self, f: Function, _bar: u8, offset: u64, buf: &mut [u8]) {
        let at = offset as usize;
        buf.copy_from_slice(&self.bar[f.index()][at..at + buf.len()]);
    }
    fn bar_write(&mut self, f: Function, _bar: u8, offset: u64, data: &[u8]) {
        let at = offset as usize;
        self.bar[f.index()][at..at + data.len()].copy_from_slice(data);
        if offset == KICK {
            let mut buf = [0; 8];
            if let Some(memory) = &self.memory[f.index()] {
                if memory.read(0x1000, &mut buf).is_ok() {
                    let _ = memory.write(0x2000, &buf);
                }
            }
            let vector = u16::from(data[0]);
            self.effects.push(Effect::Interrupt {
                function: f,
                vector,
            });
            self.effects
                .push(Effect::Event(json!({ "event": "kick", "vector": vector })));
        }
    }
    fn doorbells(&self, _f: Function, bar: u8) -> Vec<Doorbell> {
        if bar != 0 {
            return Vec::new();
        }
        (0..40)
            .map(|value| Doorbell {
                offset: KICK,
                width: 2,
                value,
            })
            .collect()
    }
    fn vectors(&self, _f: Function) -> u32 {
        4
    }
    fn vectors_attached(&mut self, _f: Function, _first: u16, _attached: &[bool]) {}
    fn vectors_disabled(&mut self, _f: Function) {}
    fn set_memory(&mut self, f: Function, memory: Arc<DmaSpace>) {
        self.memory[f.index()] = Some(memory);
    }
    fn can_reset(&self, f: Function) -> bool {
        f != Function::Vf(3)
    }
    fn reset_function(&mut self, f: Function) {
        self.resets += 1;
        self.bar[f.index()].fill(0);
    }
    fn disconnected(&mut self, f: Function) {
        self.disconnects += 1;
        self.config[f.index()].fill(0);
    }
    fn rx_frame(&mut self, _frame: &[u8]) {}
    fn tick(&mut self, _now_ns: u64) {}
    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }
    fn take_effects(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.effects);
    }
    fn control(&mut self, command: &str, _args: &Value) -> Result<Value, String> {
        match command {
            "counters" => Ok(json!({ "resets": self.resets, "disconnects": self.disconnects })),
            _ => Err(format!("unknown command {command:?}")),
        }
    }
}

/// A simulator in a thread, in a directory of its own.
pub struct Running {
    pub dir: tempfile::TempDir,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(vfs: u16) -> Self {
        Self::start_with(
            Box::new(move || Box::new(Toy::new(vfs))),
            Options::default(),
        )
    }

    pub fn start_with(
        hardware: Box<dyn FnOnce() -> Box<dyn Hardware> + Send>,
        mut options: Options,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        options.dir = dir.path().to_owned();
        let (stop, signal) = UnixStream::pair().unwrap();
        let (ready, listening) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut sim = Simulator::new(&options, hardware(), signal).unwrap();
            ready.send(()).unwrap();
            sim.run().unwrap();
            sim.remove_sockets();
        });
        listening.recv_timeout(Duration::from_secs(10)).unwrap();
        Self {
            dir,
            stop,
            thread: Some(thread),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn client(&self, name: &str) -> Client {
        // A function has one client at a time, and the server may hear of the next one before it
        // hears that the last one left.
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let mut c = Client::connect(&self.path(name));
            if c.greets() {
                return c;
            }
            assert!(Instant::now() < until, "{name} stays busy");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn ctl(&self, line: &str) -> Value {
        let mut s = UnixStream::connect(self.path("ctl.sock")).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        s.write_all(format!("{line}\n").as_bytes()).unwrap();
        let (mut text, mut b) = (Vec::new(), [0]);
        while s.read(&mut b).unwrap() == 1 && b[0] != b'\n' {
            text.push(b[0]);
        }
        serde_json::from_slice(&text).unwrap()
    }

    pub fn stop(mut self) {
        self.stop.write_all(b"x").unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"x");
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
    }
}

/// A blocking raw client.
pub struct Client {
    pub socket: UnixStream,
    id: u16,
}

/// What a reply was.
#[derive(Debug)]
pub struct Answer {
    pub header: Header,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self { socket, id: 100 }
    }

    pub fn version(minor: u16, write_multiple: bool) -> Request<'static> {
        Request::Version(Version {
            major: 0,
            minor,
            capabilities: Capabilities {
                max_msg_fds: 16,
                write_multiple,
                ..Capabilities::default()
            },
        })
    }

    /// Negotiates the version; false if the server has another client.
    fn greets(&mut self) -> bool {
        let mut bytes = Vec::new();
        self.id = self.id.wrapping_add(1);
        Self::version(0, true).encode(self.id, false, &mut bytes);
        self.socket.write_all(&bytes).is_ok()
            && self.receive().is_ok_and(|answer| !answer.header.is_error())
    }

    pub fn hello(&mut self) -> Version {
        let answer = self.ask(&Self::version(0, true));
        match self.decode(&answer) {
            Reply::Version(v) => v,
            other => panic!("{other:?}"),
        }
    }

    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = [IoSlice::new(&bytes[sent..])];
            sent += sendmsg(&self.socket, &rest, &mut control, SendFlags::NOSIGNAL).unwrap();
            control.clear();
        }
    }

    pub fn send(&mut self, request: &Request<'_>, no_reply: bool, fds: &[BorrowedFd<'_>]) -> u16 {
        self.id = self.id.wrapping_add(1);
        let mut bytes = Vec::new();
        request.encode(self.id, no_reply, &mut bytes);
        self.send_raw(&bytes, fds);
        self.id
    }

    fn exact(&mut self, buf: &mut [u8], fds: &mut Vec<OwnedFd>) -> std::io::Result<()> {
        let mut at = 0;
        while at < buf.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(&mut buf[at..])];
            let got = recvmsg(
                &self.socket,
                &mut iov,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            for m in control.drain() {
                if let RecvAncillaryMessage::ScmRights(f) = m {
                    fds.extend(f);
                }
            }
            if got.bytes == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            at += got.bytes;
        }
        Ok(())
    }

    pub fn receive(&mut self) -> std::io::Result<Answer> {
        let (mut head, mut fds) = ([0; 16], Vec::new());
        self.exact(&mut head, &mut fds)?;
        let limits = Limits {
            max_transfer: 1 << 20,
            ..Limits::default()
        };
        let header = Header::decode(&head, &limits).unwrap();
        let mut payload = vec![0; header.payload_len()];
        self.exact(&mut payload, &mut fds)?;
        Ok(Answer {
            header,
            payload,
            fds,
        })
    }

    pub fn ask_with(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> Answer {
        let id = self.send(request, false, fds);
        let answer = self.receive().unwrap();
        assert_eq!(
            (answer.header.id, answer.header.command),
            (id, request.command())
        );
        answer
    }

    pub fn ask(&mut self, request: &Request<'_>) -> Answer {
        self.ask_with(request, &[])
    }

    pub fn decode<'a>(&self, answer: &'a Answer) -> Reply<'a> {
        let limits = Limits {
            max_io_fds: 64,
            ..Limits::default()
        };
        Reply::decode(&answer.header, &answer.payload, &limits).unwrap()
    }

    /// The error number of the reply, 0 for success.
    pub fn error(&mut self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) -> u32 {
        let answer = self.ask_with(request, fds);
        if answer.header.is_error() {
            assert!(answer.payload.is_empty());
            assert_ne!(answer.header.errno, 0);
        }
        answer.header.errno
    }

    pub fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let access = RegionAccess {
            offset,
            region,
            count,
        };
        let answer = self.ask(&Request::RegionRead(access));
        match self.decode(&answer) {
            Reply::Read { access: got, data } => {
                assert_eq!(got, access);
                data.to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        let access = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        assert_eq!(self.error(&Request::RegionWrite { access, data }, &[]), 0);
    }

    pub fn post(&mut self, region: u32, offset: u64, data: &[u8]) {
        let access = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        self.send(&Request::RegionWrite { access, data }, true, &[]);
    }

    pub fn map(&mut self, iova: u64, size: u64, offset: u64, fd: &impl AsFd) -> u32 {
        let flags = dma_flags::MAP_READ | dma_flags::MAP_WRITE;
        let map = DmaMap {
            flags,
            offset,
            iova,
            size,
        };
        self.error(&Request::DmaMap(map), &[fd.as_fd()])
    }

    pub fn unmap(&mut self, iova: u64, size: u64) -> u32 {
        self.error(
            &Request::DmaUnmap(DmaUnmap {
                flags: 0,
                iova,
                size,
            }),
            &[],
        )
    }

    pub fn eventfds(&mut self, start: u32, fds: &[OwnedFd]) -> u32 {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let set = SetIrqs {
            flags: irq_flags::SET_DATA_EVENTFD | irq_flags::SET_ACTION_TRIGGER,
            index: IRQ_MSIX,
            start,
            count: fds.len() as u32,
            data: &[],
        };
        self.error(&Request::SetIrqs(set), &fds)
    }

    /// Whether the server closed the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut b = [0];
        loop {
            match self.socket.read(&mut b) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return true,
                Err(_) => return false,
            }
        }
    }
}

pub fn eventfd() -> OwnedFd {
    use rustix::event::EventfdFlags;
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Waits up to 5 s for an eventfd and returns its count; 0: nothing came.
pub fn count(fd: &OwnedFd, patience: Duration) -> u64 {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap();
    let mut b = [0; 8];
    match rustix::io::read(fd, &mut b[..]) {
        Ok(8) => u64::from_ne_bytes(b),
        _ => 0,
    }
}

pub const PATIENCE: Duration = Duration::from_secs(5);

pub fn memfd(size: u64) -> OwnedFd {
    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
    let fd = memfd_create("t", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    fd
}
