// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian's newest kernel with its legacy drivers on a net and a blk VF.

use std::time::Duration;

use anyhow::{ensure, Result};

use crate::booted::check_driver;
use crate::firmware::{Kit, LoggedPf};
use crate::run::Run;
use test_machine::bench::Bench;
use test_machine::machine::{Config, Driver};
use test_machine::scenario::Scenario;

pub(in crate::scenarios) const NEWER_KERNEL: Scenario<Run> = Scenario {
    name: "newer-kernel",
    shows: "Debian's newest kernel with its legacy drivers on net and blk",
    run: Run::Firmware(work),
};

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(180);

pub(super) fn work(bench: &Bench, kit: &Kit) -> Result<String> {
    let name = "newer-kernel";
    let net = LoggedPf::start(bench, name, "net", 1, &[])?;
    let blk = LoggedPf::start(bench, name, "blk", 1, &["--blk-ram", "32M"])?;
    let functions = vec![net.pf.function(1), blk.pf.function(1)];
    let config = Config {
        image: &kit.newer,
        ..bench.config(Driver::Legacy, functions)
    };
    let mut machine = bench.machine(name, &config)?;
    machine.wait_ready()?;
    let info = machine.run("info", SHORT)?.ok()?;
    for kind in ["net", "blk"] {
        check_driver(&info, kind, Driver::Legacy)?;
    }
    machine.run("net", SHORT)?.ok()?;
    let ping = machine.run("ping 100 0.02", SHORT)?.ok()?;
    ensure!(
        ping.number("pings_received")? == 100,
        "pings were lost: {}",
        ping.text()
    );
    let tcp = machine.run("tcp 8", LONG)?.ok()?;
    let disk = machine.run("disk 16", LONG)?.ok()?;
    let (card, drive) = (net.seen(1)?, blk.seen(1)?);
    for seen in [&card, &drive] {
        seen.check_legacy_driver(&[0])?;
    }
    let version = kit.newer.modules.file_name().unwrap_or_default();
    Ok(format!(
        "Linux {}: 100 of 100 pings, TCP 8 MiB out {} ms, in {} ms, disk 16 MiB written {} ms, read {} ms",
        version.to_string_lossy(),
        tcp.get("tcp_out_ms")?,
        tcp.get("tcp_in_ms")?,
        disk.get("disk_write_ms")?,
        disk.get("disk_read_ms")?,
    ))
}
