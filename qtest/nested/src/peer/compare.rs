// SPDX-License-Identifier: GPL-2.0-or-later
//! Answers of Linux's driver and of this project's device to the same script, and the table of the
//! differences that there are reasons for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{bail, ensure, Result};

use super::tiny::Reply;

/// The page with the table.
pub const PAGE: &str = "docs/system/kernel-driver.md";
/// The page with the differences that are known.
pub const TEXT: &str = include_str!("../../../../docs/system/kernel-driver.md");
/// How the line above the table's first row begins.
const HEAD: &str = "| Access | Linux | this project |";

/// Answers of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The answer of Linux's driver.
    pub kernel: String,
    /// The answer of this project's device.
    pub ours: String,
}

/// Differences by command.
pub type Differences = BTreeMap<String, Pair>;

/// The rows of the page's table.
///
/// # Errors
/// When there is no table, or a row gives no reason.
pub fn listed(page: &str) -> Result<Differences> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(HEAD));
    ensure!(lines.next().is_some(), "{PAGE} has no table \"{HEAD} ...\"");
    let mut found = Differences::new();
    for line in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [commands, kernel, ours, reason] = cells[..] else {
            bail!("{PAGE}: not four cells: {line}");
        };
        ensure!(!reason.is_empty(), "{PAGE}: no reason: {line}");
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let row = Pair {
            kernel: plain(kernel),
            ours: plain(ours),
        };
        let double = found.insert(plain(commands), row).is_some();
        ensure!(!double, "{PAGE}: twice: {line}");
    }
    Ok(found)
}

/// Where the answers to the same script differ.
///
/// # Errors
/// When the scripts were not the same.
pub fn differences(kernel: &[Reply], ours: &[Reply]) -> Result<Differences> {
    ensure!(
        kernel.len() == ours.len(),
        "{} answers of Linux's driver, {} of ours",
        kernel.len(),
        ours.len()
    );
    let mut found = Differences::new();
    for (kernel, ours) in kernel.iter().zip(ours) {
        ensure!(
            kernel.command == ours.command,
            "\"{}\" and \"{}\" are not the same command",
            kernel.command,
            ours.command
        );
        if kernel.answer != ours.answer {
            let pair = Pair {
                kernel: kernel.answer.clone(),
                ours: ours.answer.clone(),
            };
            found.insert(kernel.command.clone(), pair);
        }
    }
    Ok(found)
}

/// Compares what was found with what is listed.
///
/// # Errors
/// With every difference that is not listed, and every row that is no difference.
pub fn check(found: &Differences, listed: &Differences) -> Result<()> {
    let mut text = String::new();
    for (command, pair) in found {
        let Pair { kernel, ours } = pair;
        if listed.get(command) != Some(pair) {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "not listed: | `{command}` | `{kernel}` | `{ours}` | reason |"
            );
        }
    }
    for command in listed
        .keys()
        .filter(|command| !found.contains_key(*command))
    {
        let _ = writeln!(text, "listed, but both answer the same: `{command}`");
    }
    if text.is_empty() {
        return Ok(());
    }
    bail!("the table in {PAGE} is not what was found:\n{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(list: &[(&str, &str)]) -> Vec<Reply> {
        list.iter()
            .map(|(command, answer)| Reply {
                command: (*command).to_owned(),
                answer: (*answer).to_owned(),
            })
            .collect()
    }

    const TABLE: &str = "text\n\n| Access | Linux | this project | Reason |\n|---|---|---|---|\n\
        | `r4 c` | `ffffffff` | `00000100` | it does not split |\n\nmore | text\n";

    #[test]
    fn a_listed_difference_is_none() {
        let found = differences(
            &replies(&[("r1 12", "00"), ("r4 c", "ffffffff")]),
            &replies(&[("r1 12", "00"), ("r4 c", "00000100")]),
        )
        .unwrap();
        check(&found, &listed(TABLE).unwrap()).unwrap();
    }

    #[test]
    fn what_is_not_listed_fails() {
        for (kernel, ours, text) in [
            ("ffffffff", "00000101", "not listed"),
            ("00000100", "00000100", "both answer the same"),
        ] {
            let found =
                differences(&replies(&[("r4 c", kernel)]), &replies(&[("r4 c", ours)])).unwrap();
            let error = check(&found, &listed(TABLE).unwrap()).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn other_scripts_are_not_compared() {
        assert!(differences(&replies(&[("a", "1")]), &replies(&[("b", "1")])).is_err());
        assert!(differences(&replies(&[("a", "1")]), &[]).is_err());
    }

    #[test]
    fn a_table_must_be_whole() {
        assert!(listed("").is_err());
        assert!(listed(&TABLE.replace("it does not split", "")).is_err());
        assert!(listed(&TABLE.replace("| `ffffffff`", "")).is_err());
    }
}
