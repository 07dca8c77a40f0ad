// SPDX-License-Identifier: GPL-2.0-or-later
//! One bad client stops nobody else: each attack of [`attacks`] on the real helper, while two other
//! clients read registers of their VFs all the time, and more come and go. What is asserted is what
//! docs/system/isolation.md says, which is made from the list of attacks: with ISOLATION_WRITE=1 set,
//! the test writes it.

mod attacks;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use attacks::{Attack, ATTACKS};
use legacy_vf_proto::{ErrorCode, QueryKind, Space};
use qtest_harness::helper::Helper;
use qtest_harness::process::Process;
use qtest_harness::sim::SimulatorBuilder;
use qtest_harness::{artifacts, DeviceKind, HelperClient, PATIENCE};
use test_kit::patience::until;

/// VFs: two of the others, one that attackers may open, one of those who come and go.
const VFS: u16 = 4;
/// Processes that attack at the same time.
const ATTACKERS: usize = 2;
/// Reads of each of the others during an attack.
const READS: usize = 200;
/// Clients that come, open a VF and go during an attack.
const VISITORS: usize = 10;
/// Limits of open files under which each attack runs that has to do with files.
const LIMITS: [u64; 3] = [1024, 4096, 20_000];

const ATTACK: &str = "ISOLATION_ATTACK";
const SOCKET: &str = "ISOLATION_SOCKET";
const PAGE: &str = "docs/system/isolation.md";
/// What was measured, for the page: an attack's name and how many times as long the others wait.
const WAITS: &str = "docs/system/isolation.tsv";
/// Makes the tests measure, and write both.
const WRITE: &str = "ISOLATION_WRITE";
/// Reads of each of the others that are measured.
const MEASURED: usize = 3000;

/// Where an attacker's process begins.
#[test]
#[ignore = "started by the other tests"]
fn attacker() -> Result<()> {
    match (std::env::var(ATTACK), std::env::var(SOCKET)) {
        (Ok(name), Ok(socket)) => attacks::attack(&name, Path::new(&socket)),
        _ => Ok(()),
    }
}

fn start_attacker(attack: &Attack, socket: &Path, dir: &Path) -> Result<Process> {
    let mut args = vec![
        format!("{ATTACK}={}", attack.name),
        format!("{SOCKET}={}", socket.display()),
        std::env::current_exe()?.display().to_string(),
    ];
    args.extend(["attacker", "--exact", "--ignored", "--nocapture"].map(str::to_owned));
    let mut process = Process::spawn(attack.name, Path::new("env"), &args, dir)?;
    process.wait_log("begun", PATIENCE)?;
    Ok(process)
}

/// Somebody else.
struct Other {
    vf: u16,
    client: HelperClient,
}

impl Other {
    fn new(socket: &Path, vf: u16) -> Result<Self> {
        let mut client = HelperClient::connect(socket)?;
        client.hello()?;
        if let Err(e) = client.open(vf)? {
            bail!("VF {vf}: {} {}", e.code, e.text);
        }
        // A value that nobody else writes.
        client.write(Space::Common, 8, 4, Self::value(vf))?.ok();
        Ok(Other { vf, client })
    }

    fn value(vf: u16) -> u64 {
        0x1000 + u64::from(vf)
    }

    fn read(&mut self) -> Result<()> {
        let got = self.client.read(Space::Common, 8, 4)?;
        let want = Self::value(self.vf);
        anyhow::ensure!(got == Ok(want), "VF {}: {got:x?}, not {want:#x}", self.vf);
        Ok(())
    }
}

/// Comes, opens a VF, reads a register, goes.
fn visit(socket: &Path) -> Result<()> {
    // The one before may just be going.
    let mut client = until(PATIENCE, Duration::from_millis(20), || {
        let mut client = HelperClient::connect(socket)?;
        client.hello()?;
        client.query(QueryKind::HELPER, 0)?;
        match client.open(VFS)? {
            Ok(_) => Ok(Some(client)),
            Err(e) if e.code == ErrorCode::BUSY => Ok(None),
            Err(e) => bail!("VF {VFS}: {} {}", e.code, e.text),
        }
    })?;
    let status = client.read(Space::Common, 18, 1)?;
    anyhow::ensure!(status.is_ok(), "{status:?}");
    Ok(())
}

