// SPDX-License-Identifier: GPL-2.0-or-later
//! Devices taken away from a driver that is busy: by another kernel, by sleep, by unbinding.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use serde_json::json;

use crate::booted::{check_driver, ping, same, wait_busy, Guest, LONG, SHORT};
use crate::run::Run;
use crate::types::Interrupts;
use test_kit::patience::{until, Patience};
use test_machine::bench::Bench;
use test_machine::image::{extend, Addition, Image};
use test_machine::machine::{Driver, Machine};
use test_machine::process::POLL;
use test_machine::scenario::Scenario;

pub(super) const REBIND_BUSY: Scenario<Run> = Scenario {
    name: "rebind-busy",
    shows: "drivers unbound in the middle of traffic: see [Resets](../system/resets.md)",
    run: Run::Guest(rebind_busy),
};

pub(super) const KEXEC: Scenario<Run> = Scenario {
    name: "kexec",
    shows: "another kernel by kexec in the middle of traffic",
    run: Run::Guest(kexec),
};

pub(super) const CRASH: Scenario<Run> = Scenario {
    name: "crash",
    shows: "a crash kernel after a panic in the middle of traffic",
    run: Run::Guest(crash),
};

pub(super) const CRASH_INTX: Scenario<Run> = Scenario {
    name: "crash-intx",
    shows: "the same with an interrupt pending on the pin",
    run: Run::Guest(crash_intx),
};

pub(super) const SUSPEND: Scenario<Run> = Scenario {
    name: "suspend",
    shows: "sleep to RAM in the middle of traffic",
    run: Run::Guest(suspend),
};

/// Room for the kernel that starts after a crash.
const CRASH_KERNEL: &str = "crashkernel=192M";
/// The same for a guest without messages.
const CRASH_KERNEL_INTX: &str = "crashkernel=192M pci=nomsi";
/// A kernel that shuts down marks its virtqueues as broken. Where packets of one have been sent and not been
/// looked after, `start_xmit` of virtio_net then asks without end whether there are more: with its interrupts
/// for sent packets (`napi_tx`) only, and on any virtio device.
const KEXEC_KERNEL: &str = "virtio_net.napi_tx=0";
/// Buffers that each device goes through before it is busy.
const BUSY: u64 = 20;
/// How long an interrupt pends that nobody sees; a driver that is there takes much less.
const UNSEEN: Duration = Duration::from_millis(300);

/// A guest with a second kernel at hand. `packed`: it starts as on hardware; the unpacked kernel,
/// which starts quicker, cannot wake up from RAM.
fn boot(bench: &Bench, kernel: &'static str, packed: bool) -> Result<Guest> {
    let initrd = bench.run.path().join("resets.cpio");
    let second = |name: &str, path: &Path| (format!("boot/{name}"), path.to_owned(), false);
    let mut addition = Addition {
        files: vec![
            second("kernel", &bench.image.packed_kernel),
            second("initrd", &bench.image.initrd),
        ],
        ..Addition::default()
    };
    addition.program(&bench.programs.kexec)?;
    extend(&bench.image, &initrd, &addition)?;
    let image = Image {
        initrd,
        kernel: match packed {
            true => bench.image.packed_kernel.clone(),
            false => bench.image.kernel.clone(),
        },
        ..bench.image.clone()
    };
    let net = bench.pf("net", 1, &[])?;
    let blk = bench.pf("blk", 1, &["--blk-ram", "300M"])?;
    let mut config = bench.config(Driver::Legacy, vec![net.function(1), blk.function(1)]);
    config.image = &image;
    config.extra.kernel = kernel;
    let mut machine = bench.machine("guest", &config)?;
    machine.wait_ready()?;
    Ok(Guest {
        machine,
        pfs: vec![net, blk],
    })
}

/// Network and disk are busy when this returns.
fn busy(guest: &mut Guest) -> Result<()> {
    guest.machine.run("net", SHORT)?.ok()?;
    guest.machine.run("traffic", SHORT)?.ok()?;
    wait_busy(&guest.pfs, BUSY)
}

/// Both devices work with the legacy driver and MSI-X.
fn works(machine: &mut Machine) -> Result<String> {
    let info = machine.run("info", SHORT)?.ok()?;
    for kind in ["net", "blk"] {
        check_driver(&info, kind, Driver::Legacy)?;
    }
    transfers(machine)
}

/// Data goes both ways through both devices.
fn transfers(machine: &mut Machine) -> Result<String> {
    machine.run("net", SHORT)?.ok()?;
    let pings = ping(machine, "ping 50 0.02")?;
    ensure!(pings == 50, "{pings} of 50 pings");
    let tcp = machine.run("tcp 8", LONG)?.ok()?;
    same(&tcp, "tcp_out_sha256", "tcp_out_peer_sha256")?;
    same(&tcp, "tcp_in_sha256", "tcp_in_peer_sha256")?;
    let disk = machine.run("disk 8", LONG)?.ok()?;
    same(&disk, "disk_written_sha256", "disk_read_sha256")?;
    Ok("pings, TCP and disk work".into())
}

fn started(machine: &mut Machine, how: &str) -> Result<()> {
    let answer = machine.run("started", SHORT)?.ok()?;
    ensure!(
        answer.get("started")? == how,
        "the kernel was started by {}, not by {how}",
        answer.get("started")?
    );
    Ok(())
}

