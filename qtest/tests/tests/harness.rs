// SPDX-License-Identifier: GPL-2.0-or-later
//! The harness itself, with a QEMU that has no device of ours.

use std::time::Duration;

use anyhow::Result;
use qtest_harness::boot::{mailbox, port_reader};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::vcpu::program;
use qtest_harness::{Machine, PciDevice, Step, Vcpu, PATIENCE};
use serde_json::json;

#[test]
fn memory_ports_and_management() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for machine in [Machine::Pc, Machine::Q35] {
        let mut qemu = QemuBuilder::new(machine)
            .arg("-device")
            .arg("virtio-net-pci,romfile=,addr=3,disable-modern=on,mac=52:54:00:01:02:03")
            .spawn(dir.path())?;
        let at = qemu.memory.take(4096, 4096)?;
        qemu.qtest.set_memory(at, &[1, 2, 3, 4, 5])?;
        assert_eq!(qemu.qtest.read(at + 1, 4)?, 0x0504_0302);
        assert_eq!(qemu.qtest.memory(at + 2, 3)?, [3, 4, 5]);
        // QEMU's own legacy device follows the rules that ours follows.
        let mut device = PciDevice::find(&qemu.qtest, 3)?;
        assert_eq!(device.read(&qemu.qtest, 0, 4)?, 0x1000_1af4);
        device.map(&qemu.qtest)?;
        let driver = qtest_harness::LegacyDriver::new(&device)?;
        driver.begin(&qemu.qtest, 1 << 5)?;
        assert_eq!(driver.config(&qemu.qtest, 0, 4)?, 0x0100_5452);
        assert_eq!(driver.read(&qemu.qtest, 16, 4)?, u32::MAX);
        assert_eq!(driver.read(&qemu.qtest, 18, 2)?, 3);
        assert_eq!(driver.read(&qemu.qtest, 17, 1)?, 0xff);
        qemu.qmp.system_reset()?;
        assert!(PciDevice::find(&qemu.qtest, 20).is_err());
        qemu.qmp.command("quit", json!({}))?;
        assert_eq!(qemu.process.wait_exit(PATIENCE)?.code(), Some(0));
    }
    Ok(())
}

