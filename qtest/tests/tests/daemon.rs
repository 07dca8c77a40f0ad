// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper as a service: start, readiness, end, exit codes, log.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use legacy_vf_proto::{ErrorCode, EventKind, Space};
use qtest_harness::{artifacts, DeviceKind, HelperClient, Simulator, SimulatorBuilder, PATIENCE};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::json;
use tempfile::TempDir;
use test_kit::patience::OwnTime;

/// A simulator, and a helper that a test starts as it likes.
struct Rig {
    sim: Simulator,
    dir: TempDir,
}

/// A helper that is killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// Exit code and log.
    fn ended(mut self) -> Result<(Option<i32>, String)> {
        let end = Instant::now() + PATIENCE;
        while self.0.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < end, "the helper does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut log = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut log)?;
        }
        Ok((self.0.wait()?.code(), log))
    }
}

impl Rig {
    fn new(vfs: u16) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
        let sim = SimulatorBuilder::new(DeviceKind::Net, vfs).spawn(dir.path())?;
        Ok(Rig { sim, dir })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("helper.sock")
    }

    fn command(&self, vfs: u16, more: &[&str]) -> Result<Command> {
        let mut command = Command::new(artifacts::helper()?);
        command
            .arg("--pf-socket")
            .arg(self.sim.pf_socket())
            .args(["--vfs", &vfs.to_string(), "--socket"])
            .arg(self.socket())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn start(&self, vfs: u16, more: &[&str]) -> Result<Running> {
        let running = Running(self.command(vfs, more)?.spawn()?);
        self.client()?.hello()?;
        Ok(running)
    }

    fn client(&self) -> Result<HelperClient> {
        let end = Instant::now() + PATIENCE;
        loop {
            match HelperClient::connect(&self.socket()) {
                Ok(client) => return Ok(client),
                Err(e) if Instant::now() > end => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn opened(&self, vf: u16) -> Result<HelperClient> {
        let mut client = self.client()?;
        client.hello()?;
        let opened = client.open(vf)?;
        anyhow::ensure!(opened.is_ok(), "{opened:?}");
        Ok(client)
    }

    fn fails(&self, vfs: u16, more: &[&str]) -> Result<(Option<i32>, String)> {
        let out: Output = self.command(vfs, more)?.output()?;
        Ok((
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))
    }
}

/// Names in the directory that begin like the socket.
fn remains(dir: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        count += usize::from(
            entry?
                .file_name()
                .to_string_lossy()
                .starts_with("helper.sock"),
        );
    }
    Ok(count)
}

#[test]
fn the_service_manager_is_told() -> Result<()> {
    let rig = Rig::new(2)?;
    let path = rig.dir.path().join("notify");
    let notify = UnixDatagram::bind(&path)?;
    notify.set_read_timeout(Some(PATIENCE))?;
    let child = rig
        .command(2, &[])?
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .spawn()?;
    let running = Running(child);
    let mut buf = [0; 512];
    let mut next = || -> Result<String> {
        let len = notify.recv(&mut buf)?;
        Ok(String::from_utf8_lossy(buf.get(..len).unwrap_or(&[])).into_owned())
    };
    let first = next()?;
    assert!(first.contains("READY=1"), "{first}");
    assert!(first.contains("STATUS=Serving 2 VFs of "), "{first}");
    let _owner = rig.opened(1)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let alive = next()?;
        assert!(alive.contains("WATCHDOG=1"), "{alive}");
        if alive.contains("1 open, 1 connections") {
            break;
        }
        assert!(Instant::now() < end, "{alive}");
    }
    running.signal(Signal::TERM)?;
    while !next()?.contains("STOPPING=1") {}
    let (code, log) = running.ended()?;
    assert_eq!(code, Some(0), "{log}");
    Ok(())
}

#[test]
fn it_ends_when_asked_and_its_successor_goes_on() -> Result<()> {
    let rig = Rig::new(2)?;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let running = rig.start(2, &[])?;
        let mut client = rig.opened(1)?;
        // The VF's state outlives each helper.
        if signal == Signal::TERM {
            assert_eq!(client.write(Space::Common, 18, 1, 3)?, Ok(()));
        }
        assert_eq!(client.read(Space::Common, 18, 1)?, Ok(3));
        running.signal(signal)?;
        assert_eq!(client.event(PATIENCE)?.kind, EventKind::SHUTDOWN);
        assert!(client.receive_raw(PATIENCE)?.is_empty());
        let (code, log) = running.ended()?;
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(remains(rig.dir.path())?, 0, "socket and lock are gone");
    }
    Ok(())
}

#[test]
fn it_serves_without_privileges() -> Result<()> {
    let rig = Rig::new(1)?;
    let running = rig.start(1, &[])?;
    assert!(rig.opened(1)?.read(Space::Common, 18, 1)?.is_ok());
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id()))?;
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    Ok(())
}

