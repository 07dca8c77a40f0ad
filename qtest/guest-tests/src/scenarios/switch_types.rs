// SPDX-License-Identifier: GPL-2.0-or-later
//! The types beyond net and blk, all in one guest: each is busy with what it is for when its driver
//! is taken away, and is used and compared under the other kind of interrupt.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{anyhow, ensure, Context, Result};
use serde_json::json;

use super::switch::{stayed_whole, TIMES};
use crate::run::Run;
use crate::types::{Direct, Guest as _, Interrupts, Place, LONG, SHORT};
use test_kit::patience::until;
use test_machine::bench::Bench;
use test_machine::machine::{Driver, Machine};
use test_machine::process::POLL;
use test_machine::scenario::Scenario;

pub(super) const INTERRUPTS_SWITCH_TYPES: Scenario<Run> = Scenario {
    name: "interrupts-switch-types",
    shows: "the same for the other five types in one guest: each is busy with what it is for when its driver is taken away (entropy read, lines to the host and back through a port, a balloon that grows, writes to the SCSI disk, writes to the 9P share), and is used and compared after each switch",
    run: Run::Guest(switch),
};

/// Types with options of the simulator.
const TYPES: [(&str, &[&str]); 5] = [
    ("rng", &[]),
    ("console", &["--console-ports", "1"]),
    ("scsi", &["--scsi-ram", "96M"]),
    ("9p", &["--tag", "switched"]),
    ("balloon", &[]),
];
/// Pages in the balloon, in turn.
const PAGES: [u64; 2] = [4096, 12288];
/// A page of the balloon in KiB.
const PAGE_KIB: u64 = 4;
/// Buffers that a busy function goes through before it is switched.
const BUSY: u64 = 5;

fn switch(bench: &Bench) -> Result<String> {
    let mut direct = Direct::boot(bench, Driver::Legacy, "", &TYPES)?;
    let answering = Answering::start(&direct.dir("console")?)?;
    direct.run("types_load", SHORT)?;
    let total = memory(&mut direct)?;
    let mut asked = 0;
    for turn in 0..=TIMES {
        let by = [Interrupts::Msix, Interrupts::Intx][(turn % 2) as usize];
        let pages = PAGES[(turn % 2) as usize];
        let switched = one_turn(&mut direct, turn, by, pages);
        direct
            .machine
            .explained(switched)
            .with_context(|| format!("turn {turn}, to {}", by.name()))?;
        let left = memory(&mut direct)?;
        ensure!(
            left + pages * PAGE_KIB == total,
            "turn {turn}: with {pages} pages in the balloon the guest has {left} KiB of {total}"
        );
        asked += pages;
    }
    for (index, (kind, pf)) in direct.pfs.iter().enumerate() {
        stayed_whole(pf).context(*kind)?;
        let lost = property(&mut direct.machine, index, "state-lost")?;
        ensure!(lost == json!(false), "the state of {kind} was lost");
        let pin = property(&mut direct.machine, index, "intx-interrupts")?;
        ensure!(pin.as_u64() > Some(0), "{kind} had no INTx: {pin}");
    }
    // Each new driver begins with an empty balloon.
    let inflated = Place::new(&mut direct, "balloon").number("inflated")?;
    ensure!(
        inflated >= asked,
        "{inflated} pages went into the balloon, not {asked}"
    );
    let lost = Place::new(&mut direct, "console").number("tx_lost")?;
    ensure!(lost == 0, "output of the console was lost");
    let (lines, checks) = answering.end()?;
    ensure!(
        checks == TIMES + 1 && lines > TIMES * BUSY,
        "the host answered {checks} lines to be compared and {lines} others"
    );
    let turns = TIMES / 2;
    Ok(format!(
        "{turns} times to INTx and {turns} times to MSI-X, each in the middle of: {} KiB of entropy, \
         {lines} lines of the console, {} MiB to the SCSI disk, {} MiB to the 9P share, {inflated} \
         pages to the balloon",
        Place::new(&mut direct, "rng").number("bytes")? >> 10,
        Place::new(&mut direct, "scsi").counters()?.sectors_written >> 11,
        Place::new(&mut direct, "9p").number("bytes_written")? >> 20,
    ))
}

/// All functions are busy when their drivers go, and work when they are back. In turn 0 they are
/// only used.
fn one_turn(direct: &mut Direct, turn: u64, by: Interrupts, pages: u64) -> Result<()> {
    if turn > 0 {
        direct.run("switch_busy", SHORT)?;
        wait_busy(direct)?;
    }
    let wanted = json!({ "cmd": "balloon", "vf": 1, "pages": pages });
    direct.control("balloon", &wanted)?;
    direct.run(&format!("switch_types {} {turn}", by.name()), LONG)?;
    Place::new(direct, "balloon").wait_number("actual", pages, LONG)
}

/// Waits until each function but the balloon has gone through some buffers.
fn wait_busy(direct: &mut Direct) -> Result<()> {
    let mut now = || -> Result<Vec<u64>> {
        let kinds = TYPES.iter().map(|(kind, _)| *kind);
        kinds
            .filter(|kind| *kind != "balloon")
            .map(|kind| Ok(Place::new(direct, kind).counters()?.buffers))
            .collect()
    };
    let before = now()?;
    let mut after = before.clone();
    let done = until(SHORT, POLL, || {
        after = now()?;
        let busy = before.iter().zip(&after).all(|(b, a)| *a >= b + BUSY);
        Ok(busy.then_some(()))
    });
    done.with_context(|| {
        format!("not all functions are busy: buffers were {before:?}, are {after:?}")
    })
}

/// The guest's memory in KiB.
fn memory(direct: &mut Direct) -> Result<u64> {
    direct.run("memory", SHORT)?.number("MemTotal")
}

/// A property of the device of function `index`.
fn property(machine: &mut Machine, index: usize, name: &str) -> Result<serde_json::Value> {
    let path = format!("/machine/peripheral/vf{index}");
    machine
        .qmp()
        .execute("qom-get", &json!({ "path": path, "property": name }))
}

/// The host's end of the console: answers each line with the same.
struct Answering {
    socket: UnixStream,
    thread: JoinHandle<(u64, u64)>,
}

impl Answering {
    fn start(dir: &Path) -> Result<Self> {
        let path = dir.join("vf1.port1");
        let socket = UnixStream::connect(&path)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        let (read, write) = (socket.try_clone()?, socket.try_clone()?);
        let thread = thread::spawn(move || answer(read, write));
        Ok(Self { socket, thread })
    }

    /// Lines of the load that were answered, and lines that the guest compares.
    fn end(self) -> Result<(u64, u64)> {
        self.socket.shutdown(Shutdown::Both)?;
        self.thread.join().map_err(|_| anyhow!("a thread panicked"))
    }
}

/// Until the connection ends.
fn answer(read: UnixStream, mut write: UnixStream) -> (u64, u64) {
    let mut read = BufReader::new(read);
    let (mut lines, mut checks) = (0, 0);
    let mut line = Vec::new();
    while read.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
        if line.starts_with(b"check ") {
            checks += 1;
            // What came before may have lost its end with the driver.
            line.insert(0, b'\n');
        } else {
            lines += 1;
        }
        if write.write_all(&line).is_err() {
            break;
        }
        line.clear();
    }
    (lines, checks)
}
