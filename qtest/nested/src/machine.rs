// SPDX-License-Identifier: GPL-2.0-or-later
//! The nested machine (L1) with its cards, and the guest in it (L2).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use serde_json::json;

use crate::workbench::Workbench;
use test_kit::patience::until;
use test_machine::answer::Answer;
use test_machine::machine::{Config, Driver, Extra, Machine};
use test_machine::port::Port;
use test_machine::process::{Interrupted, Process, POLL};
use test_machine::qmp::Qmp;
use test_machine::rig::{control, simulator_arguments};

/// Memory of L1 in MiB: its files, and L2's memory.
const MEMORY_MIB: u32 = 2048;
/// Longest time until a simulator serves, in its own time.
const START: Duration = Duration::from_secs(30);
/// Longest time for one command of a scenario, in the machine's own time.
const COMMAND: Duration = Duration::from_secs(60);
/// Serial ports of L1 that are L2's command port and its QEMU's machine protocol.
const L2_PORT: &str = "l2port";
const L2_QMP: &str = "l2qmp";

/// Words for the kernel of a machine in which a nanosecond is an instruction, so that its clocks count
/// them; idle time passes at once.
pub(crate) const COUNTED: &str = "intel_iommu=on vlvf.counted";

/// A simulated PF with its VFs, behind a root port of its own.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// The type, as the simulator names it.
    pub kind: &'static str,
    /// How many VFs it has.
    pub vfs: u16,
    /// More options of the simulator.
    pub options: &'static [&'static str],
}

/// What a nested machine is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of its logs.
    pub name: &'static str,
    /// Words for L1's kernel command line.
    pub kernel: &'static str,
    /// What is on its bus.
    pub cards: &'static [Card],
}

/// A running card.
#[derive(Debug)]
struct Running {
    card: Card,
    dir: PathBuf,
    simulator: Process,
}

/// A running nested machine.
#[derive(Debug)]
pub struct Nested {
    // Fields are dropped in this order: QEMU before the functions it uses.
    pub(crate) machine: Machine,
    cards: Vec<Running>,
    port: Port,
    qmp: Option<Qmp>,
    qemu_log: PathBuf,
}

