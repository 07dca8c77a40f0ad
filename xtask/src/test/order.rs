// SPDX-License-Identifier: GPL-2.0-or-later
//! In which order jobs are taken, and which fit into the time that is left. Pure: what happened before
//! and what changed is handed in.

use std::time::Duration;

/// Something that can be run beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// Suite and name: `nested/sriov`.
    pub(super) name: String,
    /// Whether it is run however little time there is.
    pub(super) always: bool,
    /// The machine it runs in, if that can be shared with others.
    pub(super) machine: Option<&'static str>,
    /// Whether it leaves that machine such that no other can use it.
    pub(super) spoils: bool,
    /// How long it takes where nothing is known of it.
    pub(super) guess: Duration,
    pub(super) past: Past,
}

/// What is known of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Past {
    /// It failed when it ran last.
    pub(super) failed: bool,
    /// What it is there to test has changed since it passed; so has it for one that never passed here.
    pub(super) changed: bool,
    /// Of the last changes of the project the newest that it is there to test: 0 for the last one.
    pub(super) change: Option<usize>,
    /// When it ran last, in seconds since 1970.
    pub(super) ended: Option<u64>,
    /// How long it took.
    pub(super) took: Option<Duration>,
}

impl Past {
    /// What is smaller is run earlier: what failed, what changed, what changed lately, what has not run
    /// for long.
    fn rank(&self) -> (bool, bool, usize, u64) {
        (
            !self.failed,
            !self.changed,
            self.change.unwrap_or(usize::MAX),
            self.ended.unwrap_or(0),
        )
    }
}

/// Jobs that wait.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Vec<Job>,
    /// Measured and guessed time of the jobs that were guessed.
    measured: (Duration, Duration),
}

impl Queue {
    /// All jobs; those of the same rank stay in their order.
    pub(super) fn new(mut jobs: Vec<Job>) -> Self {
        jobs.sort_by_key(|job| (!job.always, job.past.rank()));
        Self {
            waiting: jobs,
            measured: Default::default(),
        }
    }

    /// The next job for somebody who has this machine running and so much time left; `None` when nothing
    /// fits.
    pub(super) fn next(&mut self, machine: Option<&str>, left: Option<Duration>) -> Option<Job> {
        let always = self.waiting.iter().any(|job| job.always);
        let fits = |job: &Job| {
            if always {
                return job.always;
            }
            left.is_none_or(|left| self.estimate(job) <= left)
        };
        let shared = |spoils: bool| {
            self.waiting.iter().position(|job| {
                machine.is_some() && job.machine == machine && job.spoils == spoils && fits(job)
            })
        };
        let at = shared(false)
            .or_else(|| shared(true))
            .or_else(|| self.waiting.iter().position(fits))?;
        Some(self.waiting.remove(at))
    }

    /// Learns how long a job took.
    pub(super) fn took(&mut self, job: &Job, time: Duration) {
        if job.past.took.is_none() {
            self.measured.0 += time;
            self.measured.1 += job.guess;
        }
    }

    /// What was not run.
    pub(super) fn left(&self) -> &[Job] {
        &self.waiting
    }

    /// How long a job takes: as last time, or as guessed if this machine is as fast as one that was guessed
    /// for; a slower one is known by the jobs that it ran.
    fn estimate(&self, job: &Job) -> Duration {
        job.past.took.unwrap_or_else(|| {
            let (took, guessed) = self.measured;
            if guessed.is_zero() {
                job.guess
            } else {
                job.guess
                    .mul_f64(took.div_duration_f64(guessed).clamp(0.25, 8.0))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn job(name: &str) -> Job {
        Job {
            name: name.to_owned(),
            always: false,
            machine: None,
            spoils: false,
            guess: SECOND * 10,
            past: Past {
                ended: Some(1000),
                ..Past::default()
            },
        }
    }

    fn order(jobs: Vec<Job>) -> Vec<String> {
        let mut queue = Queue::new(jobs);
        let mut names = Vec::new();
        while let Some(job) = queue.next(None, None) {
            names.push(job.name);
        }
        names
    }

    fn with(name: &str, past: Past) -> Job {
        Job { past, ..job(name) }
    }

    #[test]
    fn what_failed_or_changed_comes_first() {
        let ran = |ended| Past {
            ended: Some(ended),
            ..Past::default()
        };
        let changed = |change| Past {
            changed: true,
            change,
            ..ran(900)
        };
        let failed = Past {
            failed: true,
            ..ran(2000)
        };
        let jobs = vec![
            with("lately", ran(2000)),
            with("long ago", ran(10)),
            with("changed", changed(Some(7))),
            with("changed lately", changed(Some(0))),
            with(
                "never",
                Past {
                    changed: true,
                    ..Past::default()
                },
            ),
            with("failed", failed),
            Job {
                always: true,
                ..with("always", ran(3000))
            },
        ];
        let wanted = [
            "always",
            "failed",
            "changed lately",
            "changed",
            "never",
            "long ago",
            "lately",
        ];
        assert_eq!(order(jobs), wanted);
    }

    #[test]
    fn what_does_not_fit_is_left() {
        let took = |seconds| Past {
            took: Some(SECOND * seconds),
            ..Past::default()
        };
        let jobs = vec![
            Job {
                always: true,
                ..with("must", took(100))
            },
            with("long", took(50)),
            with("short", took(5)),
        ];
        let mut queue = Queue::new(jobs);
        let mut next = |left| queue.next(None, Some(SECOND * left)).map(|job| job.name);
        assert_eq!(next(0).unwrap(), "must");
        assert_eq!(next(20).unwrap(), "short");
        assert_eq!(next(20), None);
        assert_eq!(queue.left().len(), 1);
        assert_eq!(queue.left()[0].name, "long");
    }

    #[test]
    fn guesses_follow_the_machine() {
        let mut queue = Queue::new(vec![job("a"), job("b")]);
        assert!(queue.next(None, Some(SECOND * 9)).is_none());
        let first = queue.next(None, Some(SECOND * 10)).unwrap();
        queue.took(&first, SECOND * 30);
        assert!(queue.next(None, Some(SECOND * 29)).is_none());
        assert!(queue.next(None, Some(SECOND * 31)).is_some());
    }

    #[test]
    fn a_machine_that_runs_is_used_before_another_and_spoilt_last() {
        let on = |name, machine, spoils| Job {
            machine: Some(machine),
            spoils,
            ..job(name)
        };
        let mut queue = Queue::new(vec![
            on("a1", "a", false),
            on("b-last", "b", true),
            on("b1", "b", false),
            on("a2", "a", false),
        ]);
        let mut names = Vec::new();
        let mut machine = Some("b");
        while let Some(job) = queue.next(machine, None) {
            machine = job.machine.filter(|_| !job.spoils);
            names.push(job.name);
        }
        assert_eq!(names, ["b1", "b-last", "a1", "a2"]);
    }
}