fn in_tree(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// How long 99 of 100 reads of the others take at most.
fn waits(others: &mut [Other]) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..MEASURED {
        for other in &mut *others {
            let begun = Instant::now();
            other.read()?;
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    let place = times.len() * 99 / 100;
    times.get(place).copied().context("no reads")
}

/// Notes how many times as long the others wait beside an attack.
fn note_waits(attack: &Attack, ratio: f64) -> Result<()> {
    let path = in_tree(WAITS);
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let name = format!("{}\t", attack.name);
    let mut lines: Vec<String> = old
        .lines()
        .filter(|line| !line.starts_with(&name))
        .map(str::to_owned)
        .collect();
    lines.push(format!("{name}{ratio:.1}"));
    // The line about the licence begins with a sign that comes before letters.
    lines.sort();
    std::fs::write(path, lines.join("\n") + "\n")?;
    Ok(())
}

fn open_files(helper: &Helper) -> Result<usize> {
    let dir = format!("/proc/{}/fd", helper.process.pid());
    Ok(std::fs::read_dir(dir)?.count())
}

/// One at a time: they are meant to use the machine up.
static ONE: Mutex<()> = Mutex::new(());

/// Carries out an attack under a limit of open files, and checks that nobody else notices.
fn carry_out(attack: &Attack, files: u64) -> Result<()> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
    let faults: Vec<&str> = attack
        .faults
        .iter()
        .flat_map(|rule| ["--fault", *rule])
        .collect();
    let sim = SimulatorBuilder::new(DeviceKind::Net, VFS)
        .args(&faults)
        .spawn(dir.path())?;
    let pf = sim.pf_socket();
    // Requests are counted, not timed: the device shares the machine with the attackers. Where commands are
    // lost, some are to be lost while the others read.
    let (timeout, pause) = match attack.faults {
        [] => ("20s", Duration::ZERO),
        _ => ("3s", Duration::from_millis(30)),
    };
    let more = ["--command-timeout", timeout];
    let mut helper = Helper::spawn_with_files(files, dir.path(), "helper", &pf, VFS, &more)?;
    let socket = helper.socket().to_owned();
    let mut others = [Other::new(&socket, 1)?, Other::new(&socket, 2)?];
    visit(&socket)?;
    let mut before = 0;
    until(PATIENCE, Duration::from_millis(20), || {
        let now = open_files(&helper)?;
        Ok((std::mem::replace(&mut before, now) == now).then_some(()))
    })?;
    let measure = std::env::var_os(WRITE).is_some();
    let alone = match measure {
        true => Some(waits(&mut others)?),
        false => None,
    };
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        attackers.push(start_attacker(attack, &socket, dir.path())?);
    }
    if let Some(alone) = alone {
        let beside = waits(&mut others)?;
        note_waits(attack, beside.as_secs_f64() / alone.as_secs_f64())?;
    }
    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(e) = result {
            failed.push(format!("{what}: {e:#}"));
        }
    };
    for round in 0..READS {
        for other in &mut others {
            note("read", other.read());
        }
        std::thread::sleep(pause);
        if round % (READS / VISITORS) == 0 {
            note("visitor", visit(&socket));
        }
    }
    for attacker in &mut attackers {
        anyhow::ensure!(attacker.is_running()?, "the attacker has given up");
        attacker.kill()?;
    }
    drop(attackers);
    // All that the attackers left behind is closed in the end; the others still have their VFs.
    let left = until(PATIENCE, Duration::from_millis(20), || {
        for other in &mut others {
            note("read", other.read());
        }
        Ok((open_files(&helper)? <= before).then_some(()))
    });
    note("files of the helper", left);
    note("visitor", visit(&socket));
    let mut tool = HelperClient::connect(&socket)?;
    tool.hello()?;
    let me = std::process::id();
    let counters = tool.query(QueryKind::COUNTERS, 0)?;
    note(
        "PF",
        match counters.pointer("/helper/pf/recoveries") == Some(&0.into()) {
            true => Ok(()),
            false => Err(anyhow::anyhow!("the PF was reset: {counters}")),
        },
    );
    if !attack.faults.is_empty() {
        // It was as bad as the table says.
        let bad = tool.query(QueryKind::COUNTERS, attacks::OWN)?;
        let failed = bad.pointer("/accesses/failed").and_then(|n| n.as_u64());
        // What an attacker does not wait for is counted as the PF's alone.
        let lost = counters
            .pointer("/helper/pf/timed_out")
            .and_then(|n| n.as_u64());
        anyhow::ensure!(
            failed.max(lost) > Some(0),
            "nothing failed: {counters} {bad}"
        );
    }
    for other in &others {
        let owner = tool.query(QueryKind::VF, other.vf)?;
        note(
            "owner",
            match owner["owner"]["pid"].as_u64() == Some(me.into()) {
                true => Ok(()),
                false => Err(anyhow::anyhow!("VF {} is lost: {owner}", other.vf)),
            },
        );
    }
    let log = helper.process.log();
    note(
        "log",
        match log.lines().count() < 500 {
            true => Ok(()),
            false => Err(anyhow::anyhow!("{} lines", log.lines().count())),
        },
    );
    anyhow::ensure!(
        failed.is_empty() && helper.process.is_running()?,
        "{} with {files} files: {} failures, first {:?}",
        attack.name,
        failed.len(),
        failed.iter().take(5).collect::<Vec<_>>()
    );
    Ok(())
}

fn named(name: &str) -> Result<&'static Attack> {
    ATTACKS
        .iter()
        .find(|attack| attack.name == name)
        .with_context(|| format!("no attack {name}"))
}

