// SPDX-License-Identifier: GPL-2.0-or-later
//! Checks of what is written: links inside the tree, licence lines, the conformance page.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::conformance;

/// Directories that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", "corpus", "artifacts", "LICENSES"];
/// A directory with one of these was made by cargo, meson, `cargo vendor` or is an overlaid QEMU.
const FOREIGN: [&str; 4] = [
    "CACHEDIR.TAG",
    "meson-private",
    ".cargo-checksum.json",
    ".virtio-legacy-vf",
];
/// How many lines from the top the licence line may be.
const TOP: usize = 3;
/// Endings of files that must name their licence.
const LICENSED: [&str; 9] = [
    "rs", "md", "toml", "sh", "build", "tsv", "h", "options", "yml",
];

/// Checks the tree below `root`.
///
/// # Errors
/// With everything that is wrong.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for path in files(root)? {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        let ending = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if LICENSED.contains(&ending) && !licensed(&text) {
            wrong.push(format!(
                "{name}: no SPDX-License-Identifier in its first {TOP} lines"
            ));
        }
        if ending == "md" {
            for (line, target) in links(&text) {
                if !target_exists(root, &path, target) {
                    wrong.push(format!("{name}:{line}: {target} does not exist"));
                }
            }
        }
    }
    if let Err(error) = conformance::run(root, true) {
        wrong.push(format!("{error:#}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"));
}

fn licensed(text: &str) -> bool {
    text.lines()
        .take(TOP)
        .any(|line| line.contains("SPDX-License-Identifier:"))
}

/// Relative link targets with their line numbers, outside of code blocks.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else {
                break;
            };
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, target));
            }
            rest = tail;
        }
    }
    found
}

/// Whether a link leads to something inside the tree.
fn target_exists(root: &Path, page: &Path, target: &str) -> bool {
    let Some(dir) = page.parent() else {
        return false;
    };
    let mut path = PathBuf::new();
    for part in dir.join(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.starts_with(root) && path.exists()
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if path.is_symlink() || SKIPPED.contains(&name) {
                continue;
            }
            if !path.is_dir() {
                found.push(path);
            } else if !FOREIGN.iter().any(|mark| path.join(mark).exists()) {
                dirs.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_links_outside_of_code_count() {
        let text = "[a](x.md) [b](https://a.b/c) [c](y.md#part) [d](#here)\n```\n[e](z.md)\n```\n";
        assert_eq!(links(text), [(1, "x.md"), (1, "y.md")]);
    }

    #[test]
    fn links_stay_inside_the_tree_and_lead_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("README.md"), "").unwrap();
        fs::write(dir.path().join("outside.md"), "").unwrap();
        let page = root.join("docs/page.md");
        assert!(target_exists(&root, &page, "../README.md"));
        assert!(target_exists(&root, &page, "../docs"));
        assert!(!target_exists(&root, &page, "missing.md"));
        assert!(!target_exists(&root, &page, "../../outside.md"));
    }

    #[test]
    fn directories_of_builds_are_not_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        for mark in FOREIGN {
            let name = format!("build-{}", mark.trim_start_matches('.'));
            fs::create_dir_all(dir.path().join(&name).join(mark)).unwrap();
            fs::write(dir.path().join(&name).join("x.rs"), "").unwrap();
        }
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("src/x.rs"), "").unwrap();
        assert_eq!(files(dir.path()).unwrap(), [dir.path().join("src/x.rs")]);
    }

    #[test]
    fn a_licence_line_stands_at_the_top() {
        assert!(licensed("#!/bin/sh\n# SPDX-License-Identifier: X\n"));
        assert!(!licensed("a\nb\nc\n// SPDX-License-Identifier: X\n"));
    }
}
