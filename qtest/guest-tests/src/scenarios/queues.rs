// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios of functions with several queues: a guest with four CPUs, a queue pair or a queue for
//! each of them.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};

use crate::run::Run;
use crate::types::{violations, Interrupts, LONG};
use test_machine::answer::Answer;
use test_machine::bench::Bench;
use test_machine::machine::{Driver, Extra, Machine};
use test_machine::rig::Pf;
use test_machine::scenario::Scenario;

pub(super) const QUEUES: Scenario<Run> = Scenario {
    name: "queues",
    shows: "four CPUs: net with four queue pairs and an MTU of its own, blk with four queues and topology; each queue's interrupts counted",
    run: Run::Guest(|bench| queues(bench, Interrupts::Msix)),
};

pub(super) const QUEUES_INTX: Scenario<Run> = Scenario {
    name: "queues-intx",
    shows: "the same with INTx",
    run: Run::Guest(|bench| queues(bench, Interrupts::Intx)),
};

/// CPUs, queue pairs and disk queues.
const COUNT: u64 = 4;
const MTU: &str = "1400";

fn queues(bench: &Bench, interrupts: Interrupts) -> Result<String> {
    let four = COUNT.to_string();
    let net = bench.pf("net", 1, &["--queue-pairs", &four, "--mtu", MTU])?;
    let blk = bench.pf("blk", 1, &["--blk-queues", &four, "--block-size", "1024"])?;
    let mut config = bench.config(Driver::Legacy, vec![net.function(1), blk.function(1)]);
    config.extra = Extra {
        arguments: vec!["-smp".to_owned(), four],
        kernel: interrupts.kernel(),
        ..Extra::default()
    };
    let mut machine = bench.machine("guest", &config)?;
    machine.wait_ready()?;
    let net_figures = net_queues(&mut machine, &net, interrupts)?;
    let blk_figures = blk_queues(&mut machine, &blk, interrupts)?;
    Ok(format!("{net_figures}; {blk_figures}"))
}

/// Interrupts by the name of their line, such as "input.0".
fn by_line(answer: &Answer) -> Result<BTreeMap<String, u64>> {
    let mut lines = BTreeMap::new();
    for word in answer.get("text")?.split_whitespace() {
        let (name, count) = word.rsplit_once(':').context("no count")?;
        lines.insert(name.to_owned(), count.parse()?);
    }
    Ok(lines)
}

/// Every one of `COUNT` lines with this name counted something.
fn all_used(lines: &BTreeMap<String, u64>, name: &str) -> Result<Vec<u64>> {
    (0..COUNT)
        .map(|n| {
            let line = format!("{name}.{n}");
            let count = lines.get(&line).copied();
            let count = count.with_context(|| format!("no line {line} in {lines:?}"))?;
            ensure!(count > 0, "queue {line} was not used: {lines:?}");
            Ok(count)
        })
        .collect()
}

fn expect(answer: &Answer, values: &[(&str, &str)]) -> Result<()> {
    for (key, want) in values {
        let value = answer.get(key)?;
        ensure!(value == *want, "{key} is {value}, not {want}");
    }
    Ok(())
}

fn check_broken(pf: &Pf) -> Result<()> {
    let broken = violations(&pf.counters()?)?;
    ensure!(broken.is_empty(), "rules were broken: {broken:?}");
    Ok(())
}

fn net_queues(machine: &mut Machine, pf: &Pf, interrupts: Interrupts) -> Result<String> {
    let answer = machine.run("net_queues", LONG)?.ok()?;
    let four = COUNT.to_string();
    expect(
        &answer,
        &[
            ("mtu", MTU),
            ("rx_queues", &four),
            ("tx_queues", &four),
            ("transfers", &four),
            ("transfers_same", &four),
        ],
    )?;
    let count = interrupts.check(&answer)?;
    let mut figures = format!("net: {COUNT} pairs, MTU {MTU}, {count} interrupts");
    if interrupts == Interrupts::Msix {
        let used = all_used(&by_line(&answer)?, "input")?;
        figures += &format!(", by receive queue {used:?}");
    }
    // The driver asked for its pairs on the control queue, behind those of all pairs.
    let counters = pf.counters()?;
    let commands = counters
        .pointer("/hardware/functions/vf1/control_commands")
        .and_then(serde_json::Value::as_u64);
    ensure!(
        commands.is_some_and(|n| n > 0),
        "no command on the control queue: {counters}"
    );
    let refused = counters
        .pointer("/hardware/functions/vf1/control_refused")
        .and_then(serde_json::Value::as_u64);
    ensure!(
        refused == Some(0),
        "commands on the control queue were refused: {counters}"
    );
    check_broken(pf)?;
    Ok(figures)
}

fn blk_queues(machine: &mut Machine, pf: &Pf, interrupts: Interrupts) -> Result<String> {
    let answer = machine.run("blk_queues", LONG)?.ok()?;
    let four = COUNT.to_string();
    expect(
        &answer,
        &[
            ("logical", "1024"),
            ("physical", "4096"),
            ("transfers", &four),
            ("transfers_same", &four),
        ],
    )?;
    let count = interrupts.check(&answer)?;
    let mut figures = format!("blk: {count} interrupts");
    // Linux uses no more disk queues than it has vectors for.
    if interrupts == Interrupts::Msix {
        expect(&answer, &[("mq", &four)])?;
        let used = all_used(&by_line(&answer)?, "req")?;
        figures += &format!(", {COUNT} queues, by queue {used:?}");
    }
    check_broken(pf)?;
    Ok(figures)
}
