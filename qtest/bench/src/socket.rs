// SPDX-License-Identifier: GPL-2.0-or-later
//! A blocking client that does as little as possible besides system calls.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{bail, ensure, Result};
use legacy_vf_proto::client::{Client, Received, State};
use legacy_vf_proto::{MessageBuf, Name, Open, Proof, Reply, Request, Space, MAX_MESSAGE};
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// A SEQPACKET socket connected to `path`.
///
/// # Errors
/// If nobody listens.
pub fn connected(path: &Path) -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A connection that owns a VF.
#[derive(Debug)]
pub struct Access {
    socket: OwnedFd,
    client: Client,
    buf: Box<MessageBuf>,
}

impl Access {
    /// Connects and opens a VF.
    ///
    /// # Errors
    /// If the helper refuses.
    pub fn open(path: &Path, member: u16) -> Result<Self> {
        let mut access = Access {
            socket: connected(path)?,
            client: Client::new(Name::new("bench"), 0),
            buf: Box::new([0; MAX_MESSAGE]),
        };
        access.exchange(&access.client.hello())?;
        let open = Open {
            member,
            proof: Proof::NONE,
            virtio_id: 0,
            serial: 0,
        };
        access.exchange(&Request::Open(open))?;
        ensure!(
            access.client.state() == State::Ready,
            "VF {member} was not opened: {:?}",
            access.client.state()
        );
        Ok(access)
    }

    fn exchange(&mut self, request: &Request) -> Result<[u8; 8]> {
        let buf = &mut self.buf;
        let len = self.client.request(request, buf)?;
        let message = buf.get(..len).unwrap_or(&[]);
        send(&self.socket, message, SendFlags::NOSIGNAL)?;
        let (_, len) = recv(&self.socket, &mut buf[..], RecvFlags::empty())?;
        match self.client.receive(buf.get(..len).unwrap_or(&[])) {
            Received::Reply(Reply::Error(e)) => bail!("{}: {}", e.code, e.text),
            Received::Reply(Reply::Read { data }) => Ok(data),
            Received::Reply(_) => Ok([0; 8]),
            other => bail!("unexpected: {other:?}"),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Reads the device status: one admin command.
    ///
    /// # Errors
    /// If the helper refuses.
    pub fn read_status(&mut self) -> Result<u8> {
        let read = Request::Read {
            space: Space::Common,
            offset: 18,
            len: 1,
        };
        let data = self.exchange(&read)?;
        Ok(data.first().copied().unwrap_or(0))
    }
}
