// SPDX-License-Identifier: GPL-2.0-or-later
//! A helper that dies, leaves, or stops: the guest waits at most for the deadline, reads all-ones
//! meanwhile, and goes on as if nothing had been when the helper is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qtest_harness::boot::{mailbox, port_reader};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::SLOT;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE};
use qtest_tests::{counter, property, wait_link};
use serde_json::json;
use test_kit::patience::OwnTime;

struct Disk {
    qemu: Qemu,
    driver: LegacyDriver,
    queue: Queue,
}

impl Disk {
    fn new(stack: &Stack, deadline_ms: u32) -> Result<Self> {
        let mut config = stack.device(1);
        config["helper-deadline-ms"] = json!(deadline_ms);
        let mut qemu = stack.qemu_with(Machine::Pc, &config)?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let driver = LegacyDriver::new(&device)?;
        driver.begin(&qemu.qtest, 0)?;
        let queue = driver.queue(&qemu.qtest, &mut qemu.memory, 0, 0)?;
        driver.set_status(&qemu.qtest, 7)?;
        let mut disk = Disk {
            qemu,
            driver,
            queue,
        };
        disk.works()?;
        Ok(disk)
    }

    /// A request through the ring: doorbell, DMA, completion.
    fn works(&mut self) -> Result<()> {
        let (data, status) = self.driver.block_request(
            &self.qemu.qtest,
            &mut self.qemu.memory,
            &mut self.queue,
            0,
            0,
            &Buffer::In(512),
        )?;
        assert_eq!((data.len(), status), (512, 0));
        Ok(())
    }

    /// All registers read ones, and writes have no effect. Interrupts do not need the helper, so
    /// the ISR is the device's own.
    fn is_dark(&self) -> Result<()> {
        let (q, d) = (&self.qemu.qtest, &self.driver);
        assert!(d.read(q, 19, 1)? <= 1);
        assert_eq!(d.read(q, 19, 1)?, 0);
        for (offset, width, ones) in [
            (0u16, 4u8, u32::MAX),
            (8, 4, u32::MAX),
            (12, 2, 0xffff),
            (18, 1, 0xff),
            (20, 4, u32::MAX),
            (24, 1, 0xff),
        ] {
            assert_eq!(d.read(q, offset, width)?, ones, "offset {offset}");
        }
        d.set_status(q, 0)?;
        d.write(q, 8, 4, 0)?;
        Ok(())
    }

    /// The VF is as the driver left it.
    fn is_unchanged(&self, pfn: u32) -> Result<()> {
        let (q, d) = (&self.qemu.qtest, &self.driver);
        assert_eq!(d.status(q)?, 7);
        assert_eq!(d.read(q, 8, 4)?, pfn);
        assert_eq!(d.read(q, 12, 2)?, u32::from(self.queue.size));
        assert_ne!(d.read(q, 0, 4)?, u32::MAX);
        Ok(())
    }
}

#[test]
fn killed_and_restarted_without_the_guest_noticing_but_by_registers() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 2)?;
    let mut disk = Disk::new(&stack, 3000)?;
    let pfn = disk.driver.read(&disk.qemu.qtest, 8, 4)?;
    for round in 1..=2u64 {
        stack.helper.process.kill()?;
        wait_link(&mut disk.qemu.qmp, "lost", PATIENCE)?;
        let begin = OwnTime::start();
        disk.is_dark()?;
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "no waiting for a dead helper"
        );
        for _ in 0..10 {
            disk.works().context("requests go on without the helper")?;
        }
        assert!(counter(&mut disk.qemu.qmp, "lost-reads")? >= 6 * round);
        assert!(counter(&mut disk.qemu.qmp, "lost-writes")? >= 2 * round);
        let why = property(&mut disk.qemu.qmp, "link-error")?;
        assert!(why.as_str().is_some_and(|w| !w.is_empty()), "{why}");
        stack.helper.restart()?;
        wait_link(&mut disk.qemu.qmp, "connected", PATIENCE)?;
        disk.is_unchanged(pfn)?;
        disk.works()?;
        assert_eq!(counter(&mut disk.qemu.qmp, "losses")?, round);
        assert_eq!(counter(&mut disk.qemu.qmp, "reconnects")?, round);
    }
    // A reset by the driver works as ever.
    disk.driver.set_status(&disk.qemu.qtest, 0)?;
    assert_eq!(disk.driver.status(&disk.qemu.qtest)?, 0);
    let log = disk.qemu.process.log();
    assert!(log.contains("the helper is back"), "{log}");
    assert!(log.lines().count() < 40, "the log is not flooded:\n{log}");
    Ok(())
}

#[test]
fn a_helper_that_leaves_says_so() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut disk = Disk::new(&stack, 3000)?;
    let pfn = disk.driver.read(&disk.qemu.qtest, 8, 4)?;
    let status = stack.helper.process.terminate()?;
    assert_eq!(status.code(), Some(0), "{}", stack.helper.process.log());
    wait_link(&mut disk.qemu.qmp, "lost", PATIENCE)?;
    assert!(!stack.helper.socket().exists(), "it removes its socket");
    disk.is_dark()?;
    disk.works()?;
    stack.helper.restart()?;
    wait_link(&mut disk.qemu.qmp, "connected", PATIENCE)?;
    disk.is_unchanged(pfn)
}

