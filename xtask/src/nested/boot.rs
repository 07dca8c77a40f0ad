// SPDX-License-Identifier: GPL-2.0-or-later
//! Waits for L2, and finds out what it does when it does not come.
//!
//! L2 runs under L1's KVM on a processor that is emulated, with its virtualization. On a busy machine
//! one boot in some tens has been seen to stop for good while L2's processor went on running. So L2 gets
//! a second try, once for each boot, if it is the guest that stands still: QEMU must answer, and hand
//! out the registers of the processor, for which that has to leave KVM and whatever a device makes it wait
//! for. A device or helper that blocks the processor or QEMU therefore fails at once. The second try is
//! told with the scenario's figures.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use serde_json::json;

use super::Nested;

/// Longest time from the start of L2's QEMU until L2 takes commands. On a machine so busy that L1 gets
/// a quarter of a processor, it took up to 124 s.
const L2_BOOT: Duration = Duration::from_secs(180);
/// How often it is looked whether its QEMU still runs.
const L2_LOOK: Duration = Duration::from_secs(10);
/// How often it is looked where L2's processor is.
const LOOKS: usize = 3;

/// What L2's QEMU does, as far as it can be found out.
#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    /// Where the processor was, each time that QEMU could tell.
    places: Vec<String>,
}

impl State {
    /// Whether nothing of QEMU stands still: what does is the guest.
    fn only_guest(&self) -> bool {
        self.places.len() == LOOKS
    }

    /// For an error.
    fn text(&self) -> String {
        let places = self.places.iter().map(|place| format!("L2: {place}"));
        let lines = self.lines.iter().cloned().chain(places);
        lines.map(|line| format!("\n    {line}")).collect()
    }
}

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
    pub(crate) fn wait_l2(&mut self) -> Result<()> {
        if self.l2_came()? {
            return Ok(());
        }
        let state = self.l2_state();
        let error = anyhow!("not within {L2_BOOT:?}{}", state.text());
        if !state.only_guest() {
            return self.explained(Err(error));
        }
        let number = self.second_tries.len() + 1;
        let log = self
            .l2_port_log()
            .with_file_name(format!("{}-l2-hang-{number}.log", self.name));
        let details = self.l2_details();
        fs::write(&log, format!("{error:#}\n{details}"))
            .with_context(|| format!("cannot write {}", log.display()))?;
        self.drain_l2();
        self.l2_qmp()?
            .execute("system_reset", &json!({}))
            .context("reset L2 for its second try")?;
        if !self.l2_came()? {
            let state = self.l2_state();
            let error = error.context(format!(
                "second try: not within {L2_BOOT:?}{}",
                state.text()
            ));
            return self.explained(Err(error));
        }
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        self.second_tries
            .push(format!("L2 booted at the second try (see {name})"));
        Ok(())
    }

    /// Whether L2 takes commands before its time is over.
    fn l2_came(&mut self) -> Result<bool> {
        let until = Instant::now() + L2_BOOT;
        loop {
            let done = self.l2_ready(L2_LOOK);
            if done.is_ok() {
                return Ok(true);
            }
            if self.l1_alive().is_err() {
                return self.explained(done).map(|()| true);
            }
            self.step("l2_running")?;
            if Instant::now() > until {
                return Ok(false);
            }
        }
    }

    fn l2_state(&mut self) -> State {
        let mut state = State::default();
        if let Ok(answer) = self.attempt("l2_state") {
            state.lines = answer.all("text").map(str::to_owned).collect();
        }
        // Whether the processor moves.
        for _ in 0..LOOKS {
            match self.l2_monitor("info registers") {
                Ok(found) => match place(&found) {
                    Some(place) => state.places.push(place),
                    None => state.lines.push(format!("L2's QEMU: {found}")),
                },
                Err(error) => state.lines.push(format!("L2's QEMU: {error:#}")),
            }
        }
        state
    }

    /// An answer of the monitor for people.
    fn l2_monitor(&mut self, command: &str) -> Result<String> {
        let arguments = json!({ "command-line": command });
        let answer = self
            .l2_qmp()?
            .execute("human-monitor-command", &arguments)?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// For somebody who looks for the cause: all registers, the stack, the lock that the kernel's slow
    /// path of a spin lock waits for, interrupts.
    fn l2_details(&mut self) -> String {
        let mut details = String::new();
        let mut ask = |command: &str| {
            let answer = self.l2_monitor(command);
            let answer = answer.unwrap_or_else(|error| format!("{error:#}\n"));
            details += &format!("\n{command}\n{answer}");
            answer
        };
        let registers = ask("info registers");
        for (name, examine) in [("RSP", "x /128gx"), ("RBX", "x /4wx")] {
            if let Some(value) = register(&registers, name) {
                ask(&format!("{examine} 0x{value}"));
            }
        }
        ask("info lapic");
        ask("info pic");
        details
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
    fn a_second_try_needs_a_qemu_that_answers() {
        let running = "RAX=0\nRIP=ffffffff81a55240 RFL=00000002 [-------] CPL=0 HLT=0\nES =0\n";
        assert_eq!(register(running, "RIP"), Some("ffffffff81a55240"));
        assert_eq!(register(running, "RSP"), None);
        let mut state = State::default();
        assert!(!state.only_guest());
        state.places.extend(place(running));
        state.places.extend(place(""));
        state.places.extend(place(running));
        assert!(!state.only_guest(), "{state:?}");
        state.places.extend(place("EIP=0000fff0 EFL=00000002"));
        assert!(state.only_guest());
        let text = state.text();
        assert!(text.contains("\n    L2: RIP=ffffffff81a55240 "), "{text}");
        assert!(
            text.ends_with("\n    L2: EIP=0000fff0 EFL=00000002"),
            "{text}"
        );
    }
}
