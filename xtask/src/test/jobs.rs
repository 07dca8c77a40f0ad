// SPDX-License-Identifier: GPL-2.0-or-later
//! What can be run beside something else: scenarios of machines, fuzz targets, the packager's door.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use guest_tests::Kit;
use nested_tests::{Runner, Workbench};
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::{Step, Steps};
use test_machine::scenario::{Kind, Scenario};

use super::history::History;
use super::order::Job;
use super::suites::{meson_expects, Suite};
use crate::meson;

/// The fuzz targets with what they are there to test, and how long each may run at most.
const FUZZ_TARGETS: [(&str, &[&str]); 9] = [
    (
        "proto_decode",
        &["rust/legacy-vf-proto/src/", "helper/proto-server/src/"],
    ),
    (
        "session",
        &["rust/legacy-vf-proto/src/", "helper/server/src/"],
    ),
    ("hostile_pf", &["helper/pf/src/", "helper/virtqueue/src/"]),
    ("window", &["rust/legacy-window/src/"]),
    ("p9", &["qtest/p9/src/"]),
    ("vfio_user_wire", &["helper/vfio-user-wire/src/"]),
    (
        "vfio_user_peer",
        &[
            "helper/vfio-user-wire/src/",
            "helper/transport/src/vfio_user/",
        ],
    ),
    ("host_texts", &["helper/transport/src/vfio/"]),
    ("reactor", &["helper/server/src/"]),
];
const FUZZ_SECONDS: &str = "60";
/// The same inputs for the same program: a check of a change must not depend on luck. The search for
/// new findings is `fuzz/run all SECONDS`, with another seed each time.
const FUZZ_FIXED: [&str; 2] = ["-seed=1", "-runs=1000000"];
/// What the packager's door is made of.
const DOOR: &[&str] = &[
    "meson",
    "xtask/src/meson.rs",
    "docs/packaging/",
    "helper/daemon/",
];

/// Times on an idle machine of two processors, where nothing is known.
const GUESS_GUEST: Duration = Duration::from_secs(20);
const GUESS_NESTED: Duration = Duration::from_secs(40);
const GUESS_FUZZ: Duration = Duration::from_secs(60);
const GUESS_MESON: Duration = Duration::from_secs(60);

/// How a job is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Guest(&'static Scenario<guest_tests::Run>),
    Nested(&'static Scenario<nested_tests::Run>),
    Fuzz(&'static str),
    Meson,
}

/// A job, how it is run and what it is there to test.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) job: Job,
    pub(super) work: Work,
    pub(super) touches: &'static [&'static str],
}

/// The jobs of a suite, with what is known of them.
pub(super) fn of(suite: Suite, history: &History) -> Vec<Listed> {
    let listed = |name: String, work, touches: &'static [&'static str], guess| Listed {
        job: Job {
            always: false,
            machine: None,
            spoils: false,
            guess,
            past: history.past(&name, touches),
            name,
        },
        work,
        touches,
    };
    match suite {
        Suite::Guest => {
            let mut jobs = Vec::new();
            for (kind, one, first) in scenarios(guest_tests::ALL) {
                let name = format!("guest/{}", one.name);
                let mut new = listed(name, Work::Guest(one), kind.touches, GUESS_GUEST);
                new.job.always = first;
                jobs.push(new);
            }
            for (kind, one, first) in scenarios(nested_tests::ALL) {
                let name = format!("nested/{}", one.name);
                let mut new = listed(name, Work::Nested(one), kind.touches, GUESS_NESTED);
                new.job.always = first;
                new.job.machine = Some(one.run.setup.plan.name);
                new.job.spoils = one.run.spoils;
                jobs.push(new);
            }
            jobs
        }
        Suite::Fuzz => FUZZ_TARGETS
            .iter()
            .map(|(name, touches)| {
                listed(
                    format!("fuzz/{name}"),
                    Work::Fuzz(name),
                    touches,
                    GUESS_FUZZ,
                )
            })
            .collect(),
        Suite::Meson => vec![listed("meson".to_owned(), Work::Meson, DOOR, GUESS_MESON)],
        _ => Vec::new(),
    }
}

