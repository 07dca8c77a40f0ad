// SPDX-License-Identifier: GPL-2.0-or-later
//! A virtual machine with the test guest.

mod config;

pub use config::{comma, Config, Driver, Extra, Function};

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure, Context, Result};

use self::config::more_ports;
use super::answer::Answer;
use super::port::Port;
use super::process::{Interrupted, Process, POLL};
use super::qmp::Qmp;
use test_kit::patience::Patience;
use test_kit::run::quote;
use test_kit::steps::tail;

/// Longest time from QEMU's start until the guest takes commands, in its own time.
const BOOT: Duration = Duration::from_secs(120);
/// Longest time until QEMU has opened its sockets, in its own time.
const OPEN: Duration = Duration::from_secs(20);

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    dir: PathBuf,
    process: Process,
    port: Port,
    qmp: Qmp,
    console_log: PathBuf,
    interrupted: Interrupted,
}

impl Machine {
    /// Starts QEMU; the guest boots meanwhile. Sockets go to `dir`, logs to `logs`.
    ///
    /// # Errors
    /// When QEMU does not start; with its messages.
    pub fn start(
        name: &str,
        config: &Config<'_>,
        dir: &Path,
        logs: &Path,
        interrupted: &Interrupted,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}-qemu.log"));
        let console_log = logs.join(format!("{name}-console.log"));
        let port_log = logs.join(format!("{name}-port.log"));
        let (port, qmp) = (
            dir.join(format!("{name}.port")),
            dir.join(format!("{name}.qmp")),
        );
        for old in [&port, &qmp] {
            let _ = fs::remove_file(old);
        }
        let mut args = config.arguments();
        let console = if config.console {
            "stdio,id=console,signal=off,mux=off".to_owned()
        } else {
            // Somebody may look into a machine that is kept.
            let socket = dir.join(format!("{name}.console"));
            let _ = fs::remove_file(&socket);
            format!(
                "socket,id=console,path={},server=on,wait=off,logfile={}",
                comma(&socket),
                comma(&console_log)
            )
        };
        let sockets = [
            ("-chardev", console),
            ("-serial", "chardev:console".to_owned()),
            (
                "-chardev",
                format!("socket,id=port,path={},server=on,wait=off", comma(&port)),
            ),
            ("-serial", "chardev:port".to_owned()),
            ("-qmp", format!("unix:{},server=on,wait=off", comma(&qmp))),
        ];
        let sockets = sockets
            .into_iter()
            .chain(more_ports(name, &config.extra.ports, dir));
        for (option, value) in sockets {
            args.push(option.into());
            args.push(value.into());
        }
        let mut process = if config.console {
            let mut line = quote(config.qemu.as_os_str());
            for arg in &args {
                line.push(' ');
                line += &quote(arg);
            }
            let out = File::create(&log)?;
            let child = Command::new(config.qemu)
                .args(&args)
                .stdin(Stdio::inherit())
                .stdout(Stdio::inherit())
                .stderr(out)
                .spawn()
                .with_context(|| format!("cannot start {}", config.qemu.display()))?;
            Process::adopt(name, child, &log, line)
        } else {
            Process::start(name, config.qemu, &args, &log)?
        };
        let port = connect(&mut process, &port, interrupted)?;
        let qmp = Qmp::new(connect(&mut process, &qmp, interrupted)?)?;
        Ok(Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            process,
            port: Port::new(name, port, &port_log, interrupted)?,
            qmp,
            console_log,
            interrupted: interrupted.clone(),
        })
    }

    /// Connects to one more serial port of the guest; see [`Extra::ports`].
    ///
    /// # Errors
    /// When QEMU has not opened it.
    pub fn connect(&mut self, port: &str) -> Result<UnixStream> {
        let path = self.dir.join(format!("{}.{port}", self.name));
        connect(&mut self.process, &path, &self.interrupted)
    }

    /// Number of QEMU's process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// QEMU's machine protocol.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Waits until the guest takes commands, at the start or after a reset.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (port, process) = (&mut self.port, &mut self.process);
        let done = port.wait_ready(BOOT, &mut || alive(process));
        self.explained(done)
    }

    /// Has the guest run a scenario, and waits until it is over.
    ///
    /// # Errors
    /// When the guest does not answer in time. A scenario that failed is not an error here: see
    /// [`Answer::ok`].
    pub fn run(&mut self, command: &str, within: Duration) -> Result<Answer> {
        let id = self.send(command)?;
        self.wait(&id, command, within)
    }

    /// Asks for a scenario without waiting; [`Machine::wait`] with the result waits.
    ///
    /// # Errors
    /// When the guest's port is gone.
    pub fn send(&mut self, command: &str) -> Result<String> {
        let sent = self.port.send(command);
        self.explained(sent)
    }

    /// Waits for the end of a scenario.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn wait(&mut self, id: &str, command: &str, within: Duration) -> Result<Answer> {
        let (port, process) = (&mut self.port, &mut self.process);
        let answer = port.wait(id, command, within, &mut || alive(process));
        self.explained(answer)
    }

    /// # Errors
    /// When QEMU has ended; without its messages.
    pub fn alive(&mut self) -> Result<()> {
        alive(&mut self.process)
    }

    /// Adds the end of the logs to an error, but for that of an interruption.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        self.interrupted.check()?;
        result.map_err(|error| anyhow!("{error:#}{}", self.evidence()))
    }

    /// Waits until QEMU has ended, as after a power off.
    ///
    /// # Errors
    /// When the user interrupts.
    pub fn wait_ended(&mut self, within: Option<Duration>) -> Result<bool> {
        let mut patience = within.map(Patience::new);
        while !self.process.ended() {
            self.interrupted.check()?;
            if patience.as_mut().is_some_and(|left| left.look().is_err()) {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    fn evidence(&self) -> String {
        let mut text = self.process.evidence();
        for log in [self.port.log(), &self.console_log] {
            for line in tail(log, 6) {
                text += "\n    | ";
                text += &line;
            }
            text += &format!("\n  log: {}", log.display());
        }
        text
    }
}

/// Connects to a socket that a process is about to open.
///
/// # Errors
/// When it does not in time, or ends.
pub fn connect(
    process: &mut Process,
    path: &Path,
    interrupted: &Interrupted,
) -> Result<UnixStream> {
    let mut patience = Patience::new(OPEN);
    loop {
        match (UnixStream::connect(path), patience.look()) {
            (Ok(stream), _) => return Ok(stream),
            (Err(error), Err(spent)) => {
                bail!(
                    "QEMU has not opened {} {spent}: {error}{}",
                    path.display(),
                    process.evidence()
                )
            }
            (Err(_), Ok(())) => {}
        }
        interrupted.check()?;
        if process.ended() {
            bail!("QEMU ended at once{}", process.evidence());
        }
        thread::sleep(POLL);
    }
}

fn alive(process: &mut Process) -> Result<()> {
    ensure!(!process.ended(), "QEMU ended");
    Ok(())
}
