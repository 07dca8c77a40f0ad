// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask nested`: a machine under TCG whose PCIe bus has a simulated PF with its VFs behind an
//! emulated Intel IOMMU, and in which Debian's kernel uses them as it uses hardware.
//!
//! The functions are served by one simulator; QEMU's `x-vfio-user-sriov-pf` and
//! `x-vfio-user-sriov-vf` put them on the bus. What the guest can be asked to do is in
//! `guest/nested`.

mod scenarios;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use crate::guest::answer::Answer;
use crate::guest::machine::{Config, Driver, Extra, Machine};
use crate::guest::process::{Interrupted, Process, POLL};
use crate::guest::rig::{control, simulator_arguments};
use crate::guest::{self, Image};
use crate::guest_test::Bench;
use crate::programs;
use crate::project::Project;
use crate::steps::{seconds, Steps};

/// VFs of the simulated PF.
const VFS: u16 = 2;
/// The kernel's VFIO; what they need is found out.
const MODULES: &[&str] = &["vfio_iommu_type1", "vfio_pci"];
/// Longest time until the simulator serves.
const START: Duration = Duration::from_secs(30);
/// Longest time for one command of a scenario, on a loaded machine.
const COMMAND: Duration = Duration::from_secs(60);

/// Runs the named scenarios, or all.
///
/// # Errors
/// When a name is unknown, something cannot be built, or a scenario failed.
pub(crate) fn run(project: &Project, names: &[String]) -> Result<()> {
    let all = scenarios::ALL;
    for name in names {
        if !all.iter().any(|scenario| scenario.name == name) {
            let known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario {name}; there are: {}", known.join(", "));
        }
    }
    let steps = &mut Steps::new(project, "nested")?;
    let bench = Bench::prepare(project, steps, "nested")?;
    let probe = programs::build_probe(project, steps)?;
    let initrd = bench.run.path().join("nested.cpio");
    guest::extend(&bench.image, &initrd, ("vfio", MODULES), &[&probe])?;
    let image = Image {
        initrd,
        ..bench.image.clone()
    };
    let mut failed = 0;
    for scenario in all {
        if !names.is_empty() && !names.iter().any(|name| name == scenario.name) {
            continue;
        }
        let began = Instant::now();
        let result = steps.run(scenario.name, |_| {
            let mut nested = Nested::start(scenario.name, scenario.kernel, &bench, &image)?;
            let figures = (scenario.run)(&mut nested)?;
            nested.finish(scenario.violations)?;
            Ok(figures)
        });
        let time = seconds(began.elapsed());
        match result {
            Ok(figures) => println!("PASS {}: {figures} ({time})", scenario.name),
            Err(error) => {
                failed += 1;
                println!("FAIL {} ({time}): {error:#}", scenario.name);
            }
        }
        bench.interrupted.check()?;
    }
    if failed > 0 {
        bail!(
            "{failed} scenarios failed; logs are in {}",
            bench.logs.display()
        );
    }
    Ok(())
}

/// A running nested machine with its simulator.
pub(crate) struct Nested {
    // Fields are dropped in this order: QEMU before the functions it uses.
    machine: Machine,
    simulator: Process,
    dir: PathBuf,
    qemu_log: PathBuf,
}

impl Nested {
    fn start(name: &str, kernel: &'static str, bench: &Bench, image: &Image) -> Result<Self> {
        let dir = bench.run.path().join(name);
        std::fs::create_dir_all(&dir)?;
        let simulator = start_simulator(
            &bench.programs.simulator,
            name,
            &dir,
            &bench.logs,
            &bench.interrupted,
        )?;
        let config = Config {
            qemu: &bench.programs.qemu,
            image,
            driver: Driver::Modern,
            functions: Vec::new(),
            address: "10.0.77.2",
            console: false,
            extra: Extra {
                arguments: bus(&dir, VFS),
                kernel,
            },
        };
        let mut machine = bench.machine(name, &config)?;
        machine.wait_ready().context("boot")?;
        Ok(Self {
            machine,
            simulator,
            dir,
            qemu_log: bench.logs.join(format!("{name}-qemu.log")),
        })
    }

    /// Has the guest run one command, which must succeed; its name is the step's in errors.
    ///
    /// # Errors
    /// When it fails or takes too long.
    fn step(&mut self, command: &str) -> Result<Answer> {
        self.machine.run(command, COMMAND)?.ok()
    }

    /// Has the guest run one command that must be refused.
    ///
    /// # Errors
    /// When it succeeds or takes too long.
    fn refused(&mut self, command: &str) -> Result<Answer> {
        let answer = self.machine.run(command, COMMAND)?;
        ensure!(
            answer.status != 0,
            "\"{command}\" succeeded, which it must not: {}",
            answer.text()
        );
        Ok(answer)
    }

