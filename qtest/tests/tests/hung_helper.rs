// SPDX-License-Identifier: GPL-2.0-or-later
//! A helper that hangs, with the guest's CPU inside a register access that may wait a minute for it.
//! Nobody else waits: each of these ends although the helper never goes on. And when it does go on,
//! the registers are right, whatever reply comes late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use legacy_vf_proto::{Event, EventKind, MessageBuf, Request, MAX_MESSAGE};
use legacy_vf_proto_server::EncodeEvent;
use qtest_harness::fake_helper::{good, Answer, FakeHelper};
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Stack, Step, PATIENCE};
use qtest_tests::running::{mapped, promptly, Running};
use qtest_tests::{counter, wait_for, wait_link};
use serde_json::{json, Value};

/// Far above what a test waits for anything, and above the time that it takes.
const DEADLINE_MS: u32 = 60_000;

/// Slot and id of a device that has nothing to do with the helper.
const OTHER_SLOT: u8 = 5;
const OTHER: &str = "other";

fn config(stack: &Stack, vf: u16) -> Value {
    let mut config = stack.device(vf);
    config["helper-deadline-ms"] = json!(DEADLINE_MS);
    config
}

fn other() -> Value {
    json!({"driver": "virtio-rng-pci", "id": OTHER, "addr": format!("{OTHER_SLOT:#x}")})
}

/// A guest with a running driver, and a helper that hangs while its CPU reads a register.
fn hung() -> Result<(Stack, Running)> {
    hung_in(usize::MAX)
}

/// The same with so many registers at most, the first of [`Running::reads`].
fn hung_in(registers: usize) -> Result<(Stack, Running)> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let devices = [config(&stack, 1), other()];
    let mut g = Running::start_with(&stack, &devices)?;
    g.drive()?;
    let mut list = g.reads()?;
    list.truncate(registers);
    g.run(&list)?;
    g.vcpu.moves(&g.qemu.qtest, 100)?;
    let counts = g.vcpu.all_right(&g.qemu.qtest)?;
    assert_eq!(counts.ones, 0, "a living helper answers");
    g.hang(&mut stack)?;
    Ok((stack, g))
}

fn status(g: &mut Running) -> Result<String> {
    let answer = g.qemu.qmp.command("query-status", json!({}))?;
    let status = answer.get("status").and_then(Value::as_str);
    Ok(status.context("no status")?.to_owned())
}

#[test]
fn stop_does_not_wait_for_it_and_nothing_is_lost() -> Result<()> {
    let (mut stack, mut g) = hung()?;
    for _ in 0..2 {
        let before = counter(&mut g.qemu.qmp, "given-up")?;
        promptly("stop", || g.qemu.qmp.command("stop", json!({})))?;
        assert_eq!(status(&mut g)?, "paused");
        assert!(counter(&mut g.qemu.qmp, "given-up")? > before);
        // The guest goes on, into the next access.
        let counts = g.vcpu.counts(&g.qemu.qtest)?;
        g.qemu.qmp.command("cont", json!({}))?;
        g.vcpu.moves_from(&g.qemu.qtest, counts, 1)?;
        g.vcpu.is_inside(&g.qemu.qtest)?;
    }
    promptly("stop", || g.qemu.qmp.command("stop", json!({})))?;
    stack.helper.process.resume()?;
    g.qemu.qmp.command("cont", json!({}))?;
    g.goes_on()?;
    g.works()?;
    g.drive()
}

/// A write that was sent reaches the VF before the access that follows it, given up or not.
// Covers: LEG-14
#[test]
fn a_write_that_was_given_up_keeps_its_place() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let config = config(&stack, 1);
    let mut g = Running::start(&stack, &config)?;
    g.drive()?;
    let at = g.port(4)?;
    let features = g.qemu.qtest.port_read(at, 4)?;
    let low = features & features.wrapping_neg();
    let (some, others) = (low, features & !low);
    assert!(some != 0 && others != 0, "{features:#x}");
    for _ in 0..4 {
        // Several accesses, so that sometimes it is a write that waits.
        g.run(&[
            Step::write(at, 4, some),
            Step::write(at, 4, others),
            Step::write(at, 4, some),
            Step::expect(at, 4, some),
            Step::write(at, 4, others),
            Step::expect(at, 4, others),
        ])?;
        g.hang(&mut stack)?;
        let before = counter(&mut g.qemu.qmp, "given-up")?;
        promptly("stop", || g.qemu.qmp.command("stop", json!({})))?;
        assert!(counter(&mut g.qemu.qmp, "given-up")? > before);
        stack.helper.process.resume()?;
        g.qemu.qmp.command("cont", json!({}))?;
        g.goes_on()?;
    }
    Ok(())
}

