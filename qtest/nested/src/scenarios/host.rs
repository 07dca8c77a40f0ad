// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios of L1 alone: the kernel's VFIO and drivers on the simulated card. Each has a machine of
//! its own.

use anyhow::{ensure, Context, Result};

use crate::machine::{Card, Nested, Plan};
use crate::setup::{Run, Setup};
use test_machine::scenario::Scenario;

/// VFs of a simulated PF.
const VFS: u16 = 2;
const NET: Card = Card {
    kind: "net",
    vfs: VFS,
    options: &[],
};

pub(super) const SRIOV: Scenario<Run> = Scenario {
    name: "sriov",
    shows: "PF on `vfio-pci` with `enable_sriov=1`, opened with a VF token; `sriov_numvfs` 2, 0, 2; each VF in an IOMMU group of its own; a VF opens with the right token only; IDs, BARs, registers in a BAR, MSI-X, reset; VFs are back after the PF was closed, which resets it",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "sriov",
                kernel: "intel_iommu=on vlvf.noload",
                cards: &[NET],
            },
            prepare: |_| Ok(()),
        },
        // Nobody drives the PF: it is only kept open.
        violations: &["vfs_without_sr_iov"],
        run: sriov,
    },
};

pub(super) const LINUX_PF: Scenario<Run> = Scenario {
    name: "linux-pf",
    shows: "Linux's `virtio_net` on the PF: pings and TCP with checksums; then VFs enabled by Linux's PF driver, and pings through a VF; then the PF is unplugged while its VFs are on",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "linux-pf",
                kernel: "intel_iommu=on",
                cards: &[NET],
            },
            prepare: |_| Ok(()),
        },
        violations: &[],
        run: linux_pf,
    },
};

const TOKEN: &str = "14d63f20-8445-11ea-8900-1f9ce7d5650d";
const WRONG_TOKEN: &str = "00000000-8445-11ea-8900-1f9ce7d5650d";

/// What every scenario expects of the PF at first.
pub(super) fn check_pf(nested: &mut Nested) -> Result<String> {
    let info = nested.step("sriov_info").context("look at the PF")?;
    ensure!(info.get("pf_id")? == "0x1af4:0x1041", "{}", info.text());
    ensure!(
        info.number("totalvfs")? == u64::from(VFS) && info.number("numvfs")? == 0,
        "{}",
        info.text()
    );
    ensure!(
        !info.get("pf_group")?.is_empty(),
        "the PF is in no IOMMU group: {}",
        info.text()
    );
    Ok(info.get("kernel")?.to_owned())
}

/// Sets the number of VFs; Linux and the simulator must agree.
pub(super) fn set_vfs(nested: &mut Nested, count: u16, driver: &str) -> Result<()> {
    let step = format!("numvfs {count}");
    let answer = nested.step(&step).context("set sriov_numvfs")?;
    ensure!(
        answer.number("vfs")? == u64::from(count) && answer.number("numvfs")? == u64::from(count),
        "{step}: {}",
        answer.text()
    );
    let mut groups = vec![];
    for vf in 1..=count {
        let found = answer.get(&format!("vf{vf}.driver"))?;
        ensure!(found == driver, "{step}: VF {vf} is driven by {found:?}");
        groups.push(answer.get(&format!("vf{vf}.group"))?.to_owned());
    }
    groups.dedup();
    ensure!(
        groups.len() == usize::from(count),
        "{step}: VFs share an IOMMU group: {groups:?}"
    );
    let live = nested.live_vfs("net")?;
    ensure!(
        live == u64::from(count),
        "{step}: the simulator has {live} live VFs"
    );
    Ok(())
}

/// One VF through VFIO with the right token.
fn probe(nested: &mut Nested, vf: u16) -> Result<()> {
    let seen = nested
        .step(&format!("vfio_probe {vf} {TOKEN}"))
        .with_context(|| format!("open VF {vf}"))?;
    let mac = format!("52:54:00:77:01:{vf:02x}");
    for (key, expected) in [
        ("id", "1af4:1041"),
        ("queues", "3"),
        ("status", "0"),
        ("acknowledged", "1"),
        ("mac", mac.as_str()),
        ("msix", "ok"),
        ("after_reset", "0"),
    ] {
        let found = seen.get(key)?;
        ensure!(
            found == expected,
            "VF {vf}: {key} is {found}, not {expected}: {}",
            seen.text()
        );
    }
    // No I/O BAR in a VF: BAR0 is what the legacy device will add.
    ensure!(
        seen.get("bars")?.starts_with("0,"),
        "VF {vf} has a BAR0: {}",
        seen.text()
    );
    Ok(())
}

/// PF and VFs on vfio-pci, the way the helper and the device will use them.
fn sriov(nested: &mut Nested) -> Result<String> {
    let kernel = check_pf(nested)?;
    nested.step("vfio_load").context("load vfio-pci")?;
    let bound = nested
        .step("vfio_bind_pf")
        .context("bind the PF to vfio-pci")?;
    ensure!(bound.get("pf_driver")? == "vfio-pci", "{}", bound.text());
    let probed = nested
        .step("vfio_probe 0")
        .context("open the PF and look at it")?;
    ensure!(probed.get("msix")? == "ok", "{}", probed.text());
    nested
        .step(&format!("vfio_hold {TOKEN}"))
        .context("open the PF and set the VF token")?;
    set_vfs(nested, VFS, "vfio-pci")?;
    let refused = nested.refused("vfio_probe 1")?;
    ensure!(
        refused.get("error")?.contains("Permission"),
        "without token: {}",
        refused.text()
    );
    let refused = nested.refused(&format!("vfio_probe 1 {WRONG_TOKEN}"))?;
    ensure!(
        refused.get("error")?.contains("Permission"),
        "with a wrong token: {}",
        refused.text()
    );
    for vf in 1..=VFS {
        probe(nested, vf)?;
    }
    set_vfs(nested, 0, "")?;
    set_vfs(nested, VFS, "vfio-pci")?;
    probe(nested, VFS)?;
    // The last one to close the PF resets it; Linux restores VF Enable.
    nested.step("vfio_release").context("close the PF")?;
    probe(nested, 1).context("after the PF was closed")?;
    let live = nested.live_vfs("net")?;
    ensure!(
        live == u64::from(VFS),
        "after the PF was closed the simulator has {live} live VFs"
    );
    Ok(format!(
        "Linux {kernel}, {VFS} VFs through VFIO, token enforced"
    ))
}

/// Linux's own driver on the PF, then on a VF, all DMA through the IOMMU; then the card is pulled while
/// its VFs are on.
fn linux_pf(nested: &mut Nested) -> Result<String> {
    let kernel = check_pf(nested)?;
    nested.step("net").context("bring the PF's interface up")?;
    nested.step("ping 50").context("ping through the PF")?;
    let tcp = nested.step("tcp 1").context("TCP through the PF")?;
    set_vfs(nested, VFS, "virtio-pci")?;
    let vf = nested
        .step("vf_ping 1 10.0.77.3 50")
        .context("ping through VF 1")?;
    ensure!(vf.get("mac")? == "52:54:00:77:01:01", "VF 1: {}", vf.text());
    nested.unplug("net").context("unplug the card")?;
    Ok(format!(
        "Linux {kernel}, pings 50 + {}, TCP {} MiB",
        vf.get("pings_received")?,
        tcp.get("tcp_mib")?
    ))
}