impl Nested {
    /// Starts simulators and L1, and waits until L1 takes commands. With `console` L1's console is
    /// on this program's terminal.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(plan: &Plan, workbench: &Workbench, console: bool) -> Result<Self> {
        let bench = &workbench.bench;
        let run = bench.run.path().join(plan.name);
        let mut cards = Vec::new();
        let mut arguments = iommu();
        if plan.kernel == COUNTED {
            arguments.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
        }
        for (slot, card) in (1..).zip(plan.cards) {
            let dir = run.join(card.kind);
            std::fs::create_dir_all(&dir)?;
            arguments.extend(bus(&dir, card, slot));
            let (logs, interrupted) = (&bench.logs, &bench.interrupted);
            let program = &bench.programs.simulator;
            let simulator = simulate(program, plan.name, card, &dir, logs, interrupted)?;
            cards.push(Running {
                card: *card,
                dir,
                simulator,
            });
        }
        let config = Config {
            qemu: &bench.programs.qemu,
            image: &workbench.image,
            driver: Driver::Modern,
            functions: Vec::new(),
            address: "10.0.77.2",
            console,
            extra: Extra {
                arguments,
                kernel: plan.kernel,
                memory_mib: Some(MEMORY_MIB),
                ports: vec![L2_PORT, L2_QMP],
            },
        };
        let mut machine = bench.machine(plan.name, &config)?;
        let log = bench.logs.join(format!("{}-l2-port.log", plan.name));
        let port = machine.connect(L2_PORT)?;
        let port = Port::new("L2", port, &log, &bench.interrupted)?;
        machine.wait_ready().context("boot L1")?;
        Ok(Self {
            machine,
            cards,
            port,
            qmp: None,
            qemu_log: bench.logs.join(format!("{}-qemu.log", plan.name)),
        })
    }

    /// Has L1 run one command, which must succeed; its name is the step's in errors.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub fn step(&mut self, command: &str) -> Result<Answer> {
        self.machine.run(command, COMMAND)?.ok()
    }

    /// Has L1 run one command, whatever comes of it.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn attempt(&mut self, command: &str) -> Result<Answer> {
        self.machine.run(command, COMMAND)
    }

    /// Has L1 run one command that must be refused.
    ///
    /// # Errors
    /// When it succeeds or takes too long.
    pub fn refused(&mut self, command: &str) -> Result<Answer> {
        let answer = self.attempt(command)?;
        ensure!(
            answer.status != 0,
            "\"{command}\" succeeded, which it must not: {}",
            answer.text()
        );
        Ok(answer)
    }

    /// Starts L2's QEMU, and does not wait for L2.
    pub(crate) fn launch_l2(&mut self, words: &[&str], arguments: &[String]) -> Result<()> {
        self.port.drain();
        let command = l2_command(words, arguments);
        self.step(&command).context("start QEMU in L1").map(|_| ())
    }

    /// Waits until L2 says that it takes commands.
    ///
    /// # Errors
    /// When it does not, or L1 has ended.
    pub(crate) fn l2_ready(&mut self, within: Duration) -> Result<()> {
        let (port, machine) = (&mut self.port, &mut self.machine);
        port.wait_ready(within, &mut || machine.alive())
    }

    /// Whether L1 still runs.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn l1_alive(&mut self) -> Result<()> {
        self.machine.alive()
    }

    /// Has L2 run one command, which must succeed.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub fn l2(&mut self, command: &str, within: Duration) -> Result<Answer> {
        self.l2_attempt(command, within)?
            .ok()
            .map_err(|error| anyhow!("in L2: {error:#}"))
    }

    /// Has L2 run one command, whatever comes of it.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn l2_attempt(&mut self, command: &str, within: Duration) -> Result<Answer> {
        let (port, machine) = (&mut self.port, &mut self.machine);
        let done = port
            .send(command)
            .and_then(|id| port.wait(&id, command, within, &mut || machine.alive()));
        let done = match done {
            Ok(answer) => return Ok(answer),
            // What stands still, L2 or its QEMU, is worth knowing.
            Err(error) => Err(anyhow!("{error:#}{}", self.l2_state())),
        };
        self.explained(done)
    }

    /// Asks L2 for something without waiting, such as a reboot.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn l2_send(&mut self, command: &str) -> Result<()> {
        self.port.drain();
        self.port.send(command).map(|_| ())
    }

    /// Powers L2 off and waits until its QEMU has ended without an error.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop_l2(&mut self) -> Result<Answer> {
        self.l2_send("poweroff")?;
        let ended = self.step("l2_ended 30").context("power L2 off")?;
        self.qmp = None;
        ensure!(
            ended.get("status")? == "0",
            "L2's QEMU ended with {}",
            ended.text()
        );
        Ok(ended)
    }

    /// The machine protocol of L2's QEMU.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn l2_qmp(&mut self) -> Result<&mut Qmp> {
        if self.qmp.is_none() {
            let stream = self.machine.connect(L2_QMP)?;
            self.qmp = Some(Qmp::over_serial(stream).context("the machine protocol of L2")?);
        }
        self.qmp.as_mut().context("no machine protocol")
    }

    /// Adds the end of L1's logs, which have L2's too, to an error.
    pub(crate) fn explained<T>(&self, result: Result<T>) -> Result<T> {
        self.machine.explained(result)
    }

    /// Unplugs a PF, with which L1 loses the VFs, and waits until it is gone.
    ///
    /// # Errors
    /// When QEMU refuses, or L1 keeps a function.
    pub fn unplug(&mut self, kind: &str) -> Result<()> {
        self.machine
            .qmp()
            .execute("device_del", &json!({ "id": format!("{kind}-pf") }))?;
        self.step("card_gone")?;
        // QEMU frees the PF when L1 has let go. It hides the VFs, but does not delete them.
        until(COMMAND, POLL, || {
            let gone = self.number(kind, "/front/disconnections")? > 0;
            Ok(gone.then_some(()))
        })
        .context("QEMU keeps the PF")
    }

    /// VFs that a simulated PF has enabled, as the simulator knows it.
    ///
    /// # Errors
    /// When the simulator does not answer.
    pub fn live_vfs(&self, kind: &str) -> Result<u64> {
        self.number(kind, "/hardware/live_vfs")
    }

    /// One of a simulator's counters, by its place in their tree.
    ///
    /// # Errors
    /// As [`Nested::counters`], or when there is no such number.
    pub fn number(&self, kind: &str, pointer: &str) -> Result<u64> {
        let counters = self.counters(kind)?;
        counters
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("the simulator does not tell {pointer}: {counters}"))
    }

    /// All of a simulator's counters.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counters(&self, kind: &str) -> Result<serde_json::Value> {
        self.control(kind, &json!({ "cmd": "counters" }))
    }

    /// Sends one request to the control socket of a simulator.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn control(&self, kind: &str, request: &serde_json::Value) -> Result<serde_json::Value> {
        control(&self.card(kind)?.dir, request)
    }

    fn card(&self, kind: &str) -> Result<&Running> {
        let running = self.cards.iter().find(|running| running.card.kind == kind);
        running.with_context(|| format!("the machine has no card {kind}"))
    }

    /// Where the simulator of a card has its sockets.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn dir(&self, kind: &str) -> Result<&Path> {
        Ok(&self.card(kind)?.dir)
    }

    /// Checks what no scenario may cause: faults, errors, and breaches of the specification by the
    /// driver but for the given ones.
    ///
    /// # Errors
    /// When there was one.
    pub fn check(&mut self, expected: &[&str]) -> Result<()> {
        for at in 0..self.cards.len() {
            let Some(running) = self.cards.get_mut(at) else {
                continue;
            };
            let kind = running.card.kind;
            ensure!(
                !running.simulator.ended(),
                "the simulator of the {kind} card ended{}",
                running.simulator.evidence()
            );
            let counters = self.counters(kind)?;
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
                "the simulated {kind} device saw violations: {unexpected:?}"
            );
        }
        let faults = self.step("iommu_faults")?.number("iommu_faults")?;
        ensure!(faults == 0, "the emulated IOMMU saw {faults} faults");
        // A mapping that the simulator refuses is reported there and nowhere else.
        let log = std::fs::read_to_string(&self.qemu_log).unwrap_or_default();
        // The first line is the command.
        if let Some(line) = log.lines().find(|line| {
            line.contains("vfio")
                && (line.contains("fail") || line.contains("error"))
                && !line.contains(" -device ")
        }) {
            return Err(anyhow!(
                "QEMU reports: {line}\n  log: {}",
                self.qemu_log.display()
            ));
        }
        Ok(())
    }

    /// Numbers of the processes, for somebody who ends them by hand.
    pub fn processes(&self) -> Vec<u32> {
        let mut ids = vec![self.machine.id()];
        ids.extend(self.cards.iter().map(|running| running.simulator.id()));
        ids
    }

    /// Waits until L1's QEMU has ended.
    ///
    /// # Errors
    /// When the user interrupts.
    pub fn wait_ended(&mut self) -> Result<()> {
        self.machine.wait_ended(None).map(|_| ())
    }
}

