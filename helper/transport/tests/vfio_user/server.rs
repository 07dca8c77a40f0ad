// SPDX-License-Identifier: GPL-2.0-or-later
//! A vfio-user server of a few lines, whose every answer a test can replace.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use pci_transport::vfio_user::{Options, VfioUserFunction};
use pci_transport::{Deadlines, Error};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use vfio_user_wire::{
    device_flags, irq_flags, Capabilities, Command, DeviceInfo, Header, IoFdsReply, IrqInfo,
    Limits, RegionInfo, Reply, Request, Version, HEADER_LEN, MAJOR, MINOR, REGION_CONFIG,
};

/// What to do instead of the good answer.
pub(crate) enum Instead {
    /// Answer as a good server would.
    Answer,
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Send the good answer changed.
    Changed(fn(&mut Vec<u8>)),
    /// Say nothing.
    Nothing,
    /// Send these bytes again and again.
    Flood(Vec<u8>),
    /// Send these bytes and close.
    Close(Vec<u8>),
}

/// Decides about each command; runs in the server's thread.
pub(crate) type Rule = Box<dyn FnMut(&Header, &[u8]) -> Instead + Send>;

/// A command as the server saw it.
pub(crate) struct Seen {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

pub(crate) struct Server {
    pub(crate) path: PathBuf,
    pub(crate) seen: Receiver<Seen>,
    _dir: tempfile::TempDir,
    _thread: JoinHandle<()>,
}

pub(crate) const CONFIG_LEN: usize = 4096;
pub(crate) const BAR2_LEN: u64 = 0x1000;

struct State {
    config: Vec<u8>,
    bar2: Vec<u8>,
    io_fds: Option<(IoFdsReply, Vec<OwnedFd>)>,
    max_msg_fds: u32,
}

pub(crate) fn server(rule: Rule) -> Server {
    server_with(rule, None)
}

pub(crate) fn server_with(rule: Rule, io_fds: Option<(IoFdsReply, Vec<OwnedFd>)>) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pf.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tx, seen) = channel();
    let thread = std::thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut config = vec![0; CONFIG_LEN];
        config[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        // A capability list of one MSI-X capability with 5 vectors.
        config[6] = 0x10;
        config[0x34] = 0x40;
        config[0x40..0x44].copy_from_slice(&[0x11, 0, 4, 0]);
        let state = State {
            config,
            bar2: vec![0x5a; BAR2_LEN as usize],
            io_fds,
            max_msg_fds: 2,
        };
        serve(&stream, rule, state, &tx);
    });
    Server {
        path,
        seen,
        _dir: dir,
        _thread: thread,
    }
}

pub(crate) fn options() -> Options {
    Options {
        deadlines: Deadlines {
            connect: Duration::from_secs(2),
            request: Duration::from_secs(1),
        },
        ..Options::default()
    }
}

pub(crate) fn open(server: &Server) -> Result<VfioUserFunction, Error> {
    VfioUserFunction::open(&server.path, options())
}

fn serve(stream: &UnixStream, mut rule: Rule, mut state: State, seen: &Sender<Seen>) {
    while let Some((header, payload, fds)) = receive(stream) {
        let mut out = Vec::new();
        let mut out_fds = Vec::new();
        answer(&mut state, &header, &payload, &mut out, &mut out_fds);
        let instead = rule(&header, &payload);
        let no_reply = header.no_reply();
        let _ = seen.send(Seen {
            header,
            payload,
            fds,
        });
        match instead {
            Instead::Answer if no_reply => continue,
            Instead::Answer => {}
            Instead::Bytes(bytes) => out = bytes,
            Instead::Changed(change) => change(&mut out),
            Instead::Nothing => continue,
            Instead::Flood(bytes) => while (&mut &*stream).write_all(&bytes).is_ok() {},
            Instead::Close(bytes) => {
                let _ = (&mut &*stream).write_all(&bytes);
                return;
            }
        }
        send(stream, &out, &out_fds);
    }
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let sent = sendmsg(
        stream.as_fd(),
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
    // The client may be gone; its test decides whether that was right.
    assert!(sent.is_err() || sent == Ok(bytes.len()));
}

fn receive(stream: &UnixStream) -> Option<(Header, Vec<u8>, Vec<OwnedFd>)> {
    let mut head = [0; HEADER_LEN];
    let mut fds = Vec::new();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        stream.as_fd(),
        &mut [IoSliceMut::new(&mut head)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .ok()?;
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return None;
    }
    (&mut &*stream).read_exact(&mut head[got.bytes..]).ok()?;
    let header = Header::decode(&head, &Limits::default()).unwrap();
    let mut payload = vec![0; header.payload_len()];
    (&mut &*stream).read_exact(&mut payload).ok()?;
    Some((header, payload, fds))
}

fn answer<'a>(
    state: &'a mut State,
    header: &Header,
    payload: &[u8],
    out: &mut Vec<u8>,
    fds: &mut Vec<BorrowedFd<'a>>,
) {
    if header.is_reply() {
        return;
    }
    let request = Request::decode(header, payload, &Limits::default()).unwrap();
    let reply = match request {
        Request::Version(_) => Reply::Version(Version {
            major: MAJOR,
            minor: MINOR,
            capabilities: Capabilities {
                max_msg_fds: state.max_msg_fds,
                max_data_xfer_size: 1024,
                ..Capabilities::default()
            },
        }),
        Request::GetInfo { .. } => Reply::Info(DeviceInfo {
            flags: device_flags::PCI | device_flags::RESET,
            num_regions: 9,
            num_irqs: 5,
        }),
        Request::GetRegionInfo { index, .. } => Reply::RegionInfo(RegionInfo {
            index,
            size: match index {
                2 => BAR2_LEN,
                REGION_CONFIG => CONFIG_LEN as u64,
                _ => 0,
            },
            ..RegionInfo::default()
        }),
        Request::GetIrqInfo { index, .. } => Reply::IrqInfo(IrqInfo {
            flags: irq_flags::INFO_EVENTFD,
            index,
            count: 2048,
        }),
        Request::GetRegionIoFds { .. } => match &state.io_fds {
            Some((table, list)) => {
                fds.extend(list.iter().map(AsFd::as_fd));
                Reply::IoFds(table.clone())
            }
            None => Reply::Error(95),
        },
        Request::RegionRead(access) => {
            let at = access.offset as usize;
            let from = match access.region {
                2 => &state.bar2,
                _ => &state.config,
            };
            let data = &from[at..at + access.count as usize];
            Reply::Read { access, data }.encode(header, 0, out);
            return;
        }
        Request::RegionWrite { access, data } => {
            let at = access.offset as usize;
            let to = match access.region {
                2 => &mut state.bar2,
                _ => &mut state.config,
            };
            to[at..at + data.len()].copy_from_slice(data);
            Reply::Written(access)
        }
        _ => Reply::Empty,
    };
    reply.encode(header, u32::MAX, out);
}

/// A rule for one command; all others are answered.
pub(crate) fn on(command: Command, mut then: impl FnMut() -> Instead + Send + 'static) -> Rule {
    Box::new(move |header, _| {
        if header.command == command {
            then()
        } else {
            Instead::Answer
        }
    })
}
