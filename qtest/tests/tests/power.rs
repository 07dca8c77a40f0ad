// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that puts the VF to sleep (D3hot) and wakes it up, with a VF that keeps its state and
//! with one that does not.

use anyhow::{Context, Result};
use qtest_harness::driver::Queue;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Msix, PciDevice, Qtest, Stack, PATIENCE};
use qtest_tests::intx::Guest;
use qtest_tests::monitor::{every_property, info_pci};
use qtest_tests::{counter, property, wait_for, wait_link};
use serde_json::{json, Value};
use virtio_pci_spec::pci::{header, power, CAP_ID_EXPRESS, CAP_ID_POWER};

/// PowerState D3hot.
const D3: u32 = 3;

fn stack(soft_reset: bool) -> Result<Stack> {
    let mut args = vec!["--knob=vf_power=true"];
    if soft_reset {
        args.push("--knob=vf_soft_reset=true");
    }
    let sim = SimulatorBuilder::new(DeviceKind::Block, 1).args(&args);
    Stack::start_with(&sim, 1, &[])
}

/// Where the control register of the power management capability is.
fn control(q: &Qtest, device: &PciDevice) -> Result<usize> {
    let capabilities = device.capabilities(q)?;
    let found = capabilities.into_iter().find(|c| c.0 == CAP_ID_POWER);
    Ok(found.context("no power management")?.1 + power::CONTROL)
}

fn state(q: &Qtest, device: &PciDevice) -> Result<u32> {
    Ok(device.read(q, control(q, device)?, 2)? & u32::from(power::CONTROL_STATE_MASK))
}

fn set_state(q: &Qtest, device: &PciDevice, state: u32) -> Result<()> {
    device.write(q, control(q, device)?, 2, state)
}

/// Nothing but configuration space answers, and nothing reaches the VF.
fn is_asleep(g: &mut Guest, stack: &mut Stack, queue: &mut Queue) -> Result<()> {
    let before = simulated(stack)?;
    let commands = counter(&mut g.qemu.qmp, "commands")?;
    let q = &g.qemu.qtest;
    assert_eq!(state(q, &g.device)?, D3);
    for (offset, width, ones) in [(0, 4, u32::MAX), (14, 2, 0xffff), (18, 1, 0xff)] {
        assert_eq!(g.driver.read(q, offset, width)?, ones, "offset {offset}");
    }
    g.driver.set_status(q, 0)?;
    assert_eq!(g.device.read(q, 0, 4)?, 0x1001_1af4);
    // A request, and a doorbell that nobody hears.
    let index = g.driver.used_index(q, queue)?;
    g.start_read(queue)?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(g.driver.used_index(&g.qemu.qtest, queue)?, index);
    assert_eq!(counter(&mut g.qemu.qmp, "commands")?, commands);
    assert_eq!(simulated(stack)?, before);
    // Whoever manages the machine sees it.
    let lines = info_pci(&mut g.qemu.qmp)?;
    let bars: Vec<_> = lines.iter().filter(|l| l.starts_with("BAR")).collect();
    assert!(bars.len() > 2, "{lines:?}");
    assert!(bars.iter().all(|l| l.ends_with("(not mapped)")), "{bars:?}");
    every_property(&mut g.qemu.qmp)?;
    Ok(())
}

/// What the simulator counted of the VF: buffers, doorbells, messages.
fn simulated(stack: &mut Stack) -> Result<Vec<u64>> {
    let counters = stack.sim.counters()?;
    let names = ["buffers", "doorbells_member", "interrupts"];
    names
        .iter()
        .map(|name| {
            let at = format!("/hardware/functions/vf1/{name}");
            let number = counters.pointer(&at).and_then(Value::as_u64);
            number.with_context(|| format!("no {name} in {counters}"))
        })
        .collect()
}

/// Nobody touched the VF while it slept, nor did it anything forbidden.
fn no_rule_was_broken(stack: &mut Stack) -> Result<()> {
    let counters = stack.sim.counters()?;
    let broken = counters.pointer("/hardware/device/violations");
    let broken = broken.and_then(Value::as_object).context("no violations")?;
    assert!(broken.is_empty(), "{broken:?}");
    assert_eq!(
        counters.pointer("/hardware/functions/vf1/dma_forbidden"),
        Some(&json!(0))
    );
    Ok(())
}

fn use_msix(g: &mut Guest) -> Result<Msix> {
    let mut msix = g.device.msix(&g.qemu.qtest)?;
    msix.program(&g.qemu.qtest, &mut g.qemu.memory)?;
    msix.enable(&g.qemu.qtest, &g.device, true)?;
    g.driver.msix = true;
    Ok(msix)
}

