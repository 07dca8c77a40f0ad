// SPDX-License-Identifier: GPL-2.0-or-later
//! What a test of a machine has at hand: programs, an image, directories.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use test_kit::project::Project;
use test_kit::steps::Steps;

use crate::image::{self, Image};
use crate::machine::{Config, Driver, Extra, Function, Machine};
use crate::process::Interrupted;
use crate::rig::{Pf, Programs, RunDir};

/// What a scenario has at hand.
#[derive(Debug)]
pub struct Bench {
    /// What was built.
    pub programs: Programs,
    /// What a guest boots from.
    pub image: Image,
    /// For sockets and what is made for this run alone.
    pub run: RunDir,
    /// For logs, which stay.
    pub logs: PathBuf,
    /// Whether the user wants it to end.
    pub interrupted: Interrupted,
}

impl Bench {
    /// Makes the image, with Debian's stable kernel and the scripts of these directories, and the place for
    /// the logs of a command.
    ///
    /// # Errors
    /// When something cannot be made or downloaded.
    pub fn new(
        project: &Project,
        steps: &mut Steps,
        command: &str,
        programs: Programs,
        scripts: &[PathBuf],
    ) -> Result<Self> {
        let interrupted = Interrupted::watch()?;
        Ok(Self {
            programs,
            image: image::ensure(project, steps, scripts)?,
            run: RunDir::new()?,
            logs: project.log_dir(command)?,
            interrupted,
        })
    }

    /// The same for somebody who tests beside it: with sockets and logs of its own.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn beside(&self, name: &str) -> Result<Self> {
        let logs = self.logs.join(name);
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self {
            programs: self.programs.clone(),
            image: self.image.clone(),
            run: RunDir::new()?,
            logs,
            interrupted: self.interrupted.clone(),
        })
    }

    /// A PF with its helper.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn pf(&self, kind: &'static str, vfs: u16, options: &[&str]) -> Result<Pf> {
        Pf::start(
            &self.programs,
            kind,
            vfs,
            options,
            self.run.path(),
            &self.logs,
            &self.interrupted,
        )
    }

    /// A configuration of a machine with these functions.
    #[must_use]
    pub fn config(&self, driver: Driver, functions: Vec<Function>) -> Config<'_> {
        Config {
            qemu: &self.programs.qemu,
            image: &self.image,
            driver,
            functions,
            address: "10.0.77.2",
            console: false,
            extra: Extra::default(),
        }
    }

    /// Starts a machine; see [`Machine::wait_ready`].
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn machine(&self, name: &str, config: &Config<'_>) -> Result<Machine> {
        Machine::start(name, config, self.run.path(), &self.logs, &self.interrupted)
    }
}
