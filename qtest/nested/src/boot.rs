// SPDX-License-Identifier: GPL-2.0-or-later
//! Waits for L2, and finds out what it does when it does not come or answer: whether its QEMU stands
//! still, for instance because a device makes it wait, or the guest does, and where.

use std::time::Duration;

use anyhow::{anyhow, Context, Result};
use serde_json::json;
use test_kit::patience::{Patience, Spent};

use crate::machine::Nested;

/// Longest time from the start of L2's QEMU until L2 takes commands, in L1's own time.
const L2_BOOT: Duration = Duration::from_secs(180);
/// How often it is looked whether its QEMU still runs.
const L2_LOOK: Duration = Duration::from_secs(10);
/// How often it is looked where L2's processor is.
const LOOKS: usize = 3;
/// How long L1's processor runs between two stops.
const BETWEEN_STOPS: Duration = Duration::from_millis(1);

/// The line of QEMU's `info registers` that tells where the processor is.
fn place(registers: &str) -> Option<String> {
    let line = registers.lines().find(|line| line.contains("IP="))?;
    Some(line.trim().to_owned())
}

impl Nested {
    /// Waits until L2 takes commands, also after a reboot.
    ///
    /// # Errors
    /// When it does not, or its QEMU has ended; with what that said.
    pub fn wait_l2(&mut self) -> Result<()> {
        let Err(spent) = self.l2_came()? else {
            return Ok(());
        };
        let error = anyhow!("not {spent}{}", self.l2_state());
        self.explained(Err(error))
    }

    /// Starts L2 with words on its kernel's command line and more arguments of QEMU, and waits until
    /// it takes commands.
    ///
    /// # Errors
    /// When QEMU does not start, or L2 does not boot.
    pub fn start_l2(&mut self, words: &[&str], arguments: &[String]) -> Result<()> {
        self.launch_l2(words, arguments)?;
        self.wait_l2().context("boot L2")
    }

    /// Starts L2, and until it takes commands stops L1's processor for a moment again and again. Gives
    /// how often.
    ///
    /// # Errors
    /// When L2 does not boot.
    pub(crate) fn start_l2_interrupted(
        &mut self,
        words: &[&str],
        arguments: &[String],
    ) -> Result<u64> {
        self.launch_l2(words, arguments)?;
        let mut patience = Patience::new(L2_BOOT);
        let mut times = 0;
        let spent = loop {
            if let Err(spent) = patience.look() {
                break spent;
            }
            times += self.interrupt_l1(1)?;
            if self.l2_ready(BETWEEN_STOPS).is_ok() {
                return Ok(times);
            }
            self.l1_alive()?;
        };
        let error = anyhow!("L2 has not booted {spent}{}", self.l2_state());
        self.explained(Err(error))
    }

    /// Stops L1's processor for a moment, some times.
    ///
    /// # Errors
    /// When QEMU does not do it.
    pub(crate) fn interrupt_l1(&mut self, times: u64) -> Result<u64> {
        for _ in 0..times {
            for command in ["stop", "cont"] {
                self.machine.qmp().execute(command, &json!({}))?;
            }
        }
        Ok(times)
    }

    /// Whether L2 takes commands before its time is over.
    fn l2_came(&mut self) -> Result<Result<(), Spent>> {
        let mut patience = Patience::new(L2_BOOT);
        loop {
            let done = self.l2_ready(L2_LOOK);
            if done.is_ok() {
                return Ok(Ok(()));
            }
            if self.l1_alive().is_err() {
                return self.explained(done).map(Ok);
            }
            self.step("l2_running")?;
            if let Err(spent) = patience.look() {
                return Ok(Err(spent));
            }
        }
    }

    /// For an error: what the threads of L2's QEMU do, how L2's interrupt controllers stand, and where
    /// its processor is, as far as it can be found out.
    pub(crate) fn l2_state(&mut self) -> String {
        let mut lines: Vec<String> = match self.attempt("l2_state") {
            Ok(answer) => answer.all("text").map(str::to_owned).collect(),
            Err(error) => vec![format!("L1: {error:#}")],
        };
        let mut ask = |command: &str| match self.l2_monitor(command) {
            Ok(text) => {
                lines.extend(text.lines().map(str::to_owned));
                text
            }
            Err(error) => {
                lines.push(format!("L2's QEMU: {error:#}"));
                String::new()
            }
        };
        ask("info lapic");
        ask("info pic");
        if let Some(stack) = register(&ask("info registers"), "RSP") {
            ask(&format!("x /64gx 0x{stack}"));
        }
        // Whether the processor moves.
        for _ in 0..LOOKS {
            lines.push(match self.l2_monitor("info registers") {
                Ok(text) => match place(&text) {
                    Some(place) => format!("L2: {place}"),
                    None => format!("L2's QEMU: {text}"),
                },
                Err(error) => format!("L2's QEMU: {error:#}"),
            });
        }
        lines.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Asks the monitor of L2's QEMU.
    pub(crate) fn l2_monitor(&mut self, command: &str) -> Result<String> {
        let command = json!({ "command-line": command });
        let answer = self.l2_qmp()?.execute("human-monitor-command", &command)?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }
}

/// A register of QEMU's `info registers`, in hex.
fn register<'a>(registers: &'a str, name: &str) -> Option<&'a str> {
    registers
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_instruction() {
        let running = "RAX=0\nRIP=ffffffff81a55240 RFL=00000002 [-------] CPL=0 HLT=0\nES =0\n";
        let found = place(running).unwrap();
        assert!(found.starts_with("RIP=ffffffff81a55240 "), "{found}");
        assert!(place("EIP=0000fff0 EFL=00000002").is_some());
        assert_eq!(place(""), None);
        assert_eq!(register(running, "RIP"), Some("ffffffff81a55240"));
        assert_eq!(register(running, "RSP"), None);
    }
}
