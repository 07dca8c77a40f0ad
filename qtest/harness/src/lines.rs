// SPDX-License-Identifier: GPL-2.0-or-later
//! Line-based conversations over a Unix stream socket, with deadlines.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use test_kit::patience::Patience;

/// Longest line taken, in bytes.
const MAX_LINE: usize = 16 << 20;

/// A stream cut into lines.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Lines {
    /// Lines of a connected stream.
    pub fn new(stream: UnixStream) -> Self {
        Lines {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Connects to the socket at `path`, trying until `limit`.
    ///
    /// # Errors
    /// If nobody listens there in time.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let mut patience = Patience::new(limit);
        loop {
            match (UnixStream::connect(path), patience.look()) {
                (Ok(stream), _) => return Ok(Lines::new(stream)),
                (Err(e), Err(spent)) => {
                    return Err(e)
                        .with_context(|| format!("cannot connect to {} {spent}", path.display()))
                }
                (Err(_), Ok(())) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Sends one line.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.stream.set_write_timeout(Some(crate::PATIENCE))?;
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        self.stream.write_all(&bytes)?;
        Ok(())
    }

    /// Receives one line.
    ///
    /// # Errors
    /// If the peer closes, sends nonsense, or nothing before `limit`.
    pub fn receive(&mut self, limit: Duration) -> Result<String> {
        let mut patience = Patience::new(limit);
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(String::from_utf8(line)?.trim_end().to_owned());
            }
            if self.buffer.len() > MAX_LINE {
                bail!("the peer sends a line without end");
            }
            if let Err(spent) = patience.look() {
                bail!("no line {spent}");
            }
            self.stream.set_read_timeout(Some(patience.step()))?;
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the peer has closed the connection"),
                Ok(n) => self
                    .buffer
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