/// A driver with vector 1 for its queue, if it has vectors.
fn driven(g: &mut Guest) -> Result<Queue> {
    let (q, d) = (&g.qemu.qtest, &g.driver);
    d.begin(q, 0)?;
    if d.msix {
        d.write(q, 20, 2, 0)?;
    }
    let queue = d.queue(q, &mut g.qemu.memory, 0, 1)?;
    d.set_status(q, 7)?;
    Ok(queue)
}

/// A request, with the interrupt that goes with it.
fn works(g: &mut Guest, queue: &mut Queue, msix: Option<&Msix>) -> Result<()> {
    match msix {
        None => assert_eq!(g.read_by_interrupt(queue)?, 1),
        Some(msix) => {
            g.start_read(queue)?;
            wait_for("message", PATIENCE, || {
                Ok(msix.fired(&g.qemu.qtest, 1)?.then_some(()))
            })?;
            g.finish_read(queue)?;
        }
    }
    Ok(())
}

// Covers: PCI-09, IRQ-06
#[test]
fn a_vf_that_keeps_its_state_goes_on_after_its_sleep() -> Result<()> {
    for with_msix in [false, true] {
        let mut stack = stack(false)?;
        let mut g = Guest::start(&stack, Machine::Q35)?;
        let msix = with_msix.then(|| use_msix(&mut g)).transpose()?;
        let mut queue = driven(&mut g)?;
        works(&mut g, &mut queue, msix.as_ref())?;
        let pfn = g.driver.read(&g.qemu.qtest, 8, 4)?;
        let resets = counter(&mut g.qemu.qmp, "resets")?;
        for round in 0..3 {
            let q = &g.qemu.qtest;
            // States that it does not have.
            for none in [1, 2] {
                set_state(q, &g.device, none)?;
                assert_eq!(state(q, &g.device)?, 0);
            }
            assert_eq!(g.driver.status(q)?, 7);
            set_state(q, &g.device, D3)?;
            is_asleep(&mut g, &mut stack, &mut queue)?;
            // The configuration changes, which is told afterwards.
            let sectors = json!({"cmd": "resize", "vf": 1, "sectors": 1000 + round});
            stack.sim.control(&sectors)?;
            assert!(!g.line()?.level);
            let q = &g.qemu.qtest;
            set_state(q, &g.device, 0)?;
            assert_eq!(state(q, &g.device)?, 0);
            assert_eq!(g.driver.status(q)?, 7);
            assert_eq!(g.driver.read(q, 8, 4)?, pfn);
            assert_eq!(g.driver.config(q, 0, 4)?, 1000 + round);
            match &msix {
                None => {
                    g.wait_level(true)?;
                    wait_for("ISR", PATIENCE, || {
                        Ok((property(&mut g.qemu.qmp, "isr")? == 2).then_some(()))
                    })?;
                    assert_eq!(g.isr()?, 2);
                }
                Some(msix) => wait_for("message", PATIENCE, || {
                    Ok(msix.fired(&g.qemu.qtest, 0)?.then_some(()))
                })?,
            }
            // The request waited for a doorbell.
            g.driver.kick(&g.qemu.qtest, &queue)?;
            g.finish_read(&mut queue)?;
            if msix.is_none() {
                g.wait_level(true)?;
                assert_eq!(g.isr()?, 1);
            }
            works(&mut g, &mut queue, msix.as_ref())?;
        }
        assert_eq!(counter(&mut g.qemu.qmp, "resets")?, resets);
        assert_eq!(counter(&mut g.qemu.qmp, "notify-failures")?, 0);
        no_rule_was_broken(&mut stack)?;
    }
    Ok(())
}

/// The function is as after power-on, and a driver can begin.
fn is_as_new(g: &mut Guest) -> Result<()> {
    let q = &g.qemu.qtest;
    assert_eq!(state(q, &g.device)?, 0);
    assert_eq!(g.device.read(q, header::COMMAND, 2)?, 0);
    let mut device = PciDevice::find(q, SLOT)?;
    device.map(q)?;
    g.device = device;
    g.driver = LegacyDriver::new(&g.device)?;
    let msix = g.device.msix(q)?;
    assert!(!msix.is_enabled(q, &g.device)?, "MSI-X is still on");
    for (offset, width) in [(4, 4), (8, 4), (14, 2), (18, 1), (19, 1)] {
        assert_eq!(g.driver.read(q, offset, width)?, 0, "offset {offset}");
    }
    msix.enable(q, &g.device, true)?;
    for vector in [20, 22] {
        assert_eq!(g.driver.read(q, vector, 2)?, 0xffff, "vector at {vector}");
    }
    msix.enable(q, &g.device, false)?;
    assert!(!g.line()?.level && !g.pending()?);
    assert_eq!(property(&mut g.qemu.qmp, "intx-vectors")?, 0);
    let mut queue = driven(g)?;
    works(g, &mut queue, None)?;
    g.driver.set_status(&g.qemu.qtest, 0)?;
    let msix = use_msix(g)?;
    let mut queue = driven(g)?;
    works(g, &mut queue, Some(&msix))
}

