// SPDX-License-Identifier: GPL-2.0-or-later
//! Faults of QEMU's own vfio-user client that the patch series repairs, shown with the stock device.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, Machine, PciDevice, Qemu, Simulator, Stack};
use serde_json::{json, Value};

/// device_status of the common configuration, in BAR2.
const STATUS: u64 = 0x14;

fn stock(sim: &Simulator, timeout: Duration) -> Value {
    json!({
        "driver": "vfio-user-pci",
        "id": DEVICE_ID,
        "addr": format!("{SLOT:#x}"),
        "socket": {"type": "unix", "path": sim.vf_socket(1)},
        "x-msg-timeout": timeout.as_millis() as u64,
    })
}

/// A guest with the stock device, and the address of a register that needs the server.
fn mapped(stack: &Stack, timeout: Duration) -> Result<(Qemu, u64)> {
    let qemu = stack.qemu_with(Machine::Pc, &stock(&stack.sim, timeout))?;
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    let register = u64::from(device.bar(2)?.base) + STATUS;
    qemu.qtest.read(register, 1)?;
    Ok((qemu, register))
}

/// A device that is refused late in realize is released once, so a machine survives plugging it.
#[test]
fn realize_that_fails_late_leaves_qemu_alive() -> Result<()> {
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let idle = SimulatorBuilder::new(DeviceKind::Net, 1)
        .name("idle")
        .spawn(stack.dir())?;
    let mut qemu = QemuBuilder::new(Machine::Pc).spawn(stack.dir())?;
    for _ in 0..3 {
        let refused = qemu
            .qmp
            .command("device_add", stock(&idle, Duration::from_secs(5)));
        ensure!(refused.is_err(), "a VF that is not enabled was accepted");
        qemu.qmp.command("query-status", json!({}))?;
    }
    ensure!(qemu.process.is_running()?, "{}", qemu.process.log());
    // And the slot is free for a device that works.
    qemu.qmp
        .command("device_add", stock(&stack.sim, Duration::from_secs(5)))?;
    assert_eq!(
        PciDevice::find(&qemu.qtest, SLOT)?.read(&qemu.qtest, 2, 2)?,
        0x1041
    );
    Ok(())
}

/// A read that waits for the server ends when the server dies, not when its time is up.
#[test]
fn a_waiting_read_ends_with_its_server() -> Result<()> {
    let timeout = Duration::from_secs(8);
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let (mut qemu, register) = mapped(&stack, timeout)?;
    stack.sim.process.stop()?;
    let process = &mut stack.sim.process;
    let began = Instant::now();
    let value = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            process.kill()
        });
        qemu.qtest.read(register, 1)
    })?;
    let waited = began.elapsed();
    assert_eq!(value, 0xff);
    ensure!(
        waited >= Duration::from_millis(200),
        "the server was not waited for: {waited:?}"
    );
    ensure!(
        waited < timeout / 2,
        "the read sat out its time: {waited:?}"
    );
    ensure!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}

/// Writes to a server that does not take them wait after a while instead of filling memory.
#[test]
fn posted_writes_are_bounded() -> Result<()> {
    let timeout = Duration::from_millis(400);
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let (mut qemu, register) = mapped(&stack, timeout)?;
    stack.sim.process.stop()?;
    let mut posted = 0;
    loop {
        let began = Instant::now();
        qemu.qtest.write(register, 1, 1)?;
        if began.elapsed() >= timeout - Duration::from_millis(50) {
            break;
        }
        posted += 1;
        ensure!(posted < 20_000, "no write waited for the server");
    }
    ensure!(posted > 100, "writes are not posted: only {posted}");
    ensure!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}

/// Bytes of a message's header.
const HEADER: usize = 16;

/// Passes messages on between the client that connects to `path` and the server at `server`, without
/// files; once `stall` is set, only the first two bytes behind the header of a region read's reply,
/// and nothing more from the server.
fn stalling_server(path: &Path, server: &Path, stall: &Arc<AtomicBool>) -> Result<()> {
    const REGION_READ: [u8; 2] = [9, 0];
    let listener = UnixListener::bind(path)?;
    let (server, stall) = (UnixStream::connect(server)?, stall.clone());
    std::thread::spawn(move || -> Result<()> {
        let (client, _) = listener.accept()?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut from, mut to) = (server, client);
        loop {
            let mut message = vec![0; HEADER];
            from.read_exact(&mut message)?;
            let size = u32::from_le_bytes([message[4], message[5], message[6], message[7]]);
            message.resize(size as usize, 0);
            from.read_exact(&mut message[HEADER..])?;
            if message[2..4] == REGION_READ && stall.load(Ordering::Relaxed) {
                to.write_all(&message[..HEADER + 2])?;
                std::thread::sleep(Duration::from_secs(60));
            }
            to.write_all(&message)?;
        }
    });
    Ok(())
}

/// A reply that begins and does not end costs the connection, not the machine.
#[test]
fn a_server_that_stalls_inside_a_reply() -> Result<()> {
    let timeout = Duration::from_millis(400);
    let stack = Stack::start(DeviceKind::Net, 1)?;
    let path = stack.dir().join("stall.sock");
    let stall = Arc::new(AtomicBool::new(false));
    stalling_server(&path, &stack.sim.vf_socket(1), &stall)?;
    let mut device = stock(&stack.sim, timeout);
    device["socket"]["path"] = json!(path);
    let mut qemu = stack.qemu_with(Machine::Pc, &device)?;
    let mut function = PciDevice::find(&qemu.qtest, SLOT)?;
    function.map(&qemu.qtest)?;
    let register = u64::from(function.bar(2)?.base) + STATUS;
    assert_eq!(qemu.qtest.read(register, 1)?, 0);
    stall.store(true, Ordering::Relaxed);
    for waits in [true, false] {
        let began = Instant::now();
        assert_eq!(qemu.qtest.read(register, 1)?, 0xff);
        assert_eq!(began.elapsed() >= timeout / 2, waits);
    }
    ensure!(qemu.process.is_running()?, "{}", qemu.process.log());
    Ok(())
}
