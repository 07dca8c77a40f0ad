// SPDX-License-Identifier: GPL-2.0-or-later
//! What holds for a VF of any type: its identity, and how accesses to its device configuration
//! become commands.

use anyhow::{ensure, Context, Result};
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Simulator, Stack};
use serde_json::{json, Value};
use virtio_pci_spec::config::{field_at, full_len};
use virtio_pci_spec::DeviceType;

use crate::access::{ones, pieces};
use crate::modern;

/// Opcodes of the device configuration.
const DEV_CFG_WRITE: u64 = 4;
const DEV_CFG_READ: u64 = 5;

/// A type and what a guest has to see of it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The simulator's name for it.
    pub kind: DeviceKind,
    /// The specification's.
    pub device: DeviceType,
    /// PCI device ID.
    pub id: u32,
    /// Subsystem ID.
    pub subsystem: u32,
    /// Class and subclass.
    pub class: u32,
    /// Bytes of BAR0.
    pub bar0: u32,
    /// Bytes of the device configuration.
    pub config: u16,
}

/// A command for the device configuration, as the simulator saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigCommand {
    /// It wrote.
    pub write: bool,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The bytes as a little-endian number.
    pub data: u64,
}

/// Remembers up to where the simulator's log was read.
#[derive(Debug, Default)]
pub struct CommandLog {
    next: u64,
}

impl CommandLog {
    /// Starts behind everything that is in the log now.
    ///
    /// # Errors
    /// If the simulator does not answer.
    pub fn new(sim: &mut Simulator) -> Result<Self> {
        let mut log = Self::default();
        log.take(sim)?;
        Ok(log)
    }

    /// Commands for the device configuration since the last call.
    ///
    /// # Errors
    /// If the simulator does not answer.
    pub fn take(&mut self, sim: &mut Simulator) -> Result<Vec<ConfigCommand>> {
        let mut out = Vec::new();
        loop {
            let ask = json!({"cmd": "events", "since": self.next, "max": 10_000});
            let answer = sim.control(&ask)?;
            let next = answer["next"].as_u64().context("no next event")?;
            let events = answer["events"].as_array().context("no events")?;
            for event in events {
                let number = |name: &str| event[name].as_u64();
                let write = match number("opcode") {
                    Some(DEV_CFG_WRITE) => true,
                    Some(DEV_CFG_READ) => false,
                    _ => continue,
                };
                ensure!(event["status"] == 0, "a command failed: {event}");
                out.push(ConfigCommand {
                    write,
                    offset: number("offset").context("no offset")?,
                    len: number("len").context("no length")?,
                    data: number("data").unwrap_or(0),
                });
            }
            let more = next != self.next && !events.is_empty();
            self.next = next;
            if !more {
                return Ok(out);
            }
        }
    }

    /// The writes among the commands since the last call, as (offset, bytes, value).
    ///
    /// # Errors
    /// If the simulator does not answer.
    pub fn writes(&mut self, sim: &mut Simulator) -> Result<Vec<(u64, u64, u64)>> {
        let commands = self.take(sim)?;
        let writes = commands.iter().filter(|c| c.write);
        Ok(writes.map(|c| (c.offset, c.len, c.data)).collect())
    }
}

/// IDs, class, revision, BAR0, on both machine types.
///
/// # Errors
/// If something else is seen, or a program is gone.
pub fn check_identity(e: &Expected) -> Result<()> {
    ensure!(full_len(e.device) >= e.config);
    let stack = Stack::start(e.kind, 1)?;
    for machine in [Machine::Pc, Machine::Q35] {
        let (qemu, device) = stack.mapped(machine)?;
        let q = &qemu.qtest;
        let found = PciDevice::find(q, SLOT)?;
        let read = |at, width| found.read(q, at, width);
        assert_eq!(read(0x00, 4)?, e.id << 16 | 0x1af4, "vendor and device");
        assert_eq!(read(0x2c, 4)?, e.subsystem << 16 | 0x1af4, "subsystem");
        assert_eq!(read(0x08, 1)?, 0, "revision");
        assert_eq!(read(0x0a, 2)?, e.class, "class");
        let bar = device.bar(0)?;
        assert!(bar.io, "BAR0 is I/O");
        assert_eq!(bar.size, e.bar0, "bytes of BAR0");
        // MSI-X makes the header longer: the last configuration byte is inside even then.
        assert!(u32::from(e.config) + 24 <= e.bar0);
    }
    Ok(())
}

