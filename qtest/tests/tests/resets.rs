// SPDX-License-Identifier: GPL-2.0-or-later
//! Every reset in every state of the driver. After each the VF is as new, leaves memory alone, and
//! works again. The table in `docs/system/resets.md` is made here:
//! `VLVF_UPDATE_DOCS=1 cargo test -p qtest_tests --test resets` writes it anew.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::stack::SLOT;
use qtest_harness::{
    DeviceKind, LegacyDriver, Machine, Msix, PciDevice, Qemu, Qtest, Stack, PATIENCE,
};
use qtest_tests::wait_for;
use serde_json::{json, Value};
use virtio_pci_spec::pci::{header, CAP_ID_EXPRESS, COMMAND_MASTER};

type Reset = fn(&mut Guest) -> Result<()>;

/// How the device is reset.
const RESETS: [(&str, Reset); 6] = [
    ("status 0", status_0),
    ("queue address 0", address_0),
    ("FLR", function_level_reset),
    ("`system_reset`", system_reset),
    ("kexec", kexec),
    ("crash kernel", crash),
];

/// How far the driver has come, each on top of the one before it; the last two begin anew.
const STATES: [(&str, Until, Interrupts); 7] = [
    ("fresh", Until::Fresh, Interrupts::None),
    ("features", Until::Features, Interrupts::None),
    ("queues set", Until::Queues, Interrupts::None),
    ("DRIVER_OK", Until::DriverOk, Interrupts::None),
    ("traffic", Until::Traffic, Interrupts::None),
    ("traffic, MSI-X on", Until::Traffic, Interrupts::MsiX),
    ("INTx pending", Until::Used, Interrupts::IntX),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Until {
    Fresh,
    Features,
    Queues,
    DriverOk,
    /// Requests were notified, nobody has waited for them.
    Traffic,
    /// Requests have come back, the driver has not looked.
    Used,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupts {
    None,
    MsiX,
    IntX,
}

struct Guest {
    kind: DeviceKind,
    qemu: Qemu,
    device: PciDevice,
    driver: LegacyDriver,
    msix: Msix,
    /// What the device may write to: (address, bytes).
    writable: Vec<(u64, usize)>,
}

/// All that can be read of a function.
type Registers = Vec<(String, u32)>;

impl Guest {
    fn new(stack: &Stack, kind: DeviceKind) -> Result<Self> {
        let (qemu, device) = stack.mapped(Machine::Q35)?;
        let driver = LegacyDriver::new(&device)?;
        let msix = device.msix(&qemu.qtest)?;
        Ok(Guest {
            kind,
            qemu,
            device,
            driver,
            msix,
            writable: Vec::new(),
        })
    }

    fn msix(&mut self, on: bool) -> Result<()> {
        if on {
            self.msix.program(&self.qemu.qtest, &mut self.qemu.memory)?;
        }
        self.msix.enable(&self.qemu.qtest, &self.device, on)?;
        self.driver.msix = on;
        Ok(())
    }

    /// Every register, with MSI-X off and on; ends with MSI-X off and queue 0 selected.
    fn registers(&mut self) -> Result<Registers> {
        let mut out = Registers::new();
        let interrupt = self.device.read(&self.qemu.qtest, 6, 2)? & 8;
        out.push(("STATUS.INTERRUPT".into(), interrupt));
        for msix in [false, true] {
            self.msix.enable(&self.qemu.qtest, &self.device, msix)?;
            let (q, d) = (&self.qemu.qtest, &mut self.driver);
            d.msix = msix;
            let mut get = |name: String, offset, width| -> Result<u32> {
                let value = d.read(q, offset, width)?;
                out.push((format!("{name} (MSI-X {msix})"), value));
                Ok(value)
            };
            get("device features".into(), 0, 4)?;
            get("driver features".into(), 4, 4)?;
            get("queue select".into(), 14, 2)?;
            get("status".into(), 18, 1)?;
            get("ISR".into(), 19, 1)?;
            if msix {
                get("configuration vector".into(), 20, 2)?;
            }
            for queue in 0..5 {
                d.write(q, 14, 2, queue)?;
                let mut get = |name: &str, offset, width| -> Result<()> {
                    let value = d.read(q, offset, width)?;
                    out.push((format!("queue {queue} {name} (MSI-X {msix})"), value));
                    Ok(())
                };
                get("address", 8, 4)?;
                get("size", 12, 2)?;
                if msix {
                    get("vector", 22, 2)?;
                }
            }
            d.write(q, 14, 2, 0)?;
            for byte in 0..12 {
                let value = d.config(q, byte, 1)?;
                out.push((format!("configuration byte {byte} (MSI-X {msix})"), value));
            }
        }
        self.msix.enable(&self.qemu.qtest, &self.device, false)?;
        self.driver.msix = false;
        Ok(out)
    }

    fn fill(&mut self, queue: &mut Queue, buffers: &[Buffer]) -> Result<()> {
        let q = &self.qemu.qtest;
        for at in self.driver.add(q, &mut self.qemu.memory, queue, buffers)? {
            self.writable.push(at);
        }
        self.writable.push((queue.used_ring(), 4));
        Ok(())
    }

    /// Brings the driver to a state. Gives the queue whose requests come back by themselves.
    fn drive(&mut self, until: Until, interrupts: Interrupts) -> Result<Option<Queue>> {
        self.writable.clear();
        if until == Until::Fresh {
            return Ok(None);
        }
        self.msix(interrupts == Interrupts::MsiX)?;
        self.driver.begin(&self.qemu.qtest, 1 << 5)?;
        if until == Until::Features {
            return Ok(None);
        }
        let (q, memory) = (&self.qemu.qtest, &mut self.qemu.memory);
        if self.driver.msix {
            self.driver.write(q, 20, 2, 0)?;
        }
        let mut first = self.driver.queue(q, memory, 0, 1)?;
        let mut second = match self.kind {
            DeviceKind::Net => Some(self.driver.queue(q, memory, 1, 2)?),
            _ => None,
        };
        if until == Until::Queues {
            return Ok(None);
        }
        self.driver.set_status(q, 7)?;
        if until == Until::DriverOk {
            return Ok(None);
        }
        match &mut second {
            Some(transmit) => {
                for _ in 0..8 {
                    self.fill(&mut first, &[Buffer::In(10), Buffer::In(1514)])?;
                }
                self.driver.kick(&self.qemu.qtest, &first)?;
                let frame = qtest_tests::arp_request();
                self.fill(transmit, &[Buffer::Out(vec![0; 10]), Buffer::Out(frame)])?;
                self.driver.kick(&self.qemu.qtest, transmit)?;
            }
            None => {
                for sector in 0..8u64 {
                    let mut header = vec![0; 8];
                    header.extend(sector.to_le_bytes());
                    let buffers = [Buffer::Out(header), Buffer::In(512), Buffer::In(1)];
                    self.fill(&mut first, &buffers)?;
                }
                self.driver.kick(&self.qemu.qtest, &first)?;
            }
        }
        Ok(Some(first))
    }

    /// Work from the very beginning, with the interrupts that go with it.
    fn works(&mut self, interrupts: Interrupts) -> Result<()> {
        let mut queue = self
            .drive(Until::Used, interrupts)?
            .context("nothing comes back")?;
        let bytes = self
            .driver
            .wait_used(&self.qemu.qtest, &mut queue, PATIENCE)
            .context("no request came back")?;
        match self.kind {
            DeviceKind::Net => ensure!(bytes.get(22..24) == Some(&[8, 6]), "no ARP reply"),
            _ => ensure!(bytes.last() == Some(&0), "the disk refused a request"),
        }
        if interrupts == Interrupts::MsiX {
            let (q, msix) = (&self.qemu.qtest, &self.msix);
            wait_for("interrupt", PATIENCE, || {
                Ok(msix.fired(q, 1)?.then_some(()))
            })?;
        } else {
            let (q, driver) = (&self.qemu.qtest, &self.driver);
            wait_for("ISR", PATIENCE, || {
                Ok((driver.read(q, 19, 1)? & 1 == 1).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Marks all that the device could write to, notifies as a stray driver would, and gives it time.
    fn memory_stays(&mut self) -> Result<()> {
        const MARK: u8 = 0xa5;
        let q = &self.qemu.qtest;
        for (at, len) in &self.writable {
            q.set_memory(*at, &vec![MARK; *len])?;
        }
        let queues = if self.kind == DeviceKind::Net { 3 } else { 1 };
        for queue in 0..queues {
            self.driver.write(q, 16, 2, queue)?;
        }
        std::thread::sleep(Duration::from_millis(20));
        for (at, len) in &self.writable {
            let bytes = q.memory(*at, *len)?;
            ensure!(
                bytes.iter().all(|b| *b == MARK),
                "the device wrote to {at:#x} after its reset"
            );
        }
        Ok(())
    }
}

fn status_0(g: &mut Guest) -> Result<()> {
    g.driver.set_status(&g.qemu.qtest, 0)?;
    ensure!(g.driver.status(&g.qemu.qtest)? == 0, "status");
    // The guest, not the device, has MSI-X on.
    g.msix(false)
}

fn address_0(g: &mut Guest) -> Result<()> {
    g.driver.write(&g.qemu.qtest, 14, 2, 0)?;
    g.driver.write(&g.qemu.qtest, 8, 4, 0)?;
    g.msix(false)
}

/// The registers that say where the function is answer again.
fn map_again(g: &mut Guest) -> Result<()> {
    g.device = PciDevice::find(&g.qemu.qtest, SLOT)?;
    g.device.map(&g.qemu.qtest)?;
    g.driver = LegacyDriver::new(&g.device)?;
    g.msix = g.device.msix(&g.qemu.qtest)?;
    let control = g.msix.is_enabled(&g.qemu.qtest, &g.device)?;
    ensure!(!control, "MSI-X is still on");
    Ok(())
}

fn function_level_reset(g: &mut Guest) -> Result<()> {
    let q: &Qtest = &g.qemu.qtest;
    let express = g
        .device
        .capabilities(q)?
        .into_iter()
        .find(|c| c.0 == CAP_ID_EXPRESS)
        .context("no PCI Express capability")?
        .1;
    let control = g.device.read(q, express + 8, 2)?;
    g.device.write(q, express + 8, 2, control | 0x8000)?;
    map_again(g)
}

fn system_reset(g: &mut Guest) -> Result<()> {
    g.qemu.qmp.command("system_reset", json!({}))?;
    g.qemu.qmp.event("RESET", PATIENCE, |_| true)?;
    map_again(g)
}

/// What a kernel finds that starts without any reset: it switches MSI-X off, sizes and places the
/// BARs, and its driver begins with status 0.
fn another_kernel(g: &mut Guest) -> Result<()> {
    let msix = g.msix.clone();
    msix.enable(&g.qemu.qtest, &g.device, false)?;
    map_again(g)?;
    g.driver.set_status(&g.qemu.qtest, 0)?;
    ensure!(g.driver.status(&g.qemu.qtest)? == 0, "status");
    Ok(())
}

/// The kernel that goes ends bus mastering, nothing more.
fn kexec(g: &mut Guest) -> Result<()> {
    let command = g.device.read(&g.qemu.qtest, header::COMMAND, 2)?;
    let command = u16::try_from(command)? & !COMMAND_MASTER;
    g.device.set_command(&g.qemu.qtest, command)?;
    another_kernel(g)
}

/// The kernel that goes does nothing at all, and some time passes.
fn crash(g: &mut Guest) -> Result<()> {
    std::thread::sleep(Duration::from_millis(5));
    another_kernel(g)
}

fn compare(before: &Registers, after: &Registers) -> Result<()> {
    let differ: Vec<String> = before
        .iter()
        .zip(after)
        .filter(|(b, a)| b != a)
        .map(|(b, a)| format!("{}: {:#x} instead of {:#x}", a.0, a.1, b.1))
        .collect();
    ensure!(differ.is_empty(), "not as new: {}", differ.join(", "));
    Ok(())
}

fn cell(
    g: &mut Guest,
    new: &Registers,
    reset: Reset,
    (until, interrupts): (Until, Interrupts),
) -> Result<()> {
    let queue = g.drive(until, interrupts)?;
    if until == Until::Used {
        let (q, d) = (&g.qemu.qtest, &g.driver);
        let mut queue = queue.context("no queue")?;
        d.wait_used(q, &mut queue, PATIENCE)?;
        let device = &g.device;
        wait_for("INTx", PATIENCE, || {
            Ok((device.read(q, 6, 2)? & 8 != 0).then_some(()))
        })?;
    }
    reset(g)?;
    g.memory_stays()?;
    compare(new, &g.registers()?)?;
    let again = match interrupts {
        Interrupts::MsiX => Interrupts::MsiX,
        _ => Interrupts::IntX,
    };
    g.works(again).context("after the reset")?;
    // For the next cell.
    status_0(g)
}

fn violations(stack: &mut Stack) -> Result<Vec<Value>> {
    let answer = stack
        .sim
        .control(&json!({"cmd": "events", "since": 0, "max": 100_000}))?;
    let records = answer.get("events").and_then(Value::as_array);
    Ok(records
        .context("no events")?
        .iter()
        .filter(|r| r.get("event").is_some_and(|e| e == "violation"))
        .cloned()
        .collect())
}

fn row(kind: DeviceKind, name: &str) -> Result<Vec<Vec<String>>> {
    let mut stack = Stack::start(kind, 1)?;
    let mut g = Guest::new(&stack, kind)?;
    let new = g.registers()?;
    let mut rows = Vec::new();
    for (reset_name, reset) in RESETS {
        let mut row = vec![name.to_owned(), reset_name.to_owned()];
        for (state, until, interrupts) in STATES {
            row.push(match cell(&mut g, &new, reset, (until, interrupts)) {
                Ok(()) => "ok".into(),
                Err(error) => {
                    eprintln!("{name}: {reset_name}, {state}: {error:#}");
                    // One bad cell must not spoil the next.
                    g = Guest::new(&stack, kind).or_else(|_| {
                        stack = Stack::start(kind, 1)?;
                        Guest::new(&stack, kind)
                    })?;
                    "**no**".into()
                }
            });
        }
        rows.push(row);
    }
    drop(g);
    let found = violations(&mut stack)?;
    assert!(
        found.is_empty(),
        "{} violations, the first: {:?}",
        found.len(),
        found.first()
    );
    Ok(rows)
}

const BEGIN: &str = "<!-- made by the test resets: begin -->\n";
const END: &str = "<!-- made by the test resets: end -->\n";

fn table(rows: &[Vec<String>]) -> Result<String> {
    let mut out = String::from(BEGIN);
    let states: Vec<&str> = STATES.iter().map(|s| s.0).collect();
    writeln!(out, "| Device | Reset | {} |", states.join(" | "))?;
    writeln!(out, "|{}", "---|".repeat(2 + STATES.len()))?;
    for row in rows {
        writeln!(out, "| {} |", row.join(" | "))?;
    }
    out.push_str(END);
    Ok(out)
}

// Covers: LIO-08, SRV-04, IRQ-06
#[test]
fn every_reset_in_every_state() -> Result<()> {
    let mut rows = row(DeviceKind::Net, "net")?;
    rows.extend(row(DeviceKind::Block, "blk")?);
    let table = table(&rows)?;
    assert!(!table.contains("**no**"), "\n{table}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/system/resets.md");
    let text = std::fs::read_to_string(&page)?;
    let (before, rest) = text.split_once(BEGIN).context("no table in the page")?;
    let (_, after) = rest.split_once(END).context("the table has no end")?;
    let fresh = format!("{before}{table}{after}");
    if std::env::var_os("VLVF_UPDATE_DOCS").is_some() {
        std::fs::write(&page, &fresh)?;
    }
    assert_eq!(
        std::fs::read_to_string(&page)?,
        fresh,
        "docs/system/resets.md is not current; VLVF_UPDATE_DOCS=1 writes it"
    );
    Ok(())
}
