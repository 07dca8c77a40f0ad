// SPDX-License-Identifier: GPL-2.0-or-later
//! Admin commands that fail: every status and qualifier on every legacy opcode, late, lost and
//! short answers. The guest reads ones, nothing stale, and goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use legacy_vf_proto::QueryKind;
use qtest_harness::driver::Buffer;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{
    DeviceKind, HelperClient, LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE,
};
use qtest_tests::{counter, property, wait_link};
use serde_json::{json, Value};
use test_kit::patience::OwnTime;

/// ENXIO, EAGAIN, ENOMEM, EBUSY, EEXIST, EINVAL, ENOSPC, and one that nobody knows.
const STATUSES: [u16; 8] = [6, 11, 12, 16, 17, 22, 28, 99];
const QUALIFIERS: [u16; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 0x1234];

struct Guest {
    qemu: Qemu,
    driver: LegacyDriver,
}

fn guest(stack: &Stack) -> Result<Guest> {
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let driver = LegacyDriver::new(&device)?;
    driver.begin(&qemu.qtest, 1 << 5)?;
    Ok(Guest { qemu, driver })
}

fn rule(opcode: u16, action: &Value) -> Value {
    json!({"opcode": opcode, "member": 1, "do": action})
}

/// Lines of QEMU's log about failed accesses.
fn complaints(g: &Guest) -> usize {
    let log = g.qemu.process.log();
    log.lines().filter(|l| l.contains("failed")).count()
}

/// The helper tells how often the device answered with which status and qualifier.
fn counted_by_status(stack: &Stack) -> Result<()> {
    let mut tool = HelperClient::connect(stack.helper.socket())?;
    tool.hello()?;
    let stats = tool.query(QueryKind::COUNTERS, 0)?;
    let list = stats
        .pointer("/helper/device")
        .and_then(Value::as_array)
        .with_context(|| format!("no counts by status in {stats}"))?;
    let others = stats
        .pointer("/helper/device_others")
        .and_then(Value::as_u64);
    let total: u64 = list
        .iter()
        .filter_map(|e| e.get("count").and_then(Value::as_u64))
        .sum();
    let least = STATUSES.len() * QUALIFIERS.len() * 4;
    assert!(total + others.unwrap_or(0) >= least as u64, "{stats}");
    for status in STATUSES {
        let seen = list
            .iter()
            .any(|e| e.get("status").is_some_and(|s| s == status));
        assert!(
            seen || others > Some(0),
            "status {status} is not in {stats}"
        );
    }
    Ok(())
}

// Covers: ADM-19
#[test]
fn every_status_and_qualifier_on_every_access() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 1);
    let mut stack = Stack::start_with(&sim, 1, &["--retry", "2", "--retry-delay", "1ms"])?;
    let mut g = guest(&stack)?;
    let begin = Instant::now();
    let mut cases = 0;
    for status in STATUSES {
        for qualifier in QUALIFIERS {
            for opcode in 2..=5u16 {
                let q = &g.qemu.qtest;
                let d = &g.driver;
                let mac = d.config(q, 0, 4)?;
                let what = format!("status {status}, qualifier {qualifier}, opcode {opcode}");
                let action = json!({"status": {"status": status, "qualifier": qualifier}});
                stack.sim.add_fault(&rule(opcode, &action))?;
                match opcode {
                    2 => d.set_status(q, 7)?,
                    3 => {
                        assert_eq!(d.status(q)?, 0xff, "{what}");
                        assert_eq!(d.read(q, 4, 4)?, u32::MAX, "{what}");
                    }
                    4 => d.write(q, 20, 1, 0xee)?,
                    _ => {
                        assert_eq!(d.config(q, 0, 1)?, 0xff, "{what}");
                        assert_eq!(d.config(q, 4, 4)?, u32::MAX, "{what}");
                    }
                }
                stack.sim.clear_faults()?;
                assert_eq!(d.status(q)?, 3, "{what}: the write was dropped");
                assert_eq!(d.config(q, 0, 4)?, mac, "{what}: the write was dropped");
                cases += 1;
            }
        }
    }
    let seconds = begin.elapsed().as_secs();
    assert_eq!(property(&mut g.qemu.qmp, "link-state")?, "connected");
    let failures = counter(&mut g.qemu.qmp, "command-failures")?;
    assert!(
        failures >= cases,
        "{failures} failures counted in {cases} cases"
    );
    let lines = complaints(&g) as u64;
    assert!(lines >= 1, "it is logged");
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
    counted_by_status(&stack)?;
    let log = g.qemu.process.log();
    for text in ["VF 1", "BAR0 offset", "DEVICE", "status 6"] {
        assert!(log.contains(text), "no \"{text}\" in:\n{log}");
    }
    let helper = stack.helper.process.log();
    let warnings = helper.lines().filter(|l| l.contains("WARN")).count() as u64;
    assert!(
        warnings <= 3 * (seconds + 2),
        "{warnings} warnings of the helper in {seconds} s"
    );
    Ok(())
}

