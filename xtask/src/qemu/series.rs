// SPDX-License-Identifier: GPL-2.0-or-later
//! The numbered patches to files that QEMU owns.
//!
//! In a tree of the cache, whose pristine source is at hand, [`Series::sync`] brings the patched files
//! to what the series makes of them now and writes only those that differ, so that a changed patch
//! rebuilds what it touches. In a tree of somebody else, [`Series::apply`] can only go forward.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use super::overlay::{write_atomically, RECORD_DIR};
use super::source::apply;
use test_kit::digest::{self, Digest};
use test_kit::steps::Step;

const RECORD: &str = "series.json";

/// One patch of the series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Patch {
    name: String,
    sha256: String,
    /// The files it touches, relative to QEMU's top.
    files: Vec<String>,
}

/// The patches in the order of their names.
#[derive(Debug)]
pub(crate) struct Series {
    dir: PathBuf,
    patches: Vec<Patch>,
}

impl Series {
    /// Reads `rust/qemu-series`; an absent directory is an empty series.
    ///
    /// # Errors
    /// When a patch cannot be read.
    pub(crate) fn collect(project_root: &Path) -> Result<Self> {
        let dir = project_root.join("rust/qemu-series");
        let mut patches = Vec::new();
        if dir.is_dir() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|end| end == "patch") {
                    let name = path
                        .file_name()
                        .and_then(|name| name.to_str())
                        .with_context(|| format!("the name of {} is not UTF-8", path.display()))?;
                    patches.push(Patch {
                        name: name.into(),
                        sha256: digest::of_file(&path)?,
                        files: touched(&fs::read_to_string(&path)?)
                            .with_context(|| format!("in rust/qemu-series/{name}"))?,
                    });
                }
            }
        }
        patches.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { dir, patches })
    }

    /// Where the patches are, in their order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let names = self.patches.iter().map(|patch| &patch.name);
        names.map(|name| self.dir.join(name)).collect()
    }

    /// One value for the whole series.
    pub(crate) fn digest(&self) -> String {
        let mut digest = Digest::new();
        for patch in &self.patches {
            digest.field(&patch.name, &patch.sha256);
        }
        digest.full()
    }

    /// Makes a tree that was copied from `pristine` have this series, whatever it had before.
    ///
    /// # Errors
    /// When a patch does not apply; the tree is then as before.
    pub(crate) fn sync(&self, step: &Step, pristine: &Path, tree: &Path) -> Result<()> {
        let record = tree.join(RECORD_DIR).join(RECORD);
        let before = read_record(&record)?;
        if before == self.patches {
            step.note(format!("{} patches, as before", self.patches.len()));
            return Ok(());
        }
        let mut files = BTreeSet::new();
        files.extend(before.iter().flat_map(|patch| &patch.files));
        files.extend(self.patches.iter().flat_map(|patch| &patch.files));

        // The touched files alone, patched aside.
        let aside = tree.join(RECORD_DIR).join("aside");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir_all(&aside)?;
        for file in &files {
            if pristine.join(file).exists() {
                write_atomically(&aside.join(file), &fs::read(pristine.join(file))?)?;
            }
        }
        for patch in &self.patches {
            let blame = format!("rust/qemu-series/{}", patch.name);
            apply(step, &aside, &self.dir.join(&patch.name), &blame)?;
        }

        // First a record that is no series but names all of these files, so that an interrupted run
        // is made good by the next one, whatever the series is by then.
        let unfinished = Patch {
            name: "unfinished".into(),
            sha256: String::new(),
            files: Vec::new(),
        };
        let both: Vec<&Patch> = [&unfinished]
            .into_iter()
            .chain(&before)
            .chain(&self.patches)
            .collect();
        write_atomically(&record, serde_json::to_string_pretty(&both)?.as_bytes())?;
        let mut changed = 0;
        for file in &files {
            let (from, to) = (aside.join(file), tree.join(file));
            let (new, old) = (fs::read(&from).ok(), fs::read(&to).ok());
            if new == old {
                continue;
            }
            changed += 1;
            match new {
                Some(content) => {
                    write_atomically(&to, &content)?;
                    let mode = fs::metadata(&from)?.permissions();
                    let kept = fs::metadata(pristine.join(file)).map(|data| data.permissions());
                    fs::set_permissions(&to, kept.unwrap_or(mode))?;
                }
                None => fs::remove_file(&to)?,
            }
        }
        write_atomically(
            &record,
            serde_json::to_string_pretty(&self.patches)?.as_bytes(),
        )?;
        let _ = fs::remove_dir_all(&aside);
        step.note(format!(
            "{} patches, {changed} files changed",
            self.patches.len()
        ));
        Ok(())
    }

    /// Applies what is not applied yet; a record in the tree says what is.
    ///
    /// # Errors
    /// When a patch does not apply, or the tree has another version of the series.
    pub(crate) fn apply(&self, step: &Step, tree: &Path) -> Result<()> {
        let record = tree.join(RECORD_DIR).join(RECORD);
        let mut applied = read_record(&record)?;
        let Some(rest) = self.patches.strip_prefix(applied.as_slice()) else {
            bail!(
                "{} has another version of the patches in rust/qemu-series\n  way out: take a \
                 pristine QEMU tree",
                tree.display()
            );
        };
        let count = rest.len();
        for patch in rest {
            let blame = format!("rust/qemu-series/{}", patch.name);
            apply(step, tree, &self.dir.join(&patch.name), &blame)?;
            applied.push(patch.clone());
            write_atomically(&record, serde_json::to_string_pretty(&applied)?.as_bytes())?;
        }
        step.note(format!(
            "{count} of {} patches applied now",
            self.patches.len()
        ));
        Ok(())
    }
}

