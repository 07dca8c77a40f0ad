// SPDX-License-Identifier: GPL-2.0-or-later
//! What is told at the end: times by suite and step, what was not run, and the counts.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use test_kit::steps::seconds;

use super::counts::Counts;

/// Failures that were shown already; the closing line stays the last one.
#[derive(Debug)]
pub(crate) struct Reported;

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checks failed")
    }
}

impl std::error::Error for Reported {}

/// One part of a suite.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) seconds: f64,
}

impl Part {
    pub(super) fn new(name: &str, time: Duration) -> Self {
        Self {
            name: name.to_owned(),
            seconds: time.as_secs_f64(),
        }
    }
}

/// What became of a suite.
#[derive(Debug, Serialize)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Names of what failed.
    pub(super) failures: Vec<String>,
    pub(super) seconds: f64,
    /// Steps of a suite; of one with jobs, the jobs, whose times add up to more where they ran side by side.
    pub(super) parts: Vec<Part>,
}

/// What became of all.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) suites: Vec<Suite>,
    /// What was not run, by name.
    pub(super) skipped: Vec<String>,
    /// Why.
    pub(super) reason: Option<String>,
}

impl Report {
    pub(super) fn add(&mut self, name: &str, counts: Counts, time: Duration, parts: Vec<Part>) {
        self.suites.push(Suite {
            name: name.to_owned(),
            passed: counts.passed,
            failed: counts.failed,
            failures: counts.failures,
            seconds: time.as_secs_f64(),
            parts,
        });
    }

    pub(super) fn counts(&self) -> Counts {
        let mut total = Counts::default();
        for suite in &self.suites {
            total.add(Counts {
                passed: suite.passed,
                failed: suite.failed,
                failures: suite.failures.clone(),
            });
        }
        total
    }

    /// Times by suite and step, and what was not run; the counts are the last line.
    pub(super) fn text(&self) -> String {
        let width = self
            .suites
            .iter()
            .flat_map(|suite| &suite.parts)
            .map(|part| part.name.chars().count() + 2)
            .max()
            .unwrap_or(0)
            .clamp(20, 60);
        let time =
            |seconds_: f64| seconds(Duration::try_from_secs_f64(seconds_).unwrap_or_default());
        let mut text = "time by suite and step:\n".to_owned();
        for suite in &self.suites {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<width$} {:>12}", suite.name, time(suite.seconds));
            // One step with the suite's own time says nothing more.
            for part in suite.parts.iter().filter(|_| suite.parts.len() > 1) {
                let _ = writeln!(
                    text,
                    "  {:<w$} {:>12}",
                    part.name,
                    time(part.seconds),
                    w = width - 2
                );
            }
        }
        if !self.skipped.is_empty() {
            let reason = self.reason.as_deref().unwrap_or("not run");
            let _ = writeln!(text, "{reason}: {}", self.skipped.join(", "));
        }
        // At the end, as it is what is looked for, and beginnings of long outputs get lost.
        for suite in self.suites.iter().filter(|suite| suite.failed > 0) {
            let names = suite.failures.join(", ");
            let _ = writeln!(text, "failed in {}: {names}", suite.name);
        }
        let counts = self.counts();
        let _ = write!(
            text,
            "{} passed, {} failed, {} skipped",
            counts.passed,
            counts.failed,
            self.skipped.len()
        );
        text
    }

    /// The same as JSON.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        let ok = Counts {
            passed: 3,
            ..Counts::default()
        };
        let second = Duration::from_secs(1);
        report.add(
            "fmt",
            Counts::one("fmt", true),
            second,
            vec![Part::new("formatting", second)],
        );
        let parts = vec![
            Part::new("guest/legacy", second * 40),
            Part::new("guest/kexec", second * 61),
        ];
        report.add("guest", ok, second * 70, parts);
        report
    }

    #[test]
    fn times_are_by_suite_and_step() {
        let text = report().text();
        let line = |word: &str| text.lines().find(|line| line.trim().starts_with(word));
        assert!(line("fmt").unwrap().ends_with("1.0 s"));
        assert!(line("guest/kexec").unwrap().ends_with("1 min 01 s"));
        assert!(line("formatting").is_none());
        assert!(text.ends_with("\n4 passed, 0 failed, 0 skipped"), "{text}");
    }

    #[test]
    fn what_failed_is_named_before_the_counts() {
        let mut report = report();
        let mut counts = Counts::one("a::b", false);
        counts.add(Counts::one("c", false));
        counts.add(Counts::one("d", true));
        report.add("unit", counts, Duration::ZERO, Vec::new());
        let end = "\nfailed in unit: a::b, c\n5 passed, 2 failed, 0 skipped";
        assert!(report.text().ends_with(end), "{}", report.text());
    }

    #[test]
    fn what_was_not_run_is_named_and_counted() {
        let mut report = report();
        report.skipped = vec!["nested/iommufd".to_owned(), "fuzz/p9".to_owned()];
        report.reason = Some("not run within 15 minutes".to_owned());
        let text = report.text();
        assert!(text.contains("not run within 15 minutes: nested/iommufd, fuzz/p9\n"));
        assert!(text.ends_with("4 passed, 0 failed, 2 skipped"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.json");
        report.write(&file).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(json["suites"][1]["parts"][1]["seconds"], 61.0);
        assert_eq!(json["skipped"][1], "fuzz/p9");
    }
}