// Covers: ADM-20
#[test]
fn a_device_that_is_busy_for_a_while_is_asked_again() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let g = guest(&stack)?;
    let (q, d) = (&g.qemu.qtest, &g.driver);
    for (opcode, qualifier) in [(3u16, 7u16), (2, 7), (5, 6)] {
        let mut again = rule(
            opcode,
            &json!({"status": {"status": 11, "qualifier": qualifier}}),
        );
        again["first"] = json!(3);
        stack.sim.add_fault(&again)?;
        match opcode {
            2 => d.set_status(q, 7)?,
            3 => assert_eq!(d.status(q)?, 3),
            _ => assert_eq!(d.config(q, 0, 4)?, 0x7700_5452),
        }
        stack.sim.clear_faults()?;
        let want = if opcode == 3 { 3 } else { 7 };
        assert_eq!(d.status(q)?, want, "opcode {opcode}");
    }
    Ok(())
}

// Covers: NTF-06
#[test]
fn notify_info_that_fails_leaves_notification_by_command() -> Result<()> {
    for (i, status) in STATUSES.into_iter().enumerate() {
        let qualifier = QUALIFIERS.get(i).copied().context("qualifier")?;
        let rule = json!({
            "opcode": 6,
            "do": {"status": {"status": status, "qualifier": qualifier}},
        });
        let sim = SimulatorBuilder::new(DeviceKind::Block, 1).args(&["--fault", &rule.to_string()]);
        let stack = Stack::start_with(&sim, 1, &["--retry", "2"])
            .with_context(|| format!("status {status}, qualifier {qualifier}"))?;
        let (mut qemu, device) = stack.mapped(Machine::Pc)?;
        let d = LegacyDriver::new(&device)?;
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        d.begin(q, 0)?;
        let mut queue = d.queue(q, memory, 0, 0)?;
        d.set_status(q, 7)?;
        let (_, result) = d.block_request(q, memory, &mut queue, 0, 0, &Buffer::In(512))?;
        assert_eq!(result, 0, "status {status}, qualifier {qualifier}");
    }
    Ok(())
}

// Covers: AVQ-10
#[test]
fn short_and_wrong_answers_are_not_believed() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let g = guest(&stack)?;
    let (q, d) = (&g.qemu.qtest, &g.driver);
    for action in [
        json!({"short_reply": {"len": 8}}),
        json!({"short_reply": {"len": 4}}),
        json!({"short_reply": {"len": 0}}),
        json!({"used_length": {"len": 8}}),
        json!({"used_length": {"len": 0}}),
        json!({"used_length": {"len": 4096}}),
    ] {
        stack.sim.add_fault(&rule(5, &action))?;
        let got = d.config(q, 0, 1)?;
        assert_eq!(got, 0xff, "{action}");
        stack.sim.clear_faults()?;
        assert_eq!(d.config(q, 0, 1)?, 0x52, "{action}");
    }
    Ok(())
}

