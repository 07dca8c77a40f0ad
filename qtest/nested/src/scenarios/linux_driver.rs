// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios with Linux's own legacy support for VFs: its driver for the PF with the admin queue,
//! `virtio-vfio-pci` on a VF, and both beside the helper and this project's device.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::host::set_vfs;
use crate::l2::vf_address;
use crate::machine::COUNTED;
use crate::machine::{Card, Nested, Plan};
use crate::peer::compare::{self, PAGE};
use crate::peer::tiny::{self, Reply};
use crate::setup::{Run, Setup};
use guest_tests::check_driver;
use test_machine::machine::Driver;
use test_machine::scenario::Scenario;

/// For what L2 does at once, and for transfers, on a loaded machine.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);

const NET: Card = Card {
    kind: "net",
    vfs: 2,
    // Linux asks for the list of commands before there are VFs, and does not ask again. A device that
    // does as the specification says refuses that, and is without legacy support on Linux.
    options: &["--lenient", "list"],
};
/// Doorbells in the script for [`counts`], as a test verifies.
const BELLS_RUNG: u64 = 220;
/// A read of a control register goes through a process more than with Linux's driver; it must not
/// become more than this many times as long.
const MOST_READ: u64 = 4;

/// The PF on Linux's driver, VF 1 on virtio-vfio-pci.
const KERNEL: Setup = Setup {
    plan: Plan {
        name: "peer",
        kernel: "intel_iommu=on",
        cards: &[NET],
    },
    prepare,
};

pub(super) const KERNEL_DRIVER: Scenario<Run> = Scenario {
    name: "kernel-driver",
    shows: "Linux's own admin-queue driver on the PF and its `virtio-vfio-pci` on a VF, with a legacy L2: shows that the simulated PF is one Linux works with",
    run: Run {
        equipped: true,
        spoils: false,
        setup: &KERNEL,
        violations: &[],
        run: kernel_driver,
    },
};

pub(super) const DIFFERENTIAL: Scenario<Run> = Scenario {
    name: "differential",
    shows: "The same register accesses through Linux's driver and through this device, each answer compared with the other; differences have to be in the table of [kernel-driver.md](../system/kernel-driver.md)",
    run: Run {
        equipped: true,
        // It leaves the PF to the helper.
        spoils: true,
        setup: &KERNEL,
        // What the script does, and Linux passes on.
        violations: &["crosses_fields", "no_such_queue", "vector_out_of_range"],
        run: differential,
    },
};

pub(super) const COUNTS: Scenario<Run> = Scenario {
    name: "counts",
    shows: "Instructions for doorbells and for reads of control registers, of both",
    run: Run {
        equipped: true,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "counts",
                kernel: COUNTED,
                cards: &[NET],
            },
            prepare,
        },
        violations: &[],
        run: counts,
    },
};

fn prepare(nested: &mut Nested) -> Result<()> {
    nested.step("vfio_load").context("load vfio-pci")?;
    nested.step("kvm_load").context("load KVM")?;
    nested.step("peer_load").context("load virtio-vfio-pci")?;
    set_vfs(nested, NET.vfs, "virtio-pci")?;
    nested
        .step("peer_bind 1")
        .context("give VF 1 to virtio-vfio-pci")
        .map(|_| ())
}

/// QEMU's argument for VF 1 on virtio-vfio-pci.
fn kernel_device(nested: &mut Nested) -> Result<String> {
    Ok(format!("vfio-pci,host={}", vf_address(nested, "net", 1)?))
}

/// The PF goes from Linux's driver to the helper; gives QEMU's argument for VF 1 as this project's
/// device.
fn take_over(nested: &mut Nested) -> Result<String> {
    set_vfs(nested, 0, "")?;
    nested
        .step(&format!("helper_start net --bind --vfs {}", NET.vfs))
        .context("start the helper where Linux's driver was")?;
    let vf = vf_address(nested, "net", 1)?;
    Ok(format!("virtio-legacy-vf,host={vf}"))
}

/// A legacy guest on a VF by Linux's own means: what shows that the simulated PF is one that Linux
/// knows.
fn kernel_driver(nested: &mut Nested) -> Result<String> {
    let device = kernel_device(nested)?;
    let words = ["vlvf.addr=10.0.77.9", "virtio_pci.force_legacy=1"];
    nested.start_l2(&words, &["-device".to_owned(), device])?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let info = nested.l2("info", SHORT)?;
    check_driver(&info, "net", Driver::Legacy)?;
    let ping = nested.l2("ping 100", SHORT)?;
    let received = ping.number("pings_received")?;
    ensure!(received == 100, "{received} of 100 pings came back");
    let tcp = nested.l2("tcp 4", LONG)?;
    nested.stop_l2()?;
    let reads = nested.number("net", "/hardware/device/commands/3")?;
    let bells = nested.number("net", "/hardware/functions/vf1/doorbells_member")?;
    ensure!(
        reads > 0 && bells > 100,
        "{reads} register reads, {bells} doorbells of VF 1"
    );
    Ok(format!(
        "PF and VF by Linux's drivers, legacy L2: pings {received}, TCP {} MiB, {reads} reads of \
         common registers by command, {bells} doorbells",
        tcp.get("tcp_mib")?
    ))
}

