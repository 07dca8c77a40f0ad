// SPDX-License-Identifier: GPL-2.0-or-later
//! A child process with its log, killed when dropped.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{
    getrlimit, kill_process, pidfd_open, setrlimit, Pid, PidfdFlags, Resource, Rlimit, Signal,
};
use test_kit::patience::{self, Patience};

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with `args`; what it prints goes to files in `dir`. It dies with the thread
    /// that started it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(name: &str, program: &Path, args: &[String], dir: &Path) -> Result<Self> {
        let unique = (0..1000)
            .map(|i| dir.join(format!("{name}-{i}.out")))
            .find(|p| !p.exists())
            .with_context(|| format!("too many logs of {name}"))?;
        let stderr = unique.with_extension("err");
        let out = File::create(&unique)?;
        let err = File::create(&stderr)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .env("RUST_BACKTRACE", "1")
            .spawn()
            .with_context(|| format!("cannot start {} (through setpriv)", program.display()))?;
        let pid = Pid::from_child(&child);
        patience::watch(child.id());
        Ok(Process {
            name: name.to_owned(),
            child,
            pid,
            stdout: unique,
            stderr,
            status: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, standard output first.
    pub fn log(&self) -> String {
        let read =
            |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap_or_default()).into_owned();
        read(&self.stdout) + &read(&self.stderr)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// If it has not ended after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let fd = pidfd_open(self.pid, PidfdFlags::empty())?;
        let mut patience = Patience::new(limit);
        let step = patience.step();
        let timeout = Timespec {
            tv_sec: i64::try_from(step.as_secs())?,
            tv_nsec: i64::from(step.subsec_nanos()),
        };
        while poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))? == 0 {
            if let Err(spent) = patience.look() {
                bail!(
                    "{} has not ended {spent}; its log:\n{}",
                    self.name,
                    self.log()
                );
            }
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_none())
    }

    /// Waits until its log contains `text`.
    ///
    /// # Errors
    /// If that has not happened after `limit`, or it has ended without.
    pub fn wait_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        let mut patience = Patience::new(limit);
        loop {
            let running = self.is_running()?;
            if self.log().contains(text) {
                return Ok(());
            }
            if !running || patience.look().is_err() {
                bail!(
                    "{} has {} without printing \"{text}\"; its log:\n{}",
                    self.name,
                    if running { "run for long" } else { "ended" },
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running()? {
            bail!("{} has ended already; its log:\n{}", self.name, self.log());
        }
        kill_process(self.pid, signal)?;
        Ok(())
    }

    /// Stops it (SIGSTOP) until [`Process::resume`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// If it does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(crate::PATIENCE)
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// If it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit(crate::PATIENCE)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        patience::forget(self.child.id());
        let ended = self.status.or(self.child.try_wait().ok().flatten());
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let how = match ended {
                None => "still ran".to_owned(),
                Some(s) => match s.signal() {
                    Some(n) => format!("had died of signal {n}"),
                    None => format!("had ended with {}", s.code().unwrap_or(-1)),
                },
            };
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} {how}; end of its log:", self.name);
            for line in tail.iter().rev() {
                eprintln!("    {line}");
            }
        }
    }
}

/// Lets this process, and what it starts from now on, have `files` open at the same time.
///
/// # Errors
/// If the hard limit is lower.
pub fn allow_files(files: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= files) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(files),
        ..limit
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("{files} open files are needed; raise the limit (ulimit -Hn)"))
}
