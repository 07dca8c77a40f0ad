// SPDX-License-Identifier: GPL-2.0-or-later
//! The bare-metal guest in `tiny/`: how it is built, and what it says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Step;

/// Where its parts are in the project's tree.
const SOURCE: &str = "qtest/nested/tiny";
/// The compiler's options: 32 bits, nothing from the machine it runs on.
const FLAGS: [&str; 16] = [
    "-m32",
    "-march=i686",
    "-Os",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-nostdlib",
    "-static",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wl,--build-id=none",
    "-Wl,--no-warn-rwx-segments",
    "-Wl,-T,tiny.ld",
];

/// Builds it as `dir/tiny.elf`.
///
/// # Errors
/// When the compiler refuses it.
pub fn build(project: &Project, step: &Step, dir: &Path) -> Result<PathBuf> {
    let out = dir.join("tiny.elf");
    Cmd::new("gcc")
        .args(FLAGS)
        .arg("-o")
        .arg(&out)
        .args(["start.S", "tiny.c"])
        .dir(project.root().join(SOURCE))
        .hint("gcc and binutils are needed; no library is")
        .run(step)?;
    Ok(out)
}

/// Its scripts: (name without ending, path).
///
/// # Errors
/// When there is none.
pub fn scripts(project: &Project) -> Result<Vec<(String, PathBuf)>> {
    let dir = project.root().join(SOURCE);
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.and_then(|name| name.strip_suffix(".script")) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no script in {}", dir.display());
    Ok(found)
}

/// What the guest answered to one command of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The command; its second occurrence has ` (2)` behind it, and so on.
    pub command: String,
    /// What it said.
    pub answer: String,
}

/// Reads what the guest printed.
///
/// # Errors
/// When it did not come to the end of the script.
pub fn replies<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Reply>> {
    let mut seen = BTreeMap::<String, u32>::new();
    let mut replies = Vec::new();
    let mut end = None;
    for line in lines {
        let line = line.trim();
        ensure!(end.is_none(), "the guest went on after its end: {line}");
        if let Some(count) = line.strip_prefix("end ") {
            end = Some(count.to_owned());
            continue;
        }
        ensure!(!line.starts_with("error: "), "the guest says {line}");
        let (command, answer) = line
            .split_once(" = ")
            .with_context(|| format!("the guest says {line:?}"))?;
        let times = seen.entry(command.to_owned()).or_default();
        *times += 1;
        replies.push(Reply {
            command: match times {
                1 => command.to_owned(),
                _ => format!("{command} ({times})"),
            },
            answer: answer.to_owned(),
        });
    }
    ensure!(end.is_some(), "the guest did not come to its end");
    Ok(replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart() {
        let text = "id = 1\nr1 12 = 00\nr1 12 = 01\nend 3\n";
        let commands: Vec<(String, String)> = replies(text.lines())
            .unwrap()
            .into_iter()
            .map(|reply| (reply.command, reply.answer))
            .collect();
        let expected = [("id", "1"), ("r1 12", "00"), ("r1 12 (2)", "01")];
        assert_eq!(
            commands,
            expected.map(|(command, answer)| (command.to_owned(), answer.to_owned()))
        );
    }

    #[test]
    fn an_unfinished_script_is_no_result() {
        for text in [
            "",
            "r1 12 = 00\n",
            "error: width\nend 1\n",
            "r1 12 =",
            "end 1\nr = 1",
        ] {
            assert!(replies(text.lines()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_scripts_have_commands_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let project = Project::at(&root, dir.path());
        for (name, path) in scripts(&project).unwrap() {
            for line in fs::read_to_string(path).unwrap().lines() {
                let word = line.split(' ').next().unwrap_or_default();
                let width = word.get(1..).unwrap_or_default();
                let known = match word.get(..1) {
                    Some("#") => true,
                    _ if ["msix", "tread", "tbell"].contains(&word) => true,
                    Some("r" | "w" | "c" | "C") => ["1", "2", "4"].contains(&width),
                    _ => false,
                };
                assert!(known, "{name}: {line}");
            }
        }
    }
}
