// SPDX-License-Identifier: GPL-2.0-or-later
//! Many clients of one helper: what they get together, how long one waits, and what they leave behind.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use legacy_vf_proto::QueryKind;
use qtest_harness::HelperClient;
use rustix::process::{kill_process, Pid, Signal};

use crate::rig::Stack;
use crate::socket::Access;
use crate::{memory, Effort, WINDOW};

/// What so many clients got.
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// Reads per second of all, in the best [`WINDOW`].
    pub rate: f64,
    /// Seconds that 99 of 100 reads took at most, over all rounds.
    pub p99: f64,
}

/// Reads of one client. Each has a cache line of its own, as it has a processor's for a moment.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Done(AtomicU64);

/// Register reads of `clients` clients together, each a thread with a VF of its own.
///
/// # Errors
/// If the helper refuses.
pub fn together(stack: &Stack, clients: u16, effort: Effort) -> Result<Together> {
    let stop = AtomicBool::new(false);
    let done: Vec<Done> = (0..clients).map(|_| Done::default()).collect();
    let total = || -> u64 { done.iter().map(|one| one.0.load(Ordering::Relaxed)).sum() };
    let socket = stack.helper.socket();
    let mut rate = 0f64;
    let mut times: Vec<u32> = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for (member, done) in (1..).zip(&done) {
            let mut access = Access::open(socket, member)?;
            let stop = &stop;
            threads.push(scope.spawn(move || -> Result<Vec<u32>> {
                let mut times = Vec::new();
                let mut begun = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    access.read_status()?;
                    let ended = Instant::now();
                    let took = ended.duration_since(begun).as_nanos();
                    times.push(u32::try_from(took).unwrap_or(u32::MAX));
                    begun = ended;
                    done.0.fetch_add(1, Ordering::Relaxed);
                }
                Ok(times)
            }));
        }
        let end = Instant::now() + effort.round * effort.rounds;
        while Instant::now() < end {
            let (from, begun) = (total(), Instant::now());
            std::thread::sleep(WINDOW);
            let reads = total() - from;
            rate = rate.max(reads as f64 / begun.elapsed().as_secs_f64());
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join() {
                Ok(result) => times.extend(result?),
                Err(_) => anyhow::bail!("a client thread panicked"),
            }
        }
        Ok(())
    })?;
    ensure!(!times.is_empty(), "no client got an answer");
    let place = (times.len() - 1) * 99 / 100;
    let (_, p99, _) = times.select_nth_unstable(place);
    Ok(Together {
        rate,
        p99: f64::from(*p99) * 1e-9,
    })
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
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = reads(stack)?;
    together(stack, clients, effort)?;
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

/// Connects, greets and hangs up so many times, as another process of this program.
///
/// # Errors
/// If the helper refuses.
pub fn come_and_go(path: &Path, times: u32) -> Result<()> {
    for _ in 0..times {
        HelperClient::connect(path)?.hello()?;
    }
    Ok(())
}

/// What a helper uses.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Resident memory that is not program files, in KiB.
    pub memory: f64,
    /// Open files.
    pub files: usize,
}

/// What the helper uses now.
///
/// # Errors
/// If it is gone.
pub fn used(stack: &Stack) -> Result<Used> {
    let pid = stack.helper.process.pid();
    Ok(Used {
        memory: memory::resident_kib(pid)?.0,
        files: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

/// What the helper uses before and after `count` connections, which `processes` processes make: each may
/// connect only so often a second.
///
/// # Errors
/// If the helper refuses.
pub fn after_connections(stack: &Stack, count: u32, processes: u32) -> Result<(Used, Used)> {
    let connect = |times: u32| -> Result<()> {
        let each = times / processes;
        let mut children = Vec::new();
        for _ in 0..processes {
            let child = Command::new(std::env::current_exe()?)
                .arg("--come-and-go")
                .arg(stack.helper.socket())
                .arg(each.to_string())
                .stdin(Stdio::null())
                .spawn()
                .context("cannot start a client")?;
            children.push(child);
        }
        for mut child in children {
            ensure!(child.wait()?.success(), "a client failed");
        }
        // The last are closed by threads of the helper.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok(())
    };
    // Tables grow to their size once.
    connect(count.min(100 * processes))?;
    let before = used(stack)?;
    connect(count)?;
    Ok((before, used(stack)?))
}
