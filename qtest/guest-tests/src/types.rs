// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios of the types beyond net and blk: one guest with a function of each, which does real
//! work on every one of them, with MSI-X and without, and with the modern drivers.
//!
//! A new type is an entry of `TYPES` and a function that makes the guest use it.

mod balloon;
mod console;
mod p9;
mod place;
mod rng;
mod scsi;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

pub use self::place::{Guest, Place};
pub(crate) use self::place::{LONG, SHORT};

use test_machine::answer::Answer;
use test_machine::bench::Bench;
use test_machine::counters::Vf;
use test_machine::image::{self, Addition, Image};
use test_machine::machine::{Driver, Extra, Machine};
use test_machine::rig::Pf;

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

/// Options of the simulator for two of the types.
pub const CONSOLE: &[&str] = &["--console-ports", "1"];
/// The same for a SCSI host.
pub const SCSI: &[&str] = scsi::OPTIONS;

/// How the functions of a guest interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// Messages.
    Msix,
    /// The pin: the kernel is told not to use messages.
    Intx,
}

impl Interrupts {
    /// Words for the kernel's command line.
    pub(crate) fn kernel(self) -> &'static str {
        match self {
            Self::Msix => "",
            Self::Intx => "pci=nomsi",
        }
    }

    /// What the guest's `irqs_of` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Msix => "msix",
            Self::Intx => "intx",
        }
    }

    /// Checks what a guest says about a function's interrupts; gives their number.
    ///
    /// # Errors
    /// When they are of another kind, or there were none.
    pub(crate) fn check(self, answer: &Answer) -> Result<u64> {
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
pub(crate) struct Type {
    /// Its name for simulator and guest.
    pub(crate) kind: &'static str,
    /// Options of the simulator.
    pub(crate) options: &'static [&'static str],
    /// PCI device ID and subsystem ID.
    ids: (&'static str, &'static str),
    /// Linux's driver.
    driver: &'static str,
    /// Rules of the modern interface that Linux's driver is known to break; the simulator notes it
    /// and serves it all the same.
    breaks: &'static [&'static str],
    /// Makes the guest use the function and compares with what the simulator saw; gives figures.
    work: fn(&mut Place<'_>) -> Result<String>,
}

pub(crate) const TYPES: &[Type] = &[
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
        options: CONSOLE,
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
        options: SCSI,
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
///
/// # Errors
/// When it cannot be made.
pub fn image(bench: &Bench) -> Result<Image> {
    let initrd = bench.run.path().join("types.cpio");
    let addition = Addition {
        modules: vec![("types", MODULES)],
        ..Addition::default()
    };
    image::extend(&bench.image, &initrd, &addition)?;
    Ok(Image {
        initrd,
        ..bench.image.clone()
    })
}

/// A machine with functions of PFs that are served beside it.
pub(crate) struct Direct {
    pub(crate) machine: Machine,
    pub(crate) pfs: Vec<(&'static str, Pf)>,
}

impl Direct {
    /// Boots a guest that has the drivers of all types, with VF 1 of a PF of each of these types.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub(crate) fn boot(
        bench: &Bench,
        driver: Driver,
        kernel: &'static str,
        types: &[(&'static str, &[&str])],
    ) -> Result<Self> {
        let image = image(bench)?;
        let pfs = types
            .iter()
            .map(|(kind, options)| Ok((*kind, bench.pf(kind, 1, options)?)))
            .collect::<Result<Vec<_>>>()?;
        let functions = pfs.iter().map(|(_, pf)| pf.function(1)).collect();
        let mut config = bench.config(driver, functions);
        config.image = &image;
        config.extra = Extra {
            kernel,
            ..Extra::default()
        };
        let mut machine = bench.machine("guest", &config)?;
        machine.wait_ready()?;
        Ok(Self { machine, pfs })
    }

    fn pf(&self, kind: &str) -> Result<&Pf> {
        let found = self.pfs.iter().find(|(name, _)| *name == kind);
        Ok(&found.with_context(|| format!("no PF {kind}"))?.1)
    }
}

impl Guest for Direct {
    fn run(&mut self, command: &str, within: Duration) -> Result<Answer> {
        self.machine.run(command, within)?.ok()
    }

    fn control(&self, kind: &str, request: &Value) -> Result<Value> {
        self.pf(kind)?.control(request)
    }

    fn dir(&self, kind: &str) -> Result<PathBuf> {
        Ok(self.pf(kind)?.dir().to_owned())
    }

    fn copy_mib(&self) -> u64 {
        64
    }
}

/// Has a guest that was just started use its function of each of these types; gives figures.
///
/// # Errors
/// When one of them does not work, or the simulator saw something else than the guest.
pub fn used(
    guest: &mut dyn Guest,
    kinds: &[&str],
    driver: Driver,
    interrupts: Interrupts,
) -> Result<String> {
    let types = || TYPES.iter().filter(|of| kinds.contains(&of.kind));
    // The firmware, which looks for something to boot from, has its own drivers.
    let mut firmware = Vec::new();
    for of in types() {
        firmware.push(Place::new(guest, of.kind).counters()?);
    }
    guest.run("types_load", SHORT)?;
    let mut figures = Vec::new();
    for (of, firmware) in types().zip(&firmware) {
        let place = &mut Place::new(guest, of.kind);
        figures.push(one_type(of, place, firmware, (driver, interrupts)).context(of.kind)?);
    }
    Ok(figures.join("; "))
}

fn one_type(
    of: &Type,
    place: &mut Place<'_>,
    firmware: &Vf,
    (driver, interrupts): (Driver, Interrupts),
) -> Result<String> {
    let info = place.guest(&format!("type {}", of.kind), SHORT)?;
    check_driver(of, driver, &info)?;
    let figures = (of.work)(place)?;
    let after = place.guest(&format!("type {}", of.kind), SHORT)?;
    let count = interrupts.check(&after)?;
    let vf = place.counters()?;
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
    let broken = violations(&place.all_counters()?)?;
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
pub(crate) fn violations(counters: &Value) -> Result<Vec<String>> {
    let map = counters
        .pointer("/hardware/device/violations")
        .and_then(Value::as_object);
    let map = map.with_context(|| format!("no violations in {counters}"))?;
    Ok(map.keys().cloned().collect())
}
