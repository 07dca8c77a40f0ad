// SPDX-License-Identifier: GPL-2.0-or-later
//! How many checks went well, which did not, and the log lines of Rust's test harness that tell it.

/// How many checks went well, how many did not, and the names of these.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) failures: Vec<String>,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }

    pub(super) fn one(name: &str, ok: bool) -> Self {
        Self {
            passed: ok.into(),
            failed: (!ok).into(),
            failures: (!ok).then(|| name.to_owned()).into_iter().collect(),
        }
    }

    /// Adds up the result lines of Rust's test harness, and collects the names of the tests that failed.
    pub(super) fn of_harness(log: &str) -> Self {
        let mut counts = Self::default();
        for line in log.lines() {
            if let Some(result) = line.strip_prefix("test result: ") {
                let number = |what: &str| {
                    result
                        .split(['.', ';'])
                        .filter_map(|part| part.trim().strip_suffix(what))
                        .find_map(|number| number.trim().parse::<u64>().ok())
                        .unwrap_or(0)
                };
                counts.passed += number("passed");
                counts.failed += number("failed");
            }
            // What a test prints can stand between its name and its fate; the list at the end has the names alone.
            let failed = line
                .strip_prefix("---- ")
                .and_then(|rest| rest.strip_suffix(" stdout ----"));
            counts.failures.extend(failed.map(str::to_owned));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_harness() {
        let log = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            noise 7 passed; 7 failed\n\
            test a::b ... FAILED\n\
            ---- a::b stdout ----\n\
            ---- c stdout ----\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.25s\n";
        let counts = Counts {
            passed: 13,
            failed: 2,
            failures: vec!["a::b".to_owned(), "c".to_owned()],
        };
        assert_eq!(Counts::of_harness(log), counts);
        assert_eq!(Counts::of_harness(""), Counts::default());
    }
}
