// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is a 9P transport.

use anyhow::{ensure, Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Qemu, Stack, PATIENCE};
use qtest_tests::transitional::{
    check_configuration, check_identity, type_number, violations, Expected,
};
use virtio_pci_spec::DeviceType;

/// With the simulator's own mount tag, "share".
const P9: Expected = Expected {
    kind: DeviceKind::P9,
    device: DeviceType::P9,
    id: 0x1009,
    subsystem: 9,
    class: 0x0002,
    bar0: 32,
    config: 7,
};

// Covers: PCI-01, PCI-02, PCI-03, PCI-04, PCI-07, P9-01
#[test]
fn it_is_a_transitional_9p_transport() -> Result<()> {
    check_identity(&P9)
}

// Covers: LIO-04, LIO-05, LIO-10, P9-01
#[test]
fn accesses_to_its_configuration_are_cut_at_fields() -> Result<()> {
    check_configuration(&P9)
}

// Covers: P9-02, LIO-10
#[test]
fn the_longest_tag_is_read_to_its_end_and_a_longer_one_is_refused() -> Result<()> {
    let tag: String = ('a'..='z').cycle().take(254).collect();
    let sim = SimulatorBuilder::new(DeviceKind::P9, 1).args(&["--tag", &tag]);
    let stack = Stack::start_with(&sim, 1, &[])?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    assert_eq!(device.bar(0)?.size, 512);
    let msix = device.msix(q)?;
    for on in [false, true] {
        msix.enable(q, &device, on)?;
        d.msix = on;
        assert_eq!(d.config(q, 0, 2)?, 254);
        for width in [1u16, 2, 4] {
            let mut read = Vec::new();
            while read.len() < 254 {
                let at = 2 + u16::try_from(read.len())?;
                let value = d.config(q, at, u8::try_from(width)?)?;
                read.extend(value.to_le_bytes().iter().take(width.into()));
            }
            assert_eq!(read.get(..254), Some(tag.as_bytes()), "width {width}");
            // Behind the tag there is nothing.
            assert!(read.iter().skip(254).all(|b| *b == 0));
        }
    }
    let long = tag + "x";
    let sim = SimulatorBuilder::new(DeviceKind::P9, 1).args(&["--tag", &long]);
    let error = Stack::start_with(&sim, 1, &[]).err().context("refused")?;
    let error = format!("{error:#}");
    assert!(error.contains("255 bytes; 1 to 254"), "{error}");
    Ok(())
}

/// A client of the protocol.
struct Client {
    qemu: Qemu,
    driver: LegacyDriver,
    queue: Queue,
    tag: u16,
}

fn string(s: &str) -> Vec<u8> {
    let mut out = u16::try_from(s.len()).unwrap_or(0).to_le_bytes().to_vec();
    out.extend(s.as_bytes());
    out
}

impl Client {
    fn new(stack: &Stack, machine: Machine) -> Result<Self> {
        let (mut qemu, device) = stack.mapped(machine)?;
        let driver = LegacyDriver::new(&device)?;
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        assert_eq!(driver.begin(q, 1)?, 1, "MOUNT_TAG");
        let queue = driver.queue(q, memory, 0, 0)?;
        driver.set_status(q, 7)?;
        Ok(Client {
            qemu,
            driver,
            queue,
            tag: 0,
        })
    }

    /// Bytes there and back.
    fn exchange(&mut self, message: Vec<u8>, room: usize) -> Result<Vec<u8>> {
        let (q, memory) = (&self.qemu.qtest, &mut self.qemu.memory);
        let buffers = [Buffer::Out(message), Buffer::In(room)];
        self.driver.add(q, memory, &mut self.queue, &buffers)?;
        self.driver.kick(q, &self.queue)?;
        self.driver.wait_used(q, &mut self.queue, PATIENCE)
    }

