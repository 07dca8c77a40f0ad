// SPDX-License-Identifier: GPL-2.0-or-later
//! Jobs side by side: each lane takes the next job that fits until there is none.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use guest_tests::Kit;
use nested_tests::{Runner, Workbench};
use test_kit::project::Project;
use test_kit::steps::seconds;
use test_machine::process::Interrupted;
use test_machine::scenario::verdict;

use super::history::History;
use super::jobs::{Hands, Listed};
use super::kept;
use super::order::Queue;

/// How often it is told what is running.
const TICK: Duration = Duration::from_secs(30);

/// When there is no time left for what can be left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) began: Instant,
    pub(super) limit: Option<Duration>,
}

impl Budget {
    fn left(&self) -> Option<Duration> {
        self.limit
            .map(|limit| limit.saturating_sub(self.began.elapsed()))
    }
}

/// What all lanes have.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) project: &'a Project,
    pub(super) budget: Budget,
    pub(super) workbench: Option<&'a Workbench>,
    pub(super) kit: Option<&'a Kit>,
    pub(super) interrupted: &'a Interrupted,
}

/// A job that was run.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) time: Duration,
}

/// What the lanes share.
#[derive(Debug)]
struct Shared<'a> {
    queue: Queue,
    history: &'a mut History,
    done: Vec<Done>,
    running: BTreeMap<String, Instant>,
}

/// What came of the jobs, however the run ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) done: Vec<Done>,
    /// Names of those that were not run, or not to their end.
    pub(super) left: Vec<String>,
    /// Why it ended early, if it did. That a job fails is no reason.
    pub(super) ended: Result<()>,
}

/// Runs jobs in so many lanes.
pub(super) fn run(
    plan: &Plan<'_>,
    jobs: &[Listed],
    history: &mut History,
    lanes: usize,
) -> Outcome {
    let queue = Queue::new(jobs.iter().map(|one| one.job.clone()).collect());
    super::suites::report(&kept::forget(plan.project));
    let shared = Mutex::new(Shared {
        queue,
        history,
        done: Vec::new(),
        running: BTreeMap::new(),
    });
    let (stop, stopped) = mpsc::channel::<()>();
    let ended = thread::scope(|scope| {
        let teller = &shared;
        scope.spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                tell(&lock(teller).running);
            }
        });
        let threads: Vec<_> = (1..=lanes)
            .map(|number| {
                let shared = &shared;
                scope.spawn(move || lane(plan, jobs, shared, number))
            })
            .collect();
        let mut result = Ok(());
        for thread in threads {
            let ended = thread.join();
            let ended = ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a lane panicked")));
            result = result.and(ended);
        }
        drop(stop);
        result
    });
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let waiting = shared.queue.left().iter().map(|job| job.name.clone());
    Outcome {
        left: shared.running.into_keys().chain(waiting).collect(),
        done: shared.done,
        ended,
    }
}

fn lock<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lane(plan: &Plan<'_>, jobs: &[Listed], shared: &Mutex<Shared<'_>>, number: usize) -> Result<()> {
    let name = format!("lane-{number}");
    let logs = plan.project.log_dir(&format!("test/{name}"))?;
    let workbench = plan.workbench.map(|all| all.beside(&name)).transpose()?;
    let mut hands = Hands {
        project: plan.project,
        workbench: workbench.as_ref(),
        kit: plan.kit,
        logs: &logs,
        runner: workbench.as_ref().map(Runner::new),
    };
    loop {
        plan.interrupted.check()?;
        let job = {
            let mut shared = lock(shared);
            let Some(job) = shared.queue.next(hands.machine(), plan.budget.left()) else {
                return Ok(());
            };
            shared.running.insert(job.name.clone(), Instant::now());
            eprintln!("  {} ...", job.name);
            job
        };
        let listed = jobs
            .iter()
            .find(|one| one.job.name == job.name)
            .context("a job that is not listed")?;
        let (began, date) = (Instant::now(), SystemTime::now());
        let result = hands.run(listed.work);
        let time = began.elapsed();
        // A run that the user ends says nothing about the job.
        plan.interrupted.check()?;
        let kept = match &result {
            Ok(_) => None,
            Err(_) => Some(kept::keep(plan.project, &job.name, &logs, date)),
        };
        let mut shared = lock(shared);
        shared.running.remove(&job.name);
        println!("{}", verdict(&job.name, &result, time));
        match kept {
            Some(Ok(place)) => println!("     its logs: {}", place.display()),
            Some(Err(error)) => println!("     {error:#}"),
            None => {}
        }
        shared.queue.took(&job, time);
        shared
            .history
            .note(&job.name, listed.touches, result.is_ok(), time);
        shared.done.push(Done {
            name: job.name,
            passed: result.is_ok(),
            time,
        });
    }
}

/// Says what is running, and for how long.
fn tell(running: &BTreeMap<String, Instant>) {
    let list: Vec<String> = running
        .iter()
        .map(|(name, began)| format!("{name} {}", seconds(began.elapsed())))
        .collect();
    if !list.is_empty() {
        eprintln!("     ... {}", list.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::jobs;
    use crate::test::suites::Suite;

    /// Jobs that all fail at once, as there is nothing to run them with.
    fn run_without_machines(interrupted: &Interrupted) -> (usize, Outcome) {
        let dir = tempfile::tempdir().unwrap();
        let project = Project::at(dir.path(), &dir.path().join("cache"));
        let mut history = History::load(&project);
        let jobs = jobs::of(Suite::Guest, &history);
        let plan = Plan {
            project: &project,
            budget: Budget {
                began: Instant::now(),
                limit: None,
            },
            workbench: None,
            kit: None,
            interrupted,
        };
        (jobs.len(), run(&plan, &jobs, &mut history, 2))
    }

    #[test]
    fn every_job_is_run_once() {
        let (count, outcome) = run_without_machines(&Interrupted::default());
        assert!(outcome.ended.is_ok() && outcome.left.is_empty());
        let mut names: Vec<_> = outcome.done.iter().map(|one| &one.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(outcome.done.iter().all(|one| !one.passed));
    }

    #[test]
    fn what_an_interrupted_run_left_is_named() {
        let interrupted = Interrupted::default();
        interrupted.interrupt();
        let (count, outcome) = run_without_machines(&interrupted);
        assert!(outcome.ended.is_err() && outcome.done.is_empty());
        assert_eq!(outcome.left.len(), count);
    }
}
