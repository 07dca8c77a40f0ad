// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest (L2) under KVM in the nested machine: its setup, and what most scenarios ask of it.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use test_kit::patience::{until, LOOK};

use crate::machine::{Card, Nested, Plan};
use crate::setup::Setup;

/// For pings and what L2 does at once.
pub(crate) const SHORT: Duration = Duration::from_secs(60);
/// For transfers, on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

pub(crate) const NET: Card = Card {
    kind: "net",
    vfs: 2,
    options: &[],
};
pub(crate) const BLK: Card = Card {
    kind: "blk",
    vfs: 2,
    options: &["--blk-ram", "128M"],
};

/// Both PFs on vfio-pci, their helpers running, their VFs enabled.
pub(crate) const HELPERS: Setup = Setup {
    plan: Plan {
        name: "l2",
        kernel: "intel_iommu=on vlvf.noload",
        cards: &[NET, BLK],
    },
    prepare: start_helpers,
};

/// Words for L2's kernel command line.
pub(crate) const LEGACY: &[&str] = &["vlvf.addr=10.0.77.9", "virtio_pci.force_legacy=1"];
/// Loads VFIO and KVM and starts the helpers of both PFs.
pub(crate) fn start_helpers(nested: &mut Nested) -> Result<()> {
    load(nested)?;
    start_blk_and_net(nested)
}

/// Loads VFIO and KVM.
pub(crate) fn load(nested: &mut Nested) -> Result<()> {
    nested.step("vfio_load").context("load vfio-pci")?;
    nested.step("kvm_load").context("load KVM")?;
    Ok(())
}

/// Starts the helpers of both PFs.
pub(crate) fn start_blk_and_net(nested: &mut Nested) -> Result<()> {
    for kind in ["net", "blk"] {
        start_helper(nested, kind)?;
    }
    Ok(())
}

/// Starts the helper of a PF, which takes that from its driver and enables all its VFs.
pub(crate) fn start_helper(nested: &mut Nested, kind: &str) -> Result<()> {
    start_helper_by(nested, "helper_start", kind)
}

/// The same by another command of L1.
pub(crate) fn start_helper_by(nested: &mut Nested, command: &str, kind: &str) -> Result<()> {
    // Debian 12's kernel does not tell whose a VFIO device file is.
    let kernel = nested
        .step(&format!("sriov_info {kind}"))?
        .get("kernel")?
        .to_owned();
    let unproven = if kernel.starts_with("6.1.") {
        " --allow-unproven-uid 0"
    } else {
        ""
    };
    nested
        .step(&format!(
            "{command} {kind} --bind --vfs {}{unproven}",
            NET.vfs
        ))
        .with_context(|| format!("start the helper of the {kind} PF"))?;
    let may = nested.step(&format!("helper_privileges {kind}"))?;
    const NONE: &str = "0000000000000000";
    for (what, wanted) in [
        ("uid", "990"),
        ("gid", "990"),
        ("capprm", NONE),
        ("capeff", NONE),
        ("capbnd", NONE),
        ("nonewprivs", "1"),
        ("seccomp", "2"),
    ] {
        let is = may.get(what)?;
        ensure!(is == wanted, "the helper's {what} is {is}, not {wanted}");
    }
    let vfs = nested.step(&format!("vfs {kind}"))?;
    ensure!(
        vfs.number("vfs")? == u64::from(NET.vfs) && vfs.get("vf1.driver")? == "vfio-pci",
        "the {kind} helper's VFs: {}",
        vfs.text()
    );
    let live = nested.live_vfs(kind)?;
    ensure!(
        live == u64::from(NET.vfs),
        "the simulator has {live} live {kind} VFs"
    );
    Ok(())
}

/// PCI address of a VF in L1.
pub(crate) fn vf_address(nested: &mut Nested, kind: &str, vf: u16) -> Result<String> {
    let vfs = nested.step(&format!("vfs {kind}"))?;
    Ok(vfs.get(&format!("vf{vf}"))?.to_owned())
}

/// QEMU's arguments for VF 1 of each card as this project's device.
pub(crate) fn both_vfs(nested: &mut Nested) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for kind in ["net", "blk"] {
        let address = vf_address(nested, kind, 1)?;
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-legacy-vf,host={address},id={kind}"));
    }
    Ok(arguments)
}

/// A property of a device of L2's QEMU, as text.
pub(crate) fn property(nested: &mut Nested, id: &str, name: &str) -> Result<String> {
    let value = nested.l2_qmp()?.execute(
        "qom-get",
        &json!({ "path": format!("/machine/peripheral/{id}"), "property": name }),
    )?;
    Ok(value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned))
}

/// Has L2 ping, and gives the number of pings, which must all have come back.
pub(crate) fn pings(nested: &mut Nested, command: &str) -> Result<u64> {
    let answer = nested.l2(command, SHORT)?;
    let (sent, received) = (
        answer.number("pings_sent")?,
        answer.number("pings_received")?,
    );
    // The last one of "ping_stop" can be on its way.
    let late = u64::from(command == "ping_stop");
    ensure!(
        received > 0 && received + late >= sent,
        "{received} of {sent} pings came back"
    );
    Ok(received)
}

/// Has L2 rebind both drivers 5 times, then reboot, and use the devices after each. Gives the pings.
pub(crate) fn rebind_and_reboot(nested: &mut Nested) -> Result<u64> {
    for kind in ["net", "blk"] {
        nested
            .l2(&format!("rebind {kind} 5"), SHORT)
            .with_context(|| format!("rebind the {kind} driver"))?;
    }
    let rebound = use_again(nested).context("after the drivers were rebound")?;
    nested.l2_send("reboot")?;
    nested.wait_l2().context("reboot L2")?;
    let rebooted = use_again(nested).context("after L2's reboot")?;
    Ok(rebound + rebooted)
}

/// A little traffic on both devices; gives the pings.
pub(crate) fn use_again(nested: &mut Nested) -> Result<u64> {
    nested.l2("net", SHORT)?;
    let received = pings(nested, "ping 20")?;
    nested.l2("disk 2", LONG)?;
    Ok(received)
}

/// Plugs a device into L2. QEMU tells of the end of an unplugged one when it leaves the machine; the VF is
/// given back when the last reader of the memory map has let go, which on a busy machine can be later.
pub(crate) fn plug(nested: &mut Nested, device: &Value) -> Result<()> {
    until(SHORT, LOOK, || {
        match nested.l2_qmp()?.execute("device_add", device) {
            Err(error) if format!("{error:#}").contains("device is already attached") => Ok(None),
            other => other.map(Some),
        }
    })
    .context("QEMU keeps the VF")
    .map(|_| ())
}