#[test]
fn quit_does_not_wait_for_it() -> Result<()> {
    let (_stack, mut g) = hung()?;
    let status = promptly("quit", || {
        g.qemu.qmp.command("quit", json!({}))?;
        g.qemu.process.wait_exit(PATIENCE)
    })?;
    assert_eq!(status.code(), Some(0), "{}", g.qemu.process.log());
    Ok(())
}

#[test]
fn a_reset_of_the_machine_does_not_wait_for_it() -> Result<()> {
    let (mut stack, mut g) = hung()?;
    // After the reset the CPU has no task.
    g.vcpu.leave(&g.qemu.qtest, false)?;
    promptly("system_reset", || g.qemu.qmp.system_reset())?;
    g.vcpu.rest(&g.qemu.qtest)?;
    promptly("query-status", || status(&mut g))?;
    stack.helper.process.resume()?;
    as_new(&mut g)
}

/// The VF of a machine that was reset: as new, and works.
fn as_new(g: &mut Running) -> Result<()> {
    g.map_again()?;
    wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
    // Nothing of the driver of before is there at the first access.
    assert_eq!(g.driver.status(&g.qemu.qtest)?, 0);
    assert_eq!(g.driver.read(&g.qemu.qtest, 8, 4)?, 0, "address of queue 0");
    let timeouts = counter(&mut g.qemu.qmp, "timeouts")?;
    assert_eq!(counter(&mut g.qemu.qmp, "losses")?, timeouts);
    g.drive()?;
    let list = g.reads()?;
    g.run(&list)?;
    g.goes_on()
}

/// A VF that only status 0 can reset gets it, late, before the guest's next access.
// Covers: LIO-08
#[test]
fn a_vf_that_vfio_cannot_reset_is_reset_when_it_goes_on() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Block, 1).args(&["--knob=vf_no_reset=true"]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let config = config(&stack, 1);
    let mut g = Running::start(&stack, &config)?;
    g.drive()?;
    // With a living helper first: it is the command that resets this VF.
    g.qemu.qmp.system_reset()?;
    as_new(&mut g)?;
    let list = g.reads()?;
    for inside in [true, false] {
        g.map_again()?;
        g.drive()?;
        if inside {
            g.run(&list)?;
            g.hang(&mut stack)?;
            g.vcpu.leave(&g.qemu.qtest, false)?;
        } else {
            stack.helper.process.stop()?;
        }
        promptly("system_reset", || g.qemu.qmp.system_reset())?;
        g.vcpu.rest(&g.qemu.qtest)?;
        // The guest is there before the helper, and its first access finds no old driver.
        g.map_again()?;
        let status = g.port(18)?;
        let address = g.port(8)?;
        let begun = [Step::expect(status, 1, 0), Step::expect(address, 4, 0)];
        g.vcpu.run(&g.qemu.qtest, &begun)?;
        wait_for("the guest's first access", PATIENCE, || {
            let counts = g.vcpu.counts(&g.qemu.qtest)?;
            Ok((counts.started > 0).then_some(()))
        })?;
        stack.helper.process.resume()?;
        wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
        g.vcpu.moves(&g.qemu.qtest, 20)?;
        g.vcpu.rest(&g.qemu.qtest)?;
        let counts = g.vcpu.all_right(&g.qemu.qtest)?;
        assert!(counts.ones < counts.ended, "{counts:?}");
        as_new(&mut g)?;
    }
    Ok(())
}