/// The register window's decoding is that of QEMU's own legacy device: the prediction that the
/// register tests use holds there, too.
#[test]
fn the_prediction_holds_for_qemus_own_device() -> Result<()> {
    use qtest_tests::access::Model;
    let dir = tempfile::tempdir()?;
    let qemu = QemuBuilder::new(Machine::Pc)
        .arg("-device")
        .arg("virtio-net-pci,romfile=,addr=3,disable-modern=on,vectors=3,mac=52:54:00:01:02:03")
        .spawn(dir.path())?;
    let q = &qemu.qtest;
    let mut device = PciDevice::find(q, 3)?;
    device.map(q)?;
    let mut d = qtest_harness::LegacyDriver::new(&device)?;
    let msix = device.msix(q)?;
    for on in [false, true, false] {
        msix.enable(q, &device, on)?;
        d.msix = on;
        d.begin(q, 1 << 5)?;
        d.write(q, 14, 2, 1)?;
        d.write(q, 8, 4, 0x0102)?;
        let config = (0..12)
            .map(|i| Ok(d.config(q, i, 1)? as u8))
            .collect::<Result<Vec<u8>>>()?;
        let m = Model {
            features: d.read(q, 0, 4)?,
            driver_features: d.read(q, 4, 4)?,
            addresses: vec![0, 0x0102, 0],
            sizes: vec![256, 256, 64],
            vectors: vec![0xffff; 3],
            select: 1,
            status: 3,
            config_vector: 0xffff,
            table: 3,
            initial: config.clone(),
            config,
            writable: 0,
            kicks: Vec::new(),
        };
        let end = if on { 36 } else { 32 };
        for width in [1u8, 2, 4] {
            for offset in 0..=end - u16::from(width) {
                // QEMU's own device does not answer inside a field of the header with less than
                // 32 ones, and reads of the configuration that start in the header end there.
                let want = m.read(offset, width, on);
                assert_eq!(
                    d.read(q, offset, width)?,
                    want,
                    "{width} at {offset}, MSI-X {on}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn two_cpus_run_the_boot_code() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let qemu = QemuBuilder::new(Machine::Pc)
        .run_code(port_reader(), 2)
        .spawn(dir.path())?;
    let q = &qemu.qtest;
    let counts = |at| {
        let first = q.read(at, 4)?;
        qtest_tests::wait_for("counting", PATIENCE, || {
            Ok((q.read(at, 4)? != first).then_some(()))
        })
    };
    counts(mailbox::ROUNDS)?;
    assert_eq!(q.read(mailbox::ACCESSES, 4)?, 0);
    q.write(mailbox::PORT, 2, 0x5ff)?;
    q.write(mailbox::GO, 1, 1)?;
    counts(mailbox::ACCESSES)?;
    assert_eq!(q.read(mailbox::VALUE, 1)?, 0xff);
    Ok(())
}

/// Configuration cycles to the host bridge, whose registers are known.
#[test]
fn a_cpu_carries_out_a_list_of_accesses_and_compares() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut qemu = QemuBuilder::new(Machine::Pc)
        .run_code(program()?, 1)
        .spawn(dir.path())?;
    let (address, data) = (0xcf8, 0xcfc);
    let identity = 0x1237_8086;
    let mut cpu = Vcpu::default();
    let list = [
        Step::write(address, 4, 0x8000_0000),
        Step::expect(data, 4, identity),
        Step::expect(data, 2, identity & 0xffff),
        Step::expect(data + 1, 1, 0x80),
        Step::read(0x5ff, 1),
        // The interrupt line can be written.
        Step::write(address, 4, 0x8000_003c),
        Step::write(data, 2, 0xa5),
        Step::expect(data, 1, 0xa5),
        Step::write(data, 1, 0x5a),
        Step::expect(data, 1, 0x5a),
    ];
    cpu.run(&qemu.qtest, &list)?;
    cpu.moves(&qemu.qtest, 1000)?;
    cpu.rest(&qemu.qtest)?;
    let counts = cpu.all_right(&qemu.qtest)?;
    assert!(counts.rounds >= 100, "{counts:?}");
    assert_eq!(counts.ones, counts.rounds, "{counts:?}");
    assert_eq!(counts.ended, counts.rounds * 10, "{counts:?}");
    assert_eq!(counts.started, counts.ended);
    assert_eq!(cpu.counts(&qemu.qtest)?, counts, "it rests");

    // A reset does not end what it was told to do.
    let one = Step::expect(data, 4, 0x1234_8086);
    cpu.run(&qemu.qtest, &[Step::write(address, 4, 0x8000_0000), one])?;
    qemu.qmp.system_reset()?;
    cpu.moves(&qemu.qtest, 100)?;
    cpu.rest(&qemu.qtest)?;
    let error = match cpu.all_right(&qemu.qtest) {
        Ok(counts) => anyhow::bail!("{counts:?}"),
        Err(e) => e.to_string(),
    };
    assert!(
        error.contains("0x12378086") && error.contains("12348086"),
        "{error}"
    );
    assert!(cpu.run(&qemu.qtest, &[]).is_err());
    Ok(())
}

#[test]
fn a_qemu_that_ends_is_an_error_with_its_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let builder = QemuBuilder::new(Machine::Pc)
        .arg("-device")
        .arg("no-such-device");
    match builder.spawn(dir.path()) {
        Ok(_) => anyhow::bail!("QEMU runs"),
        Err(e) => assert!(format!("{e:#}").contains("no-such-device"), "{e:#}"),
    }
    let (status, log) = builder.spawn_refused(dir.path())?;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("no-such-device"));
    Ok(())
}

#[test]
fn processes_can_be_stopped_and_die_with_their_value() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut sleep = qtest_harness::Process::spawn(
        "sleep",
        std::path::Path::new("/bin/sleep"),
        &["60".to_owned()],
        dir.path(),
    )?;
    assert!(sleep.wait_exit(Duration::from_millis(20)).is_err());
    sleep.stop()?;
    sleep.resume()?;
    let pid = sleep.pid();
    assert!(sleep.is_running()?);
    drop(sleep);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}
