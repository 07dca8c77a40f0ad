// SPDX-License-Identifier: GPL-2.0-or-later
//! L1 takes back what L2 uses, as its administrator does: it takes first a VF, then the PF from vfio-pci.
//! The kernel asks the users of both by the request interrupt, and waits for them.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::l2::{pings, plug, property, start_helper, vf_address, HELPERS, LEGACY, SHORT};
use crate::machine::Nested;
use crate::setup::Run;
use test_machine::scenario::Scenario;

pub(super) const HOST_TAKES_BACK: Scenario<Run> = Scenario {
    name: "host-takes-back",
    shows: "L1 takes a VF of a PF by `unbind` while L2 uses both of them with traffic: QEMU is asked by the request interrupt and unplugs that device, the helper's client for it goes; the other VF loses no ping and no register. Then it takes the PF: nothing happens to L2 or the helper as long as L2, stopped, keeps its VF; when it goes on, the VF is unplugged, and the helper tells a client that is left, resets the PF and ends with code 5. Linux's own driver works on the PF; then a new helper, and a VF plugged into the same L2, which all the time had a VF of another PF",
    run: Run {
        equipped: false,
        // It loads drivers.
        spoils: true,
        setup: &HELPERS,
    violations: &[],
    run,
    },
};

/// The net VFs' devices in L2's QEMU: its eth0, and its eth1, which L1 takes first.
const STAYS: &str = "stays";
const TAKEN: &str = "taken";
/// Longest time until L1 has got what it takes, on a loaded machine.
const HANDED_OVER: Duration = Duration::from_secs(30);
/// How the helper ends.
const RETURNED: &str = "5";
const RETURNED_TEXT: &str = "qemu-virtio-admin-helper: the host wanted the PF back and has it";

fn run(nested: &mut Nested) -> Result<String> {
    let taken = vf_address(nested, "net", 2)?;
    let mut arguments = vec!["-machine".to_owned(), "pc".to_owned()];
    for (slot, (id, kind, vf)) in
        (4..).zip([(STAYS, "net", 1), (TAKEN, "net", 2), ("blk", "blk", 1)])
    {
        let host = vf_address(nested, kind, vf)?;
        arguments.push("-device".to_owned());
        arguments.push(format!("virtio-legacy-vf,host={host},id={id},addr={slot}"));
    }
    nested.start_l2(LEGACY, &arguments)?;
    let eth0 = nested.l2("net", SHORT)?;
    ensure!(eth0.get("mac")? == "52:54:00:77:01:01", "{}", eth0.text());
    let blk = nested.l2("registers blk", SHORT)?.text();

    let vf = take_vf(nested, &taken).context("L1 takes a VF")?;
    let pf = take_pf(nested).context("L1 takes the PF")?;
    nested.l2("disk 2", SHORT).context("the other PF's VF")?;
    let now = nested.l2("registers blk", SHORT)?.text();
    ensure!(now == blk, "the other PF's VF had {blk}, it has {now}");

    used_by_host(nested).context("L1 uses the PF itself")?;
    start_helper(nested, "net").context("L1 gives the PF again")?;
    let host = vf_address(nested, "net", 1)?;
    let device = json!({"driver": "virtio-legacy-vf", "id": STAYS, "host": host, "addr": "4"});
    plug(nested, &device)?;
    nested.l2("net_wait", SHORT)?;
    nested.l2("net", SHORT)?;
    let received = pings(nested, "ping 20").context("with a VF of the new helper")?;
    nested.stop_l2()?;
    Ok(format!(
        "{vf}; {pf}; used by L1, given again: {received} pings"
    ))
}

/// L1 takes the VF of L2's eth1, while eth0's goes on.
fn take_vf(nested: &mut Nested, address: &str) -> Result<String> {
    let eth1 = nested.l2("net_more eth1 10.0.77.10", SHORT)?;
    ensure!(eth1.get("mac")? == "52:54:00:77:01:02", "{}", eth1.text());
    let before = nested.l2("registers net", SHORT)?.text();
    nested.l2("ping_start 0.05", SHORT)?;
    nested.step("helper_vf net 2 open")?;
    // QEMU tells events only to those who have spoken to it.
    let state = property(nested, TAKEN, "link-state")?;
    ensure!(state == "connected", "the VF to be taken is {state}");
    let asked = relayed(nested, address)?;

    nested.step(&format!("take_start {address}"))?;
    let took = handed_over(nested)?;
    nested.l2_qmp()?.wait_event("DEVICE_DELETED", TAKEN)?;
    nested.l2("net_gone eth1", SHORT)?;
    nested.step("helper_vf net 2 free").context("its client")?;
    let times = relayed(nested, address)? - asked;
    ensure!(
        times == 1,
        "the kernel says {times} times that it asks QEMU"
    );

    let received = pings(nested, "ping_stop").context("the VF that stays")?;
    let after = nested.l2("registers net", SHORT)?.text();
    ensure!(
        after == before,
        "the VF that stays had {before}, it has {after}"
    );
    nested.step("helper_vf net 1 open")?;
    let state = property(nested, STAYS, "link-state")?;
    ensure!(state == "connected", "the VF that stays is {state}");
    Ok(format!(
        "VF taken in {took} ms, the other one of the PF lost none of {received} pings"
    ))
}

