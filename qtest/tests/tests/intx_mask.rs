// SPDX-License-Identifier: GPL-2.0-or-later
//! Writes to MSI-X's control word that leave Enable clear mean nothing, whatever else is in them: the
//! guest has INTx, and the vectors behind it are the device's own.

use anyhow::{Context, Result};
use qtest_harness::driver::Queue;
use qtest_harness::{DeviceKind, Machine, Stack, PATIENCE};
use qtest_tests::counter;
use qtest_tests::intx::Guest;
use qtest_tests::transitional::violations;
use virtio_pci_spec::pci::{msix, CAP_ID_MSIX};

const ENABLE: u32 = msix::CONTROL_ENABLE as u32;
const MASK: u32 = msix::CONTROL_MASK_ALL as u32;

/// A write to the capability: offset in it, bytes, value.
type Write = (usize, u8, u32);

/// What drivers and systems write with Enable clear.
const WRITES: [(&str, Write); 6] = [
    ("Function Mask, as Linux left it", (msix::CONTROL, 2, MASK)),
    (
        "Function Mask by its byte",
        (msix::CONTROL + 1, 1, MASK >> 8),
    ),
    ("all of it, Enable cleared, as NetBSD", (0, 4, 0)),
    ("nothing", (msix::CONTROL, 2, 0)),
    ("all bits that are read-only", (msix::CONTROL, 2, 0x3fff)),
    ("all bits but Enable", (msix::CONTROL, 2, 0x7fff)),
];

fn capability(g: &Guest) -> Result<usize> {
    let list = g.device.capabilities(&g.qemu.qtest)?;
    let found = list.iter().find(|c| c.0 == CAP_ID_MSIX);
    found.map(|c| c.1).context("no MSI-X capability")
}

fn write(g: &Guest, (offset, width, value): Write) -> Result<()> {
    let q = &g.qemu.qtest;
    let at = capability(g)? + offset;
    let value = match width {
        4 => g.device.read(q, at, 4)? & 0x7fff_ffff,
        _ => value,
    };
    g.device.write(q, at, width, value)
}

/// A disk driver; `before` and `after` are written before and after its queue has an address.
fn set_up(g: &mut Guest, before: Option<Write>, after: Option<Write>) -> Result<Queue> {
    let d = g.driver.clone();
    d.begin(&g.qemu.qtest, 0)?;
    if let Some(what) = before {
        write(g, what)?;
    }
    let queue = d.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 0)?;
    if let Some(what) = after {
        write(g, what)?;
    }
    d.set_status(&g.qemu.qtest, 7)?;
    Ok(queue)
}

fn works(g: &mut Guest, queue: &mut Queue, what: &str) -> Result<()> {
    for round in 0..3 {
        match g.read_by_interrupt(queue) {
            Ok(isr) => assert_eq!(isr, 1, "{what}, round {round}"),
            Err(e) => anyhow::bail!("{what}, round {round}: {e:#}"),
        }
        g.wait_level(false)
            .with_context(|| format!("{what}, round {round}: the pin stays"))?;
    }
    Ok(())
}

// Covers: IRQ-01, IRQ-02, PCI-09
#[test]
fn the_pin_goes_on_whatever_is_written_beside_enable() -> Result<()> {
    for (what, value) in WRITES {
        for early in [true, false] {
            let mut stack = Stack::start(DeviceKind::Block, 1)?;
            let mut g = Guest::start(&stack, Machine::Pc)?;
            let what = format!("{what}, {}", if early { "early" } else { "late" });
            let (before, after) = if early {
                (Some(value), None)
            } else {
                (None, Some(value))
            };
            let mut queue = set_up(&mut g, before, after)?;
            works(&mut g, &mut queue, &what)?;
            assert_eq!(counter(&mut g.qemu.qmp, "intx-interrupts")?, 3, "{what}");
            assert_eq!(counter(&mut g.qemu.qmp, "intx-unmapped")?, 0, "{what}");
            assert_eq!(violations(&mut stack.sim)?, [""; 0], "{what}");
        }
    }
    Ok(())
}

/// Between requests, too, and while one is on its way.
// Covers: IRQ-01, IRQ-02
#[test]
fn a_mask_in_the_middle_of_traffic_holds_nothing_back() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let mut queue = set_up(&mut g, None, None)?;
    works(&mut g, &mut queue, "before")?;
    for round in 0..10 {
        let value = if round % 2 == 0 { MASK } else { 0 };
        g.start_read(&mut queue)?;
        write(&g, (msix::CONTROL, 2, value))?;
        g.wait_level(true)
            .with_context(|| format!("round {round}"))?;
        assert_eq!(g.isr()?, 1, "round {round}");
        g.finish_read(&mut queue)?;
        let read = (g.device).read(&g.qemu.qtest, capability(&g)? + msix::CONTROL, 2)?;
        assert_eq!(read & 0xc000, value, "the guest sees what it wrote");
    }
    Ok(())
}

/// The word is the guest's again as soon as it enables MSI-X: then the mask counts.
// Covers: IRQ-04, PCI-09
#[test]
fn a_mask_that_was_written_before_counts_with_enable() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Guest::start(&stack, Machine::Pc)?;
    let mut queue = set_up(&mut g, None, Some((msix::CONTROL, 2, MASK)))?;
    works(&mut g, &mut queue, "masked, MSI-X off")?;
    let mut vectors = g.device.msix(&g.qemu.qtest)?;
    vectors.program(&g.qemu.qtest, &mut g.qemu.memory)?;
    let mut d = g.driver.clone();
    d.msix = true;
    // Enable beside Function Mask, as Linux does while it writes the table.
    write(&g, (msix::CONTROL, 2, ENABLE | MASK))?;
    d.begin(&g.qemu.qtest, 0)?;
    let mut queue = d.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 0)?;
    d.set_status(&g.qemu.qtest, 7)?;
    g.start_read(&mut queue)?;
    g.finish_read(&mut queue)?;
    assert!(!vectors.fired(&g.qemu.qtest, 0)?, "masked");
    vectors.mask_all(&g.qemu.qtest, &g.device, false)?;
    qtest_tests::wait_for("the message that was held back", PATIENCE, || {
        Ok(vectors.fired(&g.qemu.qtest, 0)?.then_some(()))
    })?;
    // And back to the pin, with the mask still set.
    write(&g, (msix::CONTROL, 2, MASK))?;
    let mut queue = set_up(&mut g, None, None)?;
    works(&mut g, &mut queue, "back to the pin")
}