#[test]
fn an_access_that_does_not_end_does_not_keep_it_alive() -> Result<()> {
    let mut rig = Rig::new(2)?;
    let running = rig.start(
        2,
        &["--drain-timeout", "300ms", "--command-timeout", "1min"],
    )?;
    let mut client = rig.opened(1)?;
    rig.sim
        .add_fault(&json!({"opcode": 3, "member": 1, "do": "drop"}))?;
    let reader = std::thread::spawn(move || client.read(Space::Common, 18, 1));
    std::thread::sleep(Duration::from_millis(200));
    let begun = OwnTime::start();
    running.signal(Signal::TERM)?;
    let (code, log) = running.ended()?;
    assert_eq!(code, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{log}");
    assert!(reader.join().is_ok_and(|r| r.is_err()));
    Ok(())
}

#[test]
fn a_pf_that_goes_away_ends_it_with_code_3() -> Result<()> {
    let mut rig = Rig::new(1)?;
    let running = rig.start(1, &[])?;
    let mut client = rig.opened(1)?;
    rig.sim.process.kill()?;
    assert_eq!(client.event(PATIENCE)?.kind, EventKind::PF_FAILED);
    // The helper is about to end: an answer, if there is one, says why.
    if let Ok(Err(refusal)) = client.read(Space::Common, 18, 1) {
        assert_eq!(refusal.code, ErrorCode::PF_FAILED);
    }
    let (code, log) = running.ended()?;
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("PF failed: "), "{log}");
    assert_eq!(remains(rig.dir.path())?, 0);
    Ok(())
}

#[test]
fn a_helper_that_cannot_start_says_why() -> Result<()> {
    let rig = Rig::new(2)?;
    let (code, log) = rig.fails(3, &[])?;
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains('2') && log.contains("VFs"), "{log}");
    assert_eq!(remains(rig.dir.path())?, 0);

    let first = rig.start(2, &[])?;
    let (code, log) = rig.fails(2, &[])?;
    assert_eq!(code, Some(4), "{log}");
    let want = format!("is in use by pid {}", first.0.id());
    assert!(log.contains(&want), "{log}");
    // Another socket does not help: the PF has one driver.
    let other = rig.dir.path().join("other.sock").display().to_string();
    let out = Command::new(artifacts::helper()?)
        .arg("--pf-socket")
        .arg(rig.sim.pf_socket())
        .args(["--vfs", "2", "--start-timeout", "500ms", "--socket", &other])
        .output()?;
    assert_eq!(out.status.code(), Some(3));
    let mut client = rig.opened(1)?;
    assert!(client.read(Space::Common, 18, 1)?.is_ok());
    drop(first);

    // Killed without a chance to clean up: the next one takes over, and only with as many VFs.
    assert_eq!(remains(rig.dir.path())?, 2);
    let (code, log) = rig.fails(1, &[])?;
    assert_eq!(code, Some(3), "{log}");
    assert!(
        log.contains("2 VFs are enabled already and 1 are wanted"),
        "{log}"
    );
    let second = rig.start(1, &["--existing-vfs", "adopt"])?;
    assert!(rig.opened(2)?.read(Space::Common, 18, 1)?.is_ok());
    drop(second);
    Ok(())
}

#[test]
fn its_log_is_bounded_and_each_line_is_json_if_asked() -> Result<()> {
    let mut rig = Rig::new(1)?;
    let running = rig.start(1, &["--log-format", "json"])?;
    rig.sim.add_fault(&json!({
        "opcode": 3, "member": 1,
        "do": {"status": {"status": 22, "qualifier": 3}},
    }))?;
    let mut client = rig.opened(1)?;
    let begun = Instant::now();
    for _ in 0..2000 {
        let refusal = client.read(Space::Common, 18, 1)?.err();
        assert_eq!(refusal.map(|r| r.code), Some(ErrorCode::DEVICE));
    }
    let seconds = usize::try_from(begun.elapsed().as_secs())? + 1;
    for _ in 0..200 {
        drop(rig.client()?);
    }
    running.signal(Signal::TERM)?;
    let (code, log) = running.ended()?;
    assert_eq!(code, Some(0), "{log}");
    let mut refusals = 0;
    for line in log.lines() {
        let v: serde_json::Value = serde_json::from_str(line).context(line.to_owned())?;
        assert!(v["level"].is_string() && v["target"].is_string(), "{line}");
        refusals += usize::from(line.contains("Q_INVALID_FIELD"));
    }
    // One kind of line each of the server and of the PF driver.
    assert!(
        (1..=2 * seconds).contains(&refusals),
        "{refusals} in {seconds} s"
    );
    assert!(log.lines().count() < 20 + 6 * seconds, "{log}");
    Ok(())
}
