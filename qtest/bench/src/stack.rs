// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients, the real helper and the simulated PF, each a process of its own.

use std::path::Path;
use std::time::Duration;

use crate::clients::{after_connections, syscalls, together};
use crate::echo::{leave, stay_on, Echo};
use crate::report::{Aim, Figure};
use crate::rig::Stack;
use crate::socket::Access;
use crate::{compare, memory, time_per_call, Effort};
use anyhow::Result;

/// Keeps the simulator from sleeping between two commands of one client.
const AWAKE: &[&str] = &["--busy-poll", "100"];
/// After so many connections nothing may be left of them.
const CONNECTIONS: u32 = 10_000;

/// Seconds of one round trip with the bare socket, and of one register read by one client.
///
/// # Errors
/// If the helper refuses.
pub fn round_trips(stack: &Stack, echo: &Echo, effort: Effort) -> Result<(f64, f64)> {
    let mut access = Access::open(stack.helper.socket(), 1)?;
    let (mut bare, mut full) = (Ok(()), Ok(()));
    let times = compare(
        effort,
        || {
            if let Err(e) = echo.round_trip() {
                bare = Err(e);
            }
        },
        || {
            if let Err(e) = access.read_status() {
                full = Err(e);
            }
        },
    );
    bare.and(full).map(|()| times)
}

/// Seconds of one round trip with the bare socket when client and server stay on a processor each.
/// The scheduler often puts both on one, where waking the other costs little; a register read
/// involves three processes, one of which polls, and so cannot do without waking another
/// processor.
fn far_echo(dir: &Path, effort: Effort) -> Result<Option<f64>> {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        return Ok(None);
    }
    let echo = Echo::start(dir, Some(1))?;
    let before = stay_on(0)?;
    let mut result = Ok(());
    let time = time_per_call(effort, || {
        if let Err(e) = echo.round_trip() {
            result = Err(e);
        }
    });
    leave(&before)?;
    result.map(|()| Some(time))
}

/// All of them.
///
/// # Errors
/// If a process fails.
pub fn all(dir: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let us = |seconds: f64| seconds * 1e6;
    let mut figures = Vec::new();
    let small = Stack::start(dir, 1, &[])?;
    let (echo, one) = round_trips(&small, &Echo::start(dir, None)?, effort)?;
    figures.push(Figure::new(
        "echo: bare SEQPACKET round trip",
        us(echo),
        "us",
    ));
    if let Some(far) = far_echo(dir, effort)? {
        figures.push(
            Figure::new("echo: the same between two processors", us(far), "us")
                .against("echo", us(echo)),
        );
    }
    figures.push(
        Figure::new("stack: register read, PF has to be woken", us(one), "us")
            .against("echo", us(echo)),
    );
    // A device is not a process that sleeps; see docs/system/virtio-pf-sim.md.
    let own = dir.join("awake");
    let awake = Stack::start(&own, 1, AWAKE)?;
    let (again, one) = round_trips(&awake, &Echo::start(&own, None)?, effort)?;
    drop(awake);
    // Against the better of both: a simulator that is awake disturbs the echo.
    let echo = echo.min(again);
    figures.push(
        Figure::new("stack: register read, PF awake", us(one), "us")
            .aim(Aim::AtMost(3.0 * us(echo)))
            .against("echo", us(echo)),
    );
    let (own, all) = memory::resident_kib(small.helper.process.pid())?;
    figures.push(Figure::new("helper: memory with 1 VF", all, "KiB").aim(memory_aim(1)));
    figures.push(Figure::new("helper: of this not program files", own, "KiB"));
    drop(small);

    many(dir, echo, effort, &mut figures)?;
    Ok(figures)
}

/// Most memory of a helper with so many VFs, in KiB.
fn memory_aim(vfs: u16) -> Aim {
    Aim::AtMost(12.0 * 1024.0 + 32.0 * f64::from(vfs))
}

/// What so many clients get of a helper, beside the bare round trip of this run.
///
/// # Errors
/// If a process fails.
pub fn clients(dir: &Path, numbers: &[u16], effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let most = numbers.iter().max().copied().unwrap_or(1);
    let stack = Stack::start(dir, most, &[])?;
    let (echo, _) = round_trips(&stack, &Echo::start(dir, None)?, effort)?;
    figures.push(Figure::new(
        "echo: bare SEQPACKET round trip",
        echo * 1e6,
        "us",
    ));
    rates(&stack, numbers, echo, effort, &mut figures)?;
    Ok(figures)
}

fn rates(
    stack: &Stack,
    numbers: &[u16],
    echo: f64,
    effort: Effort,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    for &clients in numbers {
        let got = together(stack, clients, effort)?;
        let (rate, wait) = match clients {
            8 => (Aim::AtLeast(50_000.0), Aim::None),
            64 => (Aim::AtLeast(1.0 / echo), Aim::AtMost(150.0 * echo * 1e6)),
            _ => (Aim::None, Aim::None),
        };
        let name = format!("stack: register reads, {clients} clients");
        figures.push(
            Figure::new(name, got.rate, "/s")
                .aim(rate)
                .against("echo", 1.0 / echo),
        );
        let name = format!("stack: 99th percentile, {clients} clients");
        figures.push(
            Figure::new(name, got.p99 * 1e6, "us")
                .aim(wait)
                .against("echo", echo * 1e6),
        );
    }
    Ok(())
}

/// With many clients and VFs. `echo` is the bare round trip of this run, in seconds.
fn many(dir: &Path, echo: f64, effort: Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let large = Stack::start(dir, 200, &[])?;
    rates(&large, &[1, 8, 64, 200], echo, effort, figures)?;
    for (name, pid) in [
        ("helper", large.helper.process.pid()),
        ("simulator", large.sim.process.pid()),
    ] {
        for clients in [1, 8, 64] {
            if let Some(count) = syscalls(&large, pid, clients, effort)? {
                let name = format!("{name}: system calls per read, {clients} clients");
                figures.push(Figure::new(name, count, ""));
            }
        }
    }
    let (before, after) = after_connections(&large, CONNECTIONS, 8)?;
    figures.push(
        Figure::new(
            format!("helper: memory gained by {CONNECTIONS} connections"),
            after.memory - before.memory,
            "KiB",
        )
        .aim(Aim::AtMost(64.0)),
    );
    figures.push(
        Figure::new(
            format!("helper: files gained by {CONNECTIONS} connections"),
            after.files as f64 - before.files as f64,
            "",
        )
        .aim(Aim::AtMost(0.0)),
    );
    drop(large);

    for vfs in [64, 2048] {
        let stack = Stack::start(dir, vfs, &[])?;
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let (sim, helper) = (ms(stack.sim_start), ms(stack.helper_start));
        figures.push(Figure::new(
            format!("simulator: start, {vfs} VFs"),
            sim,
            "ms",
        ));
        figures.push(Figure::new(
            format!("helper: start, {vfs} VFs"),
            helper,
            "ms",
        ));
        // Sessions have memory, too.
        together(
            &stack,
            vfs.min(500),
            Effort {
                rounds: 1,
                ..effort
            },
        )?;
        let (own, all) = memory::resident_kib(stack.helper.process.pid())?;
        let name = format!("helper: memory with {vfs} VFs");
        figures.push(Figure::new(name, all, "KiB").aim(memory_aim(vfs)));
        figures.push(Figure::new("helper: of this not program files", own, "KiB"));
        let (_, sim) = memory::resident_kib(stack.sim.process.pid())?;
        figures.push(Figure::new(
            format!("simulator: memory with {vfs} VFs"),
            sim,
            "KiB",
        ));
    }
    Ok(())
}
