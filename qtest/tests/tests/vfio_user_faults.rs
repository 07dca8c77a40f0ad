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
use qtest_harness::{DeviceKind, Machine, PciDevice, Qemu, Simulator, Stack, PATIENCE};
use qtest_tests::wait_for;
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

/// Command of a region read.
const REGION_READ: [u8; 2] = [9, 0];

/// Passes messages on between the client that connects to `path` and the server at `server`, without
/// files. `edit` sees what the server says, a message at a time, and tells whether anything follows.
fn between(
    path: &Path,
    server: &Path,
    mut edit: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static,
) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let server = UnixStream::connect(server)?;
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
            let goes_on = edit(&mut message);
            to.write_all(&message)?;
            if !goes_on {
                std::thread::sleep(Duration::from_secs(60));
            }
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
    let stalls = stall.clone();
    // Two bytes behind the header, and nothing more.
    between(&path, &stack.sim.vf_socket(1), move |message| {
        let cut = message[2..4] == REGION_READ && stalls.load(Ordering::Relaxed);
        if cut {
            message.truncate(HEADER + 2);
        }
        !cut
    })?;
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

/// The bytes of the configuration space, if this is the reply to a read of all of it.
fn whole_config(message: &mut [u8]) -> Option<&mut [u8]> {
    const REGION: [u8; 4] = [7, 0, 0, 0];
    let read = message.get(2..4)? == REGION_READ && message.get(16..24)? == [0; 8];
    let config = read && message.get(24..28)? == REGION;
    let data = message.get_mut(32..)?;
    (config && data.len() >= 0x1000).then_some(data)
}

/// Where the pointers of the capability list are, the last one last.
fn pointers(config: &[u8]) -> Vec<usize> {
    let mut at = vec![0x34];
    while let Some(next) = at.last().map(|at| config[*at]).filter(|next| *next != 0) {
        at.push(usize::from(next) + 1);
    }
    at
}

/// What a server says of its configuration space, and what becomes of it.
type Case = (&'static str, fn(&mut [u8]), Option<&'static str>);

/// A list of capabilities is walked as PCI says, or refused; QEMU gets over it either way.
#[test]
fn capability_lists() -> Result<()> {
    const BROKEN: Option<&str> = Some("the capability list is broken");
    const EXTENDED: Option<&str> = Some("the extended capability list is broken");
    let cases: [Case; 6] = [
        ("as it is", |_| (), None),
        (
            "reserved-bits",
            |config| {
                for at in pointers(config) {
                    config[at] |= 3;
                }
            },
            None,
        ),
        (
            "loop",
            |config| {
                let at = pointers(config);
                config[at[at.len() - 1]] = config[0x34];
            },
            BROKEN,
        ),
        ("header", |config| config[0x34] = 0x10, BROKEN),
        (
            "extended-loop",
            |config| config[0x102..0x104].copy_from_slice(&[0x01, 0x10]),
            EXTENDED,
        ),
        (
            "extended-header",
            |config| config[0x102..0x104].copy_from_slice(&[0x01, 0x04]),
            EXTENDED,
        ),
    ];
    let stack = Stack::start(DeviceKind::Net, 6)?;
    for (vf, (name, change, refused)) in (1..).zip(cases) {
        let path = stack.dir().join(format!("{name}.sock"));
        let seen = Arc::new(AtomicBool::new(false));
        let sees = seen.clone();
        between(&path, &stack.sim.vf_socket(vf), move |message| {
            if let Some(config) = whole_config(message) {
                sees.store(true, Ordering::Relaxed);
                change(config);
            }
            true
        })?;
        let mut device = stock(&stack.sim, Duration::from_secs(5));
        device["socket"]["path"] = json!(path);
        if let Some(text) = refused {
            let builder = QemuBuilder::new(Machine::Q35).name("refused");
            let (status, log) = builder.device(&device).spawn_refused(stack.dir())?;
            assert_eq!(status.code(), Some(1), "{name}: {log}");
            ensure!(log.contains(text), "{name}: {log}");
        } else {
            let qemu = stack.qemu_with(Machine::Q35, &device)?;
            let mut function = PciDevice::find(&qemu.qtest, SLOT)?;
            function.map(&qemu.qtest)?;
            function.msix(&qemu.qtest)?;
        }
        ensure!(seen.load(Ordering::Relaxed), "{name}: nothing was changed");
    }
    Ok(())
}

/// A guest may enable MSI-X while a vector is unmasked above one that is masked.
// Covers: IRQ-04
#[test]
fn a_sparse_set_of_vectors() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let devices = [stock(&stack.sim, Duration::from_secs(5)), stack.device(1)];
    for (device, sectors) in devices.iter().zip([4096, 8192]) {
        let mut qemu = stack.qemu_with(Machine::Pc, device)?;
        let mut function = PciDevice::find(&qemu.qtest, SLOT)?;
        function.map(&qemu.qtest)?;
        let mut msix = function.msix(&qemu.qtest)?;
        msix.program(&qemu.qtest, &mut qemu.memory)?;
        msix.mask(&qemu.qtest, 0, true)?;
        msix.enable(&qemu.qtest, &function, true)?;
        ensure!(msix.is_enabled(&qemu.qtest, &function)?);
        // A modern driver, which both devices can have, and the interrupt of its configuration.
        let common = u64::from(function.bar(2)?.base);
        for (offset, width, value) in [
            (STATUS, 1, 0),
            (STATUS, 1, 3),
            (0x08, 4, 1),
            (0x0c, 4, 1),
            (STATUS, 1, 11),
            (0x10, 2, 1),
            (STATUS, 1, 15),
        ] {
            qemu.qtest.write(common + offset, width, value)?;
        }
        for (vector, sectors) in [(1, sectors), (0, sectors + 8)] {
            qemu.qtest.write(common + 0x10, 2, vector.into())?;
            msix.mask(&qemu.qtest, vector, false)?;
            stack
                .sim
                .control(&json!({"cmd": "resize", "vf": 1, "sectors": sectors}))?;
            wait_for("configuration interrupt", PATIENCE, || {
                Ok(msix.fired(&qemu.qtest, vector)?.then_some(()))
            })?;
        }
        ensure!(qemu.process.is_running()?, "{}", qemu.process.log());
    }
    Ok(())
}

/// A socket given as users first try it is refused with the form that works.
#[test]
fn the_way_to_give_a_socket_is_shown() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for driver in ["vfio-user-pci", "virtio-legacy-vf-user"] {
        let (status, log) = QemuBuilder::new(Machine::Pc)
            .name("refused")
            .arg("-device")
            .arg(&format!("{driver},socket=/x/vf1.sock"))
            .spawn_refused(dir.path())?;
        assert_eq!(status.code(), Some(1), "{log}");
        let form = format!(
            r#"-device '{{"driver": "{driver}", "socket": {{"type": "unix", "path": "/tmp/vfio-user.sock"}}}}'"#
        );
        ensure!(log.contains(&form), "no {form} in:\n{log}");
    }
    Ok(())
}