#[test]
fn a_lost_or_late_answer_ends_at_the_deadline() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 2);
    let mut stack = Stack::start_with(&sim, 2, &["--command-timeout", "300ms"])?;
    let mut g = guest(&stack)?;
    for action in [json!("drop"), json!({"delay": {"ms": 900}})] {
        let (q, d) = (&g.qemu.qtest, &g.driver);
        let mut once = rule(3, &action);
        once["first"] = json!(1);
        stack.sim.add_fault(&once)?;
        let (begin, own) = (Instant::now(), OwnTime::start());
        assert_eq!(d.status(q)?, 0xff, "{action}");
        let (took, own) = (begin.elapsed(), own.elapsed());
        assert!(took >= Duration::from_millis(250), "{action}: {took:?}");
        assert!(own < Duration::from_millis(2500), "{action}: {own:?}");
        // The answer that comes late belongs to nobody.
        qtest_tests::wait_for("the registers", PATIENCE, || {
            let features = d.read(q, 0, 4)?;
            let status = d.status(q)?;
            Ok((status == 3 && features != u32::MAX).then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(d.status(q)?, 3);
        assert_eq!(d.config(q, 0, 4)?, 0x7700_5452);
        stack.sim.clear_faults()?;
    }
    wait_link(&mut g.qemu.qmp, "connected", PATIENCE)?;
    Ok(())
}

#[test]
fn a_stuck_queue_and_a_failed_pf_leave_the_guest_alive() -> Result<()> {
    for action in [json!("stuck"), json!("needs_reset")] {
        let sim = SimulatorBuilder::new(DeviceKind::Block, 1);
        let mut stack = Stack::start_with(&sim, 1, &["--command-timeout", "300ms"])?;
        let (mut qemu, device) = stack.mapped(Machine::Pc)?;
        let d = LegacyDriver::new(&device)?;
        d.begin(&qemu.qtest, 0)?;
        let mut queue = d.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
        d.set_status(&qemu.qtest, 7)?;
        stack.sim.add_fault(&rule(3, &action))?;
        let begin = OwnTime::start();
        assert_eq!(d.status(&qemu.qtest)?, 0xff, "{action}");
        assert!(begin.elapsed() < Duration::from_secs(4));
        // The data path is not concerned.
        let (_, status) = d.block_request(
            &qemu.qtest,
            &mut qemu.memory,
            &mut queue,
            0,
            0,
            &Buffer::In(512),
        )?;
        assert_eq!(status, 0, "{action}");
        stack.sim.clear_faults()?;
        if !stack.helper.process.is_running()? {
            // It gave up on the PF, as documented; whoever supervises it starts it again.
            stack.helper.restart()?;
        }
        let again = PciDevice::find(&qemu.qtest, SLOT)?;
        assert_eq!(again.read(&qemu.qtest, 0, 2)?, 0x1af4);
        qtest_tests::wait_for("the registers to come back", PATIENCE, || {
            Ok((d.status(&qemu.qtest)? == 7).then_some(()))
        })
        .with_context(|| format!("{action}; helper:\n{}", stack.helper.process.log()))?;
        qemu.qmp.command("query-status", json!({}))?;
    }
    Ok(())
}

#[test]
fn one_vf_with_faults_does_not_slow_down_another() -> Result<()> {
    let sim = SimulatorBuilder::new(DeviceKind::Net, 2);
    let mut stack = Stack::start_with(&sim, 2, &["--command-timeout", "1s"])?;
    let mut client = qtest_harness::HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    assert!(client.open(2)?.is_ok());
    let g = guest(&stack)?;
    stack
        .sim
        .add_fault(&rule(3, &json!({"delay": {"ms": 600}})))?;
    let slow = std::thread::spawn(move || -> Result<Duration> {
        let begin = Instant::now();
        g.driver.status(&g.qemu.qtest)?;
        Ok(begin.elapsed())
    });
    std::thread::sleep(Duration::from_millis(100));
    let begin = OwnTime::start();
    for _ in 0..50 {
        let answer = client.read(legacy_vf_proto::Space::Common, 18, 1)?;
        assert_eq!(answer, Ok(0));
    }
    let fast = begin.elapsed();
    let slow = match slow.join() {
        Ok(result) => result?,
        Err(_) => anyhow::bail!("the slow guest failed"),
    };
    assert!(slow >= Duration::from_millis(550), "{slow:?}");
    assert!(
        fast < Duration::from_millis(400),
        "50 reads of the other VF took {fast:?}"
    );
    Ok(())
}