/// Eight devices that each wait for the helper would wait one after the other.
#[test]
fn a_reset_of_a_machine_with_eight_vfs_waits_once() -> Result<()> {
    const VFS: u16 = 8;
    let mut stack = Stack::start(DeviceKind::Block, VFS)?;
    let slots: Vec<(u8, String)> = (SLOT..)
        .zip(1..=VFS)
        .map(|(slot, vf)| match vf {
            1 => (slot, DEVICE_ID.to_owned()),
            vf => (slot, format!("vf{vf}")),
        })
        .collect();
    let devices: Vec<Value> = slots
        .iter()
        .zip(1..)
        .map(|((slot, id), vf)| {
            let mut device = config(&stack, vf);
            device["id"] = json!(id);
            device["addr"] = json!(format!("{slot:#x}"));
            device
        })
        .collect();
    let mut g = Running::start_with(&stack, &devices)?;
    g.drive()?;
    for (slot, _) in slots.iter().skip(1) {
        let device = mapped(&g.qemu, *slot)?;
        let driver = LegacyDriver::new(&device)?;
        driver.begin(&g.qemu.qtest, 0)?;
        driver.queue(&g.qemu.qtest, &mut g.qemu.memory, 0, 0)?;
        driver.set_status(&g.qemu.qtest, 7)?;
    }
    let list = g.reads()?;
    g.run(&list)?;
    g.hang(&mut stack)?;
    g.vcpu.leave(&g.qemu.qtest, false)?;
    promptly("system_reset", || g.qemu.qmp.system_reset())?;
    stack.helper.process.resume()?;
    g.vcpu.rest(&g.qemu.qtest)?;
    for (slot, id) in slots.iter().skip(1) {
        let device = mapped(&g.qemu, *slot)?;
        let driver = LegacyDriver::new(&device)?;
        let path = format!("/machine/peripheral/{id}");
        wait_for("the link", PATIENCE, || {
            let state = g.qemu.qmp.get(&path, "link-state")?;
            Ok((state == "connected").then_some(()))
        })?;
        assert_eq!(driver.status(&g.qemu.qtest)?, 0, "{id}");
        driver.begin(&g.qemu.qtest, 0)?;
        assert_eq!(driver.status(&g.qemu.qtest)?, 3, "{id}");
    }
    as_new(&mut g)
}

#[test]
fn a_device_that_is_refused_does_not_wait_for_it() -> Result<()> {
    let (mut stack, mut g) = hung()?;
    for id in ["one", "two"] {
        let mut more = other();
        more["id"] = json!(id);
        let refused = promptly("device_add", || {
            match g.qemu.qmp.command("device_add", more) {
                Ok(_) => bail!("a slot was given twice"),
                Err(e) => Ok(e.to_string()),
            }
        })?;
        assert!(refused.contains("in use"), "{refused}");
    }
    stack.helper.process.resume()?;
    g.goes_on()?;
    g.works()
}

#[test]
fn another_device_can_be_unplugged_and_plugged() -> Result<()> {
    let (mut stack, mut g) = hung()?;
    for _ in 0..2 {
        promptly("device_del of another device", || {
            g.unplug(OTHER, OTHER_SLOT)
        })?;
        promptly("device_add of another device", || {
            g.qemu.qmp.command("device_add", other())
        })?;
    }
    mapped(&g.qemu, OTHER_SLOT)?;
    stack.helper.process.resume()?;
    g.goes_on()?;
    g.works()
}

#[test]
fn the_device_itself_can_be_unplugged_and_plugged() -> Result<()> {
    let (mut stack, mut g) = hung()?;
    promptly("device_del", || g.unplug(DEVICE_ID, SLOT))?;
    // The CPU goes on, with nobody behind the port.
    g.vcpu.moves(&g.qemu.qtest, 100)?;
    g.vcpu.all_right(&g.qemu.qtest)?;
    g.vcpu.rest(&g.qemu.qtest)?;
    stack.helper.process.resume()?;
    let config = config(&stack, 1);
    g.plug(&config)?;
    as_new(&mut g)
}

