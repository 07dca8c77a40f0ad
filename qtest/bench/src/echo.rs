// SPDX-License-Identifier: GPL-2.0-or-later
//! The baseline: another process that sends each message back, and nothing else.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{
    accept, bind, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

use crate::socket::connected;

/// Bytes there and back, as of a register read.
const LEN: usize = 24;

/// Keeps this thread on one processor. Gives where it could be before.
///
/// # Errors
/// If there is no such processor.
pub fn stay_on(cpu: usize) -> Result<CpuSet> {
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    Ok(before)
}

/// Lets this thread be where it could be before [`stay_on`].
///
/// # Errors
/// If these processors are gone.
pub fn leave(before: &CpuSet) -> Result<()> {
    Ok(sched_setaffinity(None, before)?)
}

/// The server: one client, until it leaves. On processor `cpu`, if given.
///
/// # Errors
/// If a socket call fails.
pub fn serve(path: &Path, cpu: Option<usize>) -> Result<()> {
    if let Some(cpu) = cpu {
        stay_on(cpu)?;
    }
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 1)?;
    let client = accept(&socket)?;
    let mut buf = [0; 4096];
    loop {
        let (_, len) = recv(&client, &mut buf[..], RecvFlags::empty())?;
        if len == 0 {
            return Ok(());
        }
        send(&client, buf.get(..len).unwrap_or(&[]), SendFlags::NOSIGNAL)?;
    }
}

/// A process of this program that runs [`serve`], and a connection to it.
#[derive(Debug)]
pub struct Echo {
    server: Child,
    socket: OwnedFd,
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _gone = self.server.kill();
        let _reaped = self.server.wait();
    }
}

impl Echo {
    /// Starts it, on processor `cpu` if given.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(dir: &Path, cpu: Option<usize>) -> Result<Self> {
        let path = dir.join(format!("echo{}.sock", cpu.unwrap_or(99)));
        let mut server = Command::new(std::env::current_exe()?)
            .arg("--echo-server")
            .arg(&path)
            .args(cpu.map(|c| c.to_string()))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the echo server")?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match connected(&path) {
                Ok(socket) => return Ok(Echo { server, socket }),
                Err(e) if Instant::now() > end => {
                    server.kill()?;
                    return Err(e.context("no echo server"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// One round trip.
    ///
    /// # Errors
    /// If a socket call fails.
    pub fn round_trip(&self) -> Result<()> {
        let mut buf = [0; LEN];
        send(&self.socket, &buf, SendFlags::NOSIGNAL)?;
        recv(&self.socket, &mut buf[..], RecvFlags::empty())?;
        Ok(())
    }
}
