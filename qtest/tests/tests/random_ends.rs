// SPDX-License-Identifier: GPL-2.0-or-later
//! Helper, simulator and clients are killed and stopped at random. Whoever is neither loses nothing, whoever
//! comes back works again, and the helper does not grow. RANDOM_ENDS_SEED=N repeats a run.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure, Context, Result};
use legacy_vf_proto::{ErrorCode, Space};
use qtest_harness::helper::Helper;
use qtest_harness::process::Process;
use qtest_harness::sim::{Simulator, SimulatorBuilder};
use qtest_harness::{DeviceKind, HelperClient, PATIENCE};
use test_kit::patience::until;

/// Clients, each a process with a VF of its own.
const CLIENTS: u16 = 4;
const ROUNDS: u32 = 40;
/// How long somebody is stopped.
const STOPPED: Duration = Duration::from_millis(60);
const LOOK: Duration = Duration::from_millis(5);
/// Memory that a helper may gain while clients come and go, in KiB: what an allocator keeps.
const GAIN: u64 = 512;
/// How the helper ends when its PF does.
const PF: i32 = 3;

const VF: &str = "RANDOM_ENDS_VF";
const SOCKET: &str = "RANDOM_ENDS_SOCKET";
const SEED: &str = "RANDOM_ENDS_SEED";

/// Where a client's process begins: it writes a register of its VF and reads it until it is killed. What it
/// prints is what the test goes by.
#[test]
#[ignore = "started by the other test"]
fn client() -> Result<()> {
    let (Ok(vf), Ok(socket)) = (std::env::var(VF), std::env::var(SOCKET)) else {
        return Ok(());
    };
    let vf = vf.parse()?;
    loop {
        match access(vf, Path::new(&socket)) {
            Ok(never) => match never {},
            Err(e) => println!("lost: {e:#}"),
        }
        std::thread::sleep(LOOK);
    }
}

enum Never {}

