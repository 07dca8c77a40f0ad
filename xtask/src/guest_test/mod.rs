// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask guest-test`: Debian's kernel on VFs of the simulated PF, with QEMU's device and the
//! helper in between. Each scenario says PASS or FAIL with its figures.

mod booted;
mod firmware;
mod intx;
mod queues;
mod resets;
mod scenarios;
mod stock;
mod switch;
pub(crate) mod types;

pub(crate) use self::booted::check_driver;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, Context as _, Result};

use crate::guest::machine::{Config, Driver, Extra, Function, Machine};
use crate::guest::process::Interrupted;
use crate::guest::rig::{Pf, Programs, RunDir};
use crate::guest::{self, Image};
use crate::programs::{self, Profile};
use crate::project::Project;
use crate::qemu;
use crate::steps::{seconds, Steps};

/// What a scenario has at hand.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) image: Image,
    /// The guest's program that starts another kernel.
    pub(crate) kexec: PathBuf,
    pub(crate) run: RunDir,
    pub(crate) logs: PathBuf,
    pub(crate) interrupted: Interrupted,
    /// Firmware and disks, if a chosen scenario needs them.
    kit: Option<firmware::Kit>,
}

impl Bench {
    /// Builds everything that is needed; what is current is not built again. `VLVF_QEMU`, and
    /// `VLVF_HELPER` together with `VLVF_SIM`, name programs that are to be used instead.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(crate) fn prepare(project: &Project, steps: &mut Steps, command: &str) -> Result<Self> {
        let interrupted = Interrupted::watch()?;
        let qemu = qemu::ensure(project, steps)?;
        let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (helper, simulator) = match (given("VLVF_HELPER"), given("VLVF_SIM")) {
            (Some(helper), Some(simulator)) => (helper, simulator),
            _ => {
                let built = programs::build(project, steps, Profile::Release, None)?;
                (built.helper, built.simulator)
            }
        };
        let programs = Programs {
            qemu,
            helper,
            simulator,
        };
        let image = guest::ensure(project, steps)?;
        let kexec = programs::build_kexec(project, steps)?;
        Ok(Self {
            programs,
            image,
            kexec,
            run: RunDir::new()?,
            logs: project.log_dir(command)?,
            interrupted,
            kit: None,
        })
    }

    fn kit(&self) -> Result<&firmware::Kit> {
        self.kit.as_ref().context("firmware was not made ready")
    }

    /// A PF with its helper.
    ///
    /// # Errors
    /// When one of them does not start.
    pub(crate) fn pf(&self, kind: &'static str, vfs: u16, options: &[&str]) -> Result<Pf> {
        Pf::start(
            &self.programs,
            kind,
            vfs,
            options,
            self.run.path(),
            &self.logs,
            &self.interrupted,
        )
    }

    /// A configuration of a machine with these functions.
    pub(crate) fn config(&self, driver: Driver, functions: Vec<Function>) -> Config<'_> {
        Config {
            qemu: &self.programs.qemu,
            image: &self.image,
            driver,
            functions,
            address: "10.0.77.2",
            console: false,
            extra: Extra::default(),
        }
    }

    /// Starts a machine; see [`Machine::wait_ready`].
    ///
    /// # Errors
    /// When QEMU does not start.
    pub(crate) fn machine(&self, name: &str, config: &Config<'_>) -> Result<Machine> {
        Machine::start(name, config, self.run.path(), &self.logs, &self.interrupted)
    }
}

/// Runs the named scenarios, or all.
///
/// # Errors
/// When a name is unknown, something cannot be built, or a scenario failed.
pub(crate) fn run(project: &Project, names: &[String]) -> Result<()> {
    let all: Vec<&scenarios::Scenario> = scenarios::ALL
        .iter()
        .chain(resets::ALL)
        .chain(intx::ALL)
        .chain(types::ALL)
        .chain(queues::ALL)
        .chain(switch::ALL)
        .chain(firmware::ALL)
        .collect();
    for name in names {
        if !all.iter().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario {name}; there are: {}", known.join(", "));
        }
    }
    let steps = &mut Steps::new(project, "guest-test")?;
    let chosen = |name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    let mut bench = Bench::prepare(project, steps, "guest-test")?;
    if firmware::ALL.iter().any(|scenario| chosen(scenario.name)) {
        bench.kit = Some(firmware::Kit::ensure(project, steps, &bench.image)?);
    }
    let (mut passed, mut failed) = (0, 0);
    for scenario in all {
        if !chosen(scenario.name) {
            continue;
        }
        let began = Instant::now();
        let result = steps.run(scenario.name, |_| (scenario.run)(&bench));
        let time = seconds(began.elapsed());
        match result {
            Ok(figures) => {
                passed += 1;
                println!("PASS {}: {figures} ({time})", scenario.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {} ({time}): {error:#}", scenario.name);
            }
        }
        bench.interrupted.check()?;
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!(
            "{failed} guest tests failed; logs are in {}",
            bench.logs.display()
        );
    }
    Ok(())
}
