// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios with a guest (L2) under KVM in the nested machine.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use super::hotplug;
use super::scenarios::{check_pf, set_vfs};
use super::{Card, Nested, Plan, Scenario, Setup};
use crate::guest::machine::Driver;
use crate::guest_test::check_driver;

/// For pings and what L2 does at once.
pub(super) const SHORT: Duration = Duration::from_secs(60);
/// For transfers, on a loaded machine.
pub(super) const LONG: Duration = Duration::from_secs(300);

pub(super) const NET: Card = Card {
    kind: "net",
    vfs: 2,
    options: &[],
};
pub(super) const BLK: Card = Card {
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
    prepare: start_helpers,
};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
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
    },
    Scenario {
        name: "l2-interrupted",
        setup: &HELPERS,
        violations: &[],
        run: l2_interrupted,
    },
    Scenario {
        name: "l2-legacy",
        setup: &HELPERS,
        violations: &[],
        run: l2_legacy,
    },
    Scenario {
        name: "l2-modern",
        setup: &HELPERS,
        violations: &[],
        run: l2_modern,
    },
    Scenario {
        name: "hotplug",
        setup: &HELPERS,
        violations: &[],
        run: hotplug::run,
    },
];

/// Words for L2's kernel command line.
pub(super) const LEGACY: &[&str] = &["vlvf.addr=10.0.77.9", "virtio_pci.force_legacy=1"];
const MODERN: &[&str] = &["vlvf.addr=10.0.77.9"];
/// How often L1's processor is stopped while L2 pings.
const STOPS: u64 = 1000;

/// L1's processor is stopped at any moment, so also between the interrupt that KVM injects into L2 and
/// L2's next exit: the emulated processor must not take the interrupt again.
fn l2_interrupted(nested: &mut Nested) -> Result<String> {
    let address = vf_address(nested, "net", 1)?;
    let device = format!("virtio-legacy-vf,host={address},id=net");
    let mut times = nested.start_l2_interrupted(LEGACY, &["-device".to_owned(), device])?;
    nested.l2("net", SHORT)?;
    nested.l2("ping_start 0.05", SHORT)?;
    times += nested.interrupt_l1(STOPS)?;
    let received = pings(nested, "ping_stop")?;
    nested.stop_l2()?;
    Ok(format!(
        "{times} stops of L1's processor while L2 boots and pings, pings {received}"
    ))
}

/// Loads VFIO and KVM and starts the helpers of both PFs.
pub(super) fn start_helpers(nested: &mut Nested) -> Result<()> {
    nested.step("vfio_load").context("load vfio-pci")?;
    nested.step("kvm_load").context("load KVM")?;
    start_blk_and_net(nested)
}

/// Starts the helpers of both PFs.
pub(super) fn start_blk_and_net(nested: &mut Nested) -> Result<()> {
    for kind in ["net", "blk"] {
        start_helper(nested, kind)?;
    }
    Ok(())
}

/// Starts the helper of a PF, which takes that from its driver and enables all its VFs.
pub(super) fn start_helper(nested: &mut Nested, kind: &str) -> Result<()> {
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
            "helper_start {kind} --bind --vfs {}{unproven}",
            NET.vfs
        ))
        .with_context(|| format!("start the helper of the {kind} PF"))?;
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
pub(super) fn vf_address(nested: &mut Nested, kind: &str, vf: u16) -> Result<String> {
    let vfs = nested.step(&format!("vfs {kind}"))?;
    Ok(vfs.get(&format!("vf{vf}"))?.to_owned())
}

/// QEMU's arguments for VF 1 of each card as this project's device.
pub(super) fn both_vfs(nested: &mut Nested) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for kind in ["net", "blk"] {
        let address = vf_address(nested, kind, 1)?;
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-legacy-vf,host={address},id={kind}"));
    }
    Ok(arguments)
}

/// A property of a device of L2's QEMU, as text.
pub(super) fn property(nested: &mut Nested, id: &str, name: &str) -> Result<String> {
    let value = nested.l2_qmp()?.execute(
        "qom-get",
        &json!({ "path": format!("/machine/peripheral/{id}"), "property": name }),
    )?;
    Ok(value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned))
}

/// Has L2 ping, and gives the number of pings, which must all have come back.
pub(super) fn pings(nested: &mut Nested, command: &str) -> Result<u64> {
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
    let received = pings(nested, "ping 100")?;
    let tcp = nested.l2("tcp 4", LONG)?;
    nested.stop_l2()?;
    Ok(format!(
        "L1 Linux {kernel}, L2 on QEMU's vfio-pci: pings {received}, TCP {} MiB",
        tcp.get("tcp_mib")?
    ))
}

