// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is a SCSI host with a disk.

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Qemu, Stack, PATIENCE};
use qtest_tests::transitional::{
    check_configuration, check_identity, type_number, violations, CommandLog, Expected,
};
use serde_json::json;
use virtio_pci_spec::DeviceType;

const SCSI: Expected = Expected {
    kind: DeviceKind::Scsi,
    device: DeviceType::Scsi,
    id: 0x1004,
    subsystem: 8,
    class: 0x0100,
    bar0: 64,
    config: 36,
};

/// Feature bits.
const HOTPLUG: u32 = 1 << 1;
const CHANGE: u32 = 1 << 2;

/// The disk.
const UNIT: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

// Covers: PCI-01, PCI-02, PCI-03, PCI-04, PCI-07
#[test]
fn it_is_a_transitional_scsi_host() -> Result<()> {
    check_identity(&SCSI)
}

// Covers: LIO-04, LIO-05, LIO-10, SCS-01
#[test]
fn accesses_to_its_configuration_are_cut_at_fields() -> Result<()> {
    check_configuration(&SCSI)
}

// Covers: SCS-01, SCS-02, INI-11, INI-16
#[test]
fn sizes_go_through_as_they_are_written_and_a_reset_undoes_it() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Scsi, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    let msix = device.msix(q)?;
    let mut log = CommandLog::new(&mut stack.sim)?;
    for on in [false, true] {
        msix.enable(q, &device, on)?;
        d.msix = on;
        let header = if on { 24 } else { 20 };
        let (sense, cdb) = (header + 20, header + 24);
        let mut written = |stack: &mut Stack| log.writes(&mut stack.sim);
        assert_eq!((d.config(q, 20, 4)?, d.config(q, 24, 4)?), (96, 32));
        d.write(q, sense, 4, 18)?;
        d.write(q, cdb, 4, 16)?;
        assert_eq!(written(&mut stack)?, [(20, 4, 18), (24, 4, 16)]);
        assert_eq!((d.config(q, 20, 4)?, d.config(q, 24, 4)?), (18, 16));
        // Narrower, and over the borders to what may not be written.
        d.write(q, cdb + 1, 1, 1)?;
        d.write(q, sense, 2, 0x0203)?;
        d.write(q, sense - 2, 4, 0xbbbb_aaaa)?;
        d.write(q, cdb + 2, 4, 0xdddd_cccc)?;
        assert_eq!(
            written(&mut stack)?,
            [
                (25, 1, 1),
                (20, 2, 0x0203),
                (20, 2, 0xbbbb),
                (26, 2, 0xcccc)
            ]
        );
        assert_eq!(d.config(q, 20, 4)?, 0xbbbb);
        assert_eq!(d.config(q, 24, 4)?, 0xcccc_0110);
        assert_eq!(d.config(q, 16, 4)?, 16, "event_info_size");
        d.set_status(q, 0)?;
        assert_eq!((d.config(q, 20, 4)?, d.config(q, 24, 4)?), (96, 32));
        written(&mut stack)?;
    }
    Ok(())
}

/// A driver with its queues.
struct Host {
    qemu: Qemu,
    driver: LegacyDriver,
    control: Queue,
    events: Queue,
    requests: Queue,
    cdb_size: usize,
    sense_size: usize,
}

/// What came back for a request.
struct Reply {
    response: u8,
    status: u8,
    residual: u32,
    /// Sense key, additional sense code, qualifier.
    sense: (u8, u8, u8),
    data: Vec<u8>,
}

impl Host {
    fn new(stack: &Stack, machine: Machine, features: u32) -> Result<Self> {
        let (mut qemu, device) = stack.mapped(machine)?;
        let driver = LegacyDriver::new(&device)?;
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        assert_eq!(driver.begin(q, features)?, features);
        let control = driver.queue(q, memory, 0, 0)?;
        let events = driver.queue(q, memory, 1, 0)?;
        let requests = driver.queue(q, memory, 2, 0)?;
        driver.set_status(q, 7)?;
        Ok(Host {
            qemu,
            driver,
            control,
            events,
            requests,
            cdb_size: 32,
            sense_size: 96,
        })
    }

