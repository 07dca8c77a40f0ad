// SPDX-License-Identifier: GPL-2.0-or-later
//! Logs of jobs that failed, put aside before the lane's next job writes over them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use test_kit::project::Project;

/// Where they are kept until the next run.
fn place(project: &Project) -> Result<PathBuf> {
    project.log_dir("test/failed")
}

/// Forgets those of the last run.
///
/// # Errors
/// When they cannot be removed.
pub(super) fn forget(project: &Project) -> Result<()> {
    let place = place(project)?;
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", place.display()))
        }
        _ => Ok(()),
    }
}

/// Keeps what was written in `logs` since `began`, and says where.
///
/// # Errors
/// When it cannot be copied.
pub(super) fn keep(
    project: &Project,
    job: &str,
    logs: &Path,
    began: SystemTime,
) -> Result<PathBuf> {
    let to = place(project)?.join(job.replace('/', "-"));
    copy(logs, &to, began).with_context(|| format!("cannot keep logs in {}", to.display()))?;
    Ok(to)
}

fn copy(from: &Path, to: &Path, since: SystemTime) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_file() && about.modified()? >= since {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn logs_of_the_job_are_kept_until_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let project = Project::at(dir.path(), &dir.path().join("cache"));
        let logs = dir.path().join("lane");
        fs::create_dir(&logs).unwrap();
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        for (name, time) in [("old.log", now - hour), ("new.log", now)] {
            let file = fs::File::create(logs.join(name)).unwrap();
            file.set_modified(time).unwrap();
        }
        let kept = keep(&project, "guest/x", &logs, now).unwrap();
        assert!(kept.join("new.log").exists() && !kept.join("old.log").exists());
        forget(&project).unwrap();
        assert!(!kept.exists());
        forget(&project).unwrap();
    }
}
