// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest whose functions interrupt by their pin, and what that costs compared with messages.

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::booted::{boot_with, ping, same, Guest};
use crate::run::Run;
use crate::types::{Interrupts, LONG, SHORT};
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::machine::{Driver, Extra, Machine};
use test_machine::scenario::Scenario;

pub(super) const INTX: Scenario<Run> = Scenario {
    name: "intx",
    shows: "net and blk under `pci=nomsi`: pings, TCP and disk with checksums; interrupts of the guest, rises of the pin and messages of the VF compared",
    run: Run::Guest(intx),
};

pub(super) const INTERRUPTS_COST: Scenario<Run> = Scenario {
    name: "interrupts-cost",
    shows: "a ping and a page of the disk by INTx and by MSI-X in one run: microseconds, interrupts a second, and their ratios",
    run: Run::Guest(cost),
};

/// Pages read one by one to measure an interrupt.
const PAGES: u64 = 10_000;

fn boot(bench: &Bench, kernel: &'static str) -> Result<Guest> {
    let extra = Extra {
        kernel,
        ..Extra::default()
    };
    boot_with(bench, "guest", Driver::Legacy, &["net", "blk"], extra)
}

/// A counter of the device of function `index`.
fn device_counter(machine: &mut Machine, index: usize, name: &str) -> Result<u64> {
    let path = format!("/machine/peripheral/vf{index}");
    let value = machine
        .qmp()
        .execute("qom-get", &json!({ "path": path, "property": name }))?;
    value
        .as_u64()
        .with_context(|| format!("{name} of vf{index} is {value}"))
}

/// Messages that the VF of a PF has sent.
fn sent(guest: &Guest, index: usize) -> Result<u64> {
    let pf = guest.pfs.get(index).context("no such PF")?;
    let counters = pf.counters()?;
    let vf = Vf::of(&counters, 1).with_context(|| format!("no counters of VF 1 in {counters}"))?;
    ensure!(vf.needs_reset == 0, "the device broke down: {vf:?}");
    Ok(vf.interrupts)
}

/// Work with checksums on both functions.
fn work(machine: &mut Machine, tcp_mib: u32, disk_mib: u32) -> Result<String> {
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    ensure!(pings == 100, "{pings} of 100 pings");
    let tcp = machine.run(&format!("tcp {tcp_mib}"), LONG)?.ok()?;
    same(&tcp, "tcp_out_sha256", "tcp_out_peer_sha256")?;
    same(&tcp, "tcp_in_sha256", "tcp_in_peer_sha256")?;
    let disk = machine.run(&format!("disk {disk_mib}"), LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok(format!(
        "{pings} of 100 pings, TCP {tcp_mib} MiB out {} ms, in {} ms, disk {disk_mib} MiB written {} ms, \
         read {} ms",
        tcp.get("tcp_out_ms")?,
        tcp.get("tcp_in_ms")?,
        disk.get("disk_write_ms")?,
        disk.get("disk_read_ms")?,
    ))
}

/// A kernel that does not use messages at all.
fn intx(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, Interrupts::Intx.kernel())?;
    let figures = work(&mut guest.machine, 32, 64)?;
    let mut counts = Vec::new();
    for (index, kind) in ["net", "blk"].into_iter().enumerate() {
        let irqs = guest.machine.run(&format!("irqs {kind}"), SHORT)?.ok()?;
        let seen = Interrupts::Intx.check(&irqs)?;
        let raised = device_counter(&mut guest.machine, index, "intx-raised")?;
        let arrived = device_counter(&mut guest.machine, index, "intx-interrupts")?;
        let sent = sent(&guest, index)?;
        // A level may stand for several messages, and stay up from one interrupt to the next. The
        // firmware's driver polls, but the pin rises for it as well.
        ensure!(
            raised <= arrived && seen <= arrived,
            "{kind}: {seen} interrupts in the guest, {raised} raised, {arrived} messages"
        );
        ensure!(
            arrived == sent || kind == "net" && arrived <= sent,
            "{kind}: {sent} messages sent, {arrived} arrived"
        );
        counts.push(format!("{kind} {seen} interrupts of {arrived} messages"));
    }
    let rebound = guest.machine.run("rebind net 5", LONG)?.ok()?;
    ensure!(rebound.number("rebinds")? == 5, "{}", rebound.text());
    guest.machine.run("net", SHORT)?.ok()?;
    let again = ping(&mut guest.machine, "ping 100 0.02")?;
    Ok(format!(
        "{figures}; {}; {again} of 100 pings after 5 rebinds",
        counts.join(", ")
    ))
}

/// Microseconds of a ping and of a page of the disk, and interrupts a second while pages are read.
fn latency(machine: &mut Machine, by: Interrupts, name: &str) -> Result<(u64, u64, u64)> {
    machine.run(&format!("interrupts_by {name}"), LONG)?.ok()?;
    let answer = machine.run(&format!("latency {PAGES}"), LONG)?.ok()?;
    for kind in ["net", "blk"] {
        by.check(&machine.run(&format!("irqs {kind}"), SHORT)?.ok()?)?;
    }
    let interrupts = answer.number("page_interrupts")?;
    ensure!(
        interrupts >= PAGES,
        "{interrupts} interrupts for {PAGES} pages read one by one"
    );
    let total = answer.number("total_us")?.max(1);
    Ok((
        answer.number("ping_us")?,
        answer.number("page_us")?,
        interrupts * 1_000_000 / total,
    ))
}

/// A kernel that uses either, switched by binding the driver again.
fn cost(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "")?;
    let machine = &mut guest.machine;
    let mut figures = Vec::new();
    // Twice each, so that a machine that warms up or slows down shows.
    let mut sums = [[0u64; 3]; 2];
    for _ in 0..2 {
        for (sum, (by, name)) in sums
            .iter_mut()
            .zip([(Interrupts::Intx, "intx"), (Interrupts::Msix, "msix")])
        {
            let (ping, page, rate) = latency(machine, by, name)?;
            for (total, value) in sum.iter_mut().zip([ping, page, rate]) {
                *total += value;
            }
        }
    }
    let [intx, msix] = sums.map(|sum| sum.map(|total| total / 2));
    for (i, what) in ["µs a ping", "µs a page of the disk", "interrupts a second"]
        .into_iter()
        .enumerate()
    {
        let (a, b) = (
            intx.get(i).copied().unwrap_or(0),
            msix.get(i).copied().unwrap_or(0),
        );
        figures.push(format!(
            "{what} {a} by INTx, {b} by MSI-X ({:.2})",
            a as f64 / b.max(1) as f64
        ));
    }
    Ok(figures.join(", "))
}
