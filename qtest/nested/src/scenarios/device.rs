// SPDX-License-Identifier: GPL-2.0-or-later
//! Scenarios about the device itself on a VF of L1: the ways of its doorbells, resets, a helper that
//! hangs, VFs that L1 takes back.

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};

use crate::l2::{pings, plug, property, vf_address, HELPERS, LEGACY, SHORT};
use crate::machine::Nested;
use crate::setup::Run;
use test_kit::patience::until;
use test_machine::process::POLL;
use test_machine::scenario::Scenario;

/// The device's id in L2's QEMU.
const ID: &str = "vf";

pub(super) const DOORBELLS: Scenario<Run> = Scenario {
    name: "doorbells",
    shows: "Each way of the device's doorbells (in the kernel, by a write of the region) on the same VF; then L1 takes the VFs back while L2 uses one: QEMU asks L2 for it, and with a new helper all is as before",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run: doorbells,
    },
};

pub(super) const DEVICE_RESETS: Scenario<Run> = Scenario {
    name: "device-resets",
    shows: "A function level reset by L2, one of the machine, one behind the helper; a helper that does not answer within the deadline",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run: resets,
    },
};

/// Ways of doorbells, and the properties that leave no other.
const PATHS: [(&str, &[&str]); 2] = [("kernel", &[]), ("region", &["x-no-vfio-ioeventfd"])];

/// A machine with two slots behind root ports.
fn root_ports() -> Vec<String> {
    let port = |id, n| format!("pcie-root-port,id={id},chassis={n},slot={n}");
    [
        "-machine",
        "q35",
        "-device",
        &port("rp", 1),
        "-device",
        &port("rp2", 2),
    ]
    .map(str::to_owned)
    .into()
}

/// The device on a VF, as `device_add` takes it.
fn device(host: &str, switches: &[&str]) -> Value {
    let mut device = json!({"driver": "virtio-legacy-vf", "id": ID, "bus": "rp", "host": host});
    for name in switches {
        device[*name] = json!(true);
    }
    device
}

fn number(nested: &mut Nested, name: &str) -> Result<u64> {
    let text = property(nested, ID, name)?;
    text.parse()
        .with_context(|| format!("{name} is {text}, not a number"))
}

/// The interface in L2 answers.
fn traffic(nested: &mut Nested, count: u32) -> Result<()> {
    nested.l2("net_wait", SHORT)?;
    nested.l2("net", SHORT)?;
    pings(nested, &format!("ping {count}"))?;
    Ok(())
}

/// Waits until L2's QEMU has no such device any more.
fn wait_unplugged(nested: &mut Nested) -> Result<()> {
    until(SHORT, POLL, || match property(nested, ID, "type") {
        Err(error) if format!("{error:#}").contains("not found") => Ok(Some(())),
        other => other.map(|_| None),
    })
    .context("the device is still there")
}

fn wait_state(nested: &mut Nested, words: &[&str]) -> Result<String> {
    let mut state = String::new();
    until(SHORT, POLL, || {
        state = property(nested, ID, "state")?;
        let all = words.iter().all(|word| state.contains(word));
        Ok(all.then_some(()))
    })
    .with_context(|| format!("no {words:?} in: {state}"))?;
    Ok(state)
}

/// The same guest on the same VF with each way of doorbells, plugged one after the other; then L1 takes
/// the VFs back while L2 uses one.
fn doorbells(nested: &mut Nested) -> Result<String> {
    let host = vf_address(nested, "net", 1)?;
    nested.start_l2(LEGACY, &root_ports())?;
    let mut figures = Vec::new();
    for (path, switches) in PATHS {
        plug(nested, &device(&host, switches)).context(path)?;
        traffic(nested, 20).context(path)?;
        let found = property(nested, ID, "doorbell-path")?;
        ensure!(found == path, "doorbells go by {found} instead of {path}");
        let (by_kernel, by_qemu) = (
            number(nested, "kernel-doorbells")?,
            number(nested, "notifies")?,
        );
        let failures = number(nested, "notify-failures")?;
        ensure!(failures == 0, "{path}: {failures} failed");
        // Nothing is left for QEMU once the driver runs, or everything.
        if path == "kernel" {
            ensure!(
                by_kernel > 1 && by_qemu == 0,
                "{by_kernel} queues by the kernel, {by_qemu} doorbells by QEMU"
            );
        } else {
            ensure!(
                by_kernel == 0 && by_qemu >= 20,
                "{path}: {by_kernel} queues by the kernel, {by_qemu} doorbells by QEMU"
            );
        }
        figures.push(format!("{path} {by_qemu}"));
        nested
            .l2_qmp()?
            .execute("device_del", &json!({ "id": ID }))?;
        wait_unplugged(nested).context(path)?;
    }
    plug(nested, &device(&host, &[]))?;
    traffic(nested, 3)?;
    taken_back(nested, &host).context("L1 takes the VFs back")?;
    nested.stop_l2()?;
    Ok(format!(
        "doorbells that came to QEMU: {}; VFs taken back and given again",
        figures.join(", ")
    ))
}

