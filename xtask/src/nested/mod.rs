// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask nested`: a machine under TCG (L1) whose PCIe bus has simulated PFs with their VFs
//! behind an emulated Intel IOMMU. Debian's kernel in it uses them as it uses hardware; the helper and
//! QEMU with KVM run in it, and in that QEMU a guest (L2).
//!
//! The functions of a card are served by one simulator; QEMU's `x-vfio-user-sriov-pf` and
//! `x-vfio-user-sriov-vf` put them on the bus. What L1 can be asked to do is in `guest/nested` and
//! `guest/l2`, what L2 can in `guest/scenarios`.

mod boot;
mod device;
mod hotplug;
mod image;
mod intx;
mod iommufd;
mod l2;
mod machine;
mod peer;
mod restart;
mod scenarios;
mod takeback;
mod types;
mod wrong;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, Result};

pub(crate) use self::machine::{Card, Nested, Plan};
use crate::guest::debs::Release;
use crate::guest::process;
use crate::guest::{self, Image};
use crate::guest_test::{self, Bench};
use crate::programs;
use crate::project::Project;
use crate::steps::{seconds, Steps};

/// What the user chooses.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
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

/// One scenario.
struct Scenario {
    name: &'static str,
    /// The machine it runs in. Scenarios with the same one that follow each other share it.
    setup: &'static Setup,
    /// Breaches of the specification, as the simulator names them, that it must not fail for.
    violations: &'static [&'static str],
    /// Gives the figures to be shown.
    run: fn(&mut Nested) -> Result<String>,
}

/// A machine for scenarios.
struct Setup {
    plan: Plan,
    /// What is done in a fresh machine.
    prepare: fn(&mut Nested) -> Result<()>,
}

/// Programs and image for nested machines.
pub(crate) struct Workbench {
    pub(crate) bench: Bench,
    /// What L1 boots from.
    pub(crate) image: Image,
}

impl Workbench {
    /// Builds everything that is needed, as [`Bench::prepare`], for L1 with the given kernel.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(crate) fn prepare(
        project: &Project,
        steps: &mut Steps,
        command: &str,
        release: Release,
    ) -> Result<Self> {
        let bench = Bench::prepare(project, steps, command)?;
        let probe = programs::build_probe(project, steps)?;
        let outer = guest::ensure_release(project, steps, release)?;
        let image = steps.run("make the nested machine's file system", |step| {
            let (programs, inner) = (&bench.programs, guest_test::types::image(&bench)?);
            image::make(step, programs, &probe, &outer, &inner, bench.run.path())
        })?;
        Ok(Self { bench, image })
    }
}

/// All scenarios.
fn all() -> impl Iterator<Item = &'static Scenario> {
    // In the same machine; the last one loads drivers in it.
    let l2 = l2::ALL.iter().chain(device::ALL).chain(intx::ALL);
    let l2 = l2.chain(takeback::ALL);
    scenarios::ALL
        .iter()
        .chain(l2)
        .chain(types::ALL)
        .chain(restart::ALL)
        .chain(wrong::ALL)
        .chain(newer())
}

/// Those that need modules built for the newer kernel.
fn newer() -> impl Iterator<Item = &'static Scenario> {
    iommufd::ALL.iter().chain(peer::ALL)
}

/// Runs the named scenarios, or all.
///
/// # Errors
/// When a name is unknown, something cannot be built, or a scenario failed.
pub(crate) fn run(project: &Project, options: &Options) -> Result<()> {
    let names = &options.scenarios;
    for name in names {
        if !all().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = all().map(|scenario| scenario.name).collect();
            bail!("no scenario {name}; there are: {}", known.join(", "));
        }
    }
    if (options.keep && names.len() != 1) || (options.interactive && names.len() > 1) {
        bail!("--keep needs, and --interactive takes, one --scenario");
    }
    // The older kernel has no driver for the PF's admin queue, and does not take a token with iommufd.
    let older = options.l1 == Release::Stable;
    if let Some(found) = newer().find(|one| older && names.iter().any(|n| n == one.name)) {
        bail!("{} needs --l1 new", found.name);
    }
    let wanted = |scenario: &Scenario| {
        let named = names.iter().any(|name| name == scenario.name);
        let runs = !older || newer().all(|one| one.name != scenario.name);
        (names.is_empty() || named) && runs
    };
    let steps = &mut Steps::new(project, "nested")?;
    if options.keep {
        process::keep_all();
    }
    let mut workbench = Workbench::prepare(project, steps, "nested", options.l1)?;
    if newer().any(wanted) {
        peer::equip(project, steps, &mut workbench)?;
    }
    if options.interactive {
        return interactive(&workbench, names.first());
    }
    let mut failed = 0;
    let mut shared: Option<(&'static str, Nested)> = None;
    for scenario in all().filter(|scenario| wanted(scenario)) {
        let began = Instant::now();
        let setup = scenario.setup;
        let mut nested = shared
            .take()
            .filter(|(name, _)| *name == setup.plan.name)
            .map(|(_, nested)| nested);
        let result = steps.run(scenario.name, |_| {
            let nested = match &mut nested {
                Some(nested) => nested,
                None => nested.insert(fresh(setup, &workbench, false)?),
            };
            let figures = (scenario.run)(nested)?;
            nested.check(scenario.violations)?;
            Ok(figures)
        });
        let time = seconds(began.elapsed());
        match result {
            Ok(figures) => {
                println!("PASS {}: {figures} ({time})", scenario.name);
                shared = nested.map(|nested| (setup.plan.name, nested));
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {} ({time}): {error:#}", scenario.name);
                if options.keep {
                    shared = nested.map(|nested| (setup.plan.name, nested));
                }
            }
        }
        workbench.bench.interrupted.check()?;
    }
    if options.keep {
        if let Some((_, nested)) = &mut shared {
            kept(&mut workbench, nested)?;
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
fn interactive(workbench: &Workbench, name: Option<&String>) -> Result<()> {
    let scenario = name.and_then(|name| all().find(|scenario| scenario.name == name));
    let setup = scenario.map_or(&l2::HELPERS, |scenario| scenario.setup);
    let mut nested = if scenario.is_some() {
        fresh(setup, workbench, true)?
    } else {
        Nested::start(&setup.plan, workbench, true)?
    };
    if let Some(scenario) = scenario {
        match (scenario.run)(&mut nested) {
            Ok(figures) => println!("PASS {}: {figures}", scenario.name),
            Err(error) => println!("FAIL {}: {error:#}", scenario.name),
        }
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
