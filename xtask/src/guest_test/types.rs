// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios of the types beyond net and blk: one guest with a function of each, which does real
//! work on every one of them, with MSI-X and without, and with the modern drivers.
//!
//! A new type is an entry of [`TYPES`] and a function that makes the guest use it.

mod balloon;
mod console;
mod p9;
mod rng;
mod scsi;

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::scenarios::Scenario;
use super::Bench;
use crate::guest::answer::Answer;
use crate::guest::counters::Vf;
use crate::guest::machine::{Driver, Extra, Machine};
use crate::guest::rig::Pf;
use crate::guest::{self, Addition, Image};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "types",
        run: |bench| all_types(bench, Driver::Legacy, Interrupts::Msix),
    },
    Scenario {
        name: "types-intx",
        run: |bench| all_types(bench, Driver::Legacy, Interrupts::Intx),
    },
    Scenario {
        name: "types-modern",
        run: |bench| all_types(bench, Driver::Modern, Interrupts::Msix),
    },
];

/// For what the guest does at once.
pub(super) const SHORT: Duration = Duration::from_secs(30);
/// For transfers, on a loaded machine.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// Drivers that the guest does not load at its start.
const MODULES: &[&str] = &[
    "virtio_rng",
    "virtio_console",
    "virtio_balloon",
    "virtio_scsi",
    "sd_mod",
    "9pnet_virtio",
    "9p",
];

/// How the functions of a guest interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupts {
    /// Messages.
    Msix,
    /// The pin: the kernel is told not to use messages.
    Intx,
}

impl Interrupts {
    /// Words for the kernel's command line.
    pub(super) fn kernel(self) -> &'static str {
        match self {
            Self::Msix => "",
            Self::Intx => "pci=nomsi",
        }
    }

    /// What the guest's `irqs_of` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Msix => "msix",
            Self::Intx => "intx",
        }
    }

    /// Checks what a guest says about a function's interrupts; gives their number.
    ///
    /// # Errors
    /// When they are of another kind, or there were none.
    pub(super) fn check(self, answer: &Answer) -> Result<u64> {
        let kind = answer.get("irq_kind")?;
        ensure!(
            kind == self.name(),
            "interrupts are {kind}, not {}: {}",
            self.name(),
            answer.text()
        );
        let lines = answer.number("irq_lines")?;
        match self {
            Self::Intx => ensure!(lines == 1, "{lines} lines for one pin"),
            Self::Msix => ensure!(lines >= 1, "no line"),
        }
        let count = answer.number("irq_count")?;
        ensure!(count > 0, "no interrupt arrived");
        Ok(count)
    }
}

/// A type that the guest is to use.
struct Type {
    /// Its name for simulator and guest.
    kind: &'static str,
    /// Options of the simulator.
    options: &'static [&'static str],
    /// PCI device ID and subsystem ID.
    ids: (&'static str, &'static str),
    /// Linux's driver.
    driver: &'static str,
    /// Rules of the modern interface that Linux's driver is known to break; the simulator notes it
    /// and serves it all the same.
    breaks: &'static [&'static str],
    /// Makes the guest use the function and compares with what the simulator saw; gives figures.
    work: fn(&mut Machine, &Pf) -> Result<String>,
}

const TYPES: &[Type] = &[
    Type {
        kind: "rng",
        options: &[],
        ids: ("0x1af4:0x1005", "0x1af4:0x0004"),
        driver: "virtio_rng",
        breaks: &[],
        work: rng::work,
    },
    Type {
        kind: "console",
        options: &["--console-ports", "1"],
        ids: ("0x1af4:0x1003", "0x1af4:0x0003"),
        driver: "virtio_console",
        breaks: &[],
        work: console::work,
    },
    Type {
        kind: "balloon",
        options: &[],
        ids: ("0x1af4:0x1002", "0x1af4:0x0005"),
        driver: "virtio_balloon",
        // The statistics queue gets its first buffer, and a notification, before DRIVER_OK.
        breaks: &["notify_before_driver_ok"],
        work: balloon::work,
    },
    Type {
        kind: "scsi",
        options: scsi::OPTIONS,
        ids: ("0x1af4:0x1004", "0x1af4:0x0008"),
        driver: "virtio_scsi",
        breaks: &[],
        work: scsi::work,
    },
    Type {
        kind: "9p",
        options: p9::OPTIONS,
        ids: ("0x1af4:0x1009", "0x1af4:0x0009"),
        driver: "9pnet_virtio",
        breaks: &[],
        work: p9::work,
    },
];

/// The guest's image with the drivers of all types.
fn image(bench: &Bench) -> Result<Image> {
    let initrd = bench.run.path().join("types.cpio");
    let addition = Addition {
        modules: vec![("types", MODULES)],
        ..Addition::default()
    };
    guest::extend(&bench.image, &initrd, &addition)?;
    Ok(Image {
        initrd,
        ..bench.image.clone()
    })
}

