// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper as a process, and a client of its socket.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use legacy_vf_proto::client::{Client, Received};
use legacy_vf_proto::layout::exact;
use legacy_vf_proto::{
    decode_incoming, ErrorCode, Header, Incoming, MessageBuf, Name, Open, OpenReply, Proof,
    QueryKind, Reply, Request, Space, MAX_MESSAGE,
};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use test_kit::patience::Patience;

use crate::process::Process;
use crate::{artifacts, PATIENCE};

/// A running helper.
#[derive(Debug)]
pub struct Helper {
    /// The process.
    pub process: Process,
    args: Vec<String>,
    dir: PathBuf,
    socket: PathBuf,
}

impl Helper {
    /// Starts a helper for the PF behind `pf` and waits until it serves.
    ///
    /// # Errors
    /// If it does not get that far.
    pub fn spawn(dir: &Path, name: &str, pf: &Path, vfs: u16, more: &[&str]) -> Result<Self> {
        Self::spawn_through(&[], dir, name, pf, vfs, more)
    }

    /// The same with a limit of open files.
    ///
    /// # Errors
    /// If it does not get that far.
    pub fn spawn_with_files(
        files: u64,
        dir: &Path,
        name: &str,
        pf: &Path,
        vfs: u16,
        more: &[&str],
    ) -> Result<Self> {
        let limit = format!("--nofile={files}:{files}");
        Self::spawn_through(&["prlimit", &limit], dir, name, pf, vfs, more)
    }