/// About files or connections, which a low limit makes worse.
fn has_to_do_with_files(attack: &Attack) -> bool {
    ["nested-linger", "linger-before-accept", "many-files"].contains(&attack.name)
}

#[test]
fn who_sends_files_keeps_nobody_waiting_whatever_the_limit_of_open_files() -> Result<()> {
    for attack in ATTACKS.iter().filter(|a| has_to_do_with_files(a)) {
        for files in LIMITS {
            carry_out(attack, files)?;
        }
    }
    Ok(())
}

#[test]
fn who_takes_connections_leaves_some_to_others() -> Result<()> {
    for name in ["idle", "connects", "never-reads"] {
        carry_out(named(name)?, 1024)?;
    }
    Ok(())
}

#[test]
fn who_floods_has_no_more_than_a_share() -> Result<()> {
    for name in ["reads", "queries", "notifications", "refused-opens"] {
        carry_out(named(name)?, 4096)?;
    }
    Ok(())
}

#[test]
fn who_breaks_the_rules_breaks_its_own_connection() -> Result<()> {
    for name in ["garbage", "killed"] {
        carry_out(named(name)?, 4096)?;
    }
    Ok(())
}

#[test]
fn whose_vf_is_broken_has_a_broken_vf() -> Result<()> {
    for name in ["silent-vf", "lying-vf"] {
        carry_out(named(name)?, 4096)?;
    }
    Ok(())
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_an_error_at_start() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
    let sim = SimulatorBuilder::new(DeviceKind::Net, VFS).spawn(dir.path())?;
    let args = [
        "--nofile=256:256".to_owned(),
        artifacts::helper()?.display().to_string(),
        "--pf-socket".to_owned(),
        sim.pf_socket().display().to_string(),
        "--socket".to_owned(),
        dir.path().join("helper.sock").display().to_string(),
        "--vfs".to_owned(),
        VFS.to_string(),
    ];
    let mut helper = Process::spawn("helper", Path::new("prlimit"), &args, dir.path())?;
    let status = helper.wait_exit(PATIENCE)?;
    anyhow::ensure!(!status.success(), "it serves with 256 files");
    let text = helper.log();
    anyhow::ensure!(text.contains("256 open files are too few"), "{text}");
    anyhow::ensure!(text.contains("LimitNOFILE="), "{text}");
    Ok(())
}

fn page() -> String {
    let mut page = format!(
        "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n\
         <!-- Generated by `ISOLATION_WRITE=1 cargo test -p qtest_tests --test isolation page`; do not edit. -->\n\
         # Isolation of clients\n\n\
         What a bad client of the helper can do to others: nothing that they notice but shared time. Each row is\n\
         carried out by `qtest/tests/tests/isolation` on the real helper, by {ATTACKERS} processes of the same user as\n\
         everybody else, while two clients read registers of their VFs {READS} times each and {VISITORS} more connect, ask,\n\
         open a VF and leave. The test fails if one of these requests fails, a VF changes its owner, the PF is reset, or the\n\
         helper keeps a file after the attackers are gone. The rows about files run with limits of {} open files.\n\
         How long the others wait is not tested but measured: the last column is the 99th percentile of {MEASURED} reads of\n\
         each of both beside the attack, divided by that without, the worse of two runs on 2 processors, which attackers and\n\
         helper share (`{WRITE}=1 cargo test -p qtest_tests --test isolation -- --test-threads 1`). `cargo xtask bench` measures\n\
         floods with optimized programs and wants at most 2 (docs/dev/benchmarks.md).\n\n\
         | The attacker | What stops it | Failed requests of others | Lost VFs | Files left | Waits of others |\n\
         |---|---|---|---|---|---|\n",
        LIMITS.map(|n| n.to_string()).join(", ")
    );
    let measured = std::fs::read_to_string(in_tree(WAITS)).unwrap_or_default();
    for attack in ATTACKS {
        let ratio = measured.lines().find_map(|line| {
            let (name, ratio) = line.split_once('\t')?;
            (name == attack.name).then_some(ratio)
        });
        page += &format!(
            "| {} | {} | 0 | 0 | 0 | {} |\n",
            attack.what,
            attack.defence,
            ratio.map_or("not measured".to_owned(), |ratio| format!("{ratio} x"))
        );
    }
    page
}

#[test]
fn page_is_up_to_date() -> Result<()> {
    let path = in_tree(PAGE);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, page())?;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    anyhow::ensure!(
        text == page(),
        "{PAGE} is not up to date: run {WRITE}=1 cargo test -p qtest_tests --test isolation page"
    );
    // Each attack is in one of the tests.
    let by_name = [
        "idle",
        "connects",
        "never-reads",
        "reads",
        "queries",
        "notifications",
    ];
    let by_name = by_name.iter().chain(&[
        "refused-opens",
        "garbage",
        "killed",
        "silent-vf",
        "lying-vf",
    ]);
    let tested = by_name.count() + ATTACKS.iter().filter(|a| has_to_do_with_files(a)).count();
    assert_eq!(tested, ATTACKS.len());
    Ok(())
}
