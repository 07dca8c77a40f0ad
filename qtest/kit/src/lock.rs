// SPDX-License-Identifier: GPL-2.0-or-later
//! Lock files: one run at a time works on a piece of the cache.
//!
//! The lock belongs to the open file, so that it is gone when its holder is, however it ended. The
//! file itself stays; its text names the holder for whoever waits.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its flock")] File);

impl Lock {
    /// Takes the lock, waiting for another run if there is one (and saying so).
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn acquire(path: &Path) -> Result<Self> {
        let mut file = open(path)?;
        if !try_lock(&file, path)? {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            eprintln!(
                "waiting for another run ({}) that holds {}",
                holder.trim(),
                path.display()
            );
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        sign(&mut file);
        Ok(Self(file))
    }

    /// Takes the lock if nobody has it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let mut file = open(path)?;
        Ok(if try_lock(&file, path)? {
            sign(&mut file);
            Some(Self(file))
        } else {
            None
        })
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open lock file {}", path.display()))
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Writes who holds the lock; only for people, so errors do not matter.
fn sign(file: &mut File) {
    let _ = file.set_len(0);
    let _ = file.seek(SeekFrom::Start(0));
    let _ = writeln!(file, "process {}", std::process::id());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/x.lock");
        let first = Lock::acquire(&path).unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("process {}\n", std::process::id())
        );
        drop(first);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }
}
