// SPDX-License-Identifier: GPL-2.0-or-later
//! The scenarios of [`super`].

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use super::{resets, Bench};
use crate::guest::answer::Answer;
use crate::guest::counters::Vf;
use crate::guest::machine::{Driver, Extra, Machine};
use crate::guest::rig::Pf;

/// One scenario.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// Gives the figures to be shown.
    pub(super) run: fn(&Bench) -> Result<String>,
}

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "legacy",
        run: |bench| one_guest(bench, Driver::Legacy),
    },
    Scenario {
        name: "modern",
        run: |bench| one_guest(bench, Driver::Modern),
    },
    Scenario {
        name: "stock-vf",
        run: stock_vf,
    },
    Scenario {
        name: "stock-pf",
        run: stock_pf,
    },
    Scenario {
        name: "two-guests",
        run: two_guests,
    },
    Scenario {
        name: "reboot",
        run: reboot,
    },
    Scenario {
        name: "rebind",
        run: rebind,
    },
    Scenario {
        name: "system-reset",
        run: system_reset,
    },
    Scenario {
        name: "rebind-busy",
        run: resets::rebind_busy,
    },
    Scenario {
        name: "kexec",
        run: resets::kexec,
    },
    Scenario {
        name: "crash",
        run: resets::crash,
    },
    Scenario {
        name: "suspend",
        run: resets::suspend,
    },
    Scenario {
        name: "helper-killed",
        run: helper_killed,
    },
];

/// For what the guest does at once.
pub(super) const SHORT: Duration = Duration::from_secs(30);
/// For pings and rebinds.
const MEDIUM: Duration = Duration::from_secs(90);
/// For transfers, on a loaded machine.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// Feature bit 32, VERSION_1, in Linux's list of accepted features (one digit per bit).
const VERSION_1: usize = 32;

/// Checks what Linux says about a function against the driver it was told to use.
pub(crate) fn check_driver(info: &Answer, kind: &str, driver: Driver) -> Result<()> {
    let get = |key: &str| info.get(&format!("{kind}.{key}"));
    let (id, subsystem, virtio) = match kind {
        "net" => ("0x1af4:0x1000", "0x1af4:0x0001", "virtio_net"),
        _ => ("0x1af4:0x1001", "0x1af4:0x0002", "virtio_blk"),
    };
    ensure!(get("id")? == id, "{kind}: ID {}, not {id}", get("id")?);
    ensure!(
        get("revision")? == "0x00",
        "{kind}: revision {}",
        get("revision")?
    );
    ensure!(
        get("subsystem")? == subsystem,
        "{kind}: subsystem {}",
        get("subsystem")?
    );
    ensure!(
        get("pci_driver")? == "virtio-pci",
        "{kind}: PCI driver {}",
        get("pci_driver")?
    );
    ensure!(
        get("virtio_driver")? == virtio,
        "{kind}: driver {}",
        get("virtio_driver")?
    );
    let features = get("features")?.as_bytes();
    let version_1 = features.get(VERSION_1) == Some(&b'1');
    let status = get("status")?;
    match driver {
        Driver::Legacy => {
            ensure!(!version_1, "{kind}: a legacy driver accepted VERSION_1");
            ensure!(
                features
                    .get(VERSION_1..)
                    .is_some_and(|high| high.iter().all(|bit| *bit == b'0')),
                "{kind}: a legacy driver accepted features above 31: {}",
                get("features")?
            );
            // ACKNOWLEDGE, DRIVER, DRIVER_OK.
            ensure!(
                status == "0x00000007",
                "{kind}: status {status} without FEATURES_OK is 7"
            );
        }
        Driver::Modern => {
            ensure!(
                version_1,
                "{kind}: the modern driver did not accept VERSION_1"
            );
            ensure!(status == "0x0000000f", "{kind}: status {status}, not 0xf");
        }
    }
    // The region of BAR 0 has flag 1, I/O ports.
    ensure!(
        get("bar0")?.ends_with("01"),
        "{kind}: BAR 0 is no I/O region: {}",
        get("bar0")?
    );
    let msix: u64 = info.number(&format!("{kind}.msix"))?;
    let lines: u64 = info.number(&format!("{kind}.irqs"))?;
    ensure!(msix >= 2, "{kind}: {msix} MSI-X vectors");
    ensure!(lines >= 2, "{kind}: {lines} lines in /proc/interrupts");
    Ok(())
}

