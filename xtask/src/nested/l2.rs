// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios with a guest (L2) under KVM in the nested machine.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::scenarios::{check_pf, set_vfs};
use super::{Card, Nested, Plan, Scenario, Setup};
use crate::guest::answer::Answer;

/// For pings and what L2 does at once.
const SHORT: Duration = Duration::from_secs(60);
/// For transfers, on a loaded machine.
const LONG: Duration = Duration::from_secs(300);

const NET: Card = Card {
    kind: "net",
    vfs: 2,
    options: &[],
};
const BLK: Card = Card {
    kind: "blk",
    vfs: 2,
    options: &["--blk-ram", "128M"],
};

/// Both PFs on vfio-pci, their helpers running, their VFs enabled.
pub(super) const HELPERS: Setup = Setup {
    plan: Plan {
        name: "l2",
        kernel: "intel_iommu=on vlvf.noload",
        cards: &[NET, BLK],
    },
    prepare: |_| Ok(()),
};

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "l2-stock",
    setup: &Setup {
        plan: Plan {
            name: "l2-stock",
            kernel: "intel_iommu=on",
            cards: &[NET],
        },
        prepare: |_| Ok(()),
    },
    violations: &[],
    run: l2_stock,
}];

/// Number of pings that all came back.
fn pings(answer: &Answer) -> Result<u64> {
    let (sent, received) = (
        answer.number("pings_sent")?,
        answer.number("pings_received")?,
    );
    ensure!(sent == received, "{received} of {sent} pings came back");
    Ok(received)
}

/// L2 with QEMU's own vfio-pci and its modern driver on a VF whose PF Linux drives: what the other
/// scenarios stand on, without this project's device and helper.
fn l2_stock(nested: &mut Nested) -> Result<String> {
    let kernel = check_pf(nested)?;
    nested.step("net").context("bring the PF's interface up")?;
    nested.step("vfio_load").context("load vfio-pci")?;
    nested.step("kvm_load").context("load KVM")?;
    set_vfs(nested, 2, "virtio-pci")?;
    let bound = nested
        .step("vfio_bind_vf 1")
        .context("bind VF 1 to vfio-pci")?;
    let vf = bound.get("vf")?;
    nested.start_l2(
        &["vlvf.addr=10.0.77.9"],
        &["-device".to_owned(), format!("vfio-pci,host={vf}")],
    )?;
    let net = nested.l2("net", SHORT)?;
    ensure!(net.get("mac")? == "52:54:00:77:01:01", "{}", net.text());
    let ping = nested.l2("ping 100", SHORT)?;
    let received = pings(&ping)?;
    let tcp = nested.l2("tcp 4", LONG)?;
    nested.stop_l2()?;
    Ok(format!(
        "L1 Linux {kernel}, L2 on QEMU's vfio-pci: pings {received}, TCP {} MiB",
        tcp.get("tcp_mib")?
    ))
}