/// The guest switches MSI-X on and off while the device holds its vectors for the interrupt line.
/// Here the switch comes from the monitor's own thread, so a wait would be everybody's.
// Covers: IRQ-04, IRQ-06
#[test]
fn msix_can_be_switched_while_it_hangs() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (mut qemu, device) = stack.mapped_with(Machine::Q35, &config(&stack, 1))?;
    let mut driver = LegacyDriver::new(&device)?;
    driver.begin(&qemu.qtest, 0)?;
    let mut queue = driver.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
    driver.set_status(&qemu.qtest, 7)?;
    assert_ne!(counter(&mut qemu.qmp, "intx-vectors")?, 0, "INTx is held");
    let mut msix = device.msix(&qemu.qtest)?;
    msix.program(&qemu.qtest, &mut qemu.memory)?;
    stack.helper.process.stop()?;
    for on in [true, false, true] {
        let (qtest, qmp) = (&mut qemu.qtest, &mut qemu.qmp);
        std::thread::scope(|s| -> Result<()> {
            let (msix, device) = (&msix, &device);
            let switch = s.spawn(move || {
                promptly("the switch of MSI-X", || {
                    msix.enable(qtest, device, on)?;
                    ensure!(msix.is_enabled(qtest, device)? == on, "MSI-X is not {on}");
                    Ok(())
                })
            });
            promptly("query-status", || qmp.command("query-status", json!({})))?;
            match switch.join() {
                Ok(result) => result,
                Err(_) => bail!("the thread failed"),
            }
        })?;
    }
    stack.helper.process.resume()?;
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    let timeouts = counter(&mut qemu.qmp, "timeouts")?;
    assert_eq!(counter(&mut qemu.qmp, "losses")?, timeouts);
    // The driver of before still works, in the layout of now.
    driver.msix = true;
    assert_eq!(driver.status(&qemu.qtest)?, 7);
    let q = &qemu.qtest;
    for vector in [1, 0] {
        driver.write(q, 14, 2, 0)?;
        driver.write(q, 22, 2, vector)?;
        assert_eq!(driver.read(q, 22, 2)?, vector);
    }
    let sector = qtest_harness::driver::Buffer::In(512);
    let memory = &mut qemu.memory;
    let (data, status) = driver.block_request(q, memory, &mut queue, 0, 0, &sector)?;
    assert_eq!((data.len(), status), (512, 0));
    wait_for("the message", PATIENCE, || {
        Ok(msix.fired(&qemu.qtest, 0)?.then_some(()))
    })?;
    assert_eq!(counter(&mut qemu.qmp, "intx-unmapped")?, 0);
    Ok(())
}

/// The same with the CPU inside an access, which holds what the switch needs.
// Covers: IRQ-04
#[test]
fn msix_can_be_switched_beside_an_access_that_hangs() -> Result<()> {
    // The layout of these registers does not depend on MSI-X.
    let (mut stack, mut g) = hung_in(2)?;
    let msix = g.device.msix(&g.qemu.qtest)?;
    for on in [true, false, true, false] {
        promptly("the switch of MSI-X", || {
            msix.enable(&g.qemu.qtest, &g.device, on)
        })?;
        promptly("query-status", || status(&mut g))?;
    }
    stack.helper.process.resume()?;
    g.goes_on()?;
    g.works()?;
    assert_eq!(counter(&mut g.qemu.qmp, "intx-unmapped")?, 0);
    g.drive()
}

/// One that does not hang, but never comes to the point, either.
#[test]
fn nobody_waits_for_a_helper_that_talks_without_end() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let dir = tempfile::tempdir()?;
    let talks = Arc::new(AtomicBool::new(false));
    let endless = talks.clone();
    let helper = FakeHelper::start(&dir.path().join("fake.sock"), move |h, r| match r {
        Request::Read { .. } if endless.load(Ordering::Relaxed) => {
            let mut buffer: MessageBuf = [0; MAX_MESSAGE];
            let event = Event {
                kind: EventKind(100),
                detail: 0,
            };
            let len = event.encode(&mut buffer);
            Answer::Endless(buffer.get(..len).unwrap_or_default().to_vec())
        }
        _ => good(h, r),
    })?;
    let mut config = stack.device(1);
    config["helper"] = json!(helper.socket());
    config["helper-deadline-ms"] = json!(DEADLINE_MS);
    config["x-check-vf"] = json!(false);
    let mut g = Running::start(&stack, &config)?;
    g.run(&[Step::expect(g.port(18)?, 1, 0)])?;
    talks.store(true, Ordering::Relaxed);
    g.vcpu.is_inside(&g.qemu.qtest)?;
    promptly("stop", || g.qemu.qmp.command("stop", json!({})))?;
    assert!(counter(&mut g.qemu.qmp, "given-up")? > 0);
    Ok(())
}
