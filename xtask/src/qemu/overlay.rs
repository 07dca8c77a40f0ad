// SPDX-License-Identifier: GPL-2.0-or-later
//! Lays the project's crates over a QEMU source tree.
//!
//! Every directory below `rust/` goes to the same place in QEMU's tree, except the patch series.
//! Files that did not change are left alone, so that ninja sees only real changes; files that are
//! gone here go there as well. A record in the tree says which files are ours; a file that is
//! neither ours nor equal belongs to QEMU and is never overwritten.
//!
//! A QEMU for tests gets more crates, which no other tree should have: see [`FOR_TESTS`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use test_kit::digest::{self, Digest};

/// Directory in a QEMU tree for our records.
pub(crate) const RECORD_DIR: &str = ".virtio-legacy-vf";
const RECORD: &str = "overlay.json";
/// Below `rust/`, not part of the overlay.
const NOT_OVERLAID: [&str; 2] = ["qemu-series", "target"];
/// Directories of ours and where they are in a tree for tests; their files take the place of the
/// overlay's of the same name.
const FOR_TESTS: [(&str, &str); 2] = [
    ("qtest/qemu", "rust/hw/virtio"),
    ("helper/modern-spec/src", "rust/virtio-modern-spec/src"),
];

/// Paths (relative to QEMU's top, with `/`) and SHA-256 of their content.
pub(crate) type Hashes = BTreeMap<String, String>;

/// The files to be laid over a tree.
#[derive(Debug)]
pub(crate) struct Overlay {
    root: PathBuf,
    files: Hashes,
    /// Whether the directories for tests are in it.
    for_tests: bool,
}

/// What laying an overlay did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) written: usize,
    pub(crate) removed: usize,
    pub(crate) unchanged: usize,
}

impl Summary {
    pub(crate) fn text(&self) -> String {
        format!(
            "{} files written, {} removed, {} unchanged",
            self.written, self.removed, self.unchanged
        )
    }
}

impl Overlay {
    /// Reads the project's `rust/` directory.
    ///
    /// # Errors
    /// When it cannot be read, or has what cannot be overlaid (a symbolic link, a name that is not
    /// UTF-8).
    pub(crate) fn collect(project_root: &Path) -> Result<Self> {
        let mut files = Hashes::new();
        let rust = project_root.join("rust");
        for entry in read_dir(&rust)? {
            let name = file_name(&entry)?;
            if entry.is_dir() && !NOT_OVERLAID.contains(&name.as_str()) && !is_noise(&name) {
                collect_dir(&entry, &format!("rust/{name}"), &mut files)?;
            }
        }
        Ok(Self {
            root: project_root.to_owned(),
            files,
            for_tests: false,
        })
    }

    /// The same with what only a QEMU for tests has.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub(crate) fn collect_for_tests(project_root: &Path) -> Result<Self> {
        let mut overlay = Self::collect(project_root)?;
        for (ours, theirs) in FOR_TESTS {
            collect_dir(&project_root.join(ours), theirs, &mut overlay.files)?;
        }
        overlay.for_tests = true;
        Ok(overlay)
    }

    /// Whether a tree has what only a QEMU for tests has.
    ///
    /// # Errors
    /// When its record is damaged.
    pub(crate) fn is_for_tests(tree: &Path) -> Result<bool> {
        let record = read_record(&tree.join(RECORD_DIR).join(RECORD))?;
        let [_, (_, only_there)] = FOR_TESTS;
        Ok(record.keys().any(|path| path.starts_with(only_there)))
    }

    /// The file of ours that is to be at this place in QEMU's tree.
    fn source(&self, path: &str) -> PathBuf {
        let places = if self.for_tests { &FOR_TESTS[..] } else { &[] };
        places
            .iter()
            .filter_map(|(ours, theirs)| {
                let inside = path.strip_prefix(theirs)?.strip_prefix('/')?;
                Some(self.root.join(ours).join(inside))
            })
            .find(|file| file.is_file())
            .unwrap_or_else(|| self.root.join(path))
    }

    /// One value for the content of all files.
    pub(crate) fn digest(&self) -> String {
        let mut digest = Digest::new();
        for (path, hash) in &self.files {
            digest.field(path, hash);
        }
        digest.full()
    }

    /// Whether a file (relative to QEMU's top) is in the overlay.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Directories (relative to QEMU's top) of the crates that QEMU builds.
    pub(crate) fn crates(&self) -> Vec<String> {
        let dirs = self
            .files
            .keys()
            .filter_map(|path| path.strip_suffix("/meson.build"));
        dirs.filter(|dir| self.has(&format!("{dir}/src/lib.rs")))
            .map(str::to_owned)
            .collect()
    }

    /// Brings a QEMU tree up to date.
    ///
    /// # Errors
    /// When a file would overwrite one of QEMU's, or a file cannot be written.
    pub(crate) fn lay(&self, tree: &Path) -> Result<Summary> {
        if !tree.join("rust/meson.build").is_file() || !tree.join("VERSION").is_file() {
            bail!(
                "{} is not a QEMU source tree with Rust in it",
                tree.display()
            );
        }
        let record = tree.join(RECORD_DIR).join(RECORD);
        let ours = read_record(&record)?;
        let plan = Plan::make(&self.files, &ours, |path| {
            digest::of_file(&tree.join(path)).ok()
        });
        if !plan.foreign.is_empty() {
            bail!(
                "{} has files of its own where the overlay has some: {}\n  way out: change QEMU's \
                 files with a patch in rust/qemu-series, give the overlay's file another name, or \
                 take a pristine tree",
                tree.display(),
                plan.foreign.join(" ")
            );
        }
        // First the record with old and new names, so that an interrupted run knows its files.
        let mut both = ours;
        both.extend(self.files.clone());
        write_record(&record, &both)?;
        for path in &plan.write {
            let content = fs::read(self.source(path))
                .with_context(|| format!("cannot read {path}, which was there just now"))?;
            // What is built must be what the digest says.
            if self.files.get(path) != Some(&digest::of_bytes(&content)) {
                bail!("{path} was changed while it was copied\n  way out: run this again");
            }
            write_atomically(&tree.join(path), &content)?;
        }
        for path in &plan.remove {
            remove_with_empty_parents(tree, path)?;
        }
        write_record(&record, &self.files)?;
        Ok(Summary {
            written: plan.write.len(),
            removed: plan.remove.len(),
            unchanged: plan.unchanged,
        })
    }
}