    /// One request; its parts as Linux cuts them.
    fn request(&mut self, lun: [u8; 8], cdb: &[u8], data: Option<Buffer>) -> Result<Reply> {
        let mut header = lun.to_vec();
        header.extend([0; 11]);
        header.extend(cdb);
        header.resize(19 + self.cdb_size, 0);
        let mut buffers = vec![Buffer::Out(header)];
        let response = Buffer::In(12 + self.sense_size);
        match data {
            Some(Buffer::Out(bytes)) => buffers.extend([Buffer::Out(bytes), response]),
            Some(room) => buffers.extend([response, room]),
            None => buffers.push(response),
        }
        let (q, memory) = (&self.qemu.qtest, &mut self.qemu.memory);
        self.driver.add(q, memory, &mut self.requests, &buffers)?;
        self.driver.kick(q, &self.requests)?;
        let bytes = self.driver.wait_used(q, &mut self.requests, PATIENCE)?;
        let at = |at: usize| bytes.get(at).copied().context("short response");
        let residual = [at(4)?, at(5)?, at(6)?, at(7)?];
        let data = bytes.get(12 + self.sense_size..).unwrap_or_default();
        Ok(Reply {
            response: at(11)?,
            status: at(10)?,
            residual: u32::from_le_bytes(residual),
            sense: (at(14)?, at(24)?, at(25)?),
            data: data.to_vec(),
        })
    }

    fn good(&mut self, cdb: &[u8], data: Option<Buffer>) -> Result<Vec<u8>> {
        let reply = self.request(UNIT, cdb, data)?;
        assert_eq!((reply.response, reply.status), (0, 0), "{:x?}", reply.sense);
        Ok(reply.data)
    }

    /// TEST UNIT READY that has something to report.
    fn attention(&mut self) -> Result<(u8, u8, u8)> {
        let reply = self.request(UNIT, &[0; 6], None)?;
        assert_eq!((reply.response, reply.status), (0, 2));
        Ok(reply.sense)
    }

    fn reset_unit(&mut self, lun: [u8; 8]) -> Result<Vec<u8>> {
        self.manage(5, lun)
    }

    /// A task management function; for tasks with the id 0, which is everybody's here.
    fn manage(&mut self, function: u8, lun: [u8; 8]) -> Result<Vec<u8>> {
        let mut request = vec![0, 0, 0, 0, function, 0, 0, 0];
        request.extend(lun);
        request.extend([0; 8]);
        let (q, memory) = (&self.qemu.qtest, &mut self.qemu.memory);
        let buffers = [Buffer::Out(request), Buffer::In(1)];
        self.driver.add(q, memory, &mut self.control, &buffers)?;
        self.driver.kick(q, &self.control)?;
        self.driver.wait_used(q, &mut self.control, PATIENCE)
    }
}