/// Takes a VF from D3hot to where it is as new.
type Wake = fn(&mut Guest) -> Result<()>;

fn to_d0(g: &mut Guest) -> Result<()> {
    set_state(&g.qemu.qtest, &g.device, 0)
}

/// One byte, and with it what is before it.
fn to_d0_by_other_widths(g: &mut Guest) -> Result<()> {
    let q = &g.qemu.qtest;
    let at = control(q, &g.device)?;
    g.device.write(q, at, 1, 0)
}

fn machine_reset(g: &mut Guest) -> Result<()> {
    g.qemu.qmp.system_reset()
}

fn function_level_reset(g: &mut Guest) -> Result<()> {
    let q = &g.qemu.qtest;
    let capabilities = g.device.capabilities(q)?;
    let express = capabilities.into_iter().find(|c| c.0 == CAP_ID_EXPRESS);
    let at = express.context("no PCI Express capability")?.1 + 8;
    let value = g.device.read(q, at, 2)?;
    g.device.write(q, at, 2, value | 0x8000)
}

// Covers: PCI-09, IRQ-06, LIO-08
#[test]
fn a_vf_that_loses_its_state_is_as_new_after_its_sleep() -> Result<()> {
    let wakes: [(&str, bool, Wake); 5] = [
        ("D0", true, to_d0),
        ("D0 by one byte", true, to_d0_by_other_widths),
        ("machine reset", true, machine_reset),
        ("machine reset, state kept", false, machine_reset),
        ("FLR, state kept", false, function_level_reset),
    ];
    for (name, soft_reset, wake) in wakes {
        for with_msix in [false, true] {
            let mut stack = stack(soft_reset)?;
            let mut g = Guest::start(&stack, Machine::Q35)?;
            let msix = with_msix.then(|| use_msix(&mut g)).transpose()?;
            let mut queue = driven(&mut g)?;
            works(&mut g, &mut queue, msix.as_ref())?;
            if msix.is_none() {
                // It falls asleep with its pin up.
                g.start_read(&mut queue)?;
                g.wait_level(true)?;
                g.finish_read(&mut queue)?;
            }
            let resets = counter(&mut g.qemu.qmp, "resets")?;
            set_state(&g.qemu.qtest, &g.device, D3)?;
            is_asleep(&mut g, &mut stack, &mut queue)?;
            wake(&mut g)?;
            is_as_new(&mut g).with_context(|| format!("{name}, MSI-X {with_msix}"))?;
            assert_eq!(counter(&mut g.qemu.qmp, "resets")?, resets + 1, "{name}");
            no_rule_was_broken(&mut stack)?;
        }
    }
    Ok(())
}

#[test]
fn a_helper_may_come_and_go_while_the_vf_sleeps() -> Result<()> {
    let mut stack = stack(false)?;
    let mut g = Guest::start(&stack, Machine::Q35)?;
    let mut queue = driven(&mut g)?;
    works(&mut g, &mut queue, None)?;
    set_state(&g.qemu.qtest, &g.device, D3)?;
    stack.helper.process.kill()?;
    wait_link(&mut g.qemu.qmp, "lost", PATIENCE)?;
    is_asleep(&mut g, &mut stack, &mut queue)?;
    // Awake without it: traffic works, registers do not.
    set_state(&g.qemu.qtest, &g.device, 0)?;
    assert_eq!(g.driver.status(&g.qemu.qtest)?, 0xff);
    g.driver.kick(&g.qemu.qtest, &queue)?;
    g.finish_read(&mut queue)?;
    set_state(&g.qemu.qtest, &g.device, D3)?;
    stack.helper.restart()?;
    wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
    is_asleep(&mut g, &mut stack, &mut queue)?;
    set_state(&g.qemu.qtest, &g.device, 0)?;
    assert_eq!(g.driver.status(&g.qemu.qtest)?, 7);
    g.driver.kick(&g.qemu.qtest, &queue)?;
    g.finish_read(&mut queue)?;
    g.wait_level(true)?;
    assert_eq!(g.isr()?, 1);
    works(&mut g, &mut queue, None)?;
    no_rule_was_broken(&mut stack)
}
