// SPDX-License-Identifier: GPL-2.0-or-later
//! Programs and image for nested machines.

use anyhow::Result;
use test_kit::packages;
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::bench::Bench;
use test_machine::debs::Release;
use test_machine::image::{self, Image};
use test_machine::rig::Programs;

use crate::image::make;
use crate::peer;

/// The scripts with what the nested machine can be asked to do, in the project's tree.
const SCRIPTS: &str = "qtest/nested/guest";

/// Programs and image for nested machines.
#[derive(Debug)]
pub struct Workbench {
    /// What its guest (L2) boots from, and the programs.
    pub bench: Bench,
    /// What the machine (L1) boots from.
    pub image: Image,
}

impl Workbench {
    /// Makes everything that is needed for L1 with the given kernel; with what is built for that kernel
    /// if it is to be `equipped`. Logs go to where those of `command` do.
    ///
    /// # Errors
    /// When something cannot be made or downloaded.
    pub fn prepare(
        project: &Project,
        steps: &mut Steps,
        command: &str,
        programs: Programs,
        (release, equipped): (Release, bool),
    ) -> Result<Self> {
        packages::ensure(steps, "the nested machine", packages::NESTED)?;
        let bench = guest_tests::bench(project, steps, command, programs)?;
        let mut scripts = guest_tests::scripts(project);
        scripts.push(project.root().join(SCRIPTS));
        let outer = image::ensure_release(project, steps, release, &scripts)?;
        let mut image = steps.run("make the nested machine's file system", |step| {
            let inner = guest_tests::types::image(&bench)?;
            make(step, &bench.programs, &outer, &inner, bench.run.path())
        })?;
        if equipped {
            image = peer::equip(project, steps, &image, bench.run.path())?;
        }
        Ok(Self { bench, image })
    }

    /// The same for somebody who tests beside it.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn beside(&self, name: &str) -> Result<Self> {
        Ok(Self {
            bench: self.bench.beside(name)?,
            image: self.image.clone(),
        })
    }
}
