// SPDX-License-Identifier: GPL-2.0-or-later
//! A VF that is a console.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::memory::GuestMemory;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Qtest, Stack, PATIENCE};
use qtest_tests::transitional::{
    check_configuration, check_identity, type_number, violations, CommandLog, Expected,
};
use serde_json::json;
use virtio_pci_spec::DeviceType;

const CONSOLE: Expected = Expected {
    kind: DeviceKind::Console,
    device: DeviceType::Console,
    id: 0x1003,
    subsystem: 3,
    class: 0x0780,
    bar0: 64,
    config: 12,
};

fn connect(stack: &Stack, name: &str) -> Result<UnixStream> {
    let socket = UnixStream::connect(stack.sim.dir().join(name))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &mut UnixStream, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    socket
        .read_exact(&mut bytes)
        .context("output of the guest")?;
    Ok(bytes)
}

// Covers: PCI-01, PCI-02, PCI-03, PCI-04, PCI-07
#[test]
fn it_is_a_transitional_console() -> Result<()> {
    check_identity(&CONSOLE)
}

// Covers: LIO-04, LIO-05, LIO-10
#[test]
fn accesses_to_its_configuration_are_cut_at_fields() -> Result<()> {
    check_configuration(&CONSOLE)
}

// Covers: CON-01, INI-16
#[test]
fn the_size_can_be_read_in_any_parts_and_changes() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Console, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    d.begin(q, 0b111)?;
    d.set_status(q, 7)?;
    d.read(q, 19, 1)?;
    let screen = json!({"cmd": "screen", "vf": 1, "cols": 0x0102, "rows": 0x0304});
    stack.sim.control(&screen)?;
    assert_eq!(d.config(q, 0, 4)?, 0x0304_0102);
    assert_eq!((d.config(q, 0, 2)?, d.config(q, 2, 2)?), (0x0102, 0x0304));
    let bytes: Vec<u32> = (0..4).map(|i| d.config(q, i, 1)).collect::<Result<_>>()?;
    assert_eq!(bytes, [2, 1, 4, 3]);
    assert_eq!(d.config(q, 4, 4)?, 1, "one port");
    assert_eq!(d.read(q, 19, 1)? & 2, 2, "the configuration bit of the ISR");
    Ok(())
}

// Covers: CON-02, LIO-05
#[test]
fn emergency_output_works_without_a_driver() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Console, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let mut d = LegacyDriver::new(&device)?;
    let q = &qemu.qtest;
    let mut host = connect(&stack, "vf1.console")?;
    let msix = device.msix(q)?;
    let mut log = CommandLog::new(&mut stack.sim)?;
    for on in [false, true] {
        msix.enable(q, &device, on)?;
        d.msix = on;
        d.set_status(q, 0)?;
        let emergency = if on { 32 } else { 28 };
        d.write(q, emergency, 4, u32::from(b'a'))?;
        d.write(q, emergency, 1, u32::from(b'b'))?;
        d.write(q, emergency, 2, 0x7700 | u32::from(b'c'))?;
        let seen = log.writes(&mut stack.sim)?;
        assert_eq!(seen, [(8, 4, 0x61), (8, 1, 0x62), (8, 2, 0x7763)]);
        assert_eq!(receive(&mut host, 3)?, b"abc");
        assert_eq!(d.config(q, 8, 4)?, 0);
    }
    assert_eq!(type_number(&mut stack.sim, "emergency_writes")?, 6);
    Ok(())
}

// Covers: CON-03, LIO-07, IRQ-04
#[test]
fn characters_go_out_and_come_in() -> Result<()> {
    for machine in [Machine::Pc, Machine::Q35] {
        let mut stack = Stack::start(DeviceKind::Console, 1)?;
        let (mut qemu, device) = stack.mapped(machine)?;
        let mut d = LegacyDriver::new(&device)?;
        let (q, memory) = (&qemu.qtest, &mut qemu.memory);
        let msix = d.use_msix(q, &device, memory)?;
        d.begin(q, 0)?;
        let mut rx = d.queue(q, memory, 0, 1)?;
        let mut tx = d.queue(q, memory, 1, 2)?;
        d.set_status(q, 7)?;
        d.add(q, memory, &mut rx, &[Buffer::In(64)])?;
        d.kick(q, &rx)?;
        let mut host = connect(&stack, "vf1.console")?;
        host.write_all(b"typed by somebody")?;
        let got = d.wait_used(q, &mut rx, PATIENCE)?;
        assert_eq!(got, b"typed by somebody");
        qtest_tests::wait_for("receive interrupt", PATIENCE, || {
            Ok(msix.fired(q, 1)?.then_some(()))
        })?;
        let text: Vec<u8> = (0..5000u32).map(|n| b'!' + (n % 90) as u8).collect();
        d.add(q, memory, &mut tx, &[Buffer::Out(text.clone())])?;
        d.kick(q, &tx)?;
        assert_eq!(d.wait_used(q, &mut tx, PATIENCE)?, [0; 0]);
        assert_eq!(receive(&mut host, text.len())?, text);
        assert_eq!(type_number(&mut stack.sim, "tx_bytes")?, 5000);
        assert_eq!(type_number(&mut stack.sim, "rx_bytes")?, 17);
        assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    }
    Ok(())
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_up_and_loses_nothing() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Console, 1)?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    d.begin(q, 0)?;
    let mut tx = d.queue(q, memory, 1, 0)?;
    d.set_status(q, 7)?;
    let mut host = connect(&stack, "vf1.console")?;
    // More than a socket holds. Whether the client is known yet shows in the counters.
    let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 253) as u8).collect();
    qtest_tests::wait_for("client", PATIENCE, || {
        d.add(q, memory, &mut tx, &[Buffer::Out(vec![b'.'])])?;
        d.kick(q, &tx)?;
        d.wait_used(q, &mut tx, PATIENCE)?;
        let (sent, lost) = (
            type_number(&mut stack.sim, "tx_bytes")?,
            type_number(&mut stack.sim, "tx_lost")?,
        );
        Ok((sent > lost).then_some(()))
    })?;
    assert_eq!(receive(&mut host, 1)?, b".");
    d.add(q, memory, &mut tx, &[Buffer::Out(text.clone())])?;
    d.kick(q, &tx)?;
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(d.used(q, &mut tx)?, None, "the host has not read");
    assert_eq!(receive(&mut host, text.len())?, text);
    d.wait_used(q, &mut tx, PATIENCE)?;
    Ok(())
}

