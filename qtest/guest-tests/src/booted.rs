// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that has booted on VFs, and what most scenarios ask of it.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use test_kit::patience::until;
use test_machine::answer::Answer;
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::machine::{Driver, Extra, Machine};
use test_machine::process::POLL;
use test_machine::rig::Pf;

/// For what the guest does at once.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// For pings and rebinds.
pub(crate) const MEDIUM: Duration = Duration::from_secs(90);
/// For transfers, on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Feature bit 32, VERSION_1, in Linux's list of accepted features (one digit per bit).
const VERSION_1: usize = 32;

/// A machine and the PFs its functions belong to; the machine ends first.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) pfs: Vec<Pf>,
}

/// A guest with VF 1 of a PF of each kind.
pub(crate) fn boot(
    bench: &Bench,
    name: &str,
    driver: Driver,
    kinds: &[&'static str],
) -> Result<Guest> {
    boot_with(bench, name, driver, kinds, Extra::default())
}

/// The same with what else its machine is to have.
pub(crate) fn boot_with(
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

/// Waits until the first VF of each PF has gone through more buffers.
///
/// # Errors
/// When it does not.
pub(super) fn wait_busy(pfs: &[Pf], more: u64) -> Result<()> {
    let before = counters(pfs)?;
    let mut now = Vec::new();
    let done = until(SHORT, POLL, || {
        now = counters(pfs)?;
        let busy = |(before, now): (&Vf, &Vf)| now.buffers >= before.buffers + more;
        Ok(before.iter().zip(&now).all(busy).then_some(()))
    });
    done.with_context(|| format!("no traffic: {now:?}"))
}

/// Checks what Linux says about a function against the driver it was told to use.
pub fn check_driver(info: &Answer, kind: &str, driver: Driver) -> Result<()> {
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
pub(crate) fn same(answer: &Answer, one: &str, other: &str) -> Result<()> {
    let (one, other) = (answer.get(one)?, answer.get(other)?);
    ensure!(one.len() == 64, "no SHA-256: {one:?}");
    ensure!(one == other, "digests differ: {one} and {other}");
    Ok(())
}

pub(crate) fn ping(machine: &mut Machine, command: &str) -> Result<u64> {
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

/// What the simulated hardware counted for VF 1 of each PF.
pub(crate) fn counters(pfs: &[Pf]) -> Result<Vec<Vf>> {
    pfs.iter()
        .map(|pf| {
            let counters = pf.counters()?;
            Vf::of(&counters, 1).with_context(|| format!("no counters of VF 1 in {counters}"))
        })
        .collect()
}
