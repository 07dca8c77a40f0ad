// SPDX-License-Identifier: GPL-2.0-or-later
//! Whether the patches of the series could be sent: QEMU's own `checkpatch.pl`, and what it does not look at.
//!
//! Two things are the sender's, and may be missing: the sign-off, and, for the patches that belong to the
//! device, an entry in `MAINTAINERS`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use test_kit::run::Cmd;
use test_kit::steps::Step;

/// The longest subject that QEMU's list takes well.
const SUBJECT: usize = 76;
/// The sender's own line.
const SIGN_OFF: &str = "ERROR: Missing Signed-off-by: line(s)";
/// What is said of a new file, and of which patches it may be said.
const NEW_FILE: &str = "WARNING: added, moved or deleted file(s):";
const OF_THE_DEVICE: [&str; 2] = ["0001-", "0002-"];

/// Checks patches with the script of a source tree.
///
/// # Errors
/// When there is something to complain about, or the script does not run.
pub(crate) fn check(step: &Step, source: &Path, patches: &[PathBuf]) -> Result<()> {
    if patches.is_empty() {
        step.note("no patches");
        return Ok(());
    }
    let _ = Cmd::new("perl")
        .args(["scripts/checkpatch.pl", "--terse", "--no-summary"])
        .args(patches)
        .dir(source)
        .status(step)?;
    let log = fs::read(step.log())?;
    let log = String::from_utf8_lossy(&log);
    // The sign-off is missing in all of them, which shows that each was read.
    let mut found = Vec::new();
    for path in patches {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let said = complaints(&log, &name);
        if said.is_empty() && !fs::read_to_string(path)?.contains("\nSigned-off-by: ") {
            bail!(
                "checkpatch.pl did not read {name}\n  all of it: {}",
                step.log().display()
            );
        }
        found.extend(said.into_iter().filter(|text| !allowed(&name, text)));
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        found.extend(
            own_rules(&text)
                .into_iter()
                .map(|text| format!("{name}: {text}")),
        );
    }
    if !found.is_empty() {
        bail!(
            "{} things are wrong with the patches in rust/qemu-series:\n{}\n  all of it: {}",
            found.len(),
            found.join("\n"),
            step.log().display()
        );
    }
    step.note(format!("{} patches", patches.len()));
    Ok(())
}

/// What the script says of the patch with this name, a line each.
fn complaints(log: &str, name: &str) -> Vec<String> {
    let marks = ["ERROR: ", "WARNING: "];
    log.lines()
        .filter(|line| !line.starts_with("$ ") && marks.iter().any(|mark| line.contains(mark)))
        .filter_map(|line| line.find(&format!("{name}:")).map(|at| &line[at..]))
        .map(str::to_owned)
        .collect()
}

fn allowed(name: &str, complaint: &str) -> bool {
    let of_the_device = OF_THE_DEVICE.iter().any(|start| name.starts_with(start));
    complaint.ends_with(SIGN_OFF) || (of_the_device && complaint.ends_with(NEW_FILE))
}

/// What makes a patch fit to be sent and applied besides its style.
fn own_rules(text: &str) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let (message, diff) = text.split_once("\n---\n").unwrap_or((text, ""));
    // Git folds a long one, with a space in front of what goes on.
    let header = message.lines().take_while(|line| !line.is_empty());
    let subject = header.skip_while(|line| !line.starts_with("Subject: "));
    let folded = |(at, line): &(usize, &str)| *at == 0 || line.starts_with(' ');
    let subject: String = subject
        .enumerate()
        .take_while(folded)
        .map(|(_, line)| line)
        .collect();
    let columns = subject
        .trim_start_matches("Subject: [PATCH] ")
        .chars()
        .count();
    if !(1..=SUBJECT).contains(&columns) {
        wrong.push("the subject has not 1 to 76 columns");
    }
    if message.lines().any(|line| line.starts_with("Test: ")) {
        wrong.push("a test of this project is named above the line ---");
    }
    let count = |start: &str| diff.lines().filter(|line| line.starts_with(start)).count();
    if count("diff --git ") == 0 || count("diff --git ") != count("index ") {
        wrong.push("a file has no index line: make the patch with git format-patch");
    }
    if !diffstat_is_true(diff) {
        wrong.push("the diffstat does not fit the changes");
    }
    wrong
}

/// Whether the last line of the diffstat counts the lines that the patch adds and takes away.
fn diffstat_is_true(diff: &str) -> bool {
    let count = |sign: char, header: &str| {
        let lines = diff
            .lines()
            .skip_while(|line| !line.starts_with("diff --git "));
        lines
            .filter(|line| line.starts_with(sign) && !line.starts_with(header))
            .count()
    };
    let summary = diff.lines().find(|line| line.contains(" changed, "));
    let told = |word: &str| {
        let mut parts = summary.into_iter().flat_map(|line| line.split(", "));
        let number = parts.find(|part| part.contains(word));
        let number = number.and_then(|part| part.split(' ').next());
        number.map_or(Some(0), |number| number.parse().ok())
    };
    told("insertion") == Some(count('+', "+++ ")) && told("deletion") == Some(count('-', "--- "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "From 0\nFrom: a\nSubject: [PATCH] a: b\n c\n\nWhy.\n---\nTest: x\n\n f | 2 +-\n \
        1 file changed, 1 insertion(+), 1 deletion(-)\n\ndiff --git a/f b/f\nindex 1..2 100644\n--- a/f\n\
        +++ b/f\n@@ -1 +1 @@\n-old\n+new\n";

    #[test]
    fn a_patch_that_can_be_sent() {
        assert!(own_rules(GOOD).is_empty(), "{:?}", own_rules(GOOD));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (from, to, part) in [
            ("Subject: ", "Subjects: ", "76 columns"),
            ("Why.", "Test: x", "named above"),
            ("index 1..2 100644\n", "", "index line"),
            ("+new\n", "+new\n+newer\n", "diffstat"),
            ("1 deletion(-)", "2 deletions(-)", "diffstat"),
        ] {
            let wrong = own_rules(&GOOD.replace(from, to)).join(" ");
            assert!(wrong.contains(part), "{to}: {wrong}");
        }
        let long = GOOD.replace("a: b", &"a".repeat(77));
        assert_eq!(own_rules(&long).len(), 1);
    }

    #[test]
    fn only_what_is_the_senders_may_be_missing() {
        let log = "$ perl x /s/0001-a.patch /s/0003-b.patch\n\
            /s/0001-a.patch:7: WARNING: added, moved or deleted file(s):\n\
            /s/0001-a.patch:9: ERROR: Missing Signed-off-by: line(s)\n\
            /s/0003-b.patch:7: WARNING: added, moved or deleted file(s):\n\
            /s/0003-b.patch:8: WARNING: line over 80 characters\n\
            /s/0003-b.patch:9: ERROR: Missing Signed-off-by: line(s)\n";
        let rest = |name: &str| -> Vec<String> {
            let said = complaints(log, name);
            said.into_iter()
                .filter(|text| !allowed(name, text))
                .collect()
        };
        assert_eq!(complaints(log, "0001-a.patch").len(), 2);
        assert!(rest("0001-a.patch").is_empty());
        assert_eq!(
            rest("0003-b.patch"),
            [
                "0003-b.patch:7: WARNING: added, moved or deleted file(s):",
                "0003-b.patch:8: WARNING: line over 80 characters"
            ]
        );
    }
}