/// The two digests a transfer tells, which the guest compared; compared here again.
pub(super) fn same(answer: &Answer, one: &str, other: &str) -> Result<()> {
    let (one, other) = (answer.get(one)?, answer.get(other)?);
    ensure!(one.len() == 64, "no SHA-256: {one:?}");
    ensure!(one == other, "digests differ: {one} and {other}");
    Ok(())
}

pub(super) fn ping(machine: &mut Machine, command: &str) -> Result<u64> {
    let answer = machine.run(command, MEDIUM)?.ok()?;
    let (sent, received) = (
        answer.number("pings_sent")?,
        answer.number("pings_received")?,
    );
    ensure!(
        sent == received && sent > 0,
        "{received} of {sent} pings came back"
    );
    Ok(received)
}

fn boot(bench: &Bench, name: &str, driver: Driver, kinds: &[&'static str]) -> Result<Guest> {
    boot_with(bench, name, driver, kinds, Extra::default())
}

/// A guest with VF 1 of a PF of each kind, and what else its machine is to have.
pub(super) fn boot_with(
    bench: &Bench,
    name: &str,
    driver: Driver,
    kinds: &[&'static str],
    extra: Extra,
) -> Result<Guest> {
    let mut pfs = Vec::new();
    for kind in kinds {
        let options: &[&str] = if *kind == "blk" {
            &["--blk-ram", "300M"]
        } else {
            &[]
        };
        pfs.push(bench.pf(kind, 1, options)?);
    }
    let functions = pfs.iter().map(|pf| pf.function(1)).collect();
    let mut config = bench.config(driver, functions);
    config.extra = extra;
    let mut machine = bench.machine(name, &config)?;
    machine.wait_ready()?;
    Ok(Guest { machine, pfs })
}

/// A machine and the PFs its functions belong to; the machine ends first.
pub(super) struct Guest {
    pub(super) machine: Machine,
    pub(super) pfs: Vec<Pf>,
}

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

/// What the simulated hardware counted for VF 1 of each PF.
pub(super) fn counters(pfs: &[Pf]) -> Result<Vec<Vf>> {
    pfs.iter()
        .map(|pf| {
            let counters = pf.counters()?;
            Vf::of(&counters, 1).with_context(|| format!("no counters of VF 1 in {counters}"))
        })
        .collect()
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

/// QEMU's own vfio-user-pci and Linux's modern driver on VFs: the simulated hardware before code
/// that was not written for it.
fn stock_vf(bench: &Bench) -> Result<String> {
    let net = bench.pf("net", 1, &[])?;
    let blk = bench.pf("blk", 1, &["--blk-ram", "300M"])?;
    let functions = vec![net.function(1).stock(), blk.function(1).stock()];
    let mut machine = bench.machine("guest", &bench.config(Driver::Modern, functions))?;
    machine.wait_ready()?;
    let figures = stock(&mut machine, &["net", "blk"])?;
    for vf in counters(&[net, blk])? {
        ensure!(vf.doorbells_modern > 0 && vf.needs_reset == 0, "{vf:?}");
        ensure!(vf.doorbells_legacy == 0, "{vf:?}");
    }
    Ok(figures)
}

/// The same on the PFs themselves: Linux's virtio_pci drives a device with an admin queue.
fn stock_pf(bench: &Bench) -> Result<String> {
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
    stock(&mut machine, &["net", "blk"])
}

fn stock(machine: &mut Machine, kinds: &[&str]) -> Result<String> {
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
        std::thread::sleep(Duration::from_millis(700));
        let before = counters(&guest.pfs)?;
        std::thread::sleep(Duration::from_millis(300));
        for (before, after) in before.iter().zip(counters(&guest.pfs)?) {
            ensure!(
                after.buffers > before.buffers,
                "no traffic before the reset: {after:?}"
            );
        }
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
    std::thread::sleep(Duration::from_secs(1));
    for pf in &mut guest.pfs {
        pf.helper().kill();
    }
    std::thread::sleep(Duration::from_secs(2));
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
    for _ in 0..100 {
        after = machine.run("registers net", SHORT)?.ok()?.text();
        if after == registers {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(
        after == registers,
        "after the restart the registers give {after}, before {registers}"
    );
    let stopped = machine.run("ping_stop", SHORT)?.ok()?;
    let (sent, received) = (
        stopped.number("pings_sent")?,
        stopped.number("pings_received")?,
    );
    ensure!(sent >= 40, "only {sent} pings were sent meanwhile");
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
