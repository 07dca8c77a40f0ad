// SPDX-License-Identifier: GPL-2.0-or-later
//! L2 without messages: the device takes the VF's vectors from the kernel's VFIO, in which QEMU
//! raises the pin of a KVM guest.

use anyhow::{ensure, Context, Result};

use crate::l2::{both_vfs, pings, property, rebind_and_reboot, HELPERS, LEGACY, LONG, SHORT};
use crate::machine::Nested;
use crate::setup::Run;
use test_machine::scenario::Scenario;

pub(super) const L2_INTX: Scenario<Run> = Scenario {
    name: "l2-intx",
    shows: "L2 under `pci=nomsi`: net and blk by level interrupts, with checksums, messages of the VF and interrupts of L2 compared; rebinds, reboot; then 8 switches between INTx and MSI-X under load",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
    violations: &[],
    run,
    },
};

/// From messages to the pin or back.
const SWITCHES: u64 = 8;

fn run(nested: &mut Nested) -> Result<String> {
    let mut arguments = vec!["-machine".to_owned(), "q35".to_owned()];
    arguments.extend(both_vfs(nested)?);
    let mut words = LEGACY.to_vec();
    words.push("pci=nomsi");
    nested.start_l2(&words, &arguments)?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let mut received = pings(nested, "ping 100")?;
    ensure!(received == 100, "{received} pings");
    nested.l2("tcp 8", LONG).context("TCP, 8 MiB each way")?;
    nested.l2("disk 16", LONG).context("disk, 16 MiB")?;
    let mut counts = Vec::new();
    for kind in ["net", "blk"] {
        let irqs = nested.l2(&format!("irqs {kind}"), SHORT)?;
        ensure!(
            irqs.get("irq_kind")? == "intx" && irqs.number("irq_lines")? == 1,
            "{kind}: {}",
            irqs.text()
        );
        let taken = irqs.number("irq_count")?;
        let arrived: u64 = property(nested, kind, "intx-interrupts")?.parse()?;
        ensure!(
            taken > 0 && taken <= arrived,
            "{kind}: {taken} interrupts of {arrived} messages"
        );
        ensure!(property(nested, kind, "intx-vectors")? == "2", "{kind}");
        ensure!(property(nested, kind, "intx-unmapped")? == "0", "{kind}");
        counts.push(format!("{kind} {taken} interrupts of {arrived} messages"));
    }
    received += rebind_and_reboot(nested)?;
    nested.stop_l2()?;
    // The same kernel may use either; switched under load.
    nested.start_l2(LEGACY, &arguments)?;
    nested.l2("net", SHORT).context("bring the interface up")?;
    let switched = nested.l2(&format!("switch {SWITCHES}"), LONG)?;
    ensure!(
        switched.number("switches")? == SWITCHES,
        "{}",
        switched.text()
    );
    nested.stop_l2()?;
    Ok(format!(
        "pings {received}, TCP 8 MiB, disk 16 MiB, {}, 5 rebinds each, reboot, {SWITCHES} switches \
         between INTx and MSI-X",
        counts.join(", ")
    ))
}
