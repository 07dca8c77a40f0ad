// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest (L2) under KVM in the nested machine, with Linux's legacy and modern drivers.

use anyhow::{ensure, Context, Result};
use guest_tests::check_driver;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

use super::host::{check_pf, set_vfs};
use crate::l2::{
    both_vfs, pings, property, rebind_and_reboot, vf_address, HELPERS, LEGACY, LONG, NET, SHORT,
};
use crate::machine::{Nested, Plan};
use crate::setup::{Run, Setup};

pub(super) const L2_STOCK: Scenario<Run> = Scenario {
    name: "l2-stock",
    shows: "L2 with QEMU's own `vfio-pci` and Linux's modern driver on a VF whose PF Linux drives: what the next ones stand on, without this project's device and helper",
    run: Run {
        equipped: false,
        spoils: false,
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
};

pub(super) const L2_INTERRUPTED: Scenario<Run> = Scenario {
    name: "l2-interrupted",
    shows: "L2 with the legacy driver boots and pings while the outer QEMU stops and continues L1's processor all the time: the emulated virtualization delivers each interrupt once",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run: l2_interrupted,
    },
};

pub(super) const L2_LEGACY: Scenario<Run> = Scenario {
    name: "l2-legacy",
    shows: "Helpers take a net and a blk PF (`--bind --vfs 2`); L2 with the legacy driver forced on a VF of each: IDs, features, status; 100 pings, TCP 16 MiB and disk 64 MiB with checksums; its interrupts do not go through QEMU; both drivers rebound 5 times; reboot",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run: l2_legacy,
    },
};

pub(super) const L2_MODERN: Scenario<Run> = Scenario {
    name: "l2-modern",
    shows: "The modern driver on the same VFs, machine q35",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run: l2_modern,
    },
};

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