/// The control queues of a guest with MULTIPORT.
struct Control {
    to_guest: Queue,
    from_guest: Queue,
}

impl Control {
    fn send(
        &mut self,
        d: &LegacyDriver,
        q: &Qtest,
        memory: &mut GuestMemory,
        message: (u32, u16, u16),
    ) -> Result<()> {
        let (port, event, value) = message;
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        d.add(q, memory, &mut self.from_guest, &[Buffer::Out(bytes)])?;
        d.kick(q, &self.from_guest)?;
        d.wait_used(q, &mut self.from_guest, PATIENCE)?;
        Ok(())
    }

    fn receive(&mut self, d: &LegacyDriver, q: &Qtest) -> Result<Vec<u8>> {
        d.wait_used(q, &mut self.to_guest, PATIENCE)
    }
}

// Covers: CON-01, CON-03
#[test]
fn ports_have_names_sockets_and_control_messages() -> Result<()> {
    const MULTIPORT: u32 = 1 << 1;
    let sim = SimulatorBuilder::new(DeviceKind::Console, 1).args(&["--console-ports", "1"]);
    let mut stack = Stack::start_with(&sim, 1, &[])?;
    let (mut qemu, device) = stack.mapped(Machine::Pc)?;
    let d = LegacyDriver::new(&device)?;
    let (q, memory) = (&qemu.qtest, &mut qemu.memory);
    assert_eq!(d.begin(q, MULTIPORT)?, MULTIPORT);
    assert_eq!(d.config(q, 4, 4)?, 2, "two ports");
    let mut queues = Vec::new();
    for index in 0..6 {
        queues.push(d.queue(q, memory, index, 0)?);
    }
    let take = |index: usize| queues.get(index).cloned().context("queue");
    let (mut rx1, mut tx1) = (take(4)?, take(5)?);
    let mut control = Control {
        to_guest: take(2)?,
        from_guest: take(3)?,
    };
    d.set_status(q, 7)?;
    for _ in 0..16 {
        d.add(q, memory, &mut control.to_guest, &[Buffer::In(64)])?;
    }
    d.kick(q, &control.to_guest)?;
    // DEVICE_READY, and the device adds its ports.
    control.send(&d, q, memory, (u32::MAX, 0, 1))?;
    for port in [0u8, 1] {
        assert_eq!(control.receive(&d, q)?, [port, 0, 0, 0, 1, 0, 1, 0]);
    }
    // PORT_READY: the console is one, the other has a name.
    control.send(&d, q, memory, (0, 3, 1))?;
    assert_eq!(control.receive(&d, q)?, [0, 0, 0, 0, 4, 0, 1, 0]);
    assert_eq!(
        control.receive(&d, q)?,
        [0, 0, 0, 0, 5, 0, 0, 0, 80, 0, 25, 0]
    );
    control.send(&d, q, memory, (1, 3, 1))?;
    let name = control.receive(&d, q)?;
    assert_eq!(name.get(..8), Some(&[1, 0, 0, 0, 7, 0, 1, 0][..]));
    assert_eq!(name.get(8..), Some(&b"vlvf.1"[..]));
    // Somebody opens the port on each side.
    let mut host = connect(&stack, "vf1.port1")?;
    assert_eq!(control.receive(&d, q)?, [1, 0, 0, 0, 6, 0, 1, 0]);
    host.write_all(b"before the guest opened it")?;
    d.add(q, memory, &mut rx1, &[Buffer::In(64)])?;
    d.kick(q, &rx1)?;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(d.used(q, &mut rx1)?, None);
    control.send(&d, q, memory, (1, 6, 1))?;
    let got = d.wait_used(q, &mut rx1, PATIENCE)?;
    assert_eq!(got, b"before the guest opened it");
    let out = Buffer::Out(b"from port 1".to_vec());
    d.add(q, memory, &mut tx1, &[out])?;
    d.kick(q, &tx1)?;
    assert_eq!(receive(&mut host, 11)?, b"from port 1");
    drop(host);
    assert_eq!(control.receive(&d, q)?, [1, 0, 0, 0, 6, 0, 0, 0]);
    assert_eq!(violations(&mut stack.sim)?, [""; 0]);
    Ok(())
}