/// L1 disables the VFs while L2 uses one: QEMU asks L2 for it and gives it up, and only then L1 goes
/// on. With a new helper all is as before.
fn taken_back(nested: &mut Nested, host: &str) -> Result<()> {
    nested.step("numvfs 0 net")?;
    wait_unplugged(nested)?;
    let gone = nested.l2_attempt("net", SHORT)?;
    ensure!(gone.status != 0, "L2 still has the interface");
    let error = plug(nested, &device(host, &[])).err();
    let error = error.map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(error.contains("no PCI function"), "plugged again: {error}");
    nested.step("helper_end net")?;
    nested.step("helper_start net --bind --vfs 2")?;
    plug(nested, &device(host, &[]))?;
    traffic(nested, 3)
}

/// A function level reset by L2, one of the machine, and one after the helper took the VF's state with
/// it; a helper that does not answer.
fn resets(nested: &mut Nested) -> Result<String> {
    let host = vf_address(nested, "net", 1)?;
    let mut arguments = root_ports();
    arguments.push("-device".to_owned());
    arguments.push(format!("virtio-legacy-vf,host={host},id={ID},bus=rp"));
    nested.start_l2(LEGACY, &arguments)?;
    traffic(nested, 3)?;
    nested.l2("flr net", SHORT).context("FLR by L2")?;
    let flr = number(nested, "resets")?;
    ensure!(flr > 0, "the FLR was not seen");
    traffic(nested, 3).context("after the FLR")?;
    wait_state(nested, &["VF 1", "connected", "by kernel"])?;
    not_migratable(nested)?;
    reset_machine(nested).context("system_reset")?;
    let machine = number(nested, "resets")?;
    ensure!(machine > flr, "system_reset was not seen");

    let other = vf_address(nested, "net", 2)?;
    hangs(nested, &other).context("a helper that hangs")?;

    // The last one to close the PF resets it, and the VFs with it.
    nested.step("helper_end net KILL")?;
    wait_state(nested, &["lost"])?;
    nested.step("helper_start net --bind --vfs 2")?;
    wait_state(nested, &["connected", "state lost"])?;
    reset_machine(nested).context("system_reset with a new helper")?;
    let state = property(nested, ID, "state")?;
    ensure!(!state.contains("lost"), "after a reset: {state}");
    nested.stop_l2()?;
    Ok(format!(
        "FLR {flr}, system_reset {}, both to a working driver; VF reset with the helper: said, and \
         mended by system_reset",
        machine - flr
    ))
}

/// Migration is blocked, and the reason names the VF.
fn not_migratable(nested: &mut Nested) -> Result<()> {
    let known = nested.l2_qmp()?.execute("query-migrate", &json!({}))?;
    let reasons = known.get("blocked-reasons").map(Value::to_string);
    let reasons = reasons.unwrap_or_default();
    ensure!(
        reasons.contains("VF 1 of") && reasons.contains("cannot be migrated"),
        "migration is blocked by: {reasons}"
    );
    Ok(())
}

fn reset_machine(nested: &mut Nested) -> Result<()> {
    nested.l2_qmp()?.execute("system_reset", &json!({}))?;
    nested.wait_l2()?;
    traffic(nested, 3)?;
    wait_state(nested, &["connected", "by kernel"])?;
    Ok(())
}

/// A device that cannot be had within its deadline is refused, and nothing else is disturbed.
fn hangs(nested: &mut Nested, other: &str) -> Result<()> {
    nested.step("helper_signal net STOP")?;
    let mut device = device(other, &[]);
    device["id"] = json!("late");
    device["bus"] = json!("rp2");
    device["helper-deadline-ms"] = json!(500);
    let refused = plug(nested, &device).err();
    pings(nested, "ping 3").context("without registers")?;
    nested.step("helper_signal net CONT")?;
    let error = refused.map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(error.contains("did not answer within 500 ms"), "{error}");
    traffic(nested, 3)
}
