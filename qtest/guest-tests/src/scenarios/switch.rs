// SPDX-License-Identifier: GPL-2.0-or-later
//! Guests whose drivers go from messages to the pin and back in the middle of their work.

use anyhow::{ensure, Context, Result};

use crate::run::Run;
use crate::types::{violations, LONG};
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::machine::Driver;
use test_machine::rig::Pf;
use test_machine::scenario::Scenario;

pub(super) const INTERRUPTS_SWITCH: Scenario<Run> = Scenario {
    name: "interrupts-switch",
    shows: "net and blk go from MSI-X to INTx and back 20 times, by driver rebind under load",
    run: Run::Guest(switch),
};

/// How often.
pub(super) const TIMES: u64 = 20;

fn switch(bench: &Bench) -> Result<String> {
    let net = bench.pf("net", 1, &[])?;
    let blk = bench.pf("blk", 1, &[])?;
    let functions = vec![net.function(1), blk.function(1)];
    let mut machine = bench.machine("guest", &bench.config(Driver::Legacy, functions))?;
    machine.wait_ready()?;
    let answer = machine.run(&format!("switch {TIMES}"), LONG)?.ok()?;
    let (msix, intx) = (
        answer.number("switches_msix")?,
        answer.number("switches_intx")?,
    );
    ensure!(
        msix == TIMES / 2 && intx == TIMES / 2,
        "{msix} times MSI-X and {intx} times INTx, not {TIMES} in turn"
    );
    for pf in [&net, &blk] {
        stayed_whole(pf)?;
    }
    Ok(format!(
        "{intx} times to INTx and {msix} times to MSI-X under load, net and blk work after each"
    ))
}

/// VF 1 did not break down, did no DMA after a reset, and nobody broke a rule.
pub(super) fn stayed_whole(pf: &Pf) -> Result<()> {
    let counters = pf.counters()?;
    let vf = Vf::of(&counters, 1).context("no counters of VF 1")?;
    ensure!(vf.needs_reset == 0, "the device broke down: {vf:?}");
    let forbidden = counters
        .pointer("/hardware/functions/vf1/dma_forbidden")
        .and_then(serde_json::Value::as_u64);
    ensure!(forbidden == Some(0), "DMA after a reset: {counters}");
    let broken = violations(&counters)?;
    ensure!(broken.is_empty(), "rules were broken: {broken:?}");
    Ok(())
}
