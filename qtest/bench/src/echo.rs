// SPDX-License-Identifier: GPL-2.0-or-later
//! The baseline: another process that sends each message back, and nothing else.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::net::{
    accept, bind, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

use crate::socket::connected;
use crate::{time_per_call, Effort};

/// Bytes there and back, as of a register read.
const LEN: usize = 24;

/// The server: one client, until it leaves.
///
/// # Errors
/// If a socket call fails.
pub fn serve(path: &Path) -> Result<()> {
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

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Time of one round trip with a process of this program that runs [`serve`].
///
/// # Errors
/// If it cannot be started.
pub fn round_trip(dir: &Path, effort: Effort) -> Result<Duration> {
    let path = dir.join("echo.sock");
    let child = Command::new(std::env::current_exe()?)
        .arg("--echo-server")
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the echo server")?;
    let server = Server(child);
    let end = Instant::now() + Duration::from_secs(10);
    let socket = loop {
        match connected(&path) {
            Ok(socket) => break socket,
            Err(e) if Instant::now() > end => return Err(e.context("no echo server")),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut failure = None;
    let mut buf = [0; LEN];
    let time = time_per_call(effort, || {
        let result = send(&socket, &buf, SendFlags::NOSIGNAL)
            .and_then(|_| recv(&socket, &mut buf[..], RecvFlags::empty()));
        if let Err(e) = result {
            failure = Some(e);
        }
    });
    drop(server);
    match failure {
        Some(e) => bail!("echo: {e}"),
        None => Ok(time),
    }
}
