// SPDX-License-Identifier: GPL-2.0-or-later
//! A simulated PF with its helper, and a directory for their sockets.

use std::fs;
use std::io::{BufReader, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

use test_kit::patience::{read_line, Patience, LOOK};

use super::machine::Function;
use super::process::{Interrupted, Process};

/// Longest time until a program serves, in its own time.
const START: Duration = Duration::from_secs(30);
/// Longest time for an answer of the simulator, in its own time.
const ANSWER: Duration = Duration::from_secs(20);

/// The programs a rig is made of.
#[derive(Debug, Clone)]
pub struct Programs {
    /// QEMU with the overlay.
    pub qemu: PathBuf,
    /// The helper.
    pub helper: PathBuf,
    /// The program that asks helpers.
    pub tool: PathBuf,
    /// The simulated PF.
    pub simulator: PathBuf,
    /// The guest's program that starts another kernel.
    pub kexec: PathBuf,
    /// The program that looks at functions through the kernel's VFIO, in the nested machine.
    pub probe: PathBuf,
}

/// A directory for sockets, removed at the end. Not below the cache: the name of a socket has to
/// be short.
#[derive(Debug)]
pub struct RunDir(PathBuf, bool);

impl RunDir {
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("vlvf-{}-{attempt}", std::process::id()));
            // Anybody can write to the directory above: only one that was not there is ours.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path, false)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()))
                }
            }
        }
        bail!(
            "cannot create a directory for sockets in {}",
            base.display()
        )
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves the directory where it is.
    pub fn keep(&mut self) -> &Path {
        self.1 = true;
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.1 {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A PF of one type, its VFs, and the helper that serves them.
#[derive(Debug)]
pub struct Pf {
    kind: &'static str,
    vfs: u16,
    dir: PathBuf,
    logs: PathBuf,
    programs: Programs,
    interrupted: Interrupted,
    simulator: Process,
    helper: Process,
}

impl Pf {
    /// Starts simulator and helper of a PF of type `kind` ("net" or "blk").
    ///
    /// # Errors
    /// When one of them does not serve; with its messages.
    pub fn start(
        programs: &Programs,
        kind: &'static str,
        vfs: u16,
        options: &[&str],
        run: &Path,
        logs: &Path,
        interrupted: &Interrupted,
    ) -> Result<Self> {
        let dir = run.join(kind);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let mut args = simulator_arguments(&dir, kind, vfs);
        args.extend(options.iter().map(|option| (*option).to_owned()));
        let log = logs.join(format!("{kind}-simulator.log"));
        let mut simulator = Process::start(
            &format!("the simulated {kind} PF"),
            &programs.simulator,
            &args,
            &log,
        )?;
        simulator.wait_for_line("ready", START, interrupted)?;
        let helper = start_helper(programs, kind, vfs, &dir, logs, interrupted)?;
        Ok(Self {
            kind,
            vfs,
            dir,
            logs: logs.to_owned(),
            programs: programs.clone(),
            interrupted: interrupted.clone(),
            simulator,
            helper,
        })
    }

    /// VF `vf` for a machine.
    pub fn function(&self, vf: u16) -> Function {
        Function {
            vf_socket: self.dir.join(format!("vf{vf}.sock")),
            helper_socket: helper_socket(&self.dir),
            vf,
            stock: false,
        }
    }

    /// The PF itself for a machine.
    pub fn owner(&self) -> Function {
        Function {
            vf_socket: self.dir.join("pf.sock"),
            ..self.function(0)
        }
    }

    /// The directory with its sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The helper, to be ended or killed.
    pub fn helper(&mut self) -> &mut Process {
        &mut self.helper
    }

    /// Commands for somebody who starts both by hand.
    pub fn by_hand(&self) -> [&str; 2] {
        [self.simulator.line(), self.helper.line()]
    }

    /// Starts the helper again after it was ended.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn restart_helper(&mut self) -> Result<()> {
        self.helper.kill();
        let (programs, dir) = (&self.programs, &self.dir);
        self.helper = start_helper(
            programs,
            self.kind,
            self.vfs,
            dir,
            &self.logs,
            &self.interrupted,
        )?;
        Ok(())
    }

    /// Sends one request to the simulator's control socket.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn control(&self, request: &Value) -> Result<Value> {
        control(&self.dir, request)
    }

    /// The simulator's counters.
    ///
    /// # Errors
    /// As [`Pf::control`].
    pub fn counters(&self) -> Result<Value> {
        self.control(&json!({ "cmd": "counters" }))
    }
}

/// Sends one request to the control socket of the simulator in `dir`.
///
/// # Errors
/// When it does not answer, or refuses.
pub fn control(dir: &Path, request: &Value) -> Result<Value> {
    let path = dir.join("ctl.sock");
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("cannot connect to {}", path.display()))?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let line = read_line(&mut BufReader::new(stream), &mut Patience::new(ANSWER))
        .context("the simulator does not answer")?
        .context("the simulator closed the connection")?;
    let answer: Value =
        serde_json::from_str(&line).with_context(|| format!("the simulator answers {line:?}"))?;
    if let Some(error) = answer.get("error") {
        bail!("the simulator refuses {request}: {error}");
    }
    Ok(answer)
}

fn helper_socket(dir: &Path) -> PathBuf {
    dir.join("helper.sock")
}

/// The simulator's arguments for a PF with its sockets in `dir`.
pub fn simulator_arguments(dir: &Path, kind: &str, vfs: u16) -> Vec<String> {
    vec![
        "--dir".into(),
        dir.to_string_lossy().into_owned(),
        "--type".into(),
        kind.into(),
        "--vfs".into(),
        vfs.to_string(),
    ]
}

fn start_helper(
    programs: &Programs,
    kind: &str,
    vfs: u16,
    dir: &Path,
    logs: &Path,
    interrupted: &Interrupted,
) -> Result<Process> {
    let args = [
        "--pf-socket".to_owned(),
        dir.join("pf.sock").to_string_lossy().into_owned(),
        "--vfs".to_owned(),
        vfs.to_string(),
        "--socket".to_owned(),
        helper_socket(dir).to_string_lossy().into_owned(),
    ];
    let log = logs.join(format!("{kind}-helper.log"));
    let mut helper = Process::start(
        &format!("the helper of the {kind} PF"),
        &programs.helper,
        &args,
        &log,
    )?;
    helper.wait_for_line("ready", START, interrupted)?;
    Ok(helper)
}
