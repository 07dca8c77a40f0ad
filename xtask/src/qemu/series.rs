// SPDX-License-Identifier: GPL-2.0-or-later
//! The numbered patches to files that QEMU owns.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use super::overlay::{write_atomically, RECORD_DIR};
use super::source::apply;
use crate::digest;
use crate::steps::Step;

const RECORD: &str = "series.json";

/// One patch of the series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patch {
    pub(crate) name: String,
    pub(crate) sha256: String,
}

/// The patches in the order of their names.
#[derive(Debug)]
pub(crate) struct Series {
    dir: PathBuf,
    pub(crate) patches: Vec<Patch>,
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
                    });
                }
            }
        }
        patches.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { dir, patches })
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
    use crate::steps::Steps;

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
    fn no_directory_is_an_empty_series() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Series::collect(dir.path()).unwrap().patches.is_empty());
    }
}
