// SPDX-License-Identifier: GPL-2.0-or-later
//! What is known of jobs from earlier runs of any checkout on this machine, and of what changed: by the
//! content of what they are there to test, and by git's last commits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use test_kit::digest::Digest;
use test_kit::project::Project;
use test_kit::run::Cmd;

use super::order::Past;

/// How many of git's commits are looked at.
const COMMITS: &str = "40";
/// Between commits in what git is asked for.
const MARK: &str = "commit ";

/// How a job ended last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Last {
    passed: bool,
    seconds: f64,
    /// Seconds since 1970.
    ended: u64,
    /// Key over what it is there to test.
    content: String,
}

/// The jobs of earlier runs.
#[derive(Debug)]
pub(super) struct History {
    file: Option<PathBuf>,
    root: PathBuf,
    jobs: BTreeMap<String, Last>,
    /// Paths of the last commits, the newest first.
    commits: Vec<Vec<String>>,
}

impl History {
    /// What is known; that nothing is, is no error.
    pub(super) fn load(project: &Project) -> Self {
        let file = project
            .cache_dir("history")
            .ok()
            .map(|dir| dir.join("jobs.json"));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let log = Cmd::new("git")
            .args(["log", "-n", COMMITS, "--name-only", "--format=commit %H"])
            .dir(project.root())
            .ask();
        Self {
            jobs: text
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            file,
            root: project.root().to_owned(),
            commits: commits(&log.unwrap_or_default()),
        }
    }

    /// What is known of a job that tests what is at these beginnings of paths.
    pub(super) fn past(&self, name: &str, touches: &[&str]) -> Past {
        let change = self.commits.iter().position(|paths| {
            let touched = |path: &String| touches.iter().any(|start| path.starts_with(start));
            paths.iter().any(touched)
        });
        let last = self.jobs.get(name);
        let same = |last: &Last| last.passed && last.content == self.content(touches);
        Past {
            failed: last.is_some_and(|last| !last.passed),
            changed: !last.is_some_and(same),
            change,
            ended: last.map(|last| last.ended),
            took: last
                .filter(|last| last.passed)
                .and_then(|last| Duration::try_from_secs_f64(last.seconds).ok()),
        }
    }

    /// Notes how a job ended, for the next run. That it cannot be kept is no error of the job.
    pub(super) fn note(&mut self, name: &str, touches: &[&str], passed: bool, time: Duration) {
        let ended = SystemTime::now().duration_since(UNIX_EPOCH);
        let last = Last {
            passed,
            seconds: time.as_secs_f64(),
            ended: ended.map_or(0, |time| time.as_secs()),
            content: self.content(touches),
        };
        self.jobs.insert(name.to_owned(), last);
        if let (Some(file), Ok(text)) = (&self.file, serde_json::to_string_pretty(&self.jobs)) {
            let new = file.with_extension(format!("new-{}", std::process::id()));
            let kept = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
            if let Err(error) = kept {
                eprintln!("{} is not kept: {error}", file.display());
            }
        }
    }

    /// Key over the files at these beginnings of paths.
    fn content(&self, touches: &[&str]) -> String {
        let mut digest = Digest::new();
        for start in touches {
            // A beginning may end within a name.
            let at = start.rfind('/').map_or(0, |slash| slash + 1);
            let mut files = Vec::new();
            collect(
                &self.root.join(start.get(..at).unwrap_or_default()),
                &mut files,
            );
            let full = self.root.join(start);
            let full = full.to_string_lossy();
            files.retain(|path| path.to_string_lossy().starts_with(&*full));
            files.sort();
            for file in files {
                let name = file.strip_prefix(&self.root).unwrap_or(&file);
                digest.field(&name.to_string_lossy(), fs::read(&file).unwrap_or_default());
            }
        }
        digest.short()
    }
}

/// All files below a directory, but what was built.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || entry.file_name() == "target" {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// The paths of each commit in git's log.
fn commits(log: &str) -> Vec<Vec<String>> {
    let mut commits: Vec<Vec<String>> = Vec::new();
    for line in log.lines().filter(|line| !line.is_empty()) {
        if line.starts_with(MARK) {
            commits.push(Vec::new());
        } else if let Some(paths) = commits.last_mut() {
            paths.push(line.to_owned());
        }
    }
    commits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> (tempfile::TempDir, Project) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/target")).unwrap();
        fs::write(root.join("a/one.rs"), "1").unwrap();
        fs::write(root.join("a/two.rs"), "1").unwrap();
        let project = Project::at(&root, &dir.path().join("cache"));
        (dir, project)
    }

    #[test]
    fn what_was_never_run_is_changed() {
        let (_dir, project) = project();
        let past = History::load(&project).past("guest/x", &["a/"]);
        assert!(past.changed && !past.failed);
        assert_eq!((past.ended, past.took), (None, None));
    }

    #[test]
    fn a_job_is_known_in_the_next_run() {
        let (_dir, project) = project();
        let time = Duration::from_secs(7);
        History::load(&project).note("guest/x", &["a/o"], true, time);
        let past = |touches: &[&str]| History::load(&project).past("guest/x", touches);
        assert!(!past(&["a/o"]).changed);
        assert_eq!(past(&["a/o"]).took, Some(time));
        assert!(past(&["a/o"]).ended.unwrap() > 1_700_000_000);
        // What it does not test, and what was built, is nothing to it.
        fs::write(project.root().join("a/two.rs"), "2").unwrap();
        fs::write(project.root().join("a/target/one"), "2").unwrap();
        assert!(!past(&["a/o"]).changed);
        fs::write(project.root().join("a/one.rs"), "2").unwrap();
        assert!(past(&["a/o"]).changed);
    }

    #[test]
    fn a_failure_is_known_and_its_time_is_not_taken_for_that_of_a_run() {
        let (_dir, project) = project();
        let mut history = History::load(&project);
        history.note("guest/x", &["a/"], false, Duration::from_secs(600));
        let past = history.past("guest/x", &["a/"]);
        assert!(past.failed && past.changed && past.took.is_none());
    }

    #[test]
    fn a_file_that_is_no_history_is_none() {
        let (_dir, project) = project();
        History::load(&project).note("x", &[], true, Duration::ZERO);
        fs::write(project.cache().join("history/jobs.json"), "{\"x\": 3").unwrap();
        assert!(History::load(&project).jobs.is_empty());
    }

    #[test]
    fn commits_are_told_apart() {
        let log = "commit 1\n\na/one.rs\nb.rs\ncommit 2\ncommit 3\n\nc.rs\n";
        let commits = commits(log);
        assert_eq!(commits.len(), 3);
        assert_eq!(commits[0], ["a/one.rs", "b.rs"]);
        assert!(commits[1].is_empty());
    }
}