/// What there is to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    write: Vec<String>,
    remove: Vec<String>,
    unchanged: usize,
    /// Files there that are not ours.
    foreign: Vec<String>,
}

impl Plan {
    /// Compares the wanted files with the record of ours and with what is on the disk.
    fn make(wanted: &Hashes, ours: &Hashes, on_disk: impl Fn(&str) -> Option<String>) -> Self {
        let mut plan = Self::default();
        for (path, hash) in wanted {
            match on_disk(path) {
                Some(found) if found == *hash => plan.unchanged += 1,
                Some(_) if !ours.contains_key(path) => plan.foreign.push(path.clone()),
                _ => plan.write.push(path.clone()),
            }
        }
        plan.remove = ours
            .keys()
            .filter(|path| !wanted.contains_key(*path) && on_disk(path).is_some())
            .cloned()
            .collect();
        plan
    }
}

/// Names that are made by tools, not by people.
fn is_noise(name: &str) -> bool {
    name.starts_with('.')
        || name == "target"
        || name == "Cargo.lock"
        || [".orig", ".rej", ".swp", "~"]
            .iter()
            .any(|end| name.ends_with(end))
}

fn collect_dir(dir: &Path, prefix: &str, files: &mut Hashes) -> Result<()> {
    for entry in read_dir(dir)? {
        let name = file_name(&entry)?;
        if is_noise(&name) {
            continue;
        }
        let path = format!("{prefix}/{name}");
        let kind = fs::symlink_metadata(&entry)?.file_type();
        if kind.is_dir() {
            collect_dir(&entry, &path, files)?;
        } else if kind.is_file() {
            files.insert(path, digest::of_file(&entry)?);
        } else {
            bail!(
                "{} is neither a file nor a directory, so it cannot be overlaid",
                path
            );
        }
    }
    Ok(())
}

fn read_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?
            .map(|e| Ok(e?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    list().with_context(|| format!("cannot read directory {}", dir.display()))
}

fn file_name(path: &Path) -> Result<String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .with_context(|| format!("the name of {} is not UTF-8", path.display()))
}

fn read_record(path: &Path) -> Result<Hashes> {
    if !path.exists() {
        return Ok(Hashes::new());
    }
    let text = fs::read_to_string(path)?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; take a pristine QEMU tree", path.display()))
}

fn write_record(path: &Path, files: &Hashes) -> Result<()> {
    write_atomically(path, serde_json::to_string_pretty(files)?.as_bytes())
}

/// Writes a file under another name first, so that its content is always whole.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let dir = path.parent().context("no directory")?;
        fs::create_dir_all(dir)?;
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .context("no name")?;
        let temporary = dir.join(format!(".{name}.{}", std::process::id()));
        fs::write(&temporary, content)?;
        fs::rename(&temporary, path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn remove_with_empty_parents(tree: &Path, path: &str) -> Result<()> {
    let file = tree.join(path);
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    let mut dir = Path::new(path).parent();
    while let Some(inner) = dir.filter(|dir| !dir.as_os_str().is_empty()) {
        // Fails, as it should, at the first directory that still has something.
        if fs::remove_dir(tree.join(inner)).is_err() {
            break;
        }
        dir = inner.parent();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
