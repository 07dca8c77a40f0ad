// SPDX-License-Identifier: GPL-2.0-or-later
//! Which system calls the helper makes once its filter is in force.

use std::collections::BTreeSet;

use anyhow::{ensure, Context, Result};
use helper_confine::calls::{numbers, Allowed};
use test_machine::scenario::Scenario;

use crate::l2::{load, pings, start_helper_by, vf_address, HELPERS, LEGACY, NET, SHORT};
use crate::machine::{Nested, Plan};
use crate::setup::{Run, Setup};

pub(super) const HELPER_TRACED: Scenario<Run> = Scenario {
    name: "helper-traced",
    shows: "The helper under strace from its start to its end, with the kernel's VFIO: L2 boots with the legacy driver, pings, has its driver started anew and ends, the tool asks everything, and the helper is ended. Since its filter is in force it makes no system call that is not on the list; which those are is told",
    run: Run {
        equipped: false,
        spoils: true,
        setup: &Setup {
            plan: Plan {
                name: "helper-traced",
                cards: &[NET],
                ..HELPERS.plan
            },
            prepare: |_| Ok(()),
        },
        violations: &[],
        run: traced,
    },
};

fn traced(nested: &mut Nested) -> Result<String> {
    load(nested)?;
    start_helper_by(nested, "helper_traced", "net")?;
    let address = vf_address(nested, "net", 1)?;
    let arguments = [
        "-device".to_owned(),
        format!("virtio-legacy-vf,host={address},id=net"),
    ];
    nested.start_l2(LEGACY, &arguments)?;
    nested.l2("net", SHORT)?;
    let mut received = pings(nested, "ping 20")?;
    nested.step("helper_vf net 1 open")?;
    nested.step("helper_asked net")?;
    nested.l2("rebind net 1", SHORT)?;
    nested.l2("net", SHORT)?;
    received += pings(nested, "ping 20").context("with the driver started anew")?;
    nested.stop_l2()?;
    nested.step("helper_vf net 1 free")?;
    nested.step("helper_end net")?;
    // By its own will, not by a signal of the filter's.
    let ended = nested.step("helper_ended net")?;
    ensure!(ended.get("status")? == "0", "it ended so: {}", ended.text());
    let made = nested.step("helper_calls net")?;
    let calls = made.number("calls")?;
    let made: BTreeSet<i64> = made
        .get("numbers")?
        .split(',')
        .map(|number| {
            number
                .parse()
                .with_context(|| format!("{number:?} is no call"))
        })
        .collect::<Result<_>>()?;
    let allowed = numbers(Allowed {
        ioctls: &[0],
        unix_sockets: false,
    })?;
    let others: Vec<_> = made.difference(&allowed).collect();
    ensure!(
        others.is_empty(),
        "system calls outside of the list: {others:?}"
    );
    // Such as a trace of another process, or one that ends too soon, does not have.
    for number in [libc::SYS_epoll_pwait, libc::SYS_recvmsg, libc::SYS_ioctl] {
        ensure!(made.contains(&number), "no call {number} was seen");
    }
    Ok(format!(
        "{received} pings; {calls} system calls of {} kinds under the filter, all on its list of {}",
        made.len(),
        allowed.len()
    ))
}
