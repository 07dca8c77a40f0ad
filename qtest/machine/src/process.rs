// SPDX-License-Identifier: GPL-2.0-or-later
//! Processes that run while a guest does, each with a log file; they end with this program.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rustix::process::{kill_process, Pid, Signal};

use test_kit::patience::{self, Patience};
use test_kit::run::quote;
use test_kit::steps::tail;

/// How long a process may take to end by itself after it was asked to, in its own time.
const END: Duration = Duration::from_secs(5);
/// How often is looked at something that gives no sign.
pub const POLL: Duration = Duration::from_millis(10);
/// Lines of a log that an error shows.
const TAIL: usize = 15;

/// Set when the user interrupted this program; long waits end then.
#[derive(Debug, Clone, Default)]
pub struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// Catches SIGINT, SIGTERM and SIGHUP, so that what was started is ended in order.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            // A second signal ends the program at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())
                .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
                .context("cannot catch signals")?;
        }
        Ok(Self(flag))
    }

    /// Does what a signal does.
    pub fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// When the user interrupted.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    line: String,
}

impl Process {
    /// Starts `program`; its output goes to `log`, which begins with the command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        name: &str,
        program: &Path,
        args: &[S],
        log: &Path,
    ) -> Result<Self> {
        let out =
            File::create(log).with_context(|| format!("cannot write log {}", log.display()))?;
        let mut line = quote(program.as_os_str());
        for arg in args {
            line.push(' ');
            line.push_str(&quote(arg.as_ref()));
        }
        // It must not outlive this program, however that ends.
        let bound = !KEEP.load(Ordering::Relaxed) && Path::new("/usr/bin/setpriv").exists();
        let mut command = if bound {
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self::adopt(name, child, log, line))
    }

    /// Takes a process that was started otherwise.
    pub fn adopt(name: &str, child: Child, log: &Path, line: String) -> Self {
        patience::watch(child.id());
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            line,
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The command as a shell would take it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until a line of its log starts with `word`.
    ///
    /// # Errors
    /// When it ends before or does not say so in time; with the end of its log.
    pub fn wait_for_line(
        &mut self,
        word: &str,
        within: Duration,
        interrupted: &Interrupted,
    ) -> Result<()> {
        let mut patience = Patience::new(within);
        loop {
            let mut text = Vec::new();
            if let Ok(file) = File::open(&self.log) {
                let _ = file.take(1 << 20).read_to_end(&mut text);
            }
            let text = String::from_utf8_lossy(&text);
            if text.lines().any(|line| line.starts_with(word)) {
                return Ok(());
            }
            interrupted.check()?;
            if self.ended() {
                bail!("{} ended at once{}", self.name, self.evidence());
            }
            if let Err(spent) = patience.look() {
                bail!("{} is not ready {spent}{}", self.name, self.evidence());
            }
            thread::sleep(POLL);
        }
    }

    /// The end of the log, its place and the command, to be put behind an error.
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for line in tail(&self.log, TAIL) {
            text += "\n    | ";
            text += &line;
        }
        format!(
            "{text}\n  log: {}\n  command: {}",
            self.log.display(),
            self.line
        )
    }

    /// Ends it without warning, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and ends it if it does not; gives whether it ended by itself.
    pub fn end(&mut self) -> bool {
        if self.ended() {
            return true;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let mut patience = Patience::new(END);
        while patience.look().is_ok() {
            if self.ended() {
                return true;
            }
            thread::sleep(POLL);
        }
        self.kill();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !KEEP.load(Ordering::Relaxed) {
            self.end();
        }
        patience::forget(self.child.id());
    }
}

/// Set by [`keep_all`].
static KEEP: AtomicBool = AtomicBool::new(false);

/// Has every process go on when this program ends, for somebody who wants to look at them.
pub fn keep_all() {
    KEEP.store(true, Ordering::Relaxed);
}
