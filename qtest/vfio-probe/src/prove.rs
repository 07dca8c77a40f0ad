// SPDX-License-Identifier: GPL-2.0-or-later
//! Asks a helper for a VF and attaches a file as the proof, which may be the wrong one.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use legacy_vf_proto::{
    decode_reply, Hello, Name, Open, Proof, Reply, Request, MAX_MESSAGE, VERSION,
};
use rustix::net::{
    connect, recv, sendmsg, socket, sockopt, AddressFamily, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

use crate::parse_uuid;
use crate::sys::Device;

/// Longest time for an answer of the helper.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(10);

/// Sends OPEN for VF `member` (0: the helper finds it out) with the device file of the function
/// `what`, or with the file of that name if it is a path. With `cdev:` before it, the function is opened
/// by its own file and iommufd instead of its group. Says `opened=VF` or `refused=CODE` with the
/// helper's text.
pub(crate) fn prove(path: &str, member: u16, what: &str, token: Option<&str>) -> io::Result<()> {
    let device;
    let file;
    let fd: BorrowedFd<'_> = if what.starts_with('/') {
        file = File::options().read(true).write(true).open(what)?;
        file.as_fd()
    } else if let Some(address) = what.strip_prefix("cdev:") {
        device = Device::open_cdev(address, token.map(parse_uuid).transpose()?)?;
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
    let open = Request::Open(Open {
        member,
        proof: Proof::VFIO_FD,
        virtio_id: 0,
        serial: 0,
    });
    let len = open.encode(2, &mut buf);
    send(socket.as_fd(), buf.get(..len), Some(fd))?;
    let len = receive(socket.as_fd(), &mut buf)?;
    let reply = decode_reply(buf.get(..len).unwrap_or_default())
        .map_err(|error| io::Error::other(format!("{:?}", error.reason)))?;
    match reply.1 {
        Reply::Open(open) => println!("opened={}", open.member),
        Reply::Error(error) => {
            println!("refused={}", error.code);
            println!("text={}", error.text);
        }
        _ => return Err(io::Error::other("not the answer to OPEN")),
    }
    Ok(())
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