/// L2 with only the legacy driver on a net and a blk VF.
fn l2_legacy(nested: &mut Nested) -> Result<String> {
    let mut arguments = vec!["-machine".to_owned(), "pc".to_owned()];
    // Says when an interrupt of the VF takes the way through QEMU.
    arguments.extend(["-trace".to_owned(), "vfio_msi_interrupt".to_owned()]);
    arguments.extend(both_vfs(nested)?);
    nested.start_l2(LEGACY, &arguments)?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let info = nested.l2("info", SHORT)?;
    for kind in ["net", "blk"] {
        check_driver(&info, kind, Driver::Legacy)?;
    }
    check_shown(nested).context("what L2's QEMU shows")?;
    let mut received = pings(nested, "ping 100")?;
    ensure!(received == 100, "{received} pings");
    nested.l2("tcp 16", LONG).context("TCP, 16 MiB each way")?;
    nested.l2("disk 64", LONG).context("disk, 64 MiB")?;
    let (interrupts, by_qemu) = interrupts(nested)?;
    let doorbells = property(nested, "net", "doorbell-path")?;
    received += rebind_and_reboot(nested)?;
    nested.stop_l2()?;
    Ok(format!(
        "pings {received}, TCP 16 MiB, disk 64 MiB, {interrupts} interrupts of which {by_qemu} \
         through QEMU, doorbells by {doorbells}, 5 rebinds each, reboot"
    ))
}

/// QEMU's monitor shows the transitional function of the net VF, its BAR0, and which VF it is.
fn check_shown(nested: &mut Nested) -> Result<()> {
    let address = vf_address(nested, "net", 1)?;
    for (command, wanted) in [
        (
            "info pci",
            [
                "Ethernet controller: PCI device 1af4:1000".to_owned(),
                "PCI subsystem 1af4:0001".to_owned(),
                "BAR0: I/O at 0x".to_owned(),
            ],
        ),
        (
            "info qtree",
            [
                "dev: virtio-legacy-vf, id \"net\"".to_owned(),
                format!("host = \"{address}\""),
                "pci id 1af4:1000 (sub 1af4:0001)".to_owned(),
            ],
        ),
    ] {
        let text = nested.l2_monitor(command)?;
        for line in &wanted {
            ensure!(text.contains(line), "no {line:?} in {command}:\n{text}");
        }
    }
    let state = property(nested, "net", "state")?;
    ensure!(state.contains("VF 1"), "the property state is {state:?}");
    Ok(())
}

/// Interrupts that L2 took from its VFs, and how many of them QEMU handled: the others went from the
/// kernel's VFIO to KVM by an irqfd.
fn interrupts(nested: &mut Nested) -> Result<(u64, u64)> {
    let info = nested.l2("info", SHORT)?;
    let taken = info.number("net.interrupts")? + info.number("blk.interrupts")?;
    let log = nested.step("l2_count vfio_msi_interrupt")?;
    let by_qemu = log.number("count")?;
    let vfio = nested.step("vfio_interrupts")?.number("interrupts")?;
    ensure!(taken > 200, "only {taken} interrupts for all of this");
    ensure!(
        by_qemu * 20 < taken,
        "{by_qemu} of {taken} interrupts went through QEMU, not by irqfd"
    );
    ensure!(
        vfio >= taken / 2,
        "L1's VFIO had {vfio} interrupts of the VFs, L2 {taken}"
    );
    Ok((taken, by_qemu))
}

/// Has L2 rebind both drivers 5 times, then reboot, and use the devices after each. Gives the pings.
pub(super) fn rebind_and_reboot(nested: &mut Nested) -> Result<u64> {
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
pub(super) fn use_again(nested: &mut Nested) -> Result<u64> {
    nested.l2("net", SHORT)?;
    let received = pings(nested, "ping 20")?;
    nested.l2("disk 2", LONG)?;
    Ok(received)
}

/// L2 with its modern driver on the same VFs, in the other kind of machine.
fn l2_modern(nested: &mut Nested) -> Result<String> {
    let mut arguments = vec!["-machine".to_owned(), "q35".to_owned()];
    arguments.extend(both_vfs(nested)?);
    nested.start_l2(MODERN, &arguments)?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let info = nested.l2("info", SHORT)?;
    for kind in ["net", "blk"] {
        check_driver(&info, kind, Driver::Modern)?;
    }
    let received = pings(nested, "ping 50")?;
    nested.l2("tcp 4", LONG).context("TCP, 4 MiB each way")?;
    nested.l2("disk 8", LONG).context("disk, 8 MiB")?;
    nested.stop_l2()?;
    Ok(format!("pings {received}, TCP 4 MiB, disk 8 MiB"))
}