/// Each scenario with its kind, and whether it is the first of that.
fn scenarios<R>(
    kinds: &'static [Kind<R>],
) -> impl Iterator<Item = (&'static Kind<R>, &'static Scenario<R>, bool)> {
    kinds.iter().flat_map(|kind| {
        let number = kind.scenarios.iter().enumerate();
        number.map(move |(at, one)| (kind, one, at == 0))
    })
}

/// What jobs need that is made once, for somebody who runs one after the other.
#[derive(Debug)]
pub(super) struct Hands<'a> {
    pub(super) project: &'a Project,
    /// There if a job needs machines.
    pub(super) workbench: Option<&'a Workbench>,
    pub(super) kit: Option<&'a Kit>,
    /// A directory for logs.
    pub(super) logs: &'a Path,
    pub(super) runner: Option<Runner<'a>>,
}

impl Hands<'_> {
    /// The machine that is running.
    pub(super) fn machine(&self) -> Option<&'static str> {
        self.runner.as_ref().and_then(Runner::machine)
    }

    /// Runs a job and gives its figures.
    ///
    /// # Errors
    /// What it found.
    pub(super) fn run(&mut self, work: Work) -> Result<String> {
        match work {
            Work::Guest(one) => {
                let bench = &self.workbench.context("no machines were made")?.bench;
                guest_tests::run(one, bench, self.kit)
            }
            Work::Nested(one) => {
                let runner = self.runner.as_mut().context("no machines were made")?;
                runner.run(one, false)
            }
            Work::Fuzz(target) => self.fuzz(target),
            Work::Meson => {
                let steps = &mut Steps::new(self.project, "meson")?;
                meson::check(self.project, steps, &meson_expects())?;
                Ok("set up, built, installed".to_owned())
            }
        }
    }

    /// Runs a fuzz target with [`FUZZ_FIXED`] for at most [`FUZZ_SECONDS`].
    fn fuzz(&self, target: &str) -> Result<String> {
        let root = self.project.root();
        let step = Step::alone(self.logs.join(format!("fuzz-{target}.log")))?;
        let said = Cmd::new(root.join("fuzz/run"))
            .args([target, FUZZ_SECONDS])
            .args(FUZZ_FIXED)
            .dir(root)
            .output(&step)?;
        let figures = said.trim().trim_start_matches(target);
        Ok(figures.trim_start_matches(": ").to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> Vec<Listed> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cache = tempfile::tempdir().unwrap();
        let history = History::load(&Project::at(&root, cache.path()));
        [Suite::Guest, Suite::Fuzz, Suite::Meson]
            .into_iter()
            .flat_map(|suite| of(suite, &history))
            .collect()
    }

    #[test]
    fn jobs_have_names_of_their_own_and_test_something() {
        let jobs = all();
        let names: BTreeSet<&str> = jobs.iter().map(|one| one.job.name.as_str()).collect();
        assert_eq!(names.len(), jobs.len());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for start in jobs.iter().flat_map(|one| one.touches) {
            let full = root.join(start);
            let name = full.file_name().unwrap_or_default().to_string_lossy();
            let dir = full.parent().unwrap().read_dir().unwrap();
            let found = dir
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(&*name));
            assert!(found, "nothing begins with {start}");
        }
    }

    #[test]
    fn one_scenario_of_each_kind_always_runs() {
        let jobs = all();
        let always = jobs.iter().filter(|one| one.job.always).count();
        assert_eq!(always, guest_tests::ALL.len() + nested_tests::ALL.len());
    }

    #[test]
    fn every_fuzz_target_is_run() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
        let there: BTreeSet<String> = std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|entry| {
                entry
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let run = FUZZ_TARGETS.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(there, run.collect());
    }
}
