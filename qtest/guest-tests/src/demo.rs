// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask demo`: a guest with only the legacy driver on two simulated VFs, and what happened.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use virtio_modern_spec::admin::opcode;

use crate::bench::bench;
use test_kit::project::Project;
use test_kit::steps::{seconds, Steps};
use test_machine::answer::Answer;
use test_machine::counters::{commands, Vf};
use test_machine::machine::{Driver, Machine};
use test_machine::rig::{Pf, Programs};

/// What the user chooses.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Use the modern driver in the guest instead of the legacy one.
    #[arg(long)]
    modern: bool,
    /// Then leave a shell in the guest on this terminal.
    #[arg(long)]
    interactive: bool,
}

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);
/// MiB written to and read from the disk.
const DISK_MIB: u32 = 64;
/// MiB sent each way over TCP.
const TCP_MIB: u32 = 64;

/// Where the sockets are in the commands for doing it by hand.
const BY_HAND_DIR: &str = "/tmp/vlvf-net";

/// What the guest told.
struct Seen {
    info: Answer,
    lspci: Answer,
    net: Answer,
    ping: Answer,
    tcp: Answer,
    disk: Answer,
}

/// Runs it.
///
/// # Errors
/// When something cannot be built or started, or the guest does not do what it should.
pub fn run(
    project: &Project,
    steps: &mut Steps,
    programs: Programs,
    options: Options,
) -> Result<()> {
    let bench = bench(project, steps, "demo", programs)?;
    let driver = if options.modern {
        Driver::Modern
    } else {
        Driver::Legacy
    };
    let (mut net, mut blk) = steps.run("start two simulated PFs and their helpers", |step| {
        let net = bench.pf("net", 1, &[])?;
        let blk = bench.pf("blk", 1, &["--blk-ram", "256M"])?;
        step.note("net and blk, one VF each");
        Ok((net, blk))
    })?;
    let mut config = bench.config(driver, vec![net.function(1), blk.function(1)]);
    config.console = options.interactive;
    let name = match driver {
        Driver::Legacy => "boot Debian's kernel with its legacy virtio driver",
        Driver::Modern => "boot Debian's kernel with its modern virtio driver",
    };
    let began = Instant::now();
    let mut machine = steps.run(name, |_| {
        let mut machine = bench.machine("guest", &config)?;
        machine.wait_ready()?;
        Ok(machine)
    })?;
    let booted = began.elapsed();
    let seen = use_devices(steps, &mut machine)?;
    // Taken before the end, which resets the functions.
    let (net_counters, blk_counters) = (net.counters()?, blk.counters()?);
    println!("\n{}", table(&seen, &net_counters, &blk_counters, booted)?);
    let alone = bench.config(driver, vec![net.function(1)]);
    println!("{}", by_hand(&net, &alone.by_hand()));
    if options.interactive {
        println!("The guest's shell follows; \"poweroff -f\" ends it.\n");
        machine.send("shell")?;
        machine.wait_ended(None)?;
    } else {
        steps.run("end everything", |_| {
            machine.send("poweroff")?;
            ensure!(
                machine.wait_ended(Some(SHORT))?,
                "the guest does not power off"
            );
            for pf in [&mut net, &mut blk] {
                ensure!(pf.helper().end(), "a helper did not end when asked to");
            }
            Ok(())
        })?;
    }
    steps.finish("the demonstration is over");
    Ok(())
}

/// Has the guest use network and disk.
fn use_devices(steps: &mut Steps, machine: &mut Machine) -> Result<Seen> {
    let mut ask = |name: &str, command: &str, within: Duration| -> Result<Answer> {
        steps.run(name, |_| machine.run(command, within)?.ok())
    };
    let info = ask("look at the functions from inside the guest", "info", SHORT)?;
    let lspci = ask("run lspci", "lspci", SHORT)?;
    let net = ask(
        "bring the interface up and wait for the first packet",
        "net",
        SHORT,
    )?;
    let ping = ask("ping 100 times", "ping 100 0.02", LONG)?;
    let tcp = ask(
        &format!("TCP: {TCP_MIB} MiB each way"),
        &format!("tcp {TCP_MIB}"),
        LONG,
    )?;
    let disk = ask(
        &format!("disk: write and read {DISK_MIB} MiB"),
        &format!("disk {DISK_MIB}"),
        LONG,
    )?;
    Ok(Seen {
        info,
        lspci,
        net,
        ping,
        tcp,
        disk,
    })
}

