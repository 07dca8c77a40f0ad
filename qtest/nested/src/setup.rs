// SPDX-License-Identifier: GPL-2.0-or-later
//! What a scenario of the nested machine is made of.

use anyhow::Result;

use crate::machine::{Nested, Plan};

/// A machine for scenarios.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Its kernel and cards; scenarios with the same name of it that follow each other share the machine.
    pub plan: Plan,
    /// What is done in a fresh machine.
    pub prepare: fn(&mut Nested) -> Result<()>,
}

/// How a scenario is run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Whether the machine has modules that are built for its kernel, and the bare-metal guest: see
    /// [`crate::peer`].
    pub equipped: bool,
    /// The machine it runs in.
    pub setup: &'static Setup,
    /// Whether it leaves the machine such that no other scenario can use it.
    pub spoils: bool,
    /// Breaches of the specification, as the simulator names them, that it must not fail for.
    pub violations: &'static [&'static str],
    /// Gives the figures to be shown.
    pub run: fn(&mut Nested) -> Result<String>,
}
