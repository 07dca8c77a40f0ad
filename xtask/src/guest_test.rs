// SPDX-License-Identifier: GPL-2.0-or-later
//! `cargo xtask guest-test` and `cargo xtask guest`: the tests in a guest, and what it boots from.

use std::time::Instant;

use anyhow::{bail, Result};
use test_kit::project::Project;
use test_kit::steps::Steps;
use test_machine::image;
use test_machine::scenario::{chosen, verdict};

use crate::programs;

/// Runs the named scenarios, or all; each says PASS or FAIL with its figures.
///
/// # Errors
/// When a name is unknown, something cannot be built, or a scenario failed.
pub(crate) fn run(project: &Project, names: &[String]) -> Result<()> {
    let scenarios = chosen(guest_tests::ALL, names)?;
    let steps = &mut Steps::new(project, "guest-test")?;
    let programs = programs::for_machines(project, steps)?;
    let bench = guest_tests::bench(project, steps, "guest-test", programs)?;
    let kit = guest_tests::kit(project, steps, &bench, &scenarios)?;
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios {
        let began = Instant::now();
        let result = steps.run(scenario.name, |_| {
            guest_tests::run(scenario, &bench, kit.as_ref())
        });
        println!("{}", verdict(scenario.name, &result, began.elapsed()));
        match result {
            Ok(_) => passed += 1,
            Err(_) => failed += 1,
        }
        bench.interrupted.check()?;
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!(
            "{failed} guest tests failed; logs are in {}",
            bench.logs.display()
        );
    }
    Ok(())
}

/// Makes the image that the tests' guest boots from and prints where it is.
///
/// # Errors
/// When packages cannot be had or the image cannot be written.
pub(crate) fn image(project: &Project) -> Result<()> {
    let steps = &mut Steps::new(project, "guest")?;
    let image = image::ensure(project, steps, &guest_tests::scripts(project))?;
    println!("{}\n{}", image.kernel.display(), image.initrd.display());
    Ok(())
}
