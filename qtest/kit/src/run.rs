// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands whose output goes to a step's log, and whose failure shows the end of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{anyhow, Context, Result};

use crate::steps::{open_log, plain, tail, Step};

/// Lines of a log that a failure shows: its end, and errors before that.
const TAIL: usize = 25;
const ERRORS: usize = 5;

/// Starts a command such that it ends when its parent does, however that happens: nothing may go on
/// writing to a directory whose lock went with this program. Part of every Debian.
const BINDER: &str = "/usr/bin/setpriv";

/// A command to be run. Its standard input is empty: nothing here asks questions.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    dir: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    hint: Option<String>,
}

impl Cmd {
    /// A command by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            dir: None,
            env: Vec::new(),
            hint: None,
        }
    }

    /// Cargo itself, the one that runs this program if it can be told.
    pub fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The directory to run it in.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// What the user can do when this fails; shown below the log's tail.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// Runs it with all output going to the step's log.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed; the text has the command, its status, the
    /// end of the log, the log's path and the hint.
    pub fn run(&self, step: &Step) -> Result<()> {
        let status = self.status(step)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failure(status, step.log()))
        }
    }

    /// Runs it with all output going to the step's log and gives its status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn status(&self, step: &Step) -> Result<ExitStatus> {
        let log = self.begin(step)?;
        self.command()
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| self.not_started())
    }

    /// Runs it and gives its standard output; standard error goes to the step's log.
    ///
    /// # Errors
    /// As [`Cmd::run`].
    pub fn output(&self, step: &Step) -> Result<String> {
        let log = self.begin(step)?;
        let output = self
            .command()
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .with_context(|| self.not_started())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failure(output.status, step.log()))
        }
    }

    /// Runs it outside of any step and gives its standard output, or nothing when it cannot be
    /// started or fails. For questions such as a program's version.
    pub fn ask(&self) -> Option<String> {
        let output = self.command().stderr(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn begin(&self, step: &Step) -> Result<std::fs::File> {
        let mut log = open_log(step.log())?;
        writeln!(log, "$ {}", self.line())
            .with_context(|| format!("cannot write {}", step.log().display()))?;
        Ok(log)
    }

    fn command(&self) -> Command {
        let mut command = if Path::new(BINDER).exists() && self.found() {
            let mut command = Command::new(BINDER);
            command
                .args(["--pdeathsig", "TERM", "--"])
                .arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(&self.args).stdin(Stdio::null());
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Whether the program can be found; if not, starting it directly gives the better error.
    fn found(&self) -> bool {
        if self.program.as_encoded_bytes().contains(&b'/') {
            return Path::new(&self.program).exists();
        }
        let own = self
            .env
            .iter()
            .rfind(|(name, _)| name == "PATH")
            .map(|(_, value)| value.clone());
        let path = own.or_else(|| env::var_os("PATH")).unwrap_or_default();
        env::split_paths(&path).any(|dir| dir.join(&self.program).is_file())
    }

    /// The command as a shell would take it.
    pub fn line(&self) -> String {
        let mut text = String::new();
        if let Some(dir) = &self.dir {
            // Writing to a String cannot fail.
            let _ = write!(text, "cd {} && ", quote(dir.as_os_str()));
        }
        for (name, value) in &self.env {
            let _ = write!(text, "{}={} ", name.to_string_lossy(), quote(value));
        }
        text.push_str(&quote(&self.program));
        for arg in &self.args {
            text.push(' ');
            text.push_str(&quote(arg));
        }
        text
    }

    fn not_started(&self) -> String {
        let mut text = format!("cannot start {}", self.program.to_string_lossy());
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  way out: {hint}");
        }
        text
    }

    fn failure(&self, status: ExitStatus, log: &Path) -> anyhow::Error {
        let mut text = format!("{}: {}\n", describe(status), self.line());
        let end = tail(log, TAIL);
        let errors: Vec<String> = first_errors(log)
            .into_iter()
            .filter(|line| !end.contains(line))
            .collect();
        if !errors.is_empty() {
            let _ = writeln!(text, "  the first errors:");
        }
        for line in errors {
            let _ = writeln!(text, "    | {line}");
        }
        let _ = writeln!(text, "  the end of its output:");
        for line in end {
            let _ = writeln!(text, "    | {line}");
        }
        let _ = write!(text, "  all of it: {}", log.display());
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n  way out: {hint}");
        }
        anyhow!(text)
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}

/// The first few lines that look like a compiler's or meson's errors, or like tests that panic, after the
/// last command in the log.
fn first_errors(log: &Path) -> Vec<String> {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let start = text.rfind("\n$ ").unwrap_or(0);
    let mut lines = text.get(start..).unwrap_or_default().lines().map(plain);
    let mut errors = Vec::new();
    while errors.len() < ERRORS {
        let Some(line) = lines.next() else { break };
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            // The line behind it says why.
            let why = lines.next().unwrap_or_default();
            errors.push(format!("{line} {why}"));
            continue;
        }
        let error =
            line.starts_with("error") || line.contains(": error: ") || line.contains("ERROR: ");
        // The command itself can have the word.
        if error && !line.starts_with("$ ") {
            errors.push(line);
        }
    }
    errors
}

/// Quotes a word for a POSIX shell where it needs it.
pub fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::Steps;

    fn step<T>(work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let dir = tempfile::tempdir().unwrap();
        Steps::at(dir.path()).run("test", work)
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        let cmd = Cmd::new("sh")
            .args(["-c", "echo 'a b'"])
            .dir("/x y")
            .env("A", "");
        assert_eq!(cmd.line(), r"cd '/x y' && A='' sh -c 'echo '\''a b'\'''");
    }

    #[test]
    fn failure_tells_status_output_log_and_way_out() {
        let error = step(|step| {
            Cmd::new("sh")
                .args(["-c", "echo out; echo err >&2; exit 3"])
                .hint("do the other thing")
                .run(step)
        })
        .unwrap_err();
        let text = format!("{error:#}");
        for part in [
            "exit status 3",
            "| out",
            "| err",
            "01-test.log",
            "way out: do the other",
        ] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
    }

    #[test]
    fn the_first_errors_are_shown_when_the_end_has_none() {
        let script =
            "for i in 1 2 3 4 5 6 7; do echo \"x.c:$i: error: no $i\"; done; seq 100; exit 1";
        let error = step(|step| {
            Cmd::new("sh")
                .args(["-c", "echo error: of another command"])
                .run(step)?;
            Cmd::new("sh").args(["-c", script]).run(step)
        });
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            text.contains("the first errors:\n    | x.c:1: error: no 1\n"),
            "{text}"
        );
        assert!(
            text.contains("no 5\n  the end of its output:\n    | 76\n"),
            "{text}"
        );
        assert!(!text.contains("another command"), "{text}");
    }

    #[test]
    fn tests_that_panic_are_named_with_the_reason() {
        let script = "echo \"thread 'a::b' (7) panicked at x.rs:1:2:\"; echo 'left is not right'; seq 100; exit 1";
        let error = step(|step| Cmd::new("sh").args(["-c", script]).run(step)).unwrap_err();
        let text = format!("{error:#}");
        let line = "    | thread 'a::b' (7) panicked at x.rs:1:2: left is not right\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error =
            step(|step| Cmd::new("/nonexistent/tool").hint("install it").run(step)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("cannot start /nonexistent/tool"), "{text}");
        assert!(text.contains("way out: install it"), "{text}");
    }

    #[test]
    fn a_signal_is_not_an_exit_status() {
        let error = step(|step| Cmd::new("sh").args(["-c", "kill -9 $$"]).run(step)).unwrap_err();
        assert!(format!("{error:#}").contains("killed by signal 9"));
    }

    #[test]
    fn output_is_standard_output_only() {
        let text = step(|step| {
            Cmd::new("sh")
                .args(["-c", "echo out; echo err >&2"])
                .output(step)
        })
        .unwrap();
        assert_eq!(text, "out\n");
    }
}
