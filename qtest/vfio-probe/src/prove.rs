// SPDX-License-Identifier: GPL-2.0-or-later
//! Asks a helper for a VF and attaches a file as the proof, which may be the wrong one.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use legacy_vf_proto::{
    decode_incoming, Hello, Incoming, Name, Open, Proof, Reply, Request, MAX_MESSAGE, VERSION,
};
use rustix::net::{
    connect, recv, sendmsg, socket, sockopt, AddressFamily, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

use crate::sys::Device;

/// Longest time for an answer of the helper.
const ANSWER: Duration = Duration::from_secs(10);

/// Longest time for which somebody watches.
const WATCH: Duration = Duration::from_secs(120);

/// What the helper answered to OPEN.
enum Opened {
    /// VF.
    Done(u16),
    /// Code and text.
    Refused(String, String),
}

impl Opened {
    /// Prints it.
    fn say(&self) {
        match self {
            Self::Done(member) => println!("opened={member}"),
            Self::Refused(code, text) => {
                println!("refused={code}");
                println!("text={text}");
            }
        }
    }
}

/// Sends OPEN for VF `member` (0: the helper finds it out) with the device file of the function
/// `what`, or with the file of that name if it is a path. With `cdev:` before it, the function is opened
/// by its own file and iommufd instead of its group. Says `opened=VF` or `refused=CODE` with the
/// helper's text.
pub(crate) fn prove(path: &str, member: u16, what: &str, token: Option<&str>) -> io::Result<()> {
    let (_connection, opened) = open(path, member, what, token)?;
    opened.say();
    Ok(())
}

/// The same, then closes the function's file but not the connection: says `event=KIND` for what the
/// helper tells, and `closed=1` when it closes the connection.
pub(crate) fn watch(path: &str, member: u16, what: &str, token: Option<&str>) -> io::Result<()> {
    let (connection, opened) = open(path, member, what, token)?;
    opened.say();
    io::stdout().flush()?;
    if matches!(opened, Opened::Refused(..)) {
        return Err(io::Error::other("nothing to watch"));
    }
    sockopt::set_socket_timeout(&connection, sockopt::Timeout::Recv, Some(WATCH))?;
    let mut buf = [0; MAX_MESSAGE];
    loop {
        let len = recv(&connection, &mut buf, RecvFlags::empty())?.0;
        if len == 0 {
            println!("closed=1");
            return Ok(());
        }
        match decode_incoming(buf.get(..len).unwrap_or_default()) {
            Ok(Incoming::Event(event)) => println!("event={}", event.kind.name()),
            _ => return Err(io::Error::other("not an event")),
        }
    }
}

/// See [`prove`]; gives the connection. The function's file is closed again.
fn open(path: &str, member: u16, what: &str, token: Option<&str>) -> io::Result<(OwnedFd, Opened)> {
    let device;
    let file;
    let fd: BorrowedFd<'_> = if what.starts_with('/') {
        file = File::options().read(true).write(true).open(what)?;
        file.as_fd()
    } else if let Some(address) = what.strip_prefix("cdev:") {
        device = Device::open_cdev(address, token)?;
        device.as_fd()
    } else {
        device = Device::open(what, token)?;
        device.as_fd()
    };
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut buf = [0; MAX_MESSAGE];
    let hello = Request::Hello(Hello {
        version: VERSION,
        max_message: MAX_MESSAGE as u32,
        features: 0,
        name: Name::new("vlvf-vfio-probe"),
    });
    let len = hello.encode(1, &mut buf);
    send(socket.as_fd(), buf.get(..len), None)?;
    receive(socket.as_fd(), &mut buf)?;
    let request = Request::Open(Open {
        member,
        proof: Proof::VFIO_FD,
        virtio_id: 0,
        serial: 0,
    });
    let len = request.encode(2, &mut buf);
    send(socket.as_fd(), buf.get(..len), Some(fd))?;
    let len = receive(socket.as_fd(), &mut buf)?;
    let answer = decode_incoming(buf.get(..len).unwrap_or_default()).map_err(io::Error::other)?;
    let opened = match answer {
        Incoming::Reply(_, Reply::Open(open)) => Opened::Done(open.member),
        Incoming::Reply(_, Reply::Error(error)) => {
            Opened::Refused(error.code.to_string(), error.text.to_owned())
        }
        _ => return Err(io::Error::other("not the answer to OPEN")),
    };
    Ok((socket, opened))
}

fn send(
    socket: BorrowedFd<'_>,
    message: Option<&[u8]>,
    attached: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let message = IoSlice::new(message.unwrap_or_default());
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = attached.into_iter().collect();
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[message], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    match recv(socket, buf, RecvFlags::empty())?.0 {
        0 => Err(io::Error::other("the helper closed the connection")),
        len => Ok(len),
    }
}