fn all_types(bench: &Bench, driver: Driver, interrupts: Interrupts) -> Result<String> {
    let image = image(bench)?;
    let pfs = TYPES
        .iter()
        .map(|of| bench.pf(of.kind, 1, of.options))
        .collect::<Result<Vec<_>>>()?;
    let functions = pfs.iter().map(|pf| pf.function(1)).collect();
    let mut config = bench.config(driver, functions);
    config.image = &image;
    config.extra = Extra {
        kernel: interrupts.kernel(),
        ..Extra::default()
    };
    let mut machine = bench.machine("guest", &config)?;
    machine.wait_ready()?;
    // The firmware, which looks for something to boot from, has its own drivers.
    let firmware = pfs.iter().map(counters).collect::<Result<Vec<_>>>()?;
    machine.run("types_load", SHORT)?.ok()?;
    let mut figures = Vec::new();
    for ((of, pf), firmware) in TYPES.iter().zip(&pfs).zip(&firmware) {
        let used = one_type(of, &mut machine, pf, firmware, (driver, interrupts));
        figures.push(machine.explained(used).with_context(|| of.kind)?);
    }
    Ok(figures.join("; "))
}

/// What the simulated hardware counted for VF 1.
fn counters(pf: &Pf) -> Result<Vf> {
    let counters = pf.counters()?;
    Vf::of(&counters, 1).with_context(|| format!("no counters of VF 1 in {counters}"))
}

fn one_type(
    of: &Type,
    machine: &mut Machine,
    pf: &Pf,
    firmware: &Vf,
    (driver, interrupts): (Driver, Interrupts),
) -> Result<String> {
    let info = machine.run(&format!("type {}", of.kind), SHORT)?.ok()?;
    check_driver(of, driver, &info)?;
    let figures = (of.work)(machine, pf)?;
    let after = machine.run(&format!("type {}", of.kind), SHORT)?.ok()?;
    let count = interrupts.check(&after)?;
    let vf = counters(pf)?;
    let legacy = vf.doorbells_legacy - firmware.doorbells_legacy;
    let modern = vf.doorbells_modern - firmware.doorbells_modern;
    let (rung, silent) = match driver {
        Driver::Legacy => (legacy, modern),
        Driver::Modern => (modern, legacy),
    };
    ensure!(
        rung > 0 && silent == 0 && vf.doorbells_command == firmware.doorbells_command,
        "doorbells: {vf:?}, of the firmware {firmware:?}"
    );
    ensure!(vf.needs_reset == 0, "the device broke down: {vf:?}");
    let broken = violations(&pf.counters()?)?;
    let expected = match driver {
        Driver::Legacy => &[],
        Driver::Modern => of.breaks,
    };
    ensure!(
        broken == expected,
        "rules broken: {broken:?}, not {expected:?}"
    );
    Ok(format!(
        "{}: {figures}, {count} interrupts ({})",
        of.kind,
        interrupts.name()
    ))
}

/// What Linux says about a function: the driver is on it that it was told to use.
fn check_driver(of: &Type, driver: Driver, info: &Answer) -> Result<()> {
    let get = |key: &str| info.get(&format!("{}.{key}", of.kind));
    for (key, want) in [
        ("id", of.ids.0),
        ("subsystem", of.ids.1),
        ("revision", "0x00"),
        ("pci_driver", "virtio-pci"),
        ("virtio_driver", of.driver),
        // ACKNOWLEDGE, DRIVER, DRIVER_OK; a modern driver has FEATURES_OK too.
        (
            "status",
            match driver {
                Driver::Legacy => "0x00000007",
                Driver::Modern => "0x0000000f",
            },
        ),
    ] {
        let value = get(key)?;
        ensure!(value == want, "{key} is {value}, not {want}");
    }
    ensure!(get("bar0")?.ends_with("01"), "BAR 0 is no I/O region");
    let features = get("features")?;
    let high = features.get(32..).unwrap_or_default();
    match driver {
        Driver::Legacy => ensure!(
            !high.contains('1'),
            "a legacy driver accepted features above 31: {features}"
        ),
        Driver::Modern => ensure!(
            high.starts_with('1'),
            "a modern driver did not accept VERSION_1: {features}"
        ),
    }
    Ok(())
}

/// Names of the rules that a driver broke, by the simulator's count.
pub(super) fn violations(counters: &Value) -> Result<Vec<String>> {
    let map = counters
        .pointer("/hardware/device/violations")
        .and_then(Value::as_object);
    let map = map.with_context(|| format!("no violations in {counters}"))?;
    Ok(map.keys().cloned().collect())
}

/// What the type of VF 1 counts under a name.
fn number(pf: &Pf, name: &str) -> Result<u64> {
    let counters = pf.counters()?;
    counters
        .pointer(&format!("/hardware/functions/vf1/type/{name}"))
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {name} in {counters}"))
}

/// Waits until a number of the type is `want`.
fn wait_number(pf: &Pf, name: &str, want: u64, within: Duration) -> Result<()> {
    let until = std::time::Instant::now() + within;
    loop {
        let now = number(pf, name)?;
        if now == want {
            return Ok(());
        }
        ensure!(
            std::time::Instant::now() < until,
            "{name} is {now}, not {want}, after {within:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
