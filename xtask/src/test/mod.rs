// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask test`: suites of checks and tests, times, and the closing line with their counts.
//!
//! [`suites`] are run one after the other, but for those that are made of [`jobs`], which run side by side in
//! [`lanes`]. Where time is limited, [`order`] says which jobs are run, by what is known of them: [`history`].

mod counts;
mod deny;
mod history;
mod jobs;
mod kept;
mod lanes;
mod order;
mod report;
mod suites;

use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum as _;
use nested_tests::Workbench;
use test_kit::packages;
use test_kit::project::Project;
use test_kit::steps::{seconds, Steps};
use test_machine::debs::Release;
use test_machine::process::Interrupted;

use self::counts::Counts;
use self::history::History;
use self::jobs::{Listed, Work};
use self::lanes::{Budget, Plan};
use self::report::{Part, Report};
use self::suites::Suite;
use crate::programs;

pub(crate) use self::report::Reported;

/// A run without options ends what it can leave out after so many minutes.
const BUDGET: u64 = 60;
/// More lanes than this are no gain: each has a machine of some GiB.
const MOST_LANES: usize = 4;

/// What the user chooses.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only these suites, whole (repeat the option for several).
    #[arg(long = "suite", value_enum)]
    suites: Vec<Suite>,
    /// Everything, however long it takes.
    #[arg(long, conflicts_with_all = ["suites", "budget"])]
    all: bool,
    /// Minutes after which no more scenario of a machine, fuzz target or packager's test is begun. One
    /// scenario of each kind and the other suites always run; of the rest first what failed, what it tests
    /// has changed, or has not run for long. What was not run is named. [default: 60; with --suite none]
    #[arg(long, value_name = "MINUTES")]
    budget: Option<u64>,
    /// How many scenarios run side by side. [default: one for each processor, up to 4]
    #[arg(long, value_name = "NUMBER")]
    lanes: Option<NonZero<usize>>,
    /// Write counts and times there, too, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Options {
    fn suites(&self) -> &[Suite] {
        if self.suites.is_empty() {
            Suite::value_variants()
        } else {
            &self.suites
        }
    }

    fn budget(&self) -> Option<Duration> {
        let minutes = match self.budget {
            Some(minutes) => minutes,
            None if self.all || !self.suites.is_empty() => return None,
            None => BUDGET,
        };
        Some(Duration::from_secs(minutes.saturating_mul(60)))
    }

    fn lanes(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        self.lanes.map_or(processors.min(MOST_LANES), NonZero::get)
    }
}

/// Runs the given suites, or all.
///
/// # Errors
/// When anything failed; the closing line is printed before.
pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let budget = Budget {
        began: Instant::now(),
        limit: options.budget(),
    };
    let mut report = Report::default();
    if let Some(file) = &options.report {
        // Before all that is to be reported, not after it.
        report.write(file)?;
    }
    let mut steps = Steps::new(project, "test")?;
    let (with_jobs, plain): (Vec<Suite>, Vec<Suite>) =
        options.suites().iter().partition(|suite| suite.has_jobs());
    for suite in plain {
        let (began, before) = (Instant::now(), steps.times().len());
        let counts = suites::run(project, &mut steps, suite);
        let parts = parts(&steps, before);
        report.add(suite.name(), counts, began.elapsed(), parts);
    }
    if !with_jobs.is_empty() {
        let done = run_jobs(
            project,
            &mut steps,
            &with_jobs,
            (budget, options),
            &mut report,
        );
        suites::report(&done);
        if done.is_err() {
            let counts = Counts::one("jobs", false);
            report.add("jobs", counts, Duration::ZERO, Vec::new());
        }
    }
    if let Some(file) = &options.report {
        let written = report.write(file);
        suites::report(&written);
        if written.is_err() {
            let counts = Counts::one("report", false);
            report.add("report", counts, Duration::ZERO, Vec::new());
        }
    }
    println!("{}", report.text());
    if report.counts().failed > 0 {
        return Err(Reported.into());
    }
    Ok(())
}