/// L1 takes the PF. The kernel asks for the VFs first: as long as L2 does not let go of one, all is as
/// before; then the helper is asked.
fn take_pf(nested: &mut Nested) -> Result<String> {
    // A client without a VF's file does not keep the kernel waiting, but must be told.
    nested.step("bind_vf 2 net vfio-pci")?;
    nested.step("watch_start net 2")?;
    let pf = nested.step("sriov_info net")?.get("pf")?.to_owned();
    let asked = relayed(nested, &pf)?;
    nested.l2_qmp()?.execute("stop", &json!({}))?;
    nested.step(&format!("take_start {pf}"))?;
    let waits = nested.refused("take_wait 2")?;
    ensure!(waits.get("error")? == "still-waiting", "{}", waits.text());
    nested.step("helper_vf net 1 open")?;
    let state = property(nested, STAYS, "link-state")?;
    ensure!(
        state == "connected",
        "before L2 lets go the link is {state}"
    );
    ensure!(
        relayed(nested, &pf)? == asked,
        "the helper was asked before QEMU let go of its VF"
    );

    nested.l2_qmp()?.execute("cont", &json!({}))?;
    let took = handed_over(nested)?;
    nested.l2_qmp()?.wait_event("DEVICE_DELETED", STAYS)?;
    nested.l2("net_gone eth0", SHORT)?;
    let ended = nested.step("helper_ended net")?;
    ensure!(
        ended.get("status")? == RETURNED
            && ended.get("text")? == RETURNED_TEXT
            && ended.get("socket")? == "gone",
        "the helper ended with {}",
        ended.text()
    );
    let times = relayed(nested, &pf)? - asked;
    ensure!(
        times == 1,
        "the kernel says {times} times that it asks the helper"
    );
    let told = nested.step("watch_end")?;
    let events: Vec<&str> = told.all("event").collect();
    ensure!(
        events == ["SHUTDOWN"] && told.get("closed")? == "1",
        "the helper's client was told {}",
        told.text()
    );
    nobody_has_it(nested)?;
    Ok(format!(
        "PF taken in {took} ms, of which L2 was stopped for 2000 and more, helper ended with \
         {RETURNED}"
    ))
}

/// L1 takes the PF of a helper under a manager that keeps its files. Gives the time.
pub(super) fn take_pf_kept(nested: &mut Nested) -> Result<u64> {
    let pf = nested.step("sriov_info net")?.get("pf")?.to_owned();
    nested.step(&format!("take_start {pf}"))?;
    let took = handed_over(nested)?;
    let log = nested.step("helper_log net 2")?;
    let lines: Vec<&str> = log.all("text").collect();
    // Without its files the kernel would wait for the manager.
    let ended = format!("ended=exit status: {RETURNED}, files=0");
    ensure!(
        lines == [RETURNED_TEXT, ended.as_str()],
        "the helper ended with {lines:?}"
    );
    nobody_has_it(nested)?;
    Ok(took)
}

/// Waits until the kernel has a function; gives the time since it was asked for.
fn handed_over(nested: &mut Nested) -> Result<u64> {
    let took = nested.step(&format!("take_wait {}", HANDED_OVER.as_secs()))?;
    ensure!(took.get("take_status")? == "0", "{}", took.text());
    took.number("take_ms")
}

/// How often the kernel's log says that it asks the user of a function for it: at first, and at every tenth
/// repetition.
fn relayed(nested: &mut Nested, address: &str) -> Result<u64> {
    let asked = nested.step(&format!("relayed {address}"))?;
    ensure!(
        asked.number("blocked")? == 0,
        "the user of {address} does not listen for requests"
    );
    asked.number("relayed")
}

/// The net PF has no driver, and its VFs are gone.
fn nobody_has_it(nested: &mut Nested) -> Result<()> {
    let info = nested.step("sriov_info net")?;
    let live = nested.live_vfs("net")?;
    ensure!(
        info.get("pf_driver")?.is_empty() && info.number("numvfs")? == 0 && live == 0,
        "{live} VFs in the device, {}",
        info.text()
    );
    Ok(())
}

/// Linux's own driver finds the PF as it should be.
fn used_by_host(nested: &mut Nested) -> Result<()> {
    nested.step("drivers_load")?;
    nested.step("bind_pf net virtio-pci")?;
    nested.step("net")?;
    nested.step("ping 5")?;
    Ok(())
}
