// SPDX-License-Identifier: GPL-2.0-or-later
//! The PF refuses a write to a register while Linux's driver binds. What the driver then believes is
//! not so; it has to find out and to fail, instead of waiting for a device that does nothing. With it
//! would wait the only processor.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::run::Run;
use crate::types::{Direct, Interrupts, CONSOLE, SCSI, SHORT};
use test_kit::steps::tail;
use test_machine::bench::Bench;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

pub(super) const REFUSED_WRITES: Scenario<Run> = Scenario {
    name: "refused-writes",
    shows: "the PF refuses writes to one register, once and for good, while the driver of each of the seven types binds: it comes back, the guest goes on, and the function works once the PF takes the writes; with MSI-X",
    run: Run::Guest(|bench| refused(bench, Interrupts::Msix, &TYPES)),
};

pub(super) const REFUSED_WRITES_INTX: Scenario<Run> = Scenario {
    name: "refused-writes-intx",
    shows: "the same with INTx, where the vectors that the VF refuses are the device's own",
    run: Run::Guest(|bench| refused(bench, Interrupts::Intx, &TYPES)),
};

/// Types with options of the simulator; net and blk first.
const TYPES: [(&str, &[&str]); 7] = [
    ("net", &[]),
    ("blk", &[]),
    ("rng", &[]),
    ("console", CONSOLE),
    ("balloon", &[]),
    ("scsi", SCSI),
    ("9p", &["--tag", "refused"]),
];
/// Features, queue address, selected queue, status, vector of the configuration, vector of a queue.
const OFFSETS: [u8; 6] = [4, 8, 14, 18, 20, 22];
/// EINVAL, and a qualifier to be found again.
const STATUS: u16 = 22;
const QUALIFIER: u16 = 5;
/// Seconds that the guest gives a driver, and what it may take in all.
const RETURNS: u32 = 20;
const CASE: Duration = Duration::from_secs(60);

/// What is refused, to whom.
#[derive(Clone, Copy)]
struct Case {
    kind: &'static str,
    /// Of the device in the machine.
    index: usize,
    offset: u8,
    once: bool,
}

impl Case {
    fn name(self) -> String {
        let often = if self.once { "once" } else { "for good" };
        format!("{} offset {} {often}", self.kind, self.offset)
    }

    /// Whether the driver's set-up is incomplete for the device after a refusal. It is not with the status
    /// 0 that comes first. With INTx the vectors are the device's own, and no driver waits for that of the
    /// configuration.
    fn counts(self, interrupts: Interrupts) -> bool {
        match self.offset {
            18 => !self.once,
            20 => interrupts == Interrupts::Msix,
            _ => true,
        }
    }

    fn rule(self) -> Value {
        let mut rule = json!({
            "opcode": "LEGACY_COMMON_CFG_WRITE",
            "member": 1,
            "offset": self.offset,
            "do": {"status": {"status": STATUS, "qualifier": QUALIFIER}},
        });
        if self.once {
            rule["first"] = json!(1);
        }
        rule
    }
}

/// How many of what there was.
#[derive(Default)]
struct Sums {
    /// Drivers that took the function all the same.
    bound: u32,
    /// Drivers that gave it up.
    failed: u32,
    /// Cases in which nobody wrote.
    unwritten: Vec<String>,
    /// What went wrong.
    wrong: Vec<String>,
}

fn refused(
    bench: &Bench,
    interrupts: Interrupts,
    types: &'static [(&'static str, &'static [&'static str])],
) -> Result<String> {
    let mut direct = Direct::boot(bench, Driver::Legacy, interrupts.kernel(), types)?;
    load(&mut direct)?;
    let mut sums = Sums::default();
    for (index, (kind, _)) in types.iter().enumerate() {
        for offset in OFFSETS {
            for once in [true, false] {
                let case = Case {
                    kind,
                    index,
                    offset,
                    once,
                };
                if let Err(error) = one(&mut direct, case, interrupts, &mut sums) {
                    bench.interrupted.check()?;
                    sums.wrong.push(format!("{}: {error:#}", case.name()));
                    again(&mut direct, kind)?;
                }
            }
        }
        said(bench, index, kind)?;
    }
    let cases = types.len() * OFFSETS.len() * 2;
    let unwritten = if sums.unwritten.is_empty() {
        "none".to_owned()
    } else {
        sums.unwritten.join(", ")
    };
    ensure!(
        sums.wrong.is_empty(),
        "{} of {cases} cases are wrong: {}",
        sums.wrong.len(),
        sums.wrong.join("; ")
    );
    Ok(format!(
        "{cases} cases: {} drivers failed, {} bound all the same, all work afterwards; without a \
         write that could be refused: {unwritten}",
        sums.failed, sums.bound
    ))
}