fn access(vf: u16, socket: &Path) -> Result<Never> {
    let mut client = HelperClient::connect(socket)?;
    client.hello()?;
    until(PATIENCE, LOOK, || match client.open(vf)? {
        Ok(_) => Ok(Some(())),
        // The one before has just been killed.
        Err(e) if e.code == ErrorCode::BUSY => Ok(None),
        Err(e) => bail!("not opened: {} {}", e.code, e.text),
    })?;
    for value in 1.. {
        let said = client.write(Space::Common, 8, 4, value)?;
        ensure!(said == Ok(()), "not written: {said:?}");
        let is = client.read(Space::Common, 8, 4)?;
        match is {
            Ok(is) => assert_eq!(is, value, "the register of VF {vf}"),
            Err(e) => bail!("not read: {} {}", e.code, e.text),
        }
        println!("ok");
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("all values are used up")
}

/// Who is killed and stopped, and the others.
struct World {
    dir: tempfile::TempDir,
    random: u64,
    sim: Simulator,
    helper: Helper,
    clients: Vec<Process>,
    /// Files and memory of the helper since its start.
    before: Option<(usize, u64)>,
}

fn simulator(dir: &Path) -> Result<Simulator> {
    SimulatorBuilder::new(DeviceKind::Net, CLIENTS).spawn(dir)
}

fn helper(dir: &Path, sim: &Simulator) -> Result<Helper> {
    // A stopped simulator is not a dead one, also on a busy machine.
    let more = ["--command-timeout", "20s"];
    Helper::spawn(dir, "helper", &sim.pf_socket(), CLIENTS, &more)
}

impl World {
    fn new(seed: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
        let sim = simulator(dir.path())?;
        let helper = helper(dir.path(), &sim)?;
        let mut world = World {
            dir,
            random: seed | 1,
            sim,
            helper,
            clients: Vec::new(),
            before: None,
        };
        for vf in 1..=CLIENTS {
            let client = world.client(vf)?;
            world.clients.push(client);
        }
        Ok(world)
    }

    fn client(&self, vf: u16) -> Result<Process> {
        let mut args = vec![
            format!("{VF}={vf}"),
            format!("{SOCKET}={}", self.helper.socket().display()),
            std::env::current_exe()?.display().to_string(),
        ];
        args.extend(["client", "--exact", "--ignored", "--nocapture"].map(str::to_owned));
        let name = format!("client{vf}");
        Process::spawn(&name, Path::new("env"), &args, self.dir.path())
    }

    /// The next number below `limit` (xorshift64*).
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        high as usize % limit
    }

    /// How often the clients, but for one that was just started, have lost anything.
    fn lost(&self) -> usize {
        let logs = self.clients.iter().map(Process::log);
        logs.map(|log| log.matches("lost:").count()).sum()
    }

    /// Every client reads what it has written, from now on.
    fn all_work(&mut self) -> Result<()> {
        let done = |client: &Process| client.log().matches("ok").count();
        let before: Vec<usize> = self.clients.iter().map(done).collect();
        for (client, before) in self.clients.iter_mut().zip(before) {
            until(PATIENCE, LOOK, || {
                ensure!(client.is_running()?, "a client ended: {}", client.log());
                // One access may have been on its way.
                Ok((done(client) >= before + 2).then_some(()))
            })
            .with_context(|| format!("a client does not work: {}", client.log()))?;
        }
        Ok(())
    }

    /// Files and resident memory (KiB) of the helper.
    fn used(&self) -> Result<(usize, u64)> {
        let proc = format!("/proc/{}", self.helper.process.pid());
        let files = std::fs::read_dir(format!("{proc}/fd"))?.count();
        let status = std::fs::read_to_string(format!("{proc}/status"))?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
        Ok((files, memory.context("no RssAnon")?.parse()?))
    }

    /// The helper has not grown since its start.
    fn has_not_grown(&mut self) -> Result<()> {
        let Some((files, memory)) = self.before else {
            self.before = Some(self.used()?);
            return Ok(());
        };
        // What a killed client had is closed by threads.
        until(PATIENCE, LOOK, || {
            Ok((self.used()?.0 <= files).then_some(()))
        })
        .with_context(|| format!("the helper had {files} files, it has {:?}", self.used()))?;
        let now = self.used()?.1;
        ensure!(
            now <= memory + GAIN,
            "the helper had {memory} KiB, it has {now}"
        );
        Ok(())
    }

    /// One round. Gives what was done.
    fn round(&mut self) -> Result<&'static str> {
        let one = self.below(usize::from(CLIENTS));
        // Ends of the helper and of the PF, after which all begin anew, are rarer.
        Ok(match self.below(12) {
            0..=2 => {
                let vf = u16::try_from(one)? + 1;
                self.clients[one].kill()?;
                let client = self.client(vf)?;
                self.clients[one] = client;
                "client killed"
            }
            3..=5 => {
                self.clients[one].stop()?;
                std::thread::sleep(STOPPED);
                self.clients[one].resume()?;
                "client stopped"
            }
            6 | 7 => {
                self.helper.process.stop()?;
                std::thread::sleep(STOPPED);
                self.helper.process.resume()?;
                "helper stopped"
            }
            8 | 9 => {
                self.sim.process.stop()?;
                std::thread::sleep(STOPPED);
                self.sim.process.resume()?;
                "simulator stopped"
            }
            10 => {
                self.helper.process.kill()?;
                self.helper.restart()?;
                self.before = None;
                "helper killed"
            }
            _ => {
                self.sim.process.kill()?;
                let status = self.helper.process.wait_exit(PATIENCE)?;
                ensure!(
                    status.code() == Some(PF),
                    "without a PF the helper ended with {status}: {}",
                    self.helper.process.log()
                );
                self.sim = simulator(self.dir.path())?;
                self.helper.restart()?;
                self.before = None;
                "simulator killed"
            }
        })
    }
}

#[test]
fn whoever_is_killed_or_stopped_takes_nothing_from_others() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(now.subsec_nanos()),
    };
    let mut world = World::new(seed)?;
    let mut done: Vec<&str> = Vec::new();
    let mut rounds = || -> Result<()> {
        world.all_work()?;
        world.has_not_grown()?;
        for _ in 0..ROUNDS {
            let before = world.lost();
            let what = world.round()?;
            done.push(what);
            world.all_work()?;
            let all_begin_anew = ["helper killed", "simulator killed"].contains(&what);
            ensure!(
                all_begin_anew || world.lost() <= before,
                "a client has lost something"
            );
            world.has_not_grown()?;
        }
        Ok(())
    };
    rounds().with_context(|| format!("{SEED}={seed}, after {done:?}"))
}