/// The files in a patch's headers.
fn touched(text: &str) -> Result<Vec<String>> {
    let mut files = BTreeSet::new();
    for line in text.lines() {
        let name = line
            .strip_prefix("--- a/")
            .or_else(|| line.strip_prefix("+++ b/"))
            .or_else(|| line.strip_prefix("rename from "))
            .or_else(|| line.strip_prefix("rename to "));
        if let Some(name) = name {
            let name = name.split('\t').next().unwrap_or_default();
            let inside = Path::new(name)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !inside {
                bail!("{name} is outside of QEMU's tree");
            }
            files.insert(name.to_owned());
        }
    }
    if files.is_empty() {
        bail!("no file is named (lines `--- a/FILE` and `+++ b/FILE`)");
    }
    Ok(files.into_iter().collect())
}

fn read_record(path: &Path) -> Result<Vec<Patch>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&fs::read_to_string(path)?)
        .with_context(|| format!("{} is damaged; take a pristine QEMU tree", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_kit::steps::Steps;

    fn patch(from: &str, to: &str) -> String {
        format!("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-{from}\n+{to}\n")
    }

    #[test]
    fn patches_apply_in_order_once_and_a_changed_series_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let series = dir.path().join("p/rust/qemu-series");
        let tree = dir.path().join("q");
        let logs = dir.path().join("logs");
        for path in [&series, &tree, &logs] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(tree.join("f"), "0\n").unwrap();
        fs::write(series.join("0002-b.patch"), patch("1", "2")).unwrap();
        fs::write(series.join("0001-a.patch"), patch("0", "1")).unwrap();
        fs::write(series.join("README.md"), "not a patch").unwrap();
        let mut steps = Steps::at(&logs);
        let mut apply = || {
            let series = Series::collect(&dir.path().join("p")).unwrap();
            steps.run("apply", |step| series.apply(step, &tree))
        };
        apply().unwrap();
        apply().unwrap();
        assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "2\n");
        fs::write(series.join("0003-c.patch"), patch("2", "3")).unwrap();
        apply().unwrap();
        assert_eq!(fs::read_to_string(tree.join("f")).unwrap(), "3\n");
        fs::write(series.join("0001-a.patch"), patch("0", "9")).unwrap();
        let text = format!("{:#}", apply().unwrap_err());
        assert!(text.contains("another version of the patches"), "{text}");
    }

    #[test]
    fn sync_changes_only_the_files_that_differ_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (project, pristine) = (dir.path().join("p"), dir.path().join("pristine"));
        let (tree, logs) = (dir.path().join("tree"), dir.path().join("logs"));
        let series = project.join("rust/qemu-series");
        for path in [&series, &tree, &pristine, &logs] {
            fs::create_dir_all(path).unwrap();
        }
        for (name, text) in [("f", "0\n"), ("g", "0\n")] {
            fs::write(pristine.join(name), text).unwrap();
            fs::write(tree.join(name), text).unwrap();
        }
        let mut steps = Steps::at(&logs);
        let mut sync = || {
            let series = Series::collect(&project).unwrap();
            steps.run("sync", |step| series.sync(step, &pristine, &tree))
        };
        let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
        let time = |name: &str| fs::metadata(tree.join(name)).unwrap().modified().unwrap();

        let other = patch("0", "x").replace("a/f", "a/g").replace("b/f", "b/g");
        let new = "--- /dev/null\n+++ b/sub/n\n@@ -0,0 +1 @@\n+new\n";
        fs::write(series.join("1.patch"), patch("0", "1")).unwrap();
        fs::write(series.join("2.patch"), other).unwrap();
        fs::write(series.join("3.patch"), new).unwrap();
        sync().unwrap();
        assert_eq!(
            (read("f"), read("g"), read("sub/n")),
            ("1\n".into(), "x\n".into(), "new\n".into())
        );

        // Another patch, one less: f changes, g does not, the new file goes.
        let kept = time("g");
        fs::write(series.join("1.patch"), patch("0", "2")).unwrap();
        fs::remove_file(series.join("3.patch")).unwrap();
        sync().unwrap();
        assert_eq!(
            (read("f"), read("g"), read("sub/n")),
            ("2\n".into(), "x\n".into(), String::new())
        );
        assert_eq!(time("g"), kept);

        // A patch that does not apply leaves the tree as it is.
        fs::write(series.join("1.patch"), patch("nothing", "3")).unwrap();
        assert!(format!("{:#}", sync().unwrap_err()).contains("rust/qemu-series/1.patch"));
        assert_eq!(read("f"), "2\n");

        // Interrupted after the first file: done again although the record names the series.
        fs::write(series.join("1.patch"), patch("0", "2")).unwrap();
        let record = tree.join(RECORD_DIR).join(RECORD);
        let mut patches = read_record(&record).unwrap();
        patches.insert(
            0,
            Patch {
                name: "unfinished".into(),
                sha256: String::new(),
                files: vec![],
            },
        );
        fs::write(&record, serde_json::to_string(&patches).unwrap()).unwrap();
        fs::write(tree.join("g"), "half way\n").unwrap();
        sync().unwrap();
        assert_eq!((read("f"), read("g")), ("2\n".into(), "x\n".into()));

        fs::remove_file(series.join("1.patch")).unwrap();
        sync().unwrap();
        assert_eq!((read("f"), read("g")), ("0\n".into(), "x\n".into()));
    }

    #[test]
    fn files_of_a_patch() {
        let text = "diff --git a/x b/x\n--- a/x\t2020\n+++ b/x\n--- /dev/null\n+++ b/d/y\n";
        assert_eq!(touched(text).unwrap(), ["d/y", "x"]);
        assert!(touched("--- a/../x\n").is_err());
        assert!(touched("nothing\n").is_err());
    }

    #[test]
    fn no_directory_is_an_empty_series() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Series::collect(dir.path()).unwrap().patches.is_empty());
    }
}