/// L1's command that starts L2.
fn l2_command(words: &[&str], arguments: &[String]) -> String {
    let words = if words.is_empty() {
        "quiet".to_owned()
    } else {
        words.join(",")
    };
    let mut command = format!("l2_start {words}");
    for argument in arguments {
        command.push(' ');
        command += argument;
    }
    command
}

fn simulate(
    program: &Path,
    name: &str,
    card: &Card,
    dir: &Path,
    logs: &Path,
    interrupted: &Interrupted,
) -> Result<Process> {
    let kind = card.kind;
    let mut args = simulator_arguments(dir, kind, card.vfs);
    args.push("--no-sriov-capability".into());
    args.push("--event-log".into());
    let events = logs.join(format!("{name}-{kind}-events.log"));
    args.push(events.to_string_lossy().into_owned());
    args.extend(card.options.iter().map(|option| (*option).to_owned()));
    let log = logs.join(format!("{name}-{kind}-simulator.log"));
    let mut simulator = Process::start(&format!("the simulated {kind} PF"), program, &args, &log)?;
    simulator.wait_for_line("ready", START, interrupted)?;
    Ok(simulator)
}

/// QEMU's arguments for an IOMMU.
fn iommu() -> Vec<String> {
    // Devices that QEMU maps into need to hear of every change: caching mode.
    ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        .map(str::to_owned)
        .to_vec()
}

/// QEMU's arguments for a root port with the functions of a card behind it: VFs first, as the PF
/// looks for them.
fn bus(dir: &Path, card: &Card, slot: u32) -> Vec<String> {
    let kind = card.kind;
    let mut devices = vec![format!(
        "pcie-root-port,id={kind}-port,chassis={slot},slot={slot}"
    )];
    let function = |driver: &str, name: &str, addr: String| {
        let mut device = json!({
            "driver": driver,
            "id": format!("{kind}-{name}"),
            "socket": { "type": "unix", "path": dir.join(format!("{name}.sock")) },
            "bus": format!("{kind}-port"),
            "addr": addr,
        });
        if name != "pf" {
            device["sriov-pf"] = json!(format!("{kind}-pf"));
        }
        device.to_string()
    };
    for vf in 1..=card.vfs {
        let addr = format!("{:#x}.{:#x}", vf / 8, vf % 8);
        devices.push(function("x-vfio-user-sriov-vf", &format!("vf{vf}"), addr));
    }
    devices.push(function("x-vfio-user-sriov-pf", "pf", "0x0.0x0".to_owned()));
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
        let card = Card {
            kind: "net",
            vfs: 8,
            options: &[],
        };
        let args = bus(Path::new("/d"), &card, 3);
        let devices: Vec<&String> = args.iter().filter(|arg| *arg != "-device").collect();
        assert_eq!(devices.len(), 10);
        assert!(devices[0].contains("id=net-port,chassis=3"));
        assert!(devices[1].contains("\"0x0.0x1\""), "{}", devices[1]);
        assert!(devices[8].contains("\"0x1.0x0\""), "{}", devices[8]);
        assert!(devices[8].contains("\"sriov-pf\":\"net-pf\""));
        assert!(devices[9].contains("x-vfio-user-sriov-pf"));
        assert!(!devices[9].contains("sriov-pf\":"), "{}", devices[9]);
        assert!(iommu()[1].contains("caching-mode=on"));
    }

    #[test]
    fn words_for_l2_are_one_argument() {
        let arguments = ["-device".to_owned(), "a,b=c".to_owned()];
        assert_eq!(
            l2_command(
                &["virtio_pci.force_legacy=1", "vlvf.addr=10.0.77.9"],
                &arguments
            ),
            "l2_start virtio_pci.force_legacy=1,vlvf.addr=10.0.77.9 -device a,b=c"
        );
        assert_eq!(l2_command(&[], &[]), "l2_start quiet");
    }
}