/// The functions interrupt that way, and have done so.
fn interrupt_by(machine: &mut Machine, by: Interrupts) -> Result<()> {
    for kind in ["net", "blk"] {
        by.check(&machine.run(&format!("irqs {kind}"), SHORT)?.ok()?)
            .with_context(|| kind)?;
    }
    Ok(())
}

/// Has the card interrupt until nobody sees it: the kernel has stopped, and its devices have not.
fn left_pending(guest: &mut Guest) -> Result<()> {
    let card = guest.pfs.first().context("no card")?;
    let pin = json!({ "path": "/machine/peripheral/vf0", "property": "intx-level" });
    let mut patience = Patience::new(SHORT);
    while patience.look().is_ok() {
        for up in [false, true] {
            card.control(&json!({ "cmd": "link", "vf": 1, "up": up }))?;
        }
        let mut unseen = Patience::new(UNSEEN);
        while guest.machine.qmp().execute("qom-get", &pin)? == json!(true) {
            if unseen.look().is_err() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    bail!("no interrupt is left pending")
}

/// Another kernel starts while the devices are busy; nothing but its own driver resets them.
fn kexec(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, KEXEC_KERNEL, false)?;
    started(&mut guest.machine, "firmware")?;
    guest.machine.run("kexec_load", LONG)?.ok()?;
    busy(&mut guest)?;
    interrupt_by(&mut guest.machine, Interrupts::Msix)?;
    guest.machine.run("kexec", SHORT)?.ok()?;
    guest.machine.wait_ready()?;
    started(&mut guest.machine, "exec")?;
    Ok(format!(
        "another kernel started under traffic with MSI-X; {}",
        works(&mut guest.machine)?
    ))
}

/// A guest with a crash kernel, with its devices busy.
fn boot_to_crash(bench: &Bench, kernel: &'static str, by: Interrupts) -> Result<Guest> {
    let mut guest = boot(bench, kernel, false)?;
    let loaded = guest.machine.run("kexec_load crash", LONG)?.ok()?;
    ensure!(
        loaded.get("crash_loaded")? == "1",
        "no crash kernel is loaded"
    );
    busy(&mut guest)?;
    interrupt_by(&mut guest.machine, by)?;
    Ok(guest)
}

/// The kernel panics while the devices are busy: first its crash kernel takes over, with the
/// devices as they were; that one panics too, which resets the machine.
fn crash(bench: &Bench) -> Result<String> {
    let mut guest = boot_to_crash(bench, CRASH_KERNEL, Interrupts::Msix)?;
    guest.machine.run("crash", SHORT)?.ok()?;
    guest.machine.wait_ready()?;
    started(&mut guest.machine, "crash")?;
    let first = works(&mut guest.machine)?;
    busy(&mut guest)?;
    guest.machine.run("crash", SHORT)?.ok()?;
    guest.machine.wait_ready()?;
    started(&mut guest.machine, "firmware")?;
    works(&mut guest.machine)?;
    Ok(format!(
        "crash kernel under traffic with MSI-X: {first}; reset after a second panic: the same"
    ))
}

/// A crash kernel begins with an interrupt pending that nobody will ever look at.
fn crash_intx(bench: &Bench) -> Result<String> {
    let mut guest = boot_to_crash(bench, CRASH_KERNEL_INTX, Interrupts::Intx)?;
    guest.machine.run("crash", SHORT)?.ok()?;
    left_pending(&mut guest)?;
    guest.machine.wait_ready()?;
    started(&mut guest.machine, "crash")?;
    let figures = transfers(&mut guest.machine)?;
    interrupt_by(&mut guest.machine, Interrupts::Intx)?;
    Ok(format!(
        "crash kernel under traffic with INTx pending: {figures}, with INTx"
    ))
}

/// The guest sleeps while the devices are busy, and wakes up. Once: after that SeaBIOS leaves the
/// machine without its power management registers, so it cannot sleep again.
fn suspend(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "", true)?;
    busy(&mut guest)?;
    let id = guest.machine.send("suspend")?;
    until(SHORT, POLL, || {
        let status = guest.machine.qmp().execute("query-status", &json!({}))?;
        let suspended = status.get("status").is_some_and(|s| s == "suspended");
        Ok(suspended.then_some(()))
    })
    .context("the guest does not suspend")?;
    guest.machine.qmp().execute("system_wakeup", &json!({}))?;
    let answer = guest.machine.wait(&id, "suspend", LONG)?.ok()?;
    ensure!(
        answer.get("suspended")? == "1",
        "no suspend in the guest's count"
    );
    guest.machine.run("traffic_stop", SHORT)?.ok()?;
    Ok(format!(
        "to RAM and back under traffic; {}",
        works(&mut guest.machine)?
    ))
}

/// The drivers are unbound while the devices are busy.
fn rebind_busy(bench: &Bench) -> Result<String> {
    let mut guest = boot(bench, "", false)?;
    let answer = guest.machine.run("rebind_busy 5", LONG)?.ok()?;
    Ok(format!(
        "{} times under traffic; {}",
        answer.get("rebinds")?,
        works(&mut guest.machine)?
    ))
}
