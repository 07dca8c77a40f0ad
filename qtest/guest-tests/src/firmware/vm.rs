// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtual machine that starts with its firmware, watched by what it says on its serial port.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::Value;

use test_kit::patience::Patience;
use test_machine::bench::Bench;
use test_machine::machine::{comma, connect};
use test_machine::process::{Interrupted, Process, POLL};

/// Memory in MiB.
const MEMORY_MIB: u32 = 768;
/// Most that is kept of what a machine says.
const KEPT: usize = 16 << 20;
/// Lines of the console that an error shows.
const TAIL: usize = 12;

/// What a machine starts with.
#[derive(Debug, Clone)]
pub(crate) enum Firmware {
    /// SeaBIOS, with its messages also in a log of its own.
    SeaBios,
    /// A firmware image in place of SeaBIOS.
    Bios(PathBuf),
    /// A firmware image in flash memory: code, and variables that are copied before.
    Flash(PathBuf, PathBuf),
}

/// A running machine.
pub(crate) struct Vm {
    name: String,
    process: Process,
    serial: UnixStream,
    said: Arc<Mutex<Vec<u8>>>,
    /// Up to where [`Vm::expect`] has looked.
    seen: usize,
    console_log: PathBuf,
    firmware_log: PathBuf,
    interrupted: Interrupted,
}

impl Vm {
    /// Starts a machine with these devices (QEMU's JSON form) and more arguments.
    ///
    /// # Errors
    /// When QEMU does not start; with its messages.
    pub(crate) fn start(
        bench: &Bench,
        name: &str,
        firmware: &Firmware,
        devices: &[Value],
        more: &[&str],
    ) -> Result<Self> {
        let log = |end: &str| bench.logs.join(format!("{name}-{end}.log"));
        let (console_log, firmware_log) = (log("console"), log("firmware"));
        let socket = bench.run.path().join("serial.sock");
        let _ = fs::remove_file(&socket);
        let mut args: Vec<String> = Vec::new();
        for dir in &bench.image.firmware {
            args.extend(["-L".to_owned(), text(dir)]);
        }
        // Without graphics SeaBIOS, and what it starts, talks to the serial port.
        let words = format!(
            "-machine q35,memory-backend=ram,graphics=off -accel tcg -cpu max -m {MEMORY_MIB} \
             -object memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on \
             -no-user-config -nodefaults -display none -no-reboot"
        );
        args.extend(words.split_whitespace().map(str::to_owned));
        args.extend([
            "-chardev".to_owned(),
            format!("file,id=firmware,path={}", comma(&firmware_log)),
            "-device".to_owned(),
            "isa-debugcon,iobase=0x402,chardev=firmware".to_owned(),
            "-chardev".to_owned(),
            // The machine runs when somebody listens, so that nothing is lost.
            format!("socket,id=serial,path={},server=on,wait=on", comma(&socket)),
            "-serial".to_owned(),
            "chardev:serial".to_owned(),
        ]);
        match firmware {
            Firmware::SeaBios => {}
            Firmware::Bios(image) => args.extend(["-bios".to_owned(), text(image)]),
            Firmware::Flash(code, variables) => {
                let copy = bench.run.path().join("variables.fd");
                fs::copy(variables, &copy)
                    .with_context(|| format!("cannot copy {}", variables.display()))?;
                for (file, more) in [(code, ",readonly=on"), (&copy, "")] {
                    args.push("-drive".to_owned());
                    args.push(format!("if=pflash,format=raw,file={}{more}", comma(file)));
                }
            }
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        for device in devices {
            args.extend(["-device".to_owned(), device.to_string()]);
        }
        let mut process = Process::start(name, &bench.programs.qemu, &args, &log("qemu"))?;
        let serial = connect(&mut process, &socket, &bench.interrupted)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        listen(serial.try_clone()?, &console_log, said.clone())?;
        Ok(Self {
            name: name.to_owned(),
            process,
            serial,
            said,
            seen: 0,
            console_log,
            firmware_log,
            interrupted: bench.interrupted.clone(),
        })
    }

    /// Waits until the machine says one of `texts`, behind what was found last; gives which.
    ///
    /// # Errors
    /// When it does not in time, or ends.
    pub(crate) fn expect_any(&mut self, texts: &[&str], within: Duration) -> Result<usize> {
        let mut patience = Patience::new(within);
        loop {
            // Before the look at what it said: what it said last counts.
            let ended = self.process.ended();
            let found = {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                first_of(said.get(self.seen..).unwrap_or_default(), texts)
            };
            if let Some((which, end)) = found {
                self.seen += end;
                return Ok(which);
            }
            self.interrupted.check()?;
            let wanted = texts.join("\" or \"");
            if ended {
                bail!(
                    "{} ended without \"{wanted}\"{}",
                    self.name,
                    self.evidence()
                );
            }
            if let Err(spent) = patience.look() {
                bail!(
                    "{} has not said \"{wanted}\" {spent}{}",
                    self.name,
                    self.evidence()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for one text; see [`Vm::expect_any`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn expect(&mut self, text: &str, within: Duration) -> Result<()> {
        self.expect_any(&[text], within).map(|_| ())
    }

    /// Types something.
    ///
    /// # Errors
    /// When the machine is gone.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.serial
            .write_all(text.as_bytes())
            .with_context(|| format!("{} takes no input{}", self.name, self.evidence()))
    }

    /// All that the machine said so far.
    pub(crate) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }

    /// The end of it, for an error.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let mut text = String::new();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            text += "\n    | ";
            text.extend(line.chars().filter(|c| !c.is_control()));
        }
        text + &format!(
            "\n  logs: {} {}",
            self.console_log.display(),
            self.firmware_log.display()
        )
    }

    /// What the firmware wrote to its debug port.
    ///
    /// # Errors
    /// When there is no such log.
    pub(crate) fn firmware_said(&self) -> Result<String> {
        let bytes = fs::read(&self.firmware_log)
            .with_context(|| format!("cannot read {}", self.firmware_log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn evidence(&self) -> String {
        self.process.evidence() + &self.last_words()
    }
}

/// The text that ends first: (its index, where it ends).
fn first_of(said: &[u8], texts: &[&str]) -> Option<(usize, usize)> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| {
            let at = said
                .windows(text.len())
                .position(|part| part == text.as_bytes())?;
            Some((index, at + text.len()))
        })
        .min_by_key(|(_, end)| *end)
}

/// Reads in a thread of its own, so that the machine never waits for this program.
fn listen(mut serial: UnixStream, log: &Path, said: Arc<Mutex<Vec<u8>>>) -> Result<()> {
    let mut log =
        File::create(log).with_context(|| format!("cannot write log {}", log.display()))?;
    thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(n) = serial.read(&mut part) {
            let bytes = part.get(..n).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            let _ = log.write_all(bytes);
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() < KEPT {
                said.extend_from_slice(bytes);
            }
        }
    });
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_ends_first_is_found() {
        assert_eq!(
            first_of(b"xx ready error", &["error", "ready"]),
            Some((1, 8))
        );
        assert_eq!(first_of(b"xx read", &["ready"]), None);
        assert_eq!(first_of(b"", &["ready"]), None);
    }
}