    fn spawn_through(
        wrapper: &[&str],
        dir: &Path,
        name: &str,
        pf: &Path,
        vfs: u16,
        more: &[&str],
    ) -> Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        let mut args = vec![
            "--pf-socket".to_owned(),
            pf.display().to_string(),
            "--vfs".to_owned(),
            vfs.to_string(),
            "--socket".to_owned(),
            socket.display().to_string(),
        ];
        args.extend(more.iter().map(|a| (*a).to_owned()));
        let program = artifacts::helper()?;
        let process = match wrapper {
            [] => Process::spawn(name, &program, &args, dir)?,
            [first, rest @ ..] => {
                let mut all: Vec<String> = rest.iter().map(|a| (*a).to_owned()).collect();
                all.push(program.display().to_string());
                all.extend(args.iter().cloned());
                Process::spawn(name, Path::new(first), &all, dir)?
            }
        };
        let mut helper = Helper {
            process,
            args,
            dir: dir.to_owned(),
            socket,
        };
        helper.wait_ready()?;
        Ok(helper)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut patience = Patience::new(PATIENCE);
        loop {
            match HelperClient::connect(&self.socket) {
                Ok(mut client) => {
                    client.hello()?;
                    return Ok(());
                }
                Err(e) => {
                    if !self.process.is_running()? || patience.look().is_err() {
                        bail!(
                            "the helper does not serve ({e:#}); its log:\n{}",
                            self.process.log()
                        );
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Starts it anew with the same arguments, after it has ended.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.process =
            Process::spawn("helper-again", &artifacts::helper()?, &self.args, &self.dir)?;
        self.wait_ready()
    }
}

/// A connection to the helper that speaks the protocol.
#[derive(Debug)]
pub struct HelperClient {
    fd: OwnedFd,
    client: Client,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its code.
    pub code: ErrorCode,
    /// Status of the admin command.
    pub status: u16,
    /// Qualifier of the admin command.
    pub qualifier: u16,
    /// Its text.
    pub text: String,
}

impl HelperClient {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(path: &Path) -> Result<Self> {
        let fd = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&fd, &SocketAddrUnix::new(path)?)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(HelperClient {
            fd,
            client: Client::new(Name::new("qtest harness"), 0),
        })
    }

    /// Sends any bytes as one message.
    ///
    /// # Errors
    /// If the helper has closed the connection.
    pub fn send_raw(&self, bytes: &[u8]) -> Result<()> {
        send(&self.fd, bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends without waiting; `false` if the helper takes no more or has closed the connection.
    pub fn try_send(&self, bytes: &[u8]) -> bool {
        send(&self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// Receives one message; an empty one means that the helper has closed the connection.
    ///
    /// # Errors
    /// If nothing comes in time.
    pub fn receive_raw(&self, limit: Duration) -> Result<Vec<u8>> {
        let timeout = Timespec {
            tv_sec: i64::try_from(limit.as_secs())?,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        if poll(
            &mut [PollFd::new(&self.fd.as_fd(), PollFlags::IN)],
            Some(&timeout),
        )? == 0
        {
            bail!("the helper has not answered after {limit:?}");
        }
        let mut buffer = vec![0; MAX_MESSAGE];
        let len = match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, len)) => len,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(e) => return Err(e.into()),
        };
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Says HELLO.
    ///
    /// # Errors
    /// If the helper does not agree.
    pub fn hello(&mut self) -> Result<()> {
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        let len = self.client.request(&self.client.hello(), &mut buffer)?;
        self.send_raw(buffer.get(..len).unwrap_or_default())?;
        match self.answer()? {
            Ok(_) => Ok(()),
            Err(e) => bail!("HELLO refused: {} {}", e.code, e.text),
        }
    }

    /// Opens a VF without proof.
    ///
    /// # Errors
    /// If the helper does not answer; a refusal is a value.
    pub fn open(&mut self, member: u16) -> Result<Result<OpenReply, Refusal>> {
        self.open_with(Open {
            member,
            proof: Proof::NONE,
            virtio_id: 0,
            serial: 0,
        })
    }

    /// Opens a VF.
    ///
    /// # Errors
    /// If the helper does not answer; a refusal is a value.
    pub fn open_with(&mut self, open: Open) -> Result<Result<OpenReply, Refusal>> {
        match self.request(&Request::Open(open))? {
            Err(refusal) => Ok(Err(refusal)),
            Ok(payload) => Ok(Ok(exact(&payload)?)),
        }
    }

    /// Sends a request and gives the payload of the reply.
    ///
    /// # Errors
    /// If the helper does not answer; a refusal is a value.
    pub fn request(&mut self, request: &Request) -> Result<Result<Vec<u8>, Refusal>> {
        let mut buffer: MessageBuf = [0; MAX_MESSAGE];
        let len = self.client.request(request, &mut buffer)?;
        let sent = self.send_raw(buffer.get(..len).unwrap_or_default());
        let answer = sent.and_then(|()| self.answer());
        // A test may go on after an answer that did not come.
        self.client.abandon();
        answer
    }

    fn answer(&mut self) -> Result<Result<Vec<u8>, Refusal>> {
        loop {
            let message = self.receive_raw(PATIENCE)?;
            let payload = message.get(16..).unwrap_or_default().to_vec();
            match self.client.receive(&message) {
                Received::Reply(reply) => {
                    return Ok(match reply {
                        Reply::Error(e) => Err(Refusal {
                            code: e.code,
                            status: e.admin_status,
                            qualifier: e.admin_qualifier,
                            text: e.text.to_owned(),
                        }),
                        Reply::Read { data } => Ok(data.to_vec()),
                        _ => Ok(payload),
                    })
                }
                Received::Lost(reason) => bail!("{reason}"),
                Received::Event(_) | Received::Stale => {}
            }
        }
    }

    /// Reads registers.
    ///
    /// # Errors
    /// If the helper does not answer; a refusal is a value.
    pub fn read(&mut self, space: Space, offset: u8, len: u8) -> Result<Result<u64, Refusal>> {
        let reply = self.request(&Request::Read { space, offset, len })?;
        let value = |b: Vec<u8>| virtio_pci_spec::bytes::get_u64(&b, 0).unwrap_or(0);
        Ok(reply.map(value))
    }

    /// Writes registers.
    ///
    /// # Errors
    /// If the helper does not answer; a refusal is a value.
    pub fn write(
        &mut self,
        space: Space,
        offset: u8,
        len: u8,
        value: u64,
    ) -> Result<Result<(), Refusal>> {
        let data = virtio_pci_spec::bytes::le_bytes(value, len.into());
        let reply = self.request(&Request::Write {
            space,
            offset,
            len,
            data,
        })?;
        Ok(reply.map(|_| ()))
    }

    /// Asks a question; the answer is JSON.
    ///
    /// # Errors
    /// If the helper does not answer it.
    pub fn query(&mut self, what: QueryKind, member: u16) -> Result<serde_json::Value> {
        match self.request(&Request::Query { what, member })? {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(e) => bail!("query refused: {} {}", e.code, e.text),
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// If none comes in time.
    pub fn event(&self, limit: Duration) -> Result<legacy_vf_proto::Event> {
        let message = self.receive_raw(limit)?;
        match decode_incoming(&message) {
            Ok(Incoming::Event(event)) => Ok(event),
            other => bail!("not an event: {other:?}"),
        }
    }
}

/// Decodes a reply.
///
/// # Errors
/// If it is none.
pub fn decode_reply(message: &[u8]) -> Result<(Header, Reply<'_>)> {
    match decode_incoming(message)? {
        Incoming::Reply(header, reply) => Ok((header, reply)),
        Incoming::Event(event) => bail!("not a reply: {event:?}"),
    }
}
