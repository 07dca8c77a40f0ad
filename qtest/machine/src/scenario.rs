// SPDX-License-Identifier: GPL-2.0-or-later
//! What tests of whole machines have in common: each is a scenario that says what it shows, of a kind.

use std::time::Duration;

use anyhow::{bail, ensure, Result};
use test_kit::steps::seconds;

/// One test. `R` is how it is run: that differs by what it needs.
#[derive(Debug, Clone, Copy)]
pub struct Scenario<R: 'static> {
    /// On the command line, in reports and logs.
    pub name: &'static str,
    /// For the page with all of them, as Markdown.
    pub shows: &'static str,
    /// Runs it.
    pub run: R,
}

/// Scenarios that look at the same matter from several sides.
#[derive(Debug, Clone, Copy)]
pub struct Kind<R: 'static> {
    /// For reports.
    pub name: &'static str,
    /// Beginnings of paths in the project's tree: a change there is what these scenarios are there for.
    pub touches: &'static [&'static str],
    /// The first one is the one to run where there is no time for all.
    pub scenarios: &'static [Scenario<R>],
}

/// All scenarios of all kinds, in their order.
pub fn each<R>(kinds: &'static [Kind<R>]) -> impl Iterator<Item = &'static Scenario<R>> {
    kinds.iter().flat_map(|kind| kind.scenarios)
}

/// The scenarios with these names, or all if there are none; in their own order.
///
/// # Errors
/// When there is no scenario of a name; with those that there are.
pub fn chosen<R>(kinds: &'static [Kind<R>], names: &[String]) -> Result<Vec<&'static Scenario<R>>> {
    for name in names {
        if !each(kinds).any(|scenario| scenario.name == name) {
            let known: Vec<&str> = each(kinds).map(|scenario| scenario.name).collect();
            bail!("no scenario {name}; there are: {}", known.join(", "));
        }
    }
    Ok(each(kinds)
        .filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name))
        .collect())
}

/// The rows of the page that lists them: name and what it shows, as a table of Markdown.
#[must_use]
pub fn table<R>(kinds: &'static [Kind<R>]) -> String {
    let mut text = "| Scenario | Kind | What it shows |\n|---|---|---|\n".to_owned();
    for kind in kinds {
        for one in kind.scenarios {
            text += &format!("| `{}` | {} | {} |\n", one.name, kind.name, one.shows);
        }
    }
    text
}

/// Checks a list against the page that has its [`table`].
///
/// # Errors
/// When two scenarios have the same name, a kind has none, or the page lacks the table; with the table.
pub fn check<R>(kinds: &'static [Kind<R>], page: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for one in each(kinds) {
        ensure!(
            seen.insert(one.name),
            "two scenarios are called {}",
            one.name
        );
    }
    for kind in kinds {
        ensure!(
            !kind.scenarios.is_empty(),
            "no scenario of kind {}",
            kind.name
        );
    }
    let table = table(kinds);
    ensure!(page.contains(&table), "the page should have:\n{table}");
    Ok(())
}

/// The line that tells how a scenario ended.
#[must_use]
pub fn verdict(name: &str, result: &Result<String>, time: Duration) -> String {
    let time = seconds(time);
    match result {
        Ok(figures) => format!("PASS {name}: {figures} ({time})"),
        Err(error) => format!("FAIL {name} ({time}): {error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: &[Kind<()>] = &[
        Kind {
            name: "small",
            touches: &["a/"],
            scenarios: &[ONE, TWO],
        },
        Kind {
            name: "large",
            touches: &["b/"],
            scenarios: &[THREE],
        },
    ];
    const ONE: Scenario<()> = scenario("one");
    const TWO: Scenario<()> = scenario("two");
    const THREE: Scenario<()> = scenario("three");

    const fn scenario(name: &'static str) -> Scenario<()> {
        Scenario {
            name,
            shows: "that it *is*",
            run: (),
        }
    }

    fn names(wanted: &[&str]) -> Result<Vec<&'static str>> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        Ok(chosen(KINDS, &wanted)?
            .into_iter()
            .map(|one| one.name)
            .collect())
    }

    #[test]
    fn scenarios_are_chosen_by_name() {
        assert_eq!(names(&[]).unwrap(), ["one", "two", "three"]);
        assert_eq!(names(&["three", "one"]).unwrap(), ["one", "three"]);
        let error = names(&["four"]).unwrap_err().to_string();
        assert!(error.contains("no scenario four; there are: one, two, three"));
    }

    #[test]
    fn verdicts_tell_figures_or_the_cause() {
        let time = Duration::from_millis(2500);
        assert_eq!(
            verdict("one", &Ok("3 pings".to_owned()), time),
            "PASS one: 3 pings (2.5 s)"
        );
        let error = Err(anyhow::anyhow!("cause").context("step"));
        assert_eq!(
            verdict("one", &error, time),
            "FAIL one (2.5 s): step: cause"
        );
    }

    #[test]
    fn a_list_is_checked_against_its_page() {
        check(KINDS, &format!("before\n{}after", table(KINDS))).unwrap();
        let text = |kinds, page: &str| check(kinds, page).unwrap_err().to_string();
        assert!(text(KINDS, "| `one` |").contains("should have:\n| Scenario |"));
        const TWICE: &[Kind<()>] = &[KINDS[0], KINDS[0]];
        assert!(text(TWICE, "").contains("two scenarios are called one"));
        const NONE: &[Kind<()>] = &[Kind {
            scenarios: &[],
            ..KINDS[0]
        }];
        assert!(text(NONE, "").contains("no scenario of kind small"));
    }

    #[test]
    fn the_table_has_a_row_each() {
        let text = table(KINDS);
        assert_eq!(text.lines().count(), 5);
        assert!(text.ends_with("| `three` | large | that it *is* |\n"));
    }
}
