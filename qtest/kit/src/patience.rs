// SPDX-License-Identifier: GPL-2.0-or-later
//! How long something is waited for, in the time of those that do it.
//!
//! A limit by the clock on the wall says how busy the machine is, not whether something stands still. A
//! [`Patience`] counts own time: the clock's, less what the processes of the tests were ready to run and
//! had to wait for a processor, by the kernel's account of each of their threads, and less what the host
//! of a virtual machine took. For a guest that stands still, which uses and wants no processor, both
//! clocks go alike. The clock on the wall is a last resort, far away; the text of a limit that was
//! reached says which of both it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, BufRead, ErrorKind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::steps::seconds;
use anyhow::{bail, Result};

/// How often a wait may look at the time, at most; what takes no processor is looked at less often.
pub const LOOK: Duration = Duration::from_millis(200);
/// Own time passes at least as fast as this part of the clock's.
const SLOWEST: u32 = 16;
/// The last resort: so many times the limit by the clock, and this.
const RESORT_TIMES: u32 = 6;
const RESORT_MORE: Duration = Duration::from_secs(300);

/// The processes whose waiting counts.
static WATCHED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// From now on the process's waiting for a processor does not count as time.
pub fn watch(pid: u32) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.insert(pid);
}

/// The process has ended.
pub fn forget(pid: u32) {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched.remove(&pid);
}

/// A wait with a limit.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    own: Duration,
    began: Instant,
    looked: Instant,
    /// Nothing for a wait that has only begun: most end at once, and looking costs more than they do.
    seen: Option<Seen>,
}

/// A limit that was reached; as the end of a sentence that says what did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    limit: Duration,
    own: Duration,
    clock: Duration,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [limit, own, clock] = [self.limit, self.own, self.clock].map(seconds);
        if self.own >= self.limit {
            write!(f, "within {limit} of its own time ({clock} by the clock)")
        } else {
            write!(
                f,
                "within {clock} by the clock, the last resort: of its own time, whose limit is {limit}, \
                 only {own} had passed, so this machine is too busy to tell"
            )
        }
    }
}

impl Patience {
    /// A wait that begins now and may last so long in own time.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            limit,
            own: Duration::ZERO,
            began: now,
            looked: now,
            seen: None,
        }
    }

    /// How long to wait until it is worth to look again.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.limit.min(LOOK)
    }

    /// Counts what has passed since the last call.
    ///
    /// # Errors
    /// When the limit is reached, or the last resort.
    pub fn look(&mut self) -> Result<(), Spent> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.looked);
        if passed >= LOOK || self.limit < LOOK {
            let seen = Seen::now();
            self.own += match &self.seen {
                Some(before) => own(passed, seen.waited_since(before), seen.stolen_since(before)),
                // What is longer was spent waiting for a processor, or in the attempt itself.
                None => passed.min(LOOK),
            };
            (self.seen, self.looked) = (Some(seen), now);
        }
        let clock = now.saturating_duration_since(self.began);
        if self.own >= self.limit || clock >= self.limit * RESORT_TIMES + RESORT_MORE {
            return Err(Spent {
                limit: self.limit,
                own: self.own,
                clock,
            });
        }
        Ok(())
    }
}

/// A watch that counts own time; for what must not take long.
#[derive(Debug)]
pub struct OwnTime {
    began: Instant,
    seen: Seen,
}

impl OwnTime {
    /// Starts it.
    #[must_use]
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            seen: Seen::now(),
        }
    }

    /// Own time since then.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let seen = Seen::now();
        own(
            self.began.elapsed(),
            seen.waited_since(&self.seen),
            seen.stolen_since(&self.seen),
        )
    }
}

/// Own time: of `passed`, a thread waited so long, and the host took this part.
fn own(passed: Duration, waited: Duration, stolen: f64) -> Duration {
    let ran = passed
        .saturating_sub(waited)
        .mul_f64(1.0 - stolen.clamp(0.0, 1.0));
    ran.max(passed / SLOWEST)
}

/// What the kernel counted up to a moment.
#[derive(Debug, Default)]
struct Seen {
    /// Nanoseconds that a thread waited for a processor.
    waited: BTreeMap<u32, u64>,
    /// Ticks that the host took from the processors, and all.
    stolen: (u64, u64),
}

impl Seen {
    fn now() -> Self {
        let mut pids = WATCHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        pids.insert(std::process::id());
        let mut seen = Self {
            stolen: stolen(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            ..Self::default()
        };
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let number = task.file_name().to_string_lossy().parse::<u32>();
                let text = fs::read_to_string(task.path().join("schedstat"));
                if let (Ok(number), Ok(text)) = (number, text) {
                    seen.waited.insert(number, waited(&text));
                }
            }
        }
        seen
    }

    /// How long the thread waited that waited longest. Threads that wait for each other wait one after
    /// the other, which this counts too little; those that do not wait side by side.
    fn waited_since(&self, before: &Self) -> Duration {
        let since = |(task, now): (&u32, &u64)| {
            now.saturating_sub(before.waited.get(task).copied().unwrap_or(0))
        };
        Duration::from_nanos(self.waited.iter().map(since).max().unwrap_or(0))
    }

    /// The part that the host took.
    fn stolen_since(&self, before: &Self) -> f64 {
        let stolen = self.stolen.0.saturating_sub(before.stolen.0);
        let all = self.stolen.1.saturating_sub(before.stolen.1);
        // Ticks of a short time: far from where a float is not exact.
        #[allow(clippy::cast_precision_loss)]
        if all == 0 {
            0.0
        } else {
            stolen as f64 / all as f64
        }
    }
}

