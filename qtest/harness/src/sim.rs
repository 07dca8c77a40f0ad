// SPDX-License-Identifier: GPL-2.0-or-later
//! The simulated PF as a process.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::lines::Lines;
use crate::process::Process;
use crate::{artifacts, PATIENCE};

/// What the VFs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Network cards.
    Net,
    /// Disks.
    Block,
    /// Consoles.
    Console,
    /// Entropy sources.
    Rng,
    /// Memory balloons.
    Balloon,
    /// SCSI hosts.
    Scsi,
    /// 9P transports.
    P9,
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimulatorBuilder {
    kind: DeviceKind,
    vfs: u16,
    name: String,
    args: Vec<String>,
}

impl SimulatorBuilder {
    /// A PF with VFs.
    pub fn new(kind: DeviceKind, vfs: u16) -> Self {
        SimulatorBuilder {
            kind,
            vfs,
            name: "sim".to_owned(),
            args: Vec::new(),
        }
    }

    /// Name of its directory and log, where there are several.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Starts it and waits until all its sockets listen.
    ///
    /// # Errors
    /// If it does not get that far.
    pub fn spawn(&self, dir: &Path) -> Result<Simulator> {
        let home = dir.join(&self.name);
        std::fs::create_dir_all(&home)?;
        let mut args = vec![
            "--dir".to_owned(),
            home.display().to_string(),
            "--type".to_owned(),
            match self.kind {
                DeviceKind::Net => "net",
                DeviceKind::Block => "blk",
                DeviceKind::Console => "console",
                DeviceKind::Rng => "rng",
                DeviceKind::Balloon => "balloon",
                DeviceKind::Scsi => "scsi",
                DeviceKind::P9 => "9p",
            }
            .to_owned(),
            "--vfs".to_owned(),
            self.vfs.to_string(),
        ];
        args.extend(self.args.iter().cloned());
        let mut process = Process::spawn(&self.name, &artifacts::simulator()?, &args, dir)?;
        process.wait_log("ready", PATIENCE)?;
        Ok(Simulator {
            process,
            dir: home,
            control: None,
        })
    }
}

/// A running simulator.
#[derive(Debug)]
pub struct Simulator {
    /// The process.
    pub process: Process,
    dir: PathBuf,
    control: Option<Lines>,
}

impl Simulator {
    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The socket of the PF.
    pub fn pf_socket(&self) -> PathBuf {
        self.dir.join("pf.sock")
    }

    /// The socket of a VF, counted from 1.
    pub fn vf_socket(&self, vf: u16) -> PathBuf {
        self.dir.join(format!("vf{vf}.sock"))
    }

    /// Sends a command to the control socket and gives the answer.
    ///
    /// # Errors
    /// If it does not answer, or with an error.
    pub fn control(&mut self, command: &Value) -> Result<Value> {
        let lines = match &mut self.control {
            Some(lines) => lines,
            none => none.insert(Lines::connect(&self.dir.join("ctl.sock"), PATIENCE)?),
        };
        lines.send(&command.to_string())?;
        let answer = lines
            .receive(PATIENCE)
            .with_context(|| format!("no answer to {command}"))?;
        let value: Value = serde_json::from_str(&answer)?;
        if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
            anyhow::bail!("the simulator refused {command}: {error}");
        }
        Ok(value)
    }

    /// Its counters.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn counters(&mut self) -> Result<Value> {
        self.control(&json!({"cmd": "counters"}))
    }

    /// Adds a fault rule.
    ///
    /// # Errors
    /// If it does not take it.
    pub fn add_fault(&mut self, rule: &Value) -> Result<()> {
        self.control(&json!({"cmd": "fault-add", "rule": rule}))?;
        Ok(())
    }

    /// Removes all fault rules.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn clear_faults(&mut self) -> Result<()> {
        self.control(&json!({"cmd": "fault-clear"}))?;
        Ok(())
    }
}