/// The steps since there were so many.
fn parts(steps: &Steps, before: usize) -> Vec<Part> {
    let new = steps.times().iter().skip(before);
    new.map(|(name, time)| Part::new(name, *time)).collect()
}

/// Runs the jobs of these suites.
fn run_jobs(
    project: &Project,
    steps: &mut Steps,
    suites: &[Suite],
    (budget, options): (Budget, &Options),
    report: &mut Report,
) -> Result<()> {
    let mut history = History::load(project);
    let jobs: Vec<Listed> = suites
        .iter()
        .flat_map(|suite| jobs::of(*suite, &history))
        .collect();
    let (began, before) = (Instant::now(), steps.times().len());
    let machines = |work: &Work| matches!(work, Work::Guest(_) | Work::Nested(_));
    let mut made = None;
    if jobs.iter().any(|one| machines(&one.work)) {
        let programs = programs::for_machines(project, steps)?;
        let kernel = (Release::Newer, true);
        let workbench = Workbench::prepare(project, steps, "test", programs, kernel)?;
        let all: Vec<_> = test_machine::scenario::each(guest_tests::ALL).collect();
        let kit = guest_tests::kit(project, steps, &workbench.bench, &all)?;
        made = Some((workbench, kit));
    }
    if jobs.iter().any(|one| matches!(one.work, Work::Fuzz(_))) {
        packages::ensure(steps, "fuzzing", packages::FUZZ)?;
    }
    let ready = parts(steps, before);
    report.add(
        "what the jobs need",
        Counts::default(),
        began.elapsed(),
        ready,
    );

    let own = Interrupted::default();
    let plan = Plan {
        project,
        budget,
        workbench: made.as_ref().map(|(workbench, _)| workbench),
        kit: made.as_ref().and_then(|(_, kit)| kit.as_ref()),
        interrupted: made
            .as_ref()
            .map_or(&own, |(workbench, _)| &workbench.bench.interrupted),
    };
    let lanes = options.lanes().min(jobs.len());
    eprintln!("{} jobs, {lanes} at a time", jobs.len());
    let began = Instant::now();
    let outcome = lanes::run(&plan, &jobs, &mut history, lanes);
    let mut counts = Counts::default();
    for one in &outcome.done {
        counts.add(Counts::one(&one.name, one.passed));
    }
    let parts = outcome.done.iter();
    let parts = parts.map(|one| Part::new(&one.name, one.time));
    report.add(
        &format!("jobs, {lanes} at a time"),
        counts,
        began.elapsed(),
        parts.collect(),
    );
    report.skipped = outcome.left;
    report.reason = match (&outcome.ended, budget.limit) {
        (Ok(()), Some(limit)) => Some(format!(
            "not run, as it would not have ended within {}",
            seconds(limit)
        )),
        (Ok(()), None) => None,
        (Err(_), _) => Some("not run to its end".to_owned()),
    };
    outcome.ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Result<Options, clap::Error> {
        let words = std::iter::once("test").chain(words.iter().copied());
        Line::try_parse_from(words).map(|line| line.options)
    }

    #[test]
    fn only_a_run_of_everything_has_a_budget_by_itself() {
        let budget = |words: &[&str]| options(words).unwrap().budget();
        assert_eq!(budget(&[]), Some(Duration::from_secs(3600)));
        assert_eq!(budget(&["--all"]), None);
        assert_eq!(budget(&["--suite", "guest"]), None);
        assert_eq!(budget(&["--budget", "15"]), Some(Duration::from_secs(900)));
        let both = budget(&["--suite", "guest", "--budget", "1"]);
        assert_eq!(both, Some(Duration::from_secs(60)));
        assert!(options(&["--all", "--budget", "1"]).is_err());
        assert!(options(&["--lanes", "0"]).is_err());
    }

    #[test]
    fn every_suite_is_run_without_options() {
        let all = options(&[]).unwrap();
        assert_eq!(all.suites(), Suite::value_variants());
        assert!(all.lanes() >= 1);
    }
}
