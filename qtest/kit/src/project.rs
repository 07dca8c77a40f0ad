// SPDX-License-Identifier: GPL-2.0-or-later
//! Where things are: the project's tree and the cache outside of it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::digest::Digest;

/// The file that marks a cache directory, and the text by which its maker is known.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Cache of virtio-legacy-vf's build steps (cargo xtask).\n";
/// Name of the directory below the user's cache directory.
const CACHE_NAME: &str = "virtio-legacy-vf";

/// The checkout this program was started for.
#[derive(Debug, Clone)]
pub struct Project {
    root: PathBuf,
    cache: PathBuf,
}

impl Project {
    /// Finds the tree (from cargo's environment) and the cache (from the user's).
    ///
    /// # Errors
    /// When neither `VLVF_CACHE`, `XDG_CACHE_HOME` nor `HOME` is set, or the tree is gone.
    pub fn find() -> Result<Self> {
        // At run time cargo tells the directory; the one known at compile time serves when the
        // binary is started directly.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .ancestors()
            .find(|dir| dir.join("qtest/kit").is_dir())
            .context("this program was started outside of the project's tree")?
            .canonicalize()
            .with_context(|| format!("project tree of {} not found", manifest.display()))?;
        let cache = cache_root(|name| env::var_os(name)).context(
            "no place for the cache: set VLVF_CACHE to a directory (or set HOME or XDG_CACHE_HOME)",
        )?;
        // Absolute, because commands run in other directories.
        let cache = std::path::absolute(cache)?;
        Ok(Self { root, cache })
    }

    /// A project and a cache at given places.
    pub fn at(root: &Path, cache: &Path) -> Self {
        Self {
            root: root.to_owned(),
            cache: cache.to_owned(),
        }
    }

    /// The top of the project's tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The cache directory; everything downloaded or built outside cargo's target directory is
    /// below it.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// A directory in the cache, created if missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn cache_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join(name);
        self.tag_cache()
            .and_then(|()| fs::create_dir_all(&dir))
            .with_context(|| {
                format!(
                    "cannot create {}; set VLVF_CACHE to a directory that can be written",
                    dir.display()
                )
            })?;
        Ok(dir)
    }

    /// Marks the cache as ours when it is new, also for backup programs (bford.info/cachedir).
    fn tag_cache(&self) -> io::Result<()> {
        let tag = self.cache.join(TAG);
        if tag.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.cache)?;
        // A directory that had something else in it is not ours to remove.
        if fs::read_dir(&self.cache)?.next().is_none() {
            fs::write(tag, TAG_TEXT)?;
        }
        Ok(())
    }

    /// Removes the whole cache.
    ///
    /// # Errors
    /// When the directory was not made by this program, or cannot be removed.
    pub fn remove_cache(&self) -> Result<()> {
        if !self.cache.exists() {
            return Ok(());
        }
        let cache = self.cache.display();
        if !fs::read_to_string(self.cache.join(TAG)).is_ok_and(|text| text == TAG_TEXT) {
            bail!(
                "{cache} was not empty when it was first used as the cache, so it is not removed as a \
                 whole\n  way out: look what is in it and remove that"
            );
        }
        fs::remove_dir_all(&self.cache).with_context(|| format!("cannot remove {cache}"))?;
        eprintln!("removed {cache}");
        Ok(())
    }

    /// A short name of this checkout, different for each place it can be in: two checkouts share
    /// downloads but never a build directory.
    pub fn checkout_key(&self) -> String {
        let mut digest = Digest::new();
        digest.field("checkout", self.root.as_os_str().as_encoded_bytes());
        digest.short()
    }

    /// Directory for the logs of one subcommand.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn log_dir(&self, command: &str) -> Result<PathBuf> {
        self.cache_dir(&format!("logs/{}/{command}", self.checkout_key()))
    }
}

/// `${VLVF_CACHE:-${XDG_CACHE_HOME:-~/.cache}/virtio-legacy-vf}`; empty counts as unset.
fn cache_root(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| {
        var(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("VLVF_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join(CACHE_NAME)))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache").join(CACHE_NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cache_that_was_made_here_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let project = |cache: &str| Project::at(dir.path(), &dir.path().join(cache));
        let own = project("own");
        own.cache_dir("a/b").unwrap();
        own.cache_dir("c").unwrap();
        own.remove_cache().unwrap();
        assert!(!own.cache().exists());
        own.remove_cache().unwrap();

        let home = project("home");
        fs::create_dir(home.cache()).unwrap();
        fs::write(home.cache().join("letter"), "dear").unwrap();
        home.cache_dir("a").unwrap();
        assert!(home
            .remove_cache()
            .unwrap_err()
            .to_string()
            .contains("was not empty"));
        assert!(home.cache().join("letter").exists());
    }

    fn with(vars: &'static [(&'static str, &'static str)]) -> Option<PathBuf> {
        cache_root(|name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn cache_place_follows_the_environment() {
        assert_eq!(
            with(&[
                ("VLVF_CACHE", "/c"),
                ("XDG_CACHE_HOME", "/x"),
                ("HOME", "/h")
            ]),
            Some("/c".into())
        );
        assert_eq!(
            with(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]),
            Some("/x/virtio-legacy-vf".into())
        );
        assert_eq!(
            with(&[("VLVF_CACHE", ""), ("XDG_CACHE_HOME", ""), ("HOME", "/h")]),
            Some("/h/.cache/virtio-legacy-vf".into())
        );
        assert_eq!(with(&[]), None);
    }
}
