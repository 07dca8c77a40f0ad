// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest with a function of each type beyond net and blk.

use anyhow::Result;
use test_machine::bench::Bench;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

use crate::run::Run;
use crate::types::{used, Direct, Interrupts, TYPES};

pub(super) const MSIX: Scenario<Run> = Scenario {
    name: "types",
    shows: "a function of each further type does real work, with MSI-X: entropy counted on both sides and tested as in FIPS 140-2; text through hvc0 and a port, with digests; memory that falls and rises by the pages asked for; a SCSI disk and a 9P share with checksums",
    run: Run::Guest(|bench| all_types(bench, Driver::Legacy, Interrupts::Msix)),
};

pub(super) const INTX: Scenario<Run> = Scenario {
    name: "types-intx",
    shows: "the same with INTx (`pci=nomsi`, level-triggered at the IO-APIC)",
    run: Run::Guest(|bench| all_types(bench, Driver::Legacy, Interrupts::Intx)),
};

pub(super) const MODERN: Scenario<Run> = Scenario {
    name: "types-modern",
    shows: "the same under Linux's modern drivers; the balloon's notifies its statistics queue before DRIVER_OK, which has to be the only rule broken",
    run: Run::Guest(|bench| all_types(bench, Driver::Modern, Interrupts::Msix)),
};

fn all_types(bench: &Bench, driver: Driver, interrupts: Interrupts) -> Result<String> {
    let types: Vec<_> = TYPES.iter().map(|of| (of.kind, of.options)).collect();
    let mut direct = Direct::boot(bench, driver, interrupts.kernel(), &types)?;
    let kinds: Vec<&str> = TYPES.iter().map(|of| of.kind).collect();
    let done = used(&mut direct, &kinds, driver, interrupts);
    direct.machine.explained(done)
}