/// The drivers of all types.
fn load(direct: &mut Direct) -> Result<()> {
    direct.machine.run("types_load", SHORT)?.ok().map(drop)
}

/// A guest that hangs starts anew, so that one fault does not hide the others.
fn again(direct: &mut Direct, kind: &str) -> Result<()> {
    control(direct, kind, &json!({"cmd": "fault-clear"}))?;
    direct.machine.qmp().execute("system_reset", &json!({}))?;
    direct.machine.wait_ready()?;
    load(direct)
}

fn control(direct: &Direct, kind: &str, request: &Value) -> Result<Value> {
    let pf = direct.pfs.iter().find(|(name, _)| *name == kind);
    pf.context("no such PF")?.1.control(request)
}

fn run(direct: &mut Direct, what: &str) -> Result<test_machine::answer::Answer> {
    direct.machine.run(what, CASE)?.ok()
}

/// Writes that the device of this case has counted as refused.
fn counted(direct: &mut Direct, case: Case) -> Result<u64> {
    let path = format!("/machine/peripheral/vf{}", case.index);
    let wanted = json!({"path": path, "property": "setup-failures"});
    let value = direct.machine.qmp().execute("qom-get", &wanted)?;
    value.as_u64().with_context(|| format!("it is {value}"))
}

fn one(direct: &mut Direct, case: Case, interrupts: Interrupts, sums: &mut Sums) -> Result<()> {
    let kind = case.kind;
    let release = format!("refused_release {kind} {RETURNS}");
    let bind = format!("refused_bind {kind} {RETURNS}");
    run(direct, &release)?;
    let before = counted(direct, case)?;
    let rule = json!({"cmd": "fault-add", "rule": case.rule()});
    control(direct, kind, &rule)?;
    let bound = direct.machine.run(&bind, CASE)?;
    let rules = control(direct, kind, &json!({"cmd": "fault-list"}))?;
    let hits = rules.pointer("/rules/0/hits").and_then(Value::as_u64);
    let hits = hits.with_context(|| format!("no rule in {rules}"))?;
    let counted = counted(direct, case)? - before;
    ensure!(
        counted == 0 || hits > 0,
        "setup-failures counted {counted}, and nothing was refused"
    );
    ensure!(
        counted > 0 || hits == 0 || !case.counts(interrupts),
        "{hits} writes were refused, setup-failures counted none"
    );
    let calm = run(direct, "refused_calm")?;
    ensure!(
        calm.number("lockups")? == 0,
        "the kernel hangs: {}",
        calm.text()
    );
    match (hits, bound.ok()?.number("bound")?) {
        (0, _) => sums.unwritten.push(case.name()),
        (_, 0) => sums.failed += 1,
        (_, _) => sums.bound += 1,
    }
    // The driver may have to be taken away while the PF still refuses.
    run(direct, &release)?;
    control(direct, kind, &json!({"cmd": "fault-clear"}))?;
    let bound = run(direct, &bind)?;
    ensure!(bound.number("bind")? == 0, "afterwards: {}", bound.text());
    run(direct, &format!("refused_use {kind}")).map(drop)
}

/// QEMU has named device, register, status and qualifier.
fn said(bench: &Bench, index: usize, kind: &str) -> Result<()> {
    let log = bench.logs.join("guest-qemu.log");
    let text = fs::read_to_string(&log)?;
    let device = format!("vf{index}");
    let status = format!("status {STATUS}");
    let qualifier = format!("qualifier {QUALIFIER}");
    let wanted = [device.as_str(), "BAR0 offset", &status, &qualifier];
    let found = text
        .lines()
        .any(|line| wanted.iter().all(|part| line.contains(part)));
    ensure!(
        found,
        "QEMU does not say what the PF refused to {kind}; its log ends:\n{}",
        tail(&log, 10).join("\n")
    );
    Ok(())
}