fn ten(op: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![op, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

// Covers: SCS-01, SCS-03, SCS-04, INI-10, LIO-06, LIO-07, VRG-09
#[test]
fn a_disk_is_found_written_and_read_on_both_machines() -> Result<()> {
    for machine in [Machine::Pc, Machine::Q35] {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(1 << 20)?;
        let path = file.path().display().to_string();
        let sim = SimulatorBuilder::new(DeviceKind::Scsi, 1).args(&["--scsi-file", &path]);
        let mut stack = Stack::start_with(&sim, 1, &[])?;
        let mut host = Host::new(&stack, machine, 0)?;
        assert_eq!(host.attention()?, (6, 0x29, 0), "powered on");
        let identity = host.good(&[0x12, 0, 0, 0, 36, 0], Some(Buffer::In(36)))?;
        assert_eq!(identity.first(), Some(&0), "a disk");
        assert_eq!(identity.get(8..16), Some(&b"VLVF    "[..]));
        let capacity = host.good(&ten(0x25, 0, 0), Some(Buffer::In(8)))?;
        assert_eq!(capacity, [0, 0, 7, 0xff, 0, 0, 2, 0]);
        let data: Vec<u8> = (0..8192u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        let write = ten(0x2a, 100, 16);
        assert_eq!(host.good(&write, Some(Buffer::Out(data.clone())))?, b"");
        let read = ten(0x28, 100, 16);
        assert_eq!(host.good(&read, Some(Buffer::In(8192)))?, data);
        host.good(&ten(0x35, 0, 0), None)?;
        let stored = std::fs::read(file.path())?;
        assert_eq!(stored.get(51_200..59_392), Some(&data[..]), "in the file");
        // What is not there, what is not known, and what does not fit.
        let elsewhere = [1, 5, 0x40, 0, 0, 0, 0, 0];
        let reply = host.request(elsewhere, &[0x12, 0, 0, 0, 36, 0], Some(Buffer::In(36)))?;
        assert_eq!((reply.response, reply.residual), (3, 36), "no such target");
        let reply = host.request(UNIT, &ten(0x28, 2048, 1), Some(Buffer::In(512)))?;
        assert_eq!(
            (reply.status, reply.sense, reply.residual),
            (2, (5, 0x21, 0), 512)
        );
        let reply = host.request(UNIT, &[0xc0; 10], None)?;
        assert_eq!((reply.status, reply.sense), (2, (5, 0x20, 0)));
        let reply = host.request(UNIT, &ten(0x28, 0, 2), Some(Buffer::In(512)))?;
        assert_eq!(reply.response, 1, "overrun");
        assert_eq!(host.reset_unit(UNIT)?, [0]);
        assert_eq!(host.reset_unit(elsewhere)?, [3]);
        assert_eq!(host.attention()?, (6, 0x29, 3), "reset");
        assert_eq!(host.good(&read, Some(Buffer::In(8192)))?, data);
        assert_eq!(violations(&mut stack.sim)?, [""; 0]);
        assert_eq!(type_number(&mut stack.sim, "check_conditions")?, 4);
    }
    Ok(())
}

// Covers: SCS-02
#[test]
fn commands_have_the_size_that_the_driver_wrote() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Scsi, 1)?;
    let mut host = Host::new(&stack, Machine::Pc, 0)?;
    host.attention()?;
    // Without MSI-X the configuration begins at 20.
    host.driver.write(&host.qemu.qtest, 40, 4, 18)?;
    host.driver.write(&host.qemu.qtest, 44, 4, 16)?;
    (host.sense_size, host.cdb_size) = (18, 16);
    let data: Vec<u8> = (0..512u32).map(|i| (i ^ 0x35) as u8).collect();
    host.good(&ten(0x2a, 0, 1), Some(Buffer::Out(data.clone())))?;
    assert_eq!(host.good(&ten(0x28, 0, 1), Some(Buffer::In(512)))?, data);
    let reply = host.request(UNIT, &[0xc0; 10], None)?;
    assert_eq!((reply.status, reply.sense), (2, (5, 0x20, 0)));
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    Ok(())
}

// Covers: SCS-01, IRQ-04
#[test]
fn events_tell_of_a_new_size_and_of_a_disk_that_goes() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Scsi, 1)?;
    let mut host = Host::new(&stack, Machine::Pc, HOTPLUG | CHANGE)?;
    host.attention()?;
    // As REPORT LUNS has it.
    let unit = &[1, 0, 0, 0, 0, 0, 0, 0][..];
    for (command, kind, reason) in [
        (
            json!({"cmd": "resize", "vf": 1, "sectors": 4096}),
            3,
            [0x2a, 9, 0, 0],
        ),
        (
            json!({"cmd": "plug", "vf": 1, "present": false}),
            1,
            [2, 0, 0, 0],
        ),
        (
            json!({"cmd": "plug", "vf": 1, "present": true}),
            1,
            [1, 0, 0, 0],
        ),
    ] {
        let (q, memory) = (&host.qemu.qtest, &mut host.qemu.memory);
        let d = &host.driver;
        let buffers = type_number(&mut stack.sim, "events")?;
        d.add(q, memory, &mut host.events, &[Buffer::In(16)])?;
        d.kick(q, &host.events)?;
        // The kick is on its way: an event without a buffer would be lost.
        std::thread::sleep(std::time::Duration::from_millis(50));
        stack.sim.control(&command)?;
        let event = d.wait_used(q, &mut host.events, PATIENCE)?;
        assert_eq!(event.get(..4), Some(&[kind, 0, 0, 0][..]), "{command}");
        assert_eq!(event.get(4..12), Some(unit));
        assert_eq!(event.get(12..), Some(&reason[..]));
        assert_eq!(type_number(&mut stack.sim, "events")?, buffers + 1);
        if kind == 3 {
            assert_eq!(host.attention()?, (6, 0x2a, 9));
            let capacity = host.good(&ten(0x25, 0, 0), Some(Buffer::In(8)))?;
            assert_eq!(capacity.get(..4), Some(&4095u32.to_be_bytes()[..]));
        } else if reason[0] == 2 {
            let reply = host.request(UNIT, &[0; 6], None)?;
            assert_eq!(reply.response, 3, "gone");
        }
    }
    assert_eq!(host.attention()?, (6, 0x29, 0));
    assert_eq!(host.attention()?, (6, 0x3f, 0x0e));
    host.good(&[0; 6], None)?;
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    Ok(())
}

