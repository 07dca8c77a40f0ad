// SPDX-License-Identifier: GPL-2.0-or-later
//! L2 with VFs of the types beyond net and blk: what the guest tests have a guest do with VFs of
//! another process, on the kernel's VFIO.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::l2::{start_helper, vf_address, LEGACY};
use crate::machine::{Card, Nested, Plan};
use crate::setup::{Run, Setup};
use guest_tests::types::{self, Guest, Interrupts};
use test_machine::answer::Answer;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

const KINDS: [&str; 4] = ["rng", "console", "balloon", "scsi"];

pub(super) const L2_TYPES: Scenario<Run> = Scenario {
    name: "l2-types",
    shows: "L2 with the legacy driver on VFs of rng, console, balloon and scsi: what the guest tests of the same name have a guest do (`qtest/guest-tests/src/types`), with less data to the disk",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
        plan: Plan {
            name: "types",
            kernel: "intel_iommu=on vlvf.noload",
            cards: &[
                card(KINDS[0], &[]),
                card(KINDS[1], types::CONSOLE),
                card(KINDS[2], &[]),
                card(KINDS[3], types::SCSI),
            ],
        },
        prepare,
    },
    violations: &[],
    run,
    },
};

const fn card(kind: &'static str, options: &'static [&'static str]) -> Card {
    Card {
        kind,
        vfs: 2,
        options,
    }
}

fn prepare(nested: &mut Nested) -> Result<()> {
    nested.step("vfio_load").context("load vfio-pci")?;
    nested.step("kvm_load").context("load KVM")?;
    for kind in KINDS {
        start_helper(nested, kind)?;
    }
    Ok(())
}

impl Guest for Nested {
    fn run(&mut self, command: &str, within: Duration) -> Result<Answer> {
        self.l2(command, within)
    }

    fn control(&self, kind: &str, request: &Value) -> Result<Value> {
        Nested::control(self, kind, request)
    }

    fn dir(&self, kind: &str) -> Result<PathBuf> {
        Nested::dir(self, kind).map(PathBuf::from)
    }

    /// Data take time in a machine inside a machine; disks have a scenario for that.
    fn copy_mib(&self) -> u64 {
        8
    }
}

fn run(nested: &mut Nested) -> Result<String> {
    let mut arguments = vec!["-machine".to_owned(), "pc".to_owned()];
    for kind in KINDS {
        let host = vf_address(nested, kind, 1)?;
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-legacy-vf,host={host},id={kind}"));
    }
    nested.start_l2(LEGACY, &arguments)?;
    let figures = types::used(nested, &KINDS, Driver::Legacy, Interrupts::Msix);
    let figures = nested.explained(figures)?;
    nested.stop_l2()?;
    Ok(figures)
}
