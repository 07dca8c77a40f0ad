// SPDX-License-Identifier: GPL-2.0-or-later
//! Jobs side by side: each lane takes the next job that fits until there is none.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use guest_tests::Kit;
use nested_tests::{Runner, Workbench};
use test_kit::project::Project;
use test_kit::steps::seconds;
use test_machine::process::Interrupted;
use test_machine::scenario::verdict;

use super::history::History;
use super::jobs::{Hands, Listed};
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

/// Runs jobs in so many lanes; gives what was run, and the names of what was not.
///
/// # Errors
/// When nothing could be run; that a job fails is no error here.
pub(super) fn run(
    plan: &Plan<'_>,
    jobs: &[Listed],
    history: &mut History,
    lanes: usize,
) -> Result<(Vec<Done>, Vec<String>)> {
    let queue = Queue::new(jobs.iter().map(|one| one.job.clone()).collect());
    let shared = Mutex::new(Shared {
        queue,
        history,
        done: Vec::new(),
        running: BTreeMap::new(),
    });
    let (stop, stopped) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
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
    result?;
    let left = shared.queue.left().iter().map(|job| job.name.clone());
    Ok((shared.done, left.collect()))
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
        let began = Instant::now();
        let result = hands.run(listed.work);
        let time = began.elapsed();
        // A run that the user ends says nothing about the job.
        plan.interrupted.check()?;
        let mut shared = lock(shared);
        shared.running.remove(&job.name);
        println!("{}", verdict(&job.name, &result, time));
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