#[test]
fn the_guest_may_be_reset_or_leave_without_the_helper() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut disk = Disk::new(&stack, 1000)?;
    stack.helper.process.kill()?;
    wait_link(&mut disk.qemu.qmp, "lost", PATIENCE)?;
    disk.qemu.qmp.system_reset()?;
    stack.helper.restart()?;
    wait_link(&mut disk.qemu.qmp, "connected", PATIENCE)?;
    let mut device = PciDevice::find(&disk.qemu.qtest, SLOT)?;
    device.map(&disk.qemu.qtest)?;
    assert_eq!(
        disk.driver.status(&disk.qemu.qtest)?,
        0,
        "the machine's reset reached the VF"
    );
    stack.helper.process.kill()?;
    disk.qemu.qmp.command("quit", json!({}))?;
    let status = disk.qemu.process.wait_exit(PATIENCE)?;
    assert_eq!(status.code(), Some(0), "{}", disk.qemu.process.log());
    Ok(())
}

#[test]
fn an_access_to_a_stopped_helper_ends_at_the_deadline() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    // Shorter than what the helper may take, so that it is this deadline that is seen.
    let mut disk = Disk::new(&stack, 700)?;
    let pfn = disk.driver.read(&disk.qemu.qtest, 8, 4)?;
    stack.helper.process.stop()?;
    let (begin, own) = (Instant::now(), OwnTime::start());
    assert_eq!(disk.driver.status(&disk.qemu.qtest)?, 0xff);
    let (took, own) = (begin.elapsed(), own.elapsed());
    assert!(took >= Duration::from_millis(690), "{took:?}");
    assert!(own < Duration::from_millis(2500), "{own:?}");
    let begin = OwnTime::start();
    disk.is_dark()?;
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "only the first one waits: {took:?}"
    );
    assert_eq!(counter(&mut disk.qemu.qmp, "timeouts")?, 1);
    assert_eq!(property(&mut disk.qemu.qmp, "link-state")?, "lost");
    disk.works().context("requests go on")?;
    stack.helper.process.resume()?;
    wait_link(&mut disk.qemu.qmp, "connected", PATIENCE)?;
    disk.is_unchanged(pfn)
}

/// Looks, 50 ms apart, at a count that has not moved.
const STILL: u32 = 8;

/// With CPUs that run by themselves: while one waits for the helper, QEMU's main loop and the
/// other CPU go on.
#[test]
fn nobody_else_waits_for_a_stopped_helper() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let mut config = stack.device(1);
    let deadline = Duration::from_millis(3000);
    config["helper-deadline-ms"] = json!(deadline.as_millis() as u64);
    let mut qemu = QemuBuilder::new(Machine::Pc)
        .run_code(port_reader(), 2)
        .device(&config)
        .spawn(stack.dir())?;
    let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
    device.map(&qemu.qtest)?;
    let q = &qemu.qtest;
    let rounds = |q: &qtest_harness::Qtest| q.read(mailbox::ROUNDS, 4);
    let accesses = |q: &qtest_harness::Qtest| q.read(mailbox::ACCESSES, 4);
    let moving = |q: &qtest_harness::Qtest| -> Result<bool> {
        let before = rounds(q)?;
        qtest_tests::wait_for("the second CPU", PATIENCE, || {
            Ok((rounds(q)? != before).then_some(true))
        })
    };
    assert!(moving(q)?, "both CPUs run");
    q.write(mailbox::PORT, 2, u32::from(device.io()? + 18))?;
    q.write(mailbox::GO, 1, 1)?;
    qtest_tests::wait_for("accesses", PATIENCE, || {
        Ok((accesses(q)? > 100).then_some(()))
    })?;
    assert_eq!(q.read(mailbox::VALUE, 1)?, 0);

    stack.helper.process.stop()?;
    let (stopped, own) = (Instant::now(), OwnTime::start());
    // The access that is under way has begun when the count stands still, and not only because its
    // CPU has to wait for its turn.
    let mut last = accesses(q)?;
    let mut still = 0;
    while still < STILL {
        std::thread::sleep(Duration::from_millis(50));
        let now = accesses(q)?;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        assert!(
            stopped.elapsed() < deadline,
            "accesses go on without the helper"
        );
    }
    let mut latencies = Vec::new();
    while stopped.elapsed() < deadline - Duration::from_millis(800) {
        let begin = OwnTime::start();
        qemu.qmp.command("query-status", json!({}))?;
        latencies.push(begin.elapsed());
        assert!(moving(&qemu.qtest)?, "the other CPU goes on");
        assert_eq!(accesses(&qemu.qtest)?, last, "the access still waits");
        std::thread::sleep(Duration::from_millis(20));
    }
    latencies.sort_unstable();
    let typical = latencies
        .get(latencies.len() / 2)
        .copied()
        .context("no samples")?;
    assert!(latencies.len() >= 10, "{} samples", latencies.len());
    // Two spinning CPUs share this machine with the main loop, so single samples may be late; an
    // access that held the lock would make all of them wait for the deadline.
    assert!(typical < Duration::from_millis(10), "QMP: {latencies:?}");
    qtest_tests::wait_for("the end of the access", PATIENCE, || {
        Ok((accesses(&qemu.qtest)? != last).then_some(()))
    })?;
    let (took, own) = (stopped.elapsed(), own.elapsed());
    assert!(took >= deadline - Duration::from_millis(200), "{took:?}");
    assert!(own < deadline + Duration::from_secs(3), "{own:?}");
    qtest_tests::wait_for("all-ones", PATIENCE, || {
        Ok((qemu.qtest.read(mailbox::VALUE, 1)? == 0xff).then_some(()))
    })?;
    stack.helper.process.resume()?;
    wait_link(&mut qemu.qmp, "connected", PATIENCE)?;
    qtest_tests::wait_for("the register's value", PATIENCE, || {
        Ok((qemu.qtest.read(mailbox::VALUE, 1)? == 0).then_some(()))
    })
}