fn tiny(nested: &mut Nested, script: &str, device: &str) -> Result<Vec<Reply>> {
    let answer = nested
        .step(&format!("tiny {script} -device {device}"))
        .with_context(|| format!("the bare-metal guest with {device}"))?;
    tiny::replies(answer.all("text"))
}

/// The same script of register accesses through both.
fn differential(nested: &mut Nested) -> Result<String> {
    let device = kernel_device(nested)?;
    let kernel = tiny(nested, "registers", &device)?;
    let breaches = crossings(nested)?;
    ensure!(
        breaches > 0,
        "the script has no access that Linux passes on wrongly"
    );
    let device = take_over(nested)?;
    let ours = tiny(nested, "registers", &device)?;
    let of_ours = crossings(nested)? - breaches;
    ensure!(
        of_ours == 0,
        "{of_ours} commands of the helper crossed fields"
    );
    let found = compare::differences(&kernel, &ours)?;
    compare::check(&found, &compare::listed(compare::TEXT)?)?;
    Ok(format!(
        "{} answers, {} differ as {PAGE} lists them",
        ours.len(),
        found.len()
    ))
}

/// Commands so far that were not inside one field.
fn crossings(nested: &Nested) -> Result<u64> {
    nested.number("net", "/hardware/device/violations/crosses_fields")
}

/// What doorbells and control registers cost, in instructions of L1.
fn counts(nested: &mut Nested) -> Result<String> {
    let device = kernel_device(nested)?;
    let linux = Cost::measure(nested, &device)?;
    let device = take_over(nested)?;
    let kernel = Cost::measure(nested, &device)?;
    let region = Cost::measure(nested, &format!("{device},x-no-vfio-ioeventfd=on"))?;
    ensure!(
        kernel.doorbell < region.doorbell,
        "not the two ways of a doorbell: {kernel:?}, {region:?}"
    );
    ensure!(
        kernel.doorbell * 2 < linux.doorbell,
        "a doorbell costs {} instructions, Linux's {}",
        kernel.doorbell,
        linux.doorbell
    );
    ensure!(
        kernel.read < linux.read * MOST_READ,
        "a read costs {} instructions, Linux's {}",
        kernel.read,
        linux.read
    );
    let row = |what: &str, ours: u64, linux: u64| {
        let ratio = ours * 100 / linux.max(1);
        format!(
            "\n  | {what} | {linux} | {ours} | {}.{:02} |",
            ratio / 100,
            ratio % 100
        )
    };
    Ok([
        "instructions of L1\n  | | Linux | this project | ratio |\n  |---|---|---|---|".to_owned(),
        row("doorbell, in the kernel", kernel.doorbell, linux.doorbell),
        row("doorbell, region write", region.doorbell, linux.doorbell),
        row("read of the status", kernel.read, linux.read),
    ]
    .concat())
}

/// What one operation of L2 costs, in instructions of L1.
#[derive(Debug)]
struct Cost {
    doorbell: u64,
    read: u64,
}

impl Cost {
    fn measure(nested: &mut Nested, device: &str) -> Result<Self> {
        const BELLS: &str = "/hardware/functions/vf1/doorbells_member";
        let before = nested.number("net", BELLS)?;
        let replies = tiny(nested, "counts", device)?;
        let bells = nested.number("net", BELLS)? - before;
        ensure!(
            bells == BELLS_RUNG,
            "{bells} of {BELLS_RUNG} doorbells arrived"
        );
        let of = |command: &str, what: &str| -> Result<u64> {
            let replies = replies
                .iter()
                .filter(|reply| reply.command.starts_with(command));
            let values: Result<Vec<u64>> =
                replies.map(|reply| value(&reply.answer, what)).collect();
            let least = values?.into_iter().min();
            least.with_context(|| format!("the script has no {command}"))
        };
        Ok(Self {
            doorbell: of("tbell ", "median")?,
            // The others have waited for the simulator, which is outside of the machine.
            read: of("tread ", "min")?,
        })
    }
}

/// A figure in "min A median B sum C".
fn value(answer: &str, what: &str) -> Result<u64> {
    let mut words = answer.split(' ').skip_while(|word| *word != what);
    let value = words.nth(1).and_then(|word| word.parse().ok());
    value.with_context(|| format!("no {what} in {answer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn figures_of_repeated_accesses() {
        let text = "min 5 median 17 sum 200";
        assert_eq!(value(text, "min").unwrap(), 5);
        assert_eq!(value(text, "median").unwrap(), 17);
        assert!(value("min 5", "median").is_err());
        assert!(value("median x", "median").is_err());
    }

    /// Repetitions in a script of all commands that begin so.
    fn repetitions(script: &str, command: &str) -> u64 {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny");
        let text = std::fs::read_to_string(dir.join(script)).unwrap();
        text.lines()
            .filter_map(|line| line.strip_prefix(command)?.split(' ').next())
            .map(|count| u64::from_str_radix(count, 16).unwrap())
            .sum()
    }

    #[test]
    fn the_script_rings_as_often_as_is_counted() {
        assert_eq!(repetitions("counts.script", "tbell "), BELLS_RUNG);
    }
}
