// SPDX-License-Identifier: GPL-2.0-or-later
//! Where a type is used: a guest with a function of it, and the simulated PF behind that. The guest may run
//! on this machine or inside another one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use test_kit::patience::until;
use test_machine::answer::Answer;
use test_machine::counters::Vf;

/// How often it is looked at something that gives no sign.
const PAUSE: Duration = Duration::from_millis(50);
/// For what the guest does at once, in its own time.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// For transfers.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// A guest and the simulated PFs whose first VFs it has.
pub trait Guest {
    /// Has the guest run a command, which must succeed.
    ///
    /// # Errors
    /// When it fails or takes too long.
    fn run(&mut self, command: &str, within: Duration) -> Result<Answer>;

    /// Sends a request to the simulator of the PF of this type.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    fn control(&self, kind: &str, request: &Value) -> Result<Value>;

    /// Where that simulator has its sockets.
    ///
    /// # Errors
    /// When there is none.
    fn dir(&self, kind: &str) -> Result<PathBuf>;

    /// MiB that are to be copied to and from a disk.
    fn copy_mib(&self) -> u64;
}

/// One type in a guest.
pub struct Place<'a> {
    guest: &'a mut dyn Guest,
    kind: &'static str,
}

impl<'a> Place<'a> {
    /// The function of a type in a guest.
    pub fn new(guest: &'a mut dyn Guest, kind: &'static str) -> Self {
        Self { guest, kind }
    }

    /// As [`Guest::run`].
    ///
    /// # Errors
    /// As there.
    pub fn guest(&mut self, command: &str, within: Duration) -> Result<Answer> {
        self.guest.run(command, within)
    }

    /// Sends a request to the type's simulator.
    ///
    /// # Errors
    /// As [`Guest::control`].
    pub fn control(&self, request: &Value) -> Result<Value> {
        self.guest.control(self.kind, request)
    }

    /// Where the simulator has its sockets.
    ///
    /// # Errors
    /// As [`Guest::dir`].
    pub fn dir(&self) -> Result<PathBuf> {
        self.guest.dir(self.kind)
    }

    /// As [`Guest::copy_mib`].
    pub(crate) fn copy_mib(&self) -> u64 {
        self.guest.copy_mib()
    }

    /// Everything that the simulator counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn all_counters(&self) -> Result<Value> {
        self.control(&json!({ "cmd": "counters" }))
    }

    /// What the simulated hardware counted for VF 1.
    ///
    /// # Errors
    /// When the simulator does not tell.
    pub fn counters(&self) -> Result<Vf> {
        let counters = self.all_counters()?;
        Vf::of(&counters, 1).with_context(|| format!("no counters of VF 1 in {counters}"))
    }

    /// What the type of VF 1 counts under a name.
    ///
    /// # Errors
    /// When the simulator does not tell.
    pub fn number(&self, name: &str) -> Result<u64> {
        let counters = self.all_counters()?;
        counters
            .pointer(&format!("/hardware/functions/vf1/type/{name}"))
            .and_then(Value::as_u64)
            .with_context(|| format!("no number {name} in {counters}"))
    }

    /// Waits until a number of the type is `want`.
    ///
    /// # Errors
    /// When it is another one all the time.
    pub fn wait_number(&self, name: &str, want: u64, within: Duration) -> Result<()> {
        let mut now = 0;
        let done = until(within, PAUSE, || {
            now = self.number(name)?;
            Ok((now == want).then_some(()))
        });
        done.with_context(|| format!("{name} is {now}, not {want}"))
    }
}
