// SPDX-License-Identifier: GPL-2.0-or-later
//! How many checks went well, and the log lines of Rust's test harness that tell it.

/// How many checks went well and how many did not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    pub(super) fn one(ok: bool) -> Self {
        Self {
            passed: ok.into(),
            failed: (!ok).into(),
        }
    }

    /// Adds up the result lines of Rust's test harness.
    pub(super) fn of_harness(log: &str) -> Self {
        let mut counts = Self::default();
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
            counts.add(Self {
                passed: number("passed"),
                failed: number("failed"),
            });
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
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.25s\n";
        let counts = Counts {
            passed: 13,
            failed: 2,
        };
        assert_eq!(Counts::of_harness(log), counts);
        assert_eq!(Counts::of_harness(""), Counts::default());
    }
}
