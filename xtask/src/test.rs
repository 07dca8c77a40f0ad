// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask test`: suites of checks and tests, and the closing line with their counts.

use std::fs;

use anyhow::{bail, Result};
use clap::ValueEnum;

use crate::project::Project;
use crate::run::Cmd;
use crate::steps::Steps;

/// A part of the checks that can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Formatting of the Rust sources.
    Fmt,
    /// Clippy, warnings denied.
    Clippy,
    /// Unit and integration tests of the workspace.
    Unit,
}

/// How many checks went well and how many did not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn one(ok: bool) -> Self {
        Self {
            passed: ok.into(),
            failed: (!ok).into(),
        }
    }
}

/// Runs the given suites, or all.
///
/// # Errors
/// When anything failed; the closing line is printed before.
pub(crate) fn run(project: &Project, suites: &[Suite]) -> Result<()> {
    let mut steps = Steps::new(project, "test")?;
    let mut total = Counts::default();
    let suites = if suites.is_empty() {
        Suite::value_variants()
    } else {
        suites
    };
    for suite in suites {
        total.add(run_suite(project, &mut steps, *suite));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("{} checks failed", total.failed);
    }
    Ok(())
}

/// Runs one suite; what fails is shown here and counted.
fn run_suite(project: &Project, steps: &mut Steps, suite: Suite) -> Counts {
    let (name, args): (&str, &[&str]) = match suite {
        Suite::Fmt => ("formatting", &["fmt", "--all", "--check"]),
        Suite::Clippy => (
            "clippy",
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ],
        ),
        Suite::Unit => (
            "workspace tests",
            &["test", "--locked", "--workspace", "--no-fail-fast"],
        ),
    };
    let mut log = None;
    let result = steps.run(name, |step| {
        log = Some(step.log().to_owned());
        Cmd::cargo().args(args).dir(project.root()).run(step)
    });
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    if suite != Suite::Unit {
        return Counts::one(result.is_ok());
    }
    let text = log.and_then(|log| fs::read(log).ok()).unwrap_or_default();
    let mut counts = test_counts(&String::from_utf8_lossy(&text));
    if result.is_err() && counts.failed == 0 {
        // It did not even get to run: a test binary does not compile, or one was killed.
        counts.failed = 1;
    }
    counts
}

/// Adds up the result lines of Rust's test harness.
fn test_counts(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let number = |what: &str| {
            line.split(['.', ';'])
                .filter_map(|part| part.trim().strip_suffix(what))
                .find_map(|number| number.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        counts.add(Counts {
            passed: number("passed"),
            failed: number("failed"),
        });
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_harness() {
        let log = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            noise 7 passed; 7 failed\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.25s\n";
        assert_eq!(
            test_counts(log),
            Counts {
                passed: 13,
                failed: 2
            }
        );
        assert_eq!(test_counts(""), Counts::default());
    }
}