    /// One message; the reply's body.
    fn ask(&mut self, kind: u8, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let body = parts.concat();
        self.tag += 1;
        let mut message = u32::try_from(body.len() + 7)?.to_le_bytes().to_vec();
        message.push(kind);
        message.extend(self.tag.to_le_bytes());
        message.extend(body);
        let reply = self.exchange(message, 8192)?;
        let [a, b, c, d, got, t, u, body @ ..] = reply.as_slice() else {
            anyhow::bail!("a reply of {} bytes", reply.len());
        };
        ensure!(u32::from_le_bytes([*a, *b, *c, *d]) as usize == reply.len());
        ensure!(u16::from_le_bytes([*t, *u]) == self.tag);
        ensure!(*got == kind + 1, "reply of type {got} to {kind}: {body:?}");
        Ok(body.to_vec())
    }

    fn start(&mut self) -> Result<()> {
        let version = self.ask(100, &[&8192u32.to_le_bytes(), &string("9P2000.L")])?;
        ensure!(version.get(6..) == Some(b"9P2000.L"), "{version:?}");
        let (user, share) = (string("root"), string(""));
        let attach = [&le(1)[..], &le(u32::MAX), &user, &share, &le(0)];
        self.ask(104, &attach)?;
        Ok(())
    }

    /// Fid `to` for `name` in the directory of fid 1; without a name for the directory.
    fn walk(&mut self, to: u32, name: Option<&str>) -> Result<()> {
        let count = u16::from(name.is_some()).to_le_bytes();
        let name = name.map(string).unwrap_or_default();
        self.ask(110, &[&le(1), &le(to), &count, &name])?;
        Ok(())
    }
}

fn le(v: u32) -> [u8; 4] {
    v.to_le_bytes()
}

// Covers: P9-01, INI-07, INI-10, LIO-06, LIO-07
#[test]
fn files_go_both_ways_on_both_machines() -> Result<()> {
    for machine in [Machine::Pc, Machine::Q35] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().display().to_string();
        let sim = SimulatorBuilder::new(DeviceKind::P9, 1).args(&["--share", &path]);
        let mut stack = Stack::start_with(&sim, 1, &[])?;
        let mut c = Client::new(&stack, machine)?;
        c.start()?;
        // From the guest to the host.
        let data: Vec<u8> = (0..20_000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        c.walk(2, None)?;
        let name = string("from-guest");
        c.ask(14, &[&le(2), &name, &le(2), &le(0o644), &le(0)])?;
        for (n, part) in data.chunks(8000).enumerate() {
            let offset = (n as u64 * 8000).to_le_bytes();
            let len = u32::try_from(part.len())?;
            let written = c.ask(118, &[&le(2), &offset, &le(len), part])?;
            assert_eq!(written, le(len));
        }
        assert_eq!(std::fs::read(dir.path().join("from-guest"))?, data);
        // And from the host to the guest.
        std::fs::write(dir.path().join("from-host"), &data)?;
        c.walk(3, Some("from-host"))?;
        c.ask(12, &[&le(3), &le(0)])?;
        let mut read: Vec<u8> = Vec::new();
        while read.len() < data.len() {
            let offset = (read.len() as u64).to_le_bytes();
            let part = c.ask(116, &[&le(3), &offset, &le(8000)])?;
            read.extend(part.get(4..).context("no data")?);
        }
        assert_eq!(read, data);
        assert_eq!(type_number(&mut stack.sim, "bytes_written")?, 20_000);
        assert_eq!(type_number(&mut stack.sim, "bytes_read")?, 20_000);
        assert_eq!(type_number(&mut stack.sim, "fids")?, 3);
        // Nothing outside of the directory.
        let up = c.ask(110, &[&le(1), &le(9), &1u16.to_le_bytes(), &string("../x")]);
        assert!(up.is_err());
        // What is no message at all is told and hurts nobody.
        assert_eq!(violations(&mut stack.sim)?, [""; 0]);
        assert_eq!(c.exchange(vec![0xff; 20], 100)?, b"");
        assert_eq!(violations(&mut stack.sim)?, ["p9_message_size"]);
        // A reset ends the session: its files are closed, and a new one begins.
        let q = &c.qemu.qtest;
        c.driver.set_status(q, 0)?;
        assert_eq!(type_number(&mut stack.sim, "fids")?, 0);
        c.driver.begin(q, 1)?;
        c.queue = c.driver.queue(q, &mut c.qemu.memory, 0, 0)?;
        c.driver.set_status(q, 7)?;
        c.start()?;
        assert_eq!(type_number(&mut stack.sim, "fids")?, 1);
    }
    Ok(())
}
