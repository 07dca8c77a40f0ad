// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper is killed and started again while a guest uses its VF: what becomes of PF, VFs and
//! guest is found out.

use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::takeback;
use crate::l2::{
    both_vfs, load, pings, property, start_helpers, vf_address, HELPERS, LEGACY, NET, SHORT,
};
use crate::machine::{Nested, Plan};
use crate::setup::{Run, Setup};
use test_kit::patience::{until, LOOK};
use test_machine::scenario::Scenario;

/// Longest time until the device's link to the helper is what it should be.
const LINK: Duration = Duration::from_secs(20);

pub(super) const HELPER_RESTART: Scenario<Run> = Scenario {
    name: "helper-restart",
    shows: "The helper killed and started again while L2 runs. Measured: the kernel resets the PF when its last file is closed, and with it the VFs. Linux keeps the VFs and enables them again, but their registers are as after a reset. L2 lives on; its registers read all-ones until the helper is back, no packet comes through, and the device says `state-lost`. The driver started anew works; the other PF's VF is not touched",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "helper-restart",
                ..HELPERS.plan
            },
            prepare: start_helpers,
        },
        // The VF was reset with its PF, and L2 uses the registers that MSI-X adds until it knows.
        violations: &["crosses_fields"],
        run: restarted,
    },
};

pub(super) const HELPER_KEPT: Scenario<Run> = Scenario {
    name: "helper-kept",
    shows: "The same under a manager that keeps the PF's files as systemd does (`vlvf-vfio-probe keep`): L2 notices nothing, its registers are as before and no ping is lost. Then L1 takes the PF: the helper has the manager close its files, and ends with code 5",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &Setup {
            plan: Plan {
                name: "helper-kept",
                cards: &[NET],
                ..HELPERS.plan
            },
            prepare: |_| Ok(()),
        },
        violations: &[],
        run: kept,
    },
};

/// Without a service manager.
fn restarted(nested: &mut Nested) -> Result<String> {
    let mut arguments = vec!["-machine".to_owned(), "pc".to_owned()];
    arguments.extend(both_vfs(nested)?);
    nested.start_l2(LEGACY, &arguments)?;
    nested.l2("net", SHORT)?;
    pings(nested, "ping 20")?;
    let state = property(nested, "net", "link-state")?;
    ensure!(state == "connected", "the device's link is {state}");
    nested.l2("ping_start 0.2", SHORT)?;

    nested
        .step("helper_end net KILL")
        .context("kill the helper")?;
    let without = nested.step("vfs net").context("after the helper's end")?;
    let live = nested.live_vfs("net")?;
    let state = link_state(nested, "lost")?;
    // The data path needs no helper, unless the PF's reset took the VF with it.
    let alone = nested.l2_attempt("ping 10 0.1", SHORT)?;
    // Registers do: all-ones then, and nothing hangs.
    let registers = nested.l2_attempt("registers net", SHORT)?;
    ensure!(
        registers.get("features")? == "ffffffff" && registers.get("status")? == "ff",
        "without a helper the registers are not all-ones: {}",
        registers.text()
    );

    let started = nested
        .step("helper_start net --bind --vfs 2")
        .context("start the helper again")?;
    ensure!(started.get("pf")? == "0000:01:00.0", "{}", started.text());
    link_state(nested, "connected").context("after the helper's restart")?;
    let lost = property(nested, "net", "state-lost")?;
    // A guest whose VF was reset behind its back must be able to know.
    let answered = alone.number("pings_received").unwrap_or(0);
    ensure!(
        answered > 0 || lost == "true",
        "the VF lost its state, and the device does not say so"
    );
    nested.l2_attempt("ping_stop", SHORT)?;
    // Whatever the driver's state was: started anew it works.
    nested
        .l2("rebind net 1", SHORT)
        .context("start the driver anew")?;
    nested.l2("net", SHORT)?;
    let received = pings(nested, "ping 20").context("with the driver started anew")?;
    // The other PF had no part in it.
    nested.l2("disk 2", SHORT).context("the other PF's VF")?;
    nested.stop_l2()?;
    Ok(format!(
        "helper killed: {} VFs in sysfs, {live} in the device, link {state}, pings {} of {}, registers \
         {}; restarted: state-lost {lost}, driver started anew: {received} pings",
        without.get("vfs")?,
        answered,
        alone.get("pings_sent").unwrap_or("0"),
        registers.text(),
    ))
}

/// With a service manager that keeps the PF's files: the guest goes on.
fn kept(nested: &mut Nested) -> Result<String> {
    load(nested)?;
    nested
        .step(&format!("helper_keep net --bind --vfs {}", NET.vfs))
        .context("start the helper as a service")?;
    let address = vf_address(nested, "net", 1)?;
    let arguments = [
        "-device".to_owned(),
        format!("virtio-legacy-vf,host={address},id=net"),
    ];
    nested.start_l2(LEGACY, &arguments)?;
    nested.l2("net", SHORT)?;
    let before = nested.l2("registers net", SHORT)?.text();
    nested.l2("ping_start 0.1", SHORT)?;
    nested
        .step("helper_end net KILL")
        .context("kill the helper")?;
    nested
        .step("helper_kept net 2")
        .context("the helper, started again")?;
    link_state(nested, "connected").context("after the helper's restart")?;
    let after = nested.l2("registers net", SHORT)?.text();
    ensure!(
        after == before,
        "the VF's registers were {before}, and are {after}"
    );
    let lost = property(nested, "net", "state-lost")?;
    ensure!(lost == "false", "the device takes the VF's state for lost");
    let received = pings(nested, "ping_stop").context("while the helper was away")?;
    nested
        .l2("rebind net 1", SHORT)
        .context("start the driver anew")?;
    nested.l2("net", SHORT)?;
    let again = pings(nested, "ping 20").context("with the driver started anew")?;
    nested.stop_l2()?;
    // The files are those of the first helper, and the manager has them too.
    let took = takeback::take_pf_kept(nested).context("L1 takes the PF back")?;
    Ok(format!(
        "helper killed and started again with its files: all of {received} pings meanwhile, registers \
         {after} as before, then {again} pings; PF taken back in {took} ms"
    ))
}

/// Waits until the device says so of its link to the helper.
fn link_state(nested: &mut Nested, wanted: &str) -> Result<String> {
    let mut state = String::new();
    let done = until(LINK, LOOK, || {
        state = property(nested, "net", "link-state")?;
        Ok((state == wanted).then_some(()))
    });
    if let Err(spent) = done {
        let error = property(nested, "net", "link-error")?;
        bail!("the device's link is {state}, not {wanted} ({error}): {spent:#}");
    }
    Ok(state)
}