/// The commands that a guest's read has to become, if another access came before it: a command
/// covers what the read wants of an element, or the aligned bytes of the field, whichever is more,
/// and what QEMU cuts off the read next is answered from those.
fn expected_commands(e: &Expected, offset: u16, width: u8) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut held = 0..0;
    for (start, len) in pieces(offset, width) {
        let want = start + u16::from(len);
        if held.start == start && want <= held.end {
            held.start = want;
            continue;
        }
        held = 0..0;
        let mut at = start;
        while at < want.min(e.config) {
            let (part, field) = field_at(e.device, at).map_or((1, 1), |f| {
                let elem = u16::from(f.elem);
                (elem - (at - f.offset) % elem, f.offset + f.len() - at)
            });
            let part = part.min(want.min(e.config) - at);
            let field = field.min(e.config - at);
            let aligned = match at % 4 {
                0 if field >= 4 => 4,
                0 | 2 if field >= 2 => 2,
                _ => 1,
            };
            let n = part.max(aligned);
            out.push((u64::from(at), u64::from(n)));
            let used = n.min(want - at);
            held = at + used..at + n;
            at += used;
        }
    }
    out
}

/// Every byte of the device configuration at every width and offset, with and without MSI-X: the
/// guest sees what the modern interface shows, each access becomes the fewest commands that stay
/// inside fields, and a write to what the driver may not write becomes none.
///
/// # Errors
/// If a program is gone.
pub fn check_configuration(e: &Expected) -> Result<()> {
    let mut stack = Stack::start(e.kind, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let q = &qemu.qtest;
    let mut driver = LegacyDriver::new(&device)?;
    let msix = device.msix(q)?;
    let config = modern::device_config(q, &device)?;
    assert_eq!(config.len(), usize::from(e.config));
    let mut log = CommandLog::new(&mut stack.sim)?;
    for on in [false, true] {
        msix.enable(q, &device, on)?;
        driver.msix = on;
        let header: u16 = if on { 24 } else { 20 };
        let room = u16::try_from(e.bar0)? - header;
        for width in [1u8, 2, 4] {
            for offset in 0..=room - u16::from(width) {
                let what = format!("{:?}, MSI-X {on}, {width} at {offset}", e.kind);
                // So that nothing is left of the read before.
                driver.status(q)?;
                let got = driver.config(q, offset, width)?;
                let want = (0..u16::from(width)).fold(0, |value, i| {
                    let byte = config.get(usize::from(offset + i)).copied().unwrap_or(0);
                    value | u32::from(byte) << (8 * i)
                });
                assert_eq!(got, want, "read: {what}");
                let seen = log.take(&mut stack.sim)?;
                assert!(seen.iter().all(|c| !c.write), "{what}: {seen:?}");
                let seen: Vec<_> = seen.iter().map(|c| (c.offset, c.len)).collect();
                // The header has a length that is a multiple of 4, so cuts are at the same places.
                assert_eq!(seen, expected_commands(e, offset, width), "{what}");
                if (offset..offset + u16::from(width)).any(|at| writable(e, at)) {
                    continue;
                }
                let at = header + offset;
                driver.write(q, at, width, 0x5a5a_5a5a & ones(width))?;
                let seen = log.take(&mut stack.sim)?;
                assert_eq!(seen, [], "write: {what}");
            }
        }
        assert_eq!(
            modern::device_config(q, &device)?,
            config,
            "nothing changed"
        );
    }
    Ok(())
}

fn writable(e: &Expected, at: u16) -> bool {
    at < e.config && field_at(e.device, at).is_some_and(|f| f.writable)
}

/// One number of what VF 1's device type counts.
///
/// # Errors
/// If the simulator does not answer or has no such number.
pub fn type_number(sim: &mut Simulator, name: &str) -> Result<u64> {
    let counters = sim.counters()?;
    counters
        .pointer(&format!("/hardware/functions/vf1/type/{name}"))
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {name} in {counters}"))
}

/// How often a rule was broken, by the simulator's count.
///
/// # Errors
/// If the simulator does not answer.
pub fn violations(sim: &mut Simulator) -> Result<Vec<String>> {
    let counters = sim.counters()?;
    let map = counters
        .pointer("/hardware/device/violations")
        .and_then(Value::as_object);
    let map = map.with_context(|| format!("no violations in {counters}"))?;
    Ok(map.keys().cloned().collect())
}