/// Whether the modern doorbells are those of the firmware, which looks for something to boot from
/// before the guest's legacy driver has the function.
fn firmware(vf: Vf) -> bool {
    vf.doorbells_modern > 0 && vf.doorbells_legacy > 0
}

/// The closing table.
fn table(
    seen: &Seen,
    net_counters: &serde_json::Value,
    blk_counters: &serde_json::Value,
    booted: Duration,
) -> Result<String> {
    let net = Vf::of(net_counters, 1).context("the simulator has no counters of the net VF")?;
    let blk = Vf::of(blk_counters, 1).context("the simulator has no counters of the blk VF")?;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    for line in seen.lspci.all("lspci") {
        row("lspci in the guest", line.to_owned());
    }
    for kind in ["net", "blk"] {
        let get = |key: &str| seen.info.get(&format!("{kind}.{key}"));
        let legacy = get("status")? == "0x00000007";
        row(
            &format!("{kind} driver"),
            format!(
                "{}, {}, {} MSI-X vectors",
                get("virtio_driver")?,
                if legacy {
                    "legacy (no VERSION_1, no FEATURES_OK)"
                } else {
                    "modern"
                },
                get("msix")?
            ),
        );
    }
    row(
        "boot",
        format!(
            "{} from QEMU's start until the guest takes commands",
            seconds(booted)
        ),
    );
    row(
        "first packet",
        format!(
            "{} ms from `ip link set up` to the answer",
            seen.net.get("first_packet_ms")?
        ),
    );
    row(
        "pings",
        format!(
            "{} of {}",
            seen.ping.get("pings_received")?,
            seen.ping.get("pings_sent")?
        ),
    );
    let speed = |mib: u32, ms: u64| format!("{mib} MiB in {ms} ms");
    row(
        "TCP",
        format!(
            "out {}, in {}, SHA-256 equal",
            speed(TCP_MIB, seen.tcp.number("tcp_out_ms")?),
            speed(TCP_MIB, seen.tcp.number("tcp_in_ms")?)
        ),
    );
    row(
        "disk",
        format!(
            "written {}, read {}, SHA-256 equal",
            speed(DISK_MIB, seen.disk.number("disk_write_ms")?),
            speed(DISK_MIB, seen.disk.number("disk_read_ms")?)
        ),
    );
    row(
        "packets",
        format!("{} sent, {} received", net.tx_frames, net.rx_frames),
    );
    row(
        "sectors",
        format!("{} written, {} read", blk.sectors_written, blk.sectors_read),
    );
    for (kind, vf) in [("net", net), ("blk", blk)] {
        row(
            &format!("{kind} doorbells"),
            format!(
                "{} straight to the VF, {} by command, {} modern{}; {} interrupts",
                vf.doorbells_legacy,
                vf.doorbells_command,
                vf.doorbells_modern,
                if firmware(vf) {
                    " (the firmware's)"
                } else {
                    ""
                },
                vf.interrupts
            ),
        );
    }
    for (kind, counters) in [("net", net_counters), ("blk", blk_counters)] {
        for (number, count) in commands(counters) {
            row(
                &format!("{kind} admin commands"),
                format!("{count:>6}  {}", opcode::name(number)),
            );
        }
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut last = String::new();
    for (name, value) in rows {
        let shown = if name == last { "" } else { name.as_str() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {shown:width$}  {value}");
        last = name;
    }
    Ok(text)
}

/// How to do the same without this program, for the network alone.
fn by_hand(pf: &Pf, qemu: &[String]) -> String {
    // The directory of this run is gone when somebody reads this.
    let own = pf.dir().to_string_lossy();
    let [simulator, helper] = pf.by_hand().map(|line| line.replace(&*own, BY_HAND_DIR));
    let qemu = qemu.join(" \\\n    ").replace(&*own, BY_HAND_DIR);
    format!(
        "The same by hand with the net VF, each in a terminal of its own (\"poweroff -f\" in the guest \
         ends it):\n\n\
         mkdir -p {BY_HAND_DIR} && {simulator}\n\n{helper}\n\n{qemu}\n"
    )
}
