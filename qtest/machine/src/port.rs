// SPDX-License-Identifier: GPL-2.0-or-later
//! The command port of a guest: lines out, lines in.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::answer::{Answer, Line};
use super::process::Interrupted;
use test_kit::patience::{Patience, Spent};

/// A guest's command port.
#[derive(Debug)]
pub struct Port {
    name: String,
    stream: UnixStream,
    lines: Receiver<String>,
    log: PathBuf,
    interrupted: Interrupted,
    next_id: u32,
}

/// Says why no answer can come any more, if that is so.
pub type Alive<'a> = &'a mut dyn FnMut() -> Result<()>;

impl Port {
    /// Takes a connection to the port of the guest `name`; what comes is also written to `log`.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn new(
        name: &str,
        stream: UnixStream,
        log: &Path,
        interrupted: &Interrupted,
    ) -> Result<Self> {
        let lines = read_lines(stream.try_clone()?, log)?;
        Ok(Self {
            name: name.to_owned(),
            stream,
            lines,
            log: log.to_owned(),
            interrupted: interrupted.clone(),
            next_id: 0,
        })
    }

    /// Where everything the guest said is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until the guest takes commands.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready(&mut self, within: Duration, alive: Alive<'_>) -> Result<()> {
        let mut patience = Patience::new(within);
        loop {
            match self.line(&mut patience, alive)? {
                Ok(Line::Ready) => return Ok(()),
                Ok(_) => {}
                Err(spent) => bail!("{} has not booted {spent}", self.name),
            }
        }
    }

    /// Asks for a scenario without waiting; [`Port::wait`] with the result waits.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn send(&mut self, command: &str) -> Result<String> {
        self.next_id += 1;
        let id = self.next_id.to_string();
        self.stream
            .write_all(format!("{id} {command}\n").as_bytes())
            .with_context(|| format!("{} takes no commands", self.name))?;
        Ok(id)
    }

    /// Waits for the end of a scenario. One that failed is not an error here: see [`Answer::ok`].
    ///
    /// # Errors
    /// When the guest does not answer in time.
    pub fn wait(
        &mut self,
        id: &str,
        command: &str,
        within: Duration,
        alive: Alive<'_>,
    ) -> Result<Answer> {
        let mut patience = Patience::new(within);
        let mut values = Vec::new();
        loop {
            match self.line(&mut patience, alive)? {
                Ok(Line::Done { id: done, status }) if done == id => {
                    return Ok(Answer::new(command, status, values))
                }
                Ok(Line::Values(more)) => values.extend(more),
                Ok(_) => {}
                Err(spent) => bail!(
                    "{} has not finished \"{command}\" {spent}; it said so far: {}",
                    self.name,
                    Answer::new(command, 0, values).text()
                ),
            }
        }
    }

    /// Forgets what came and was not waited for, as before the guest is started anew.
    pub fn drain(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }

    /// The next line of the protocol, unless the time is over before.
    fn line(&mut self, patience: &mut Patience, alive: Alive<'_>) -> Result<Result<Line, Spent>> {
        loop {
            self.interrupted.check()?;
            if let Err(spent) = patience.look() {
                return Ok(Err(spent));
            }
            match self.lines.recv_timeout(patience.step()) {
                Ok(text) => {
                    if let Some(line) = Line::parse(&text) {
                        return Ok(Ok(line));
                    }
                }
                Err(RecvTimeoutError::Timeout) => alive()?,
                Err(RecvTimeoutError::Disconnected) => bail!("{} closed its port", self.name),
            }
        }
    }
}

/// Reads lines in a thread of its own, so that the guest never waits for this program.
fn read_lines(port: UnixStream, log: &Path) -> Result<Receiver<String>> {
    let mut log = File::create(log)?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(port)
            .split(b'\n')
            .map_while(std::result::Result::ok)
        {
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = writeln!(log, "{}", line.trim_end());
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> (Port, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (ours, guests) = UnixStream::pair().unwrap();
        let interrupted = Interrupted::default();
        let port = Port::new("it", ours, &dir.path().join("log"), &interrupted).unwrap();
        (port, guests, dir)
    }

    const SHORT: Duration = Duration::from_secs(5);

    #[test]
    fn the_answer_to_a_command_is_that_with_its_number() {
        let (mut port, mut guest, _dir) = port();
        let id = port.send("ping 3").unwrap();
        guest
            .write_all(
                b"VLVF: ready\nVLVF: done id=0 rc=7\nnoise\nVLVF: sent=3\nVLVF: done id=1 rc=0\n",
            )
            .unwrap();
        let answer = port.wait(&id, "ping 3", SHORT, &mut || Ok(())).unwrap();
        assert_eq!((answer.status, answer.number("sent").unwrap()), (0, 3));
        let mut line = String::new();
        BufReader::new(guest).read_line(&mut line).unwrap();
        assert_eq!(line, "1 ping 3\n");
    }

    #[test]
    fn a_guest_that_is_gone_is_not_waited_for() {
        let (mut port, guest, _dir) = port();
        let id = port.send("x").unwrap();
        let error = port.wait(&id, "x", SHORT, &mut || bail!("it ended"));
        assert!(error.unwrap_err().to_string().contains("it ended"));
        let error = port.wait(&id, "x", Duration::ZERO, &mut || Ok(()));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("it has not finished \"x\""), "{text}");
        drop(guest);
        let error = port.wait_ready(SHORT, &mut || Ok(())).unwrap_err();
        assert!(error.to_string().contains("closed its port"));
    }

    #[test]
    fn what_is_drained_is_not_taken_for_new() {
        let (mut port, mut guest, _dir) = port();
        guest.write_all(b"VLVF: ready\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        port.drain();
        let again = port.wait_ready(Duration::from_millis(50), &mut || Ok(()));
        assert!(again.is_err());
    }
}
