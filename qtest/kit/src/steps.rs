// SPDX-License-Identifier: GPL-2.0-or-later
//! Named steps with progress, elapsed time and a log file each.
//!
//! Everything goes to standard error, so that a subcommand can print its result (a path, a table)
//! on standard output. On a terminal the running step shows its time and the last line of its log;
//! elsewhere a line appears at the start, every half minute and at the end.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::project::Project;

/// How often the running step is shown.
const TICK_TERMINAL: Duration = Duration::from_secs(1);
const TICK_PLAIN: Duration = Duration::from_secs(30);
/// Columns a line on the terminal may take.
const COLUMNS: usize = 100;

/// The steps of one subcommand.
#[derive(Debug)]
pub struct Steps {
    log_dir: PathBuf,
    count: u32,
    started: Instant,
    terminal: bool,
    times: Vec<(String, Duration)>,
}

/// What a running step is given.
#[derive(Debug)]
pub struct Step {
    log: PathBuf,
    note: RefCell<Option<String>>,
}

impl Step {
    /// A step of its own with a log, which nothing shows.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn alone(log: PathBuf) -> Result<Self> {
        fs::write(&log, "").with_context(|| format!("cannot write log {}", log.display()))?;
        Ok(Self {
            log,
            note: RefCell::new(None),
        })
    }

    /// The step's log file; commands append to it.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sets what is shown behind the time when the step is done.
    pub fn note(&self, text: impl Into<String>) {
        *self.note.borrow_mut() = Some(text.into());
    }

    /// Appends one line to the log.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn write(&self, line: &str) -> Result<()> {
        let mut log = open_log(&self.log)?;
        writeln!(log, "{line}").with_context(|| format!("cannot write {}", self.log.display()))
    }
}

/// Opens a log for appending.
///
/// # Errors
/// When it cannot be opened.
pub fn open_log(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open log {}", path.display()))
}

impl Steps {
    /// Starts the count for a subcommand; its logs replace those of the last run.
    ///
    /// # Errors
    /// When the log directory cannot be created.
    pub fn new(project: &Project, command: &str) -> Result<Self> {
        Ok(Self {
            log_dir: project.log_dir(command)?,
            count: 0,
            started: Instant::now(),
            terminal: io::stderr().is_terminal(),
            times: Vec::new(),
        })
    }

    /// Steps whose logs go to a given directory.
    pub fn at(log_dir: &Path) -> Self {
        Self {
            log_dir: log_dir.to_owned(),
            count: 0,
            started: Instant::now(),
            terminal: false,
            times: Vec::new(),
        }
    }

    /// Name and time of each step so far.
    #[must_use]
    pub fn times(&self) -> &[(String, Duration)] {
        &self.times
    }

    /// Says that all steps are done, and in which time.
    pub fn finish(&self, what: &str) {
        eprintln!("{what} in {}", seconds(self.started.elapsed()));
    }

    /// Runs one step.
    ///
    /// # Errors
    /// Those of `work`, with the step's name in front.
    pub fn run<T>(&mut self, name: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        self.count += 1;
        let step = Step {
            log: self
                .log_dir
                .join(format!("{:02}-{}.log", self.count, slug(name))),
            note: RefCell::new(None),
        };
        fs::write(&step.log, "")
            .with_context(|| format!("cannot write log {}", step.log.display()))?;
        let title = format!("[{:2}] {name}", self.count);
        let began = Instant::now();
        let terminal = self.terminal;
        if !terminal {
            eprintln!("{title}");
        }
        let (stop, stopped) = mpsc::channel::<()>();
        let result = thread::scope(|scope| {
            let (title, log) = (&title, &step.log);
            scope.spawn(move || {
                let tick = if terminal { TICK_TERMINAL } else { TICK_PLAIN };
                if terminal {
                    show(&format!("{title} ..."));
                }
                while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                    let time = seconds(began.elapsed());
                    let last = last_line(log);
                    if terminal {
                        show(&format!("{title} ... {time}  {last}"));
                    } else {
                        eprintln!("     ... {time}  {}", cut(&last, COLUMNS));
                    }
                }
            });
            let result = work(&step);
            drop(stop);
            result
        });
        let note = step
            .note
            .borrow()
            .as_ref()
            .map(|note| format!(" ({note})"))
            .unwrap_or_default();
        let word = if result.is_ok() {
            "done in"
        } else {
            "FAILED after"
        };
        let time = began.elapsed();
        let line = format!("{word} {}{note}", seconds(time));
        self.times.push((name.to_owned(), time));
        if terminal {
            show("");
            eprintln!("{title}: {line}");
        } else {
            eprintln!("     {line}");
        }
        result.with_context(|| format!("step \"{name}\" failed"))
    }
}

/// Replaces the terminal's current line.
fn show(text: &str) {
    let mut err = io::stderr().lock();
    let _ = write!(err, "\r\x1b[K{}", cut(text, COLUMNS));
    let _ = err.flush();
}

/// A duration for people: `3.1 s`, `2 min 05 s`.
pub fn seconds(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    if tenths < 600 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        let whole = time.as_secs();
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// The first `columns` characters.
fn cut(text: &str, columns: usize) -> String {
    text.chars().take(columns).collect()
}

/// A file name made of a step's name.
fn slug(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || c == '.' {
            text.push(c.to_ascii_lowercase());
        } else if !text.ends_with('-') {
            text.push('-');
        }
    }
    text.trim_matches('-').to_owned()
}

/// The last line in a log that is not empty, as far as it can be had.
fn last_line(path: &Path) -> String {
    tail(path, 1).pop().unwrap_or_default()
}

/// The last `count` lines of a file that are not empty (of its last 64 KiB), without control
/// characters.
pub fn tail(path: &Path, count: usize) -> Vec<String> {
    const WINDOW: u64 = 1 << 16;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .lines()
        .map(plain)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.drain(..lines.len().saturating_sub(count));
    lines
}

/// A line without control characters and colours.
pub fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            match chars.next() {
                // Control sequence: up to its final letter.
                Some('[') => {
                    chars.by_ref().find(|c| ('\x40'..='\x7e').contains(c));
                }
                // Selection of a character set: one more character.
                Some('(' | ')') => {
                    chars.next();
                }
                _ => {}
            }
        } else if c == '\t' {
            text.push_str("    ");
        } else if !c.is_control() {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(3149)), "3.1 s");
        assert_eq!(seconds(Duration::from_millis(59_990)), "59.9 s");
        assert_eq!(seconds(Duration::from_secs(60)), "1 min 00 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn names_become_file_names() {
        assert_eq!(
            slug("unpack QEMU 10.2.2 (Debian)"),
            "unpack-qemu-10.2.2-debian"
        );
        assert_eq!(slug("../x"), "..-x");
    }

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(plain("\x1b[1;31mred\x1b(B\x1b[m\tx\r"), "red    x");
        assert_eq!(plain("open \x1b["), "open ");
    }

    #[test]
    fn the_tail_is_the_end_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..20_000).map(|i| format!("line {i}\n\n")).collect();
        fs::write(&path, text).unwrap();
        assert_eq!(tail(&path, 2), ["line 19998", "line 19999"]);
        assert_eq!(last_line(&path), "line 19999");
        assert!(tail(&dir.path().join("missing"), 2).is_empty());
    }
}
