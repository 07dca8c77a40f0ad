// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is unplugged from and plugged into a running guest, and what that leaves behind.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::json;

use crate::l2::{pings, plug, vf_address, HELPERS, LEGACY, SHORT};
use crate::machine::Nested;
use crate::setup::Run;
use test_kit::patience::{until, LOOK};
use test_machine::scenario::Scenario;

/// Times it is plugged; the first is there from the start.
const TIMES: u32 = 10;
/// Longest time until L2 has let go, in its own time.
const LET_GO: Duration = Duration::from_secs(60);
/// Memory that QEMU and the helper may have gained, in KiB, between the second time and the last: an
/// allocator's slack, and less than a leak of a page table, a log or a thread's stack each time.
const SLACK_KIB: u64 = 2048;

/// Open files and resident memory (KiB) of QEMU and the helper.
#[derive(Debug, Clone, Copy)]
struct Usage {
    qemu_fds: u64,
    helper_fds: u64,
    qemu_kib: u64,
    helper_kib: u64,
}

impl Usage {
    fn of(nested: &mut Nested) -> Result<Self> {
        let answer = nested.step("usage net")?;
        Ok(Self {
            qemu_fds: answer.number("qemu.fds")?,
            helper_fds: answer.number("helper.fds")?,
            qemu_kib: answer.number("qemu.rss")?,
            helper_kib: answer.number("helper.rss")?,
        })
    }

    /// Fails if there is more than before.
    fn check(self, before: Self) -> Result<()> {
        ensure!(
            self.qemu_fds == before.qemu_fds,
            "QEMU has {} open files, it had {}",
            self.qemu_fds,
            before.qemu_fds
        );
        ensure!(
            self.helper_fds == before.helper_fds,
            "the helper has {} open files, it had {}",
            self.helper_fds,
            before.helper_fds
        );
        for (who, now, then) in [
            ("QEMU", self.qemu_kib, before.qemu_kib),
            ("the helper", self.helper_kib, before.helper_kib),
        ] {
            ensure!(
                now <= then + SLACK_KIB,
                "{who} has {now} KiB resident, it had {then} KiB"
            );
        }
        Ok(())
    }
}

pub(super) const HOTPLUG: Scenario<Run> = Scenario {
    name: "hotplug",
    shows: "A VF unplugged from and plugged into the running L2 10 times; QEMU and helper have no more open files and no more memory at the end than after the second time",
    run: Run {
        equipped: false,
        spoils: false,
        setup: &HELPERS,
        violations: &[],
        run,
    },
};

fn run(nested: &mut Nested) -> Result<String> {
    let address = vf_address(nested, "net", 1)?;
    let device = json!({ "driver": "virtio-legacy-vf", "host": address, "id": "net" });
    let arguments = [
        "-machine".to_owned(),
        "pc".to_owned(),
        "-device".to_owned(),
        format!("virtio-legacy-vf,host={address},id=net"),
    ];
    nested.start_l2(LEGACY, &arguments)?;
    let mut received = used(nested).context("before anything is unplugged")?;
    let mut settled = None;
    for time in 1..=TIMES {
        let again = || format!("time {time}");
        unplug(nested).with_context(again)?;
        plug(nested, &device).with_context(again)?;
        received += used(nested).with_context(again)?;
        // What is made at the first time only, such as threads and caches, is there then.
        if time == 2 {
            settled = Some(Usage::of(nested)?);
        }
    }
    let settled = settled.context("not measured")?;
    let after = Usage::of(nested)?;
    after.check(settled)?;
    nested.stop_l2()?;
    Ok(format!(
        "{TIMES} times unplugged and plugged, pings {received}; QEMU {} files and {:+} KiB, helper {} \
         files and {:+} KiB since the second time",
        after.qemu_fds,
        difference(after.qemu_kib, settled.qemu_kib),
        after.helper_fds,
        difference(after.helper_kib, settled.helper_kib),
    ))
}

fn difference(now: u64, then: u64) -> i64 {
    i64::try_from(now).unwrap_or(0) - i64::try_from(then).unwrap_or(0)
}

/// Has L2 use the interface.
fn used(nested: &mut Nested) -> Result<u64> {
    nested.l2("net_wait", SHORT)?;
    nested.l2("net", SHORT)?;
    pings(nested, "ping 5")
}

/// Unplugs the device and waits until L2 and QEMU have let go.
fn unplug(nested: &mut Nested) -> Result<()> {
    nested
        .l2_qmp()?
        .execute("device_del", &json!({ "id": "net" }))?;
    until(LET_GO, LOOK, || {
        let list = nested
            .l2_qmp()?
            .execute("qom-list", &json!({ "path": "/machine/peripheral" }))?;
        let there = list
            .as_array()
            .context("no list of devices")?
            .iter()
            .any(|entry| entry.get("name").is_some_and(|name| name == "net"));
        Ok((!there).then_some(()))
    })
    .context("L2 does not let the device go")
}
