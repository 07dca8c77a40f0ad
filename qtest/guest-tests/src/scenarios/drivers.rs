// SPDX-License-Identifier: GPL-2.0-or-later
//! The scenarios of [`super`].

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use crate::booted::{boot, check_driver, counters, ping, same, wait_busy, LONG, MEDIUM, SHORT};
use crate::run::Run;
use test_kit::patience::until;
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::machine::Driver;
use test_machine::process::POLL;
use test_machine::scenario::Scenario;

/// Buffers that each device goes through before it is busy.
const BUSY: u64 = 40;

pub(super) const LEGACY: Scenario<Run> = Scenario {
    name: "legacy",
    shows: "a net and a blk VF under Linux's legacy driver: pings, TCP and disk with checksums",
    run: Run::Guest(|bench| one_guest(bench, Driver::Legacy)),
};

pub(super) const MODERN: Scenario<Run> = Scenario {
    name: "modern",
    shows: "the same under Linux's modern driver",
    run: Run::Guest(|bench| one_guest(bench, Driver::Modern)),
};

pub(super) const TWO_GUESTS: Scenario<Run> = Scenario {
    name: "two-guests",
    shows: "two guests on two VFs of one PF",
    run: Run::Guest(two_guests),
};

pub(super) const REBOOT: Scenario<Run> = Scenario {
    name: "reboot",
    shows: "the guest reboots itself, twice",
    run: Run::Guest(reboot),
};

pub(super) const REBIND: Scenario<Run> = Scenario {
    name: "rebind",
    shows: "the drivers let go of the functions and take them again, 20 times each",
    run: Run::Guest(rebind),
};

pub(super) const SYSTEM_RESET: Scenario<Run> = Scenario {
    name: "system-reset",
    shows: "the machine is reset in the middle of traffic",
    run: Run::Guest(system_reset),
};

pub(super) const HELPER_KILLED: Scenario<Run> = Scenario {
    name: "helper-killed",
    shows: "the helper is killed and started again under a running guest",
    run: Run::Guest(helper_killed),
};

/// Everything one guest does, on a net and a blk VF.
fn one_guest(bench: &Bench, driver: Driver) -> Result<String> {
    let mut guest = boot(bench, "guest", driver, &["net", "blk"])?;
    let machine = &mut guest.machine;
    let info = machine.run("info", SHORT)?.ok()?;
    for kind in ["net", "blk"] {
        check_driver(&info, kind, driver)?;
    }
    // The firmware, which looks for something to boot from, has its own driver.
    let firmware = counters(&guest.pfs)?;
    let machine = &mut guest.machine;
    let net = machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    ensure!(pings == 100, "{pings} of 100 pings");
    let tcp = machine.run("tcp 64", LONG)?.ok()?;
    same(&tcp, "tcp_out_sha256", "tcp_out_peer_sha256")?;
    same(&tcp, "tcp_in_sha256", "tcp_in_peer_sha256")?;
    let disk = machine.run("disk 256", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    ensure!(
        disk.number("disk_sectors_written")? >= 524_288,
        "not all of the disk was written"
    );
    ensure!(
        disk.number("disk_sectors_read")? >= 524_288,
        "the disk was read from a cache"
    );
    let interrupts = machine.run("info", SHORT)?.ok()?;
    check_simulator(&firmware, &counters(&guest.pfs)?, driver)?;
    for kind in ["net", "blk"] {
        let count = interrupts.number(&format!("{kind}.interrupts"))?;
        ensure!(count > 0, "{kind}: no MSI-X interrupt arrived");
    }
    Ok(format!(
        "{pings} of 100 pings, first packet after {} ms; TCP 64 MiB out {} ms, in {} ms; disk 256 MiB \
         written {} ms, read {} ms; interrupts net {}, blk {}",
        net.get("first_packet_ms")?,
        tcp.get("tcp_out_ms")?,
        tcp.get("tcp_in_ms")?,
        disk.get("disk_write_ms")?,
        disk.get("disk_read_ms")?,
        interrupts.get("net.interrupts")?,
        interrupts.get("blk.interrupts")?,
    ))
}

/// What the simulated hardware saw of the guest's driver, since the firmware was done.
fn check_simulator(before: &[Vf], after: &[Vf], driver: Driver) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        let modern = after.doorbells_modern - before.doorbells_modern;
        let legacy = after.doorbells_legacy - before.doorbells_legacy;
        let command = after.doorbells_command - before.doorbells_command;
        match driver {
            Driver::Legacy => {
                ensure!(
                    modern == 0,
                    "a legacy driver rang {modern} modern doorbells"
                );
                ensure!(legacy > 0, "no doorbell went straight to the VF");
                ensure!(command == 0, "{command} doorbells went through the helper");
            }
            Driver::Modern => ensure!(
                modern > 0 && legacy + command == 0,
                "{modern} modern and {} legacy doorbells",
                legacy + command
            ),
        }
        ensure!(after.needs_reset == 0, "the device broke down: {after:?}");
    }
    Ok(())
}