#[test]
fn a_command_is_aborted_while_the_disk_does_not_answer() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Scsi, 1)?;
    let mut host = Host::new(&stack, Machine::Pc, 0)?;
    host.attention()?;
    let stall = json!({"cmd": "stall", "vf": 1, "on": true});
    stack.sim.control(&stall)?;
    let mut header = UNIT.to_vec();
    header.extend([0; 11]);
    header.extend(ten(0x28, 0, 1));
    header.resize(51, 0);
    let read = [Buffer::Out(header), Buffer::In(108), Buffer::In(512)];
    {
        let (q, memory) = (&host.qemu.qtest, &mut host.qemu.memory);
        host.driver.add(q, memory, &mut host.requests, &read)?;
        host.driver.kick(q, &host.requests)?;
    }
    qtest_tests::wait_for("task", PATIENCE, || {
        let held = type_number(&mut stack.sim, "held")?;
        Ok((held == 1).then_some(()))
    })?;
    assert_eq!(host.manage(6, UNIT)?, [10], "the task is there");
    let q = &host.qemu.qtest;
    assert!(host.driver.used(q, &mut host.requests)?.is_none());
    assert_eq!(host.manage(0, UNIT)?, [0]);
    // It came back before the function did.
    let q = &host.qemu.qtest;
    let back = host.driver.used(q, &mut host.requests)?;
    let back = back.context("the aborted command is back")?;
    assert_eq!((back.len(), back.get(11)), (108, Some(&2)), "aborted");
    assert_eq!(host.manage(6, UNIT)?, [0], "it is gone");
    let stall = json!({"cmd": "stall", "vf": 1, "on": false});
    stack.sim.control(&stall)?;
    assert_eq!(
        host.good(&ten(0x28, 0, 1), Some(Buffer::In(512)))?,
        [0; 512]
    );
    Ok(())
}

// Covers: IRQ-04, IRQ-06
#[test]
fn each_queue_has_its_vector() -> Result<()> {
    let stack = Stack::start(DeviceKind::Scsi, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    let msix = d.use_msix(q, &device, memory)?;
    d.begin(q, 0)?;
    let mut control = d.queue(q, memory, 0, 1)?;
    let _events = d.queue(q, memory, 1, 2)?;
    let mut requests = d.queue(q, memory, 2, 3)?;
    d.set_status(q, 7)?;
    let mut header = UNIT.to_vec();
    header.resize(51, 0);
    d.add(
        q,
        memory,
        &mut requests,
        &[Buffer::Out(header), Buffer::In(108)],
    )?;
    d.kick(q, &requests)?;
    assert_eq!(d.wait_used(q, &mut requests, PATIENCE)?.len(), 108);
    qtest_tests::wait_for("interrupt of the request queue", PATIENCE, || {
        Ok(msix.fired(q, 3)?.then_some(()))
    })?;
    assert!(!msix.fired(q, 1)?, "not that of the control queue");
    let mut query = vec![0, 0, 0, 0, 7, 0, 0, 0];
    query.extend(UNIT);
    query.extend([0; 8]);
    d.add(
        q,
        memory,
        &mut control,
        &[Buffer::Out(query), Buffer::In(1)],
    )?;
    d.kick(q, &control)?;
    assert_eq!(d.wait_used(q, &mut control, PATIENCE)?, [0]);
    qtest_tests::wait_for("interrupt of the control queue", PATIENCE, || {
        Ok(msix.fired(q, 1)?.then_some(()))
    })?;
    assert!(!msix.fired(q, 0)? && !msix.fired(q, 2)?);
    Ok(())
}
