// SPDX-License-Identifier: GPL-2.0-or-later
//! A client of QEMU's machine protocol: one command at a time.

use std::io::{BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use test_kit::patience::{read_line, Patience, LOOK};

/// Longest time QEMU may take for an answer, in its own time.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest time QEMU may take to read a command, by the clock: what it is sent fits into a socket.
const SENT: Duration = Duration::from_secs(120);

/// A connection that takes commands.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes a fresh connection out of the negotiation mode.
    ///
    /// # Errors
    /// When QEMU does not answer as it should.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(SENT))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        let greeting = qmp.receive(&mut Patience::new(ANSWER))?;
        if greeting.get("QMP").is_none() {
            bail!("this is not QEMU's machine protocol: {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Takes a connection to a serial port on which QEMU has greeted already, or will, and on which
    /// there may be the rest of an earlier conversation.
    ///
    /// # Errors
    /// When QEMU does not answer as it should.
    pub fn over_serial(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(SENT))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        // Allowed once; the error of a second time is as good an answer.
        qmp.reader
            .get_mut()
            .write_all(b"{\"execute\": \"qmp_capabilities\", \"id\": \"begin\"}")?;
        let mut patience = Patience::new(ANSWER);
        while patience.look().is_ok() {
            let Some(line) = read_line(&mut qmp.reader, &mut patience)? else {
                bail!("the port was closed");
            };
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if answer.get("id").is_some_and(|id| id == "begin") {
                return Ok(qmp);
            }
        }
        bail!("QEMU does not answer on the serial port")
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// When QEMU refuses it or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let mut patience = Patience::new(ANSWER);
        self.reader.get_mut().write_all(text.as_bytes())?;
        while patience.look().is_ok() {
            let mut answer = self
                .receive(&mut patience)
                .with_context(|| format!("QEMU, asked for {command}"))?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Otherwise an event.
        }
        bail!("QEMU sends events instead of an answer to {command}")
    }

    /// Waits for an event about a device. Those that came before an answer of QEMU are lost.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_event(&mut self, name: &str, device: &str) -> Result<()> {
        let mut patience = Patience::new(ANSWER);
        while patience.look().is_ok() {
            let message = self
                .receive(&mut patience)
                .with_context(|| format!("no event {name} of {device}"))?;
            let of = message.pointer("/data/device").and_then(Value::as_str);
            if message.get("event").is_some_and(|event| event == name) && of == Some(device) {
                return Ok(());
            }
        }
        bail!("no event {name} of {device}, but others")
    }

    fn receive(&mut self, patience: &mut Patience) -> Result<Value> {
        let Some(line) = read_line(&mut self.reader, patience)? else {
            bail!("QEMU closed the connection");
        };
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conversation with somebody who says these lines, whatever he is asked.
    fn with(lines: &[&str]) -> Qmp {
        let (here, mut there) = UnixStream::pair().unwrap();
        for line in lines {
            writeln!(there, "{line}").unwrap();
        }
        there.shutdown(std::net::Shutdown::Write).unwrap();
        // Kept open for what is asked.
        std::mem::forget(there);
        Qmp::new(here).unwrap()
    }

    const BEGIN: [&str; 2] = [r#"{"QMP": {}}"#, r#"{"return": {}}"#];

    #[test]
    fn the_event_of_the_device_is_waited_for() {
        let event =
            |device| format!(r#"{{"event": "DEVICE_DELETED", "data": {{"device": "{device}"}}}}"#);
        let (other, wanted) = (event("other"), event("wanted"));
        let nameless = r#"{"event": "DEVICE_DELETED", "data": {"path": "/machine"}}"#;
        let another = r#"{"event": "STOP", "data": {"device": "wanted"}}"#;
        let lines = [&BEGIN[..], &[another, nameless, &other, &wanted]].concat();
        with(&lines).wait_event("DEVICE_DELETED", "wanted").unwrap();
        let error = with(&lines[..5]).wait_event("DEVICE_DELETED", "wanted");
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            text.contains("no event DEVICE_DELETED of wanted") && text.contains("closed"),
            "{text}"
        );
    }
}