/// Two guests on two VFs of one PF.
fn two_guests(bench: &Bench) -> Result<String> {
    let pf = bench.pf("net", 2, &[])?;
    let mut machines = Vec::new();
    for (vf, address) in [(1, "10.0.77.2"), (2, "10.0.77.3")] {
        let mut config = bench.config(Driver::Legacy, vec![pf.function(vf)]);
        config.address = address;
        machines.push(bench.machine(&format!("guest-{vf}"), &config)?);
    }
    for machine in &mut machines {
        machine.wait_ready()?;
        machine.run("net", SHORT)?.ok()?;
    }
    let [one, two] = machines.as_mut_slice() else {
        bail!("two machines were started")
    };
    let pings = ping(one, "ping 100 0.02 10.0.77.3")?;
    let back = ping(two, "ping 100 0.02 10.0.77.2")?;
    two.run("serve", SHORT)?.ok()?;
    let echo = one.run("echo 16 10.0.77.3", LONG)?.ok()?;
    same(&echo, "echo_sent_sha256", "echo_received_sha256")?;
    Ok(format!(
        "{pings} and {back} of 100 pings each way, 16 MiB there and back in {} ms",
        echo.get("echo_ms")?
    ))
}

/// The guest reboots itself, without QEMU's help or a new connection.
fn reboot(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "guest", Driver::Legacy, &["net", "blk"])?;
    for _ in 0..2 {
        guest.machine.run("net", SHORT)?.ok()?;
        ping(&mut guest.machine, "ping 10 0.02")?;
        guest.machine.run("reboot", SHORT)?.ok()?;
        guest.machine.wait_ready()?;
    }
    let info = guest.machine.run("info", SHORT)?.ok()?;
    check_driver(&info, "net", Driver::Legacy)?;
    check_driver(&info, "blk", Driver::Legacy)?;
    guest.machine.run("net", SHORT)?.ok()?;
    let pings = ping(&mut guest.machine, "ping 100 0.02")?;
    let disk = guest.machine.run("disk 8", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok(format!("2 reboots, then {pings} of 100 pings and the disk"))
}

/// The driver lets go of the functions and takes them again.
fn rebind(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "guest", Driver::Legacy, &["net", "blk"])?;
    let machine = &mut guest.machine;
    for command in ["rebind net 20", "rebind blk 20"] {
        let answer = machine.run(command, MEDIUM)?.ok()?;
        ensure!(answer.number("rebinds")? == 20, "{}", answer.text());
    }
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    let disk = machine.run("disk 8", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok(format!(
        "20 times net and blk, then {pings} of 100 pings and the disk"
    ))
}

/// The machine is reset while the functions are busy.
fn system_reset(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "guest", Driver::Legacy, &["net", "blk"])?;
    const RESETS: u32 = 3;
    for _ in 0..RESETS {
        let machine = &mut guest.machine;
        machine.run("net", SHORT)?.ok()?;
        machine.run("traffic", SHORT)?.ok()?;
        wait_busy(&guest.pfs, BUSY).context("before the reset")?;
        guest.machine.qmp().execute("system_reset", &json!({}))?;
        guest.machine.wait_ready()?;
    }
    let machine = &mut guest.machine;
    let info = machine.run("info", SHORT)?.ok()?;
    check_driver(&info, "net", Driver::Legacy)?;
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    let disk = machine.run("disk 8", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok(format!(
        "{RESETS} resets under traffic, then {pings} of 100 pings and the disk"
    ))
}

/// The helper crashes while the guest pings.
fn helper_killed(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "guest", Driver::Legacy, &["net"])?;
    let machine = &mut guest.machine;
    machine.run("net", SHORT)?.ok()?;
    let before = machine.run("registers net", SHORT)?.ok()?;
    let registers = before.text();
    ensure!(
        before.get("status")? == "07",
        "the driver runs with {registers}"
    );
    machine.run("ping_start 0.05", SHORT)?.ok()?;
    wait_busy(&guest.pfs, BUSY).context("with the helper")?;
    for pf in &mut guest.pfs {
        pf.helper().kill();
    }
    wait_busy(&guest.pfs, BUSY).context("without the helper")?;
    let machine = &mut guest.machine;
    let during = machine.run("registers net", SHORT)?.ok()?;
    ensure!(
        during.text() == "features=ffffffff status=ff",
        "without the helper the registers give {}, not all-ones",
        during.text()
    );
    for pf in &mut guest.pfs {
        pf.restart_helper()?;
    }
    let machine = &mut guest.machine;
    let mut after = String::new();
    until(SHORT, POLL, || {
        after = machine.run("registers net", SHORT)?.ok()?.text();
        Ok((after == registers).then_some(()))
    })
    .with_context(|| format!("after the restart the registers give {after}, before {registers}"))?;
    let stopped = machine.run("ping_stop", SHORT)?.ok()?;
    let (sent, received) = (
        stopped.number("pings_sent")?,
        stopped.number("pings_received")?,
    );
    // A ping and its answer are two buffers.
    ensure!(sent >= BUSY, "only {sent} pings were sent meanwhile");
    // The last one may have been on its way when ping was stopped.
    ensure!(received + 1 >= sent, "{received} of {sent} pings came back");
    let info = machine.run("info", SHORT)?.ok()?;
    check_driver(&info, "net", Driver::Legacy)?;
    let rebound = machine.run("rebind net 1", MEDIUM)?.ok()?;
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 100 0.02")?;
    Ok(format!(
        "{received} of {sent} pings while the helper was killed and restarted, registers work again, \
         {} rebind, then {pings} of 100 pings",
        rebound.get("rebinds")?
    ))
}