    /// Unplugs the PF, with which L1 loses the VFs, and waits until it is gone.
    ///
    /// # Errors
    /// When QEMU refuses, or L1 keeps a function.
    fn unplug(&mut self) -> Result<()> {
        self.machine
            .qmp()
            .execute("device_del", &json!({ "id": "pf" }))?;
        self.step("card_gone")?;
        // QEMU frees the PF when L1 has let go. It hides the VFs, but does not delete them.
        let until = Instant::now() + COMMAND;
        while self.number("/front/disconnections")? == 0 {
            ensure!(Instant::now() < until, "QEMU keeps the PF");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// VFs that the simulated PF has enabled, as the simulator knows it.
    ///
    /// # Errors
    /// When the simulator does not answer.
    fn live_vfs(&self) -> Result<u64> {
        self.number("/hardware/live_vfs")
    }

    /// One of the simulator's counters, by its place in their tree.
    fn number(&self, pointer: &str) -> Result<u64> {
        let counters = self.counters()?;
        counters
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("the simulator does not tell {pointer}: {counters}"))
    }

    fn counters(&self) -> Result<serde_json::Value> {
        control(&self.dir, &json!({ "cmd": "counters" }))
    }

    /// Checks what no scenario may cause: faults, errors, and breaches of the specification by the
    /// driver but for the given ones.
    fn finish(&mut self, expected: &[&str]) -> Result<()> {
        let counters = self.counters()?;
        let violations = counters
            .pointer("/hardware/device/violations")
            .and_then(serde_json::Value::as_object)
            .with_context(|| format!("the simulator does not tell violations: {counters}"))?;
        let unexpected: Vec<&String> = violations
            .keys()
            .filter(|name| !expected.contains(&name.as_str()))
            .collect();
        ensure!(
            unexpected.is_empty(),
            "the simulated device saw violations: {unexpected:?}"
        );
        let faults = self.step("iommu_faults")?.number("iommu_faults")?;
        ensure!(faults == 0, "the emulated IOMMU saw {faults} faults");
        ensure!(
            !self.simulator.ended(),
            "the simulator ended{}",
            self.simulator.evidence()
        );
        // A mapping that the simulator refuses is reported there and nowhere else.
        let log = std::fs::read_to_string(&self.qemu_log).unwrap_or_default();
        if let Some(line) = log
            .lines()
            .find(|line| line.contains("vfio") && (line.contains("fail") || line.contains("error")))
        {
            // The first line is the command.
            ensure!(
                line.contains(" -device "),
                "QEMU reports: {line}\n  log: {}",
                self.qemu_log.display()
            );
        }
        Ok(())
    }
}

fn start_simulator(
    program: &Path,
    name: &str,
    dir: &Path,
    logs: &Path,
    interrupted: &Interrupted,
) -> Result<Process> {
    let mut args = simulator_arguments(dir, "net", VFS);
    args.push("--no-sriov-capability".into());
    args.push("--event-log".into());
    args.push(
        logs.join(format!("{name}-events.log"))
            .to_string_lossy()
            .into_owned(),
    );
    let log = logs.join(format!("{name}-simulator.log"));
    let mut simulator = Process::start("the simulated PF", program, &args, &log)?;
    simulator.wait_for_line("ready", START, interrupted)?;
    Ok(simulator)
}

/// QEMU's arguments for an IOMMU and a root port with the functions behind it: VFs first, as the PF
/// looks for them.
fn bus(dir: &Path, vfs: u16) -> Vec<String> {
    let mut devices = vec![
        // Devices that QEMU maps into need to hear of every change: caching mode.
        "intel-iommu,intremap=on,caching-mode=on".to_owned(),
        "pcie-root-port,id=rp,chassis=1,slot=1".to_owned(),
    ];
    let socket = |name: String| json!({ "type": "unix", "path": dir.join(name) });
    for vf in 1..=vfs {
        devices.push(
            json!({
                "driver": "x-vfio-user-sriov-vf",
                "id": format!("vf{vf}"),
                "socket": socket(format!("vf{vf}.sock")),
                "bus": "rp",
                "addr": format!("{:#x}.{:#x}", vf / 8, vf % 8),
                "sriov-pf": "pf",
            })
            .to_string(),
        );
    }
    devices.push(
        json!({
            "driver": "x-vfio-user-sriov-pf",
            "id": "pf",
            "socket": socket("pf.sock".to_owned()),
            "bus": "rp",
            "addr": "0x0.0x0",
        })
        .to_string(),
    );
    devices
        .into_iter()
        .flat_map(|device| ["-device".to_owned(), device])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pf_comes_after_its_vfs() {
        let args = bus(Path::new("/d"), 8);
        let devices: Vec<&String> = args.iter().filter(|arg| *arg != "-device").collect();
        assert_eq!(devices.len(), 11);
        assert!(devices[0].contains("caching-mode=on"));
        assert!(devices[2].contains("\"0x0.0x1\""), "{}", devices[2]);
        assert!(devices[9].contains("\"0x1.0x0\""), "{}", devices[9]);
        assert!(devices[10].contains("x-vfio-user-sriov-pf"));
    }
}
