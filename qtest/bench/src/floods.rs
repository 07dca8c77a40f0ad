// SPDX-License-Identifier: GPL-2.0-or-later
//! What one client that asks for too much does to the waiting times of others.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{bail, Context, Result};
use legacy_vf_proto::{QueryKind, Request, Space, MAX_MESSAGE};
use qtest_harness::HelperClient;
use rustix::net::{recv, send, RecvFlags, SendFlags};

use crate::clients::together;
use crate::report::{Aim, Figure};
use crate::rig::Stack;
use crate::socket::Access;
use crate::Effort;

/// The others, each with a VF of its own.
const OTHERS: u16 = 4;
/// VF of the one that floods.
const FLOODER: u16 = 5;
/// Requests that it has waiting at the helper.
const DEEP: usize = 16;
/// The others may wait this many times as long.
const BOUND: f64 = 2.0;

/// Ways to ask for too much.
pub const FLOODS: [&str; 4] = ["reads", "queries", "notifications", "connects"];

/// Floods until it is killed.
///
/// # Errors
/// If the helper hangs up.
pub fn flood(kind: &str, path: &Path) -> Result<()> {
    let request = match kind {
        "reads" => Request::Read {
            space: Space::Common,
            offset: 18,
            len: 1,
        },
        "queries" => Request::Query {
            what: QueryKind::COUNTERS,
            member: 0,
        },
        "notifications" => Request::Notify { queue: 0 },
        "connects" => loop {
            // What is refused is tried again at once.
            if let Ok(mut client) = HelperClient::connect(path) {
                let _refused = client.hello();
            }
        },
        other => bail!("no flood {other}; known are {}", FLOODS.join(", ")),
    };
    let access = Access::open(path, FLOODER)?;
    let socket = access.socket();
    let mut message = [0; MAX_MESSAGE];
    let mut buf = [0; MAX_MESSAGE];
    let mut next = |seq: u32| -> Result<()> {
        let len = match request {
            Request::Notify { .. } => request.encode_no_reply(seq, &mut message),
            _ => request.encode(seq, &mut message),
        };
        let message = message.get(..len).unwrap_or_default();
        send(socket, message, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    let answered = !matches!(request, Request::Notify { .. });
    for seq in 1000.. {
        if answered && seq >= 1000 + DEEP as u32 {
            let (_, len) = recv(socket, &mut buf[..], RecvFlags::empty())?;
            anyhow::ensure!(len > 0, "the helper hung up");
        }
        next(seq)?;
    }
    Ok(())
}

struct Flooder(Child);

impl Drop for Flooder {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The waiting times of the others beside each flood, as ratios to those without.
///
/// # Errors
/// If a process fails.
pub fn all(dir: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let stack = Stack::start(&dir.join("floods"), FLOODER, &[])?;
    let mut figures = Vec::new();
    for kind in FLOODS {
        // In turns, so that what else the machine does hits both alike.
        let alone = together(&stack, OTHERS, effort)?;
        let mut flooder = Flooder(
            Command::new(std::env::current_exe()?)
                .args(["--flood", kind])
                .arg(stack.helper.socket())
                .stdin(Stdio::null())
                .spawn()
                .context("cannot start a flood")?,
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
        let beside = together(&stack, OTHERS, effort)?;
        if let Some(status) = flooder.0.try_wait()? {
            bail!("the flood of {kind} has ended: {status}");
        }
        drop(flooder);
        let name =
            format!("fairness: 99th percentile of {OTHERS} clients beside a flood of {kind}");
        let (alone, beside) = (alone.p99 * 1e6, beside.p99 * 1e6);
        figures.push(
            Figure::new(name, beside, "us")
                .aim(Aim::AtMost(BOUND * alone))
                .against("without", alone),
        );
    }
    Ok(figures)
}
