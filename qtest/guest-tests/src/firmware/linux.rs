// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian's Linux after firmware has booted it.

use std::time::Duration;

use anyhow::Result;

use super::vm::Vm;
use test_machine::answer::{Answer, Line};

/// Until Linux has run its scenarios.
const DONE: Duration = Duration::from_secs(120);

/// Waits until Linux has run the scenarios of its command line, of which `last` is the last one,
/// and gives what they said.
///
/// # Errors
/// When one of them failed, or they are not done in time.
pub(crate) fn wait(vm: &mut Vm, last: &str) -> Result<Answer> {
    vm.expect(&format!("VLVF: done id={last} "), DONE)?;
    vm.expect("\n", DONE)?;
    let (mut values, mut code) = (Vec::new(), 0);
    for line in vm.said().lines() {
        match Line::parse(line) {
            Some(Line::Values(more)) => values.extend(more),
            Some(Line::Done { status, .. }) => code |= status,
            _ => {}
        }
    }
    Answer::new(last, code, values).ok()
}
