// SPDX-License-Identifier: GPL-2.0-or-later
//! Runs scenarios, one after the other, in as few machines as possible; and lets somebody look into one.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, Result};
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::debs::Release;
use test_machine::process;
use test_machine::rig::Programs;
use test_machine::scenario::{chosen, verdict, Scenario};

use crate::l2;
use crate::machine::Nested;
use crate::scenarios::ALL;
use crate::setup::{Run, Setup};
use crate::workbench::Workbench;

/// What the user chooses.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these scenarios (repeat the option for several).
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Debian's kernel in the nested machine.
    #[arg(long, value_enum, default_value = "new")]
    l1: Release,
    /// Give the nested machine's console to this terminal, with a shell, after the scenario if there
    /// is one.
    #[arg(long)]
    interactive: bool,
    /// Leave the nested machine running after the scenario, and say how to reach it.
    #[arg(long, conflicts_with = "interactive")]
    keep: bool,
}

impl Options {
    /// The scenarios that are to be run.
    ///
    /// # Errors
    /// When a name is unknown, or the options exclude each other.
    pub fn scenarios(&self) -> Result<Vec<&'static Scenario<Run>>> {
        let names = &self.scenarios;
        let mut wanted = chosen(ALL, names)?;
        if (self.keep && names.len() != 1) || (self.interactive && names.len() > 1) {
            bail!("--keep needs, and --interactive takes, one --scenario");
        }
        // The older kernel has no driver for the PF's admin queue, and does not take a token with iommufd.
        if self.l1 == Release::Stable {
            if let Some(found) = wanted
                .iter()
                .find(|one| one.run.equipped && !names.is_empty())
            {
                bail!("{} needs --l1 new", found.name);
            }
            wanted.retain(|one| !one.run.equipped);
        }
        Ok(wanted)
    }
}

/// Runs scenarios; the machine of the last one stays for the next.
#[derive(Debug)]
pub struct Runner<'a> {
    workbench: &'a Workbench,
    shared: Option<(&'static str, Nested)>,
}

impl<'a> Runner<'a> {
    /// Nothing is started yet.
    #[must_use]
    pub fn new(workbench: &'a Workbench) -> Self {
        Self {
            workbench,
            shared: None,
        }
    }

    /// Runs one scenario and gives its figures. After a failure its machine is gone, or with `keep` stays.
    ///
    /// # Errors
    /// When it shows a fault.
    pub fn run(&mut self, scenario: &Scenario<Run>, keep: bool) -> Result<String> {
        let setup = scenario.run.setup;
        let mut nested = self
            .shared
            .take()
            .filter(|(name, _)| *name == setup.plan.name)
            .map(|(_, nested)| nested);
        let result = in_machine(scenario, &mut nested, self.workbench);
        if (result.is_ok() && !scenario.run.spoils) || keep {
            self.shared = nested.map(|nested| (setup.plan.name, nested));
        }
        result
    }

    /// The machine that is left: the name of its plan.
    #[must_use]
    pub fn machine(&self) -> Option<&'static str> {
        self.shared.as_ref().map(|(name, _)| *name)
    }

    /// Ends the machine that is left, if there is one.
    pub fn end(&mut self) {
        self.shared = None;
    }
}

fn in_machine(
    scenario: &Scenario<Run>,
    nested: &mut Option<Nested>,
    workbench: &Workbench,
) -> Result<String> {
    let nested = match nested {
        Some(nested) => nested,
        None => nested.insert(fresh(scenario.run.setup, workbench, false)?),
    };
    let figures = (scenario.run.run)(nested)?;
    nested.check(scenario.run.violations)?;
    Ok(figures)
}

/// `cargo xtask nested`: runs the named scenarios, or all.
///
/// # Errors
/// When a name is unknown, something cannot be made, or a scenario failed.
pub fn run(
    project: &Project,
    steps: &mut Steps,
    programs: Programs,
    options: &Options,
) -> Result<()> {
    let scenarios = options.scenarios()?;
    if options.keep {
        process::keep_all();
    }
    let equipped = scenarios.iter().any(|one| one.run.equipped);
    let kernel = (options.l1, equipped);
    let mut workbench = Workbench::prepare(project, steps, "nested", programs, kernel)?;
    if options.interactive {
        let named = scenarios.first().filter(|_| !options.scenarios.is_empty());
        return interactive(&workbench, named.copied());
    }
    let mut failed = 0;
    let mut runner = Runner::new(&workbench);
    for scenario in scenarios {
        let began = Instant::now();
        let result = steps.run(scenario.name, |_| runner.run(scenario, options.keep));
        println!("{}", verdict(scenario.name, &result, began.elapsed()));
        failed += u32::from(result.is_err());
        workbench.bench.interrupted.check()?;
    }
    if options.keep {
        if let Some((_, mut nested)) = runner.shared.take() {
            kept(&mut workbench, &mut nested)?;
        }
    }
    if failed > 0 {
        bail!(
            "{failed} scenarios failed; logs are in {}",
            workbench.bench.logs.display()
        );
    }
    Ok(())
}

/// Starts a machine.
fn fresh(setup: &Setup, workbench: &Workbench, console: bool) -> Result<Nested> {
    let mut nested = Nested::start(&setup.plan, workbench, console)?;
    (setup.prepare)(&mut nested)?;
    Ok(nested)
}

/// L1 with its console on the terminal, until it is powered off.
fn interactive(workbench: &Workbench, scenario: Option<&Scenario<Run>>) -> Result<()> {
    let setup = scenario.map_or(&l2::HELPERS, |scenario| scenario.run.setup);
    let mut nested = if scenario.is_some() {
        fresh(setup, workbench, true)?
    } else {
        Nested::start(&setup.plan, workbench, true)?
    };
    if let Some(scenario) = scenario {
        let began = Instant::now();
        let result = (scenario.run.run)(&mut nested);
        println!("{}", verdict(scenario.name, &result, began.elapsed()));
    }
    println!(
        "The nested machine's console follows. What it can be asked for is in /lib/vlvf; for \
         instance:\n  . /lib/vlvf/scenarios; . /lib/vlvf/nested; . /lib/vlvf/l2; exec 3>&1\n  \
         do_vfio_load; do_kvm_load; do_sriov_info net; do_helper_start net --bind --vfs 2\n"
    );
    nested.step("console")?;
    nested.wait_ended()
}

/// Leaves a machine to the user.
fn kept(workbench: &mut Workbench, nested: &mut Nested) -> Result<()> {
    nested.step("console")?;
    let ids: Vec<String> = nested.processes().iter().map(u32::to_string).collect();
    let dir: PathBuf = workbench.bench.run.keep().to_owned();
    println!(
        "The machine goes on in {dir}; its sockets are there: *.console has a shell, *.qmp the machine \
         protocol, for instance\n  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{dir}/NAME.console\n\
         To end it:\n  kill {}; rm -r {dir}",
        ids.join(" "),
        dir = dir.display(),
    );
    Ok(())
}
