// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's own device and Linux's modern driver on simulated functions, without this project's device.

use anyhow::{ensure, Result};

use crate::booted::{counters, ping, same, LONG, SHORT};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::machine::{Driver, Machine};
use test_machine::scenario::Scenario;

pub(super) const STOCK_VF: Scenario<Run> = Scenario {
    name: "stock-vf",
    shows: "a simulated VF behind QEMU's own `vfio-user-pci`",
    run: Run::Guest(vf),
};

pub(super) const STOCK_PF: Scenario<Run> = Scenario {
    name: "stock-pf",
    shows: "the simulated PF behind it: Linux drives a device with an admin queue",
    run: Run::Guest(pf),
};

/// QEMU's own vfio-user-pci and Linux's modern driver on VFs: the simulated hardware before code
/// that was not written for it.
pub(super) fn vf(bench: &Bench) -> Result<String> {
    let net = bench.pf("net", 1, &[])?;
    let blk = bench.pf("blk", 1, &["--blk-ram", "300M"])?;
    let functions = vec![net.function(1).stock(), blk.function(1).stock()];
    let mut machine = bench.machine("guest", &bench.config(Driver::Modern, functions))?;
    machine.wait_ready()?;
    let figures = run(&mut machine, &["net", "blk"])?;
    for vf in counters(&[net, blk])? {
        ensure!(vf.doorbells_modern > 0 && vf.needs_reset == 0, "{vf:?}");
        ensure!(vf.doorbells_legacy == 0, "{vf:?}");
    }
    Ok(figures)
}

/// As [`vf`], on the PFs themselves: Linux's virtio_pci drives a device with an admin queue.
pub(super) fn pf(bench: &Bench) -> Result<String> {
    let net = bench.pf("net", 1, &[])?;
    let blk = bench.pf("blk", 1, &["--blk-ram", "300M"])?;
    let mut pfs = [net, blk];
    let mut functions = Vec::new();
    for pf in &mut pfs {
        // Its only driver is to be the guest's.
        ensure!(pf.helper().end(), "a helper did not end when asked to");
        functions.push(pf.owner().stock());
    }
    let mut machine = bench.machine("guest", &bench.config(Driver::Modern, functions))?;
    machine.wait_ready()?;
    run(&mut machine, &["net", "blk"])
}

fn run(machine: &mut Machine, kinds: &[&str]) -> Result<String> {
    let info = machine.run("info", SHORT)?.ok()?;
    for kind in kinds {
        let id = if *kind == "net" {
            "0x1af4:0x1041"
        } else {
            "0x1af4:0x1042"
        };
        let get = |key: &str| info.get(&format!("{kind}.{key}"));
        ensure!(get("id")? == id, "{kind}: ID {}", get("id")?);
        ensure!(
            get("status")? == "0x0000000f",
            "{kind}: status {}",
            get("status")?
        );
    }
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    let tcp = machine.run("tcp 16", LONG)?.ok()?;
    same(&tcp, "tcp_out_sha256", "tcp_out_peer_sha256")?;
    same(&tcp, "tcp_in_sha256", "tcp_in_peer_sha256")?;
    let disk = machine.run("disk 32", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok(format!(
        "{pings} of 100 pings, TCP 16 MiB out {} ms, in {} ms, disk 32 MiB",
        tcp.get("tcp_out_ms")?,
        tcp.get("tcp_in_ms")?
    ))
}
