// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients, the real helper and the simulated PF, each a process of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use legacy_vf_proto::QueryKind;
use qtest_harness::{DeviceKind, Helper, HelperClient, Simulator, SimulatorBuilder};
use rustix::process::{kill_process, Pid, Signal};

use crate::echo::{leave, stay_on, Echo};
use crate::report::{Aim, Figure};
use crate::socket::Access;
use crate::{compare, memory, time_per_call, Effort};

/// Keeps the simulator from sleeping between two commands of one client.
const AWAKE: &[&str] = &["--busy-poll", "100"];

/// A helper and its PF.
#[derive(Debug)]
pub struct Stack {
    /// The helper.
    pub helper: Helper,
    /// The PF.
    pub sim: Simulator,
    /// How long the simulator took to listen.
    pub sim_start: Duration,
    /// How long the helper took to serve.
    pub helper_start: Duration,
}

impl Stack {
    /// Starts both; the simulator with `options` besides.
    ///
    /// # Errors
    /// If one does not come up.
    pub fn start(dir: &Path, vfs: u16, options: &[&str]) -> Result<Self> {
        let dir: PathBuf = dir.join(format!("vfs{vfs}"));
        std::fs::create_dir_all(&dir)?;
        let begun = Instant::now();
        let sim = SimulatorBuilder::new(DeviceKind::Net, vfs)
            .args(options)
            .spawn(&dir)?;
        let sim_start = begun.elapsed();
        let begun = Instant::now();
        let helper = Helper::spawn(&dir, "helper", &sim.pf_socket(), vfs, &[])?;
        let helper_start = begun.elapsed();
        Ok(Stack {
            helper,
            sim,
            sim_start,
            helper_start,
        })
    }
}

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

/// Register reads per second of `clients` clients together, each a thread with a VF of its own.
///
/// # Errors
/// If the helper refuses.
pub fn throughput(stack: &Stack, clients: u16, effort: Effort) -> Result<f64> {
    let stop = AtomicBool::new(false);
    let total = AtomicU64::new(0);
    let socket = stack.helper.socket();
    let mut best = 0f64;
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for member in 1..=clients {
            let mut access = Access::open(socket, member)?;
            let (stop, total) = (&stop, &total);
            threads.push(scope.spawn(move || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    access.read_status()?;
                    total.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        for _ in 0..effort.rounds {
            let (from, begun) = (total.load(Ordering::Relaxed), Instant::now());
            std::thread::sleep(effort.round);
            let done = total.load(Ordering::Relaxed) - from;
            best = best.max(done as f64 / begun.elapsed().as_secs_f64());
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a client thread panicked"),
            }
        }
        Ok(())
    })?;
    Ok(best)
}

/// System calls of a process per register read of `clients` clients, counted by perf; `None` where
/// perf cannot count them.
///
/// # Errors
/// If the helper refuses.
pub fn syscalls(stack: &Stack, pid: u32, clients: u16, effort: Effort) -> Result<Option<f64>> {
    let pid = pid.to_string();
    let counting = Command::new("perf")
        .args([
            "stat",
            "-x",
            ",",
            "-e",
            "raw_syscalls:sys_enter",
            "-p",
            &pid,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut counting) = counting else {
        return Ok(None);
    };
    // It counts from a moment after its start, which only matters for the first few.
    std::thread::sleep(Duration::from_millis(300));
    let before = reads(stack)?;
    throughput(stack, clients, effort)?;
    let done = reads(stack)? - before;
    kill_process(Pid::from_child(&counting), Signal::INT)?;
    let mut text = String::new();
    if let Some(mut stderr) = counting.stderr.take() {
        stderr.read_to_string(&mut text)?;
    }
    counting.wait()?;
    let count = text
        .lines()
        .find(|l| l.contains("raw_syscalls"))
        .and_then(|l| l.split(',').next()?.parse::<f64>().ok());
    Ok(count.map(|count| count / done.max(1.0)))
}

/// Register reads that the helper has done so far.
fn reads(stack: &Stack) -> Result<f64> {
    let mut client = HelperClient::connect(stack.helper.socket())?;
    client.hello()?;
    let v = client.query(QueryKind::COUNTERS, 0)?;
    let count = v.pointer("/accesses/common_read").and_then(|n| n.as_f64());
    count.context("no counter of reads")
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
    figures.push(
        Figure::new("helper: memory with 1 VF", all, "KiB").aim(Aim::AtMost(12.0 * 1024.0 + 32.0)),
    );
    figures.push(Figure::new("helper: of this not program files", own, "KiB"));
    drop(small);

    let large = Stack::start(dir, 64, &[])?;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    figures.push(Figure::new(
        "simulator: start, 64 VFs",
        ms(large.sim_start),
        "ms",
    ));
    figures.push(Figure::new(
        "helper: start, 64 VFs",
        ms(large.helper_start),
        "ms",
    ));
    for clients in [1, 8, 64] {
        let rate = throughput(&large, clients, effort)?;
        let aim = match clients {
            8 => Aim::AtLeast(50_000.0),
            _ => Aim::None,
        };
        figures.push(
            Figure::new(
                format!("stack: register reads, {clients} clients"),
                rate,
                "/s",
            )
            .aim(aim),
        );
    }
    for (name, pid) in [
        ("helper", large.helper.process.pid()),
        ("simulator", large.sim.process.pid()),
    ] {
        for clients in [1, 8] {
            if let Some(count) = syscalls(&large, pid, clients, effort)? {
                let name = format!("{name}: system calls per read, {clients} clients");
                figures.push(Figure::new(name, count, ""));
            }
        }
    }
    let (own, all) = memory::resident_kib(large.helper.process.pid())?;
    figures.push(
        Figure::new("helper: memory with 64 VFs", all, "KiB")
            .aim(Aim::AtMost(12.0 * 1024.0 + 64.0 * 32.0)),
    );
    figures.push(Figure::new("helper: of this not program files", own, "KiB"));
    let (_, sim) = memory::resident_kib(large.sim.process.pid())?;
    figures.push(Figure::new("simulator: memory with 64 VFs", sim, "KiB"));
    Ok(figures)
}