/// The second number of a `schedstat`: nanoseconds on a run queue.
fn waited(schedstat: &str) -> u64 {
    let number = schedstat.split_whitespace().nth(1);
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Of the first line of `/proc/stat`: ticks that the host took, and all.
fn stolen(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    // The last two are parts of the first two.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|number| number.parse().ok())
        .collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().sum())
}

/// Tries again and again until it gives something.
///
/// # Errors
/// When it does not in time, or what it says.
pub fn until<T>(
    limit: Duration,
    pause: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut patience = Patience::new(limit);
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if let Err(spent) = patience.look() {
            bail!("not {spent}");
        }
        std::thread::sleep(pause);
    }
}

/// Reads a line from a socket whose reads end after [`LOOK`]; `None` at its end.
///
/// # Errors
/// When none comes in time, or the socket fails.
pub fn read_line(from: &mut impl BufRead, patience: &mut Patience) -> Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        match from.read_until(b'\n', &mut line) {
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(_) => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            Err(error) if is_timeout(&error) => {
                if let Err(spent) = patience.look() {
                    bail!("no answer {spent}");
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waiting_for_a_processor_is_not_own_time() {
        assert_eq!(own(SECOND, Duration::ZERO, 0.0), SECOND);
        assert_eq!(own(SECOND, SECOND / 4, 0.0), SECOND * 3 / 4);
        assert_eq!(own(SECOND, SECOND / 2, 0.5), SECOND / 4);
        // It passes all the same, slowly.
        assert_eq!(own(SECOND, SECOND * 9, 0.0), SECOND / SLOWEST);
        assert_eq!(own(SECOND, Duration::ZERO, 7.0), SECOND / SLOWEST);
    }

    #[test]
    fn the_kernels_accounts_are_understood() {
        assert_eq!(waited("61 75592 1\n"), 75592);
        assert_eq!(waited(""), 0);
        let stat = "cpu  10 1 20 300 5 0 4 60 7 7\ncpu0 1 1 1 1\n";
        assert_eq!(stolen(stat), (60, 400));
        assert_eq!(stolen(""), (0, 0));
        let (before, after) = (Seen::default(), Seen::now());
        assert!(after.waited.contains_key(&std::process::id()));
        assert!(after.stolen_since(&before) < 1.0);
    }

    #[test]
    fn the_thread_that_waits_longest_counts() {
        let seen = |list: &[(u32, u64)]| Seen {
            waited: list.iter().copied().collect(),
            stolen: (0, 0),
        };
        let before = seen(&[(1, 100), (2, 50), (4, 9_000_000)]);
        let after = seen(&[(1, 400), (2, 1050), (3, 700)]);
        assert_eq!(after.waited_since(&before), Duration::from_nanos(1000));
    }

    #[test]
    fn a_limit_says_by_which_clock_it_was_reached() {
        let spent = |own, clock| Spent {
            limit: SECOND * 60,
            own: SECOND * own,
            clock: SECOND * clock,
        };
        assert_eq!(
            spent(60, 90).to_string(),
            "within 1 min 00 s of its own time (1 min 30 s by the clock)"
        );
        let text = spent(40, 660).to_string();
        assert!(
            text.starts_with("within 11 min 00 s by the clock, the last resort"),
            "{text}"
        );
        assert!(text.contains("only 40.0 s had passed"), "{text}");
    }

    #[test]
    fn a_wait_ends() {
        let mut patience = Patience::new(Duration::from_millis(20));
        let began = Instant::now();
        while patience.look().is_ok() {
            assert!(began.elapsed() < SECOND * 60, "{patience:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_watch_goes_on_while_nothing_wants_a_processor() {
        let watch = OwnTime::start();
        std::thread::sleep(Duration::from_millis(40));
        let own = watch.elapsed();
        assert!(
            own >= Duration::from_millis(2) && own < SECOND * 60,
            "{own:?}"
        );
    }

    #[test]
    fn it_is_tried_until_there_is_something() {
        let mut times = 0;
        let third = until(SECOND * 60, Duration::ZERO, || {
            times += 1;
            Ok((times == 3).then_some(times))
        });
        assert_eq!(third.unwrap(), 3);
        let never = until::<()>(Duration::ZERO, Duration::ZERO, || Ok(None));
        assert!(never.unwrap_err().to_string().starts_with("not within"));
    }

    #[test]
    fn lines_are_read_in_pieces() {
        use std::io::{BufReader, Write as _};
        use std::os::unix::net::UnixStream;
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let mut reader = BufReader::new(here);
        there.write_all(b"half").unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            there.write_all(b" a line\nrest").unwrap();
        });
        let mut next = || read_line(&mut reader, &mut Patience::new(SECOND * 60)).unwrap();
        assert_eq!(next().unwrap(), "half a line\n");
        writer.join().unwrap();
        assert_eq!(next().unwrap(), "rest");
        assert_eq!(next(), None);
    }

    #[test]
    fn an_answer_that_does_not_come_is_an_error() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let mut reader = io::BufReader::new(here);
        let mut patience = Patience::new(Duration::from_millis(30));
        let error = read_line(&mut reader, &mut patience).unwrap_err();
        assert!(error.to_string().contains("of its own time"), "{error}");
    }
}
