// SPDX-License-Identifier: GPL-2.0-or-later
//! What the simulated hardware saw, from its event log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde_json::Value;
use virtio_modern_spec::admin::opcode;
use virtio_pci_spec::legacy::{Register, HEADER};

/// The legacy commands: (opcode, what its name is in messages).
const LEGACY: [(u16, &str); 4] = [
    (opcode::LEGACY_COMMON_CFG_WRITE, "common write"),
    (opcode::LEGACY_COMMON_CFG_READ, "common read"),
    (opcode::LEGACY_DEV_CFG_WRITE, "device write"),
    (opcode::LEGACY_DEV_CFG_READ, "device read"),
];

/// Offset of the register that drivers without interrupts poll.
const ISR_STATUS: u8 = 19;

/// What happened so far at one VF.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many legacy commands by (opcode, register offset); those that the device refused are
    /// in `refused` instead.
    commands: BTreeMap<(u16, u8), u64>,
    /// Bytes of the device configuration that were read.
    config: BTreeSet<u8>,
    /// Queue page frames written that were not 0.
    pub(crate) queues: u64,
    pub(crate) refused: u64,
    /// Notifications at the VF's own legacy notification address.
    pub(crate) doorbells_legacy: u64,
    /// Notifications at the modern structure.
    pub(crate) doorbells_modern: u64,
    /// Notifications by an admin command.
    pub(crate) doorbells_command: u64,
    pub(crate) interrupts: u64,
    /// Rules that a driver of the VF broke.
    pub(crate) violations: BTreeSet<String>,
    /// Why the device gave up, if it did.
    pub(crate) needs_reset: Vec<String>,
}

/// Writes of the status with which the device proves at its start that number and socket are of the
/// same VF.
const OWN_WRITES: u64 = 2;

impl Seen {
    /// Reads an event log as far as it is written; `vf` counts from 1.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn read(log: &Path, vf: u16) -> Result<Self> {
        let text = fs::read_to_string(log)
            .with_context(|| format!("cannot read the event log {}", log.display()))?;
        Ok(Self::of(&text, vf))
    }

    fn of(text: &str, vf: u16) -> Self {
        let mut seen = Self::default();
        let isr = (opcode::LEGACY_COMMON_CFG_READ, ISR_STATUS);
        // Members of an object are in the order of their names.
        let polled = format!("\"offset\":{},\"opcode\":{},", isr.1, isr.0);
        let member = format!("\"member\":{vf},");
        // The last line may not be complete yet.
        for line in text.lines().filter(|line| line.ends_with('}')) {
            // Drivers that poll do it some hundred thousand times, and reading JSON takes long.
            if line.contains("\"function\":\"pf\"") && !line.contains("\"event\":\"command\"") {
                continue;
            }
            if line.contains(&polled) && line.contains(&member) && line.contains(",\"status\":0,") {
                *seen.commands.entry(isr).or_default() += 1;
                continue;
            }
            if let Ok(record) = serde_json::from_str::<Value>(line) {
                seen.add(&record, vf);
            }
        }
        seen
    }

    fn add(&mut self, record: &Value, vf: u16) {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| record.get(key).and_then(Value::as_u64);
        if text("event") == "command" {
            if number("member") == Some(vf.into()) {
                self.command(record);
            }
            return;
        }
        let at = record.pointer("/function/vf").and_then(Value::as_u64);
        if at != Some(vf.into()) {
            return;
        }
        match (text("event"), text("via")) {
            ("doorbell", "modern") => self.doorbells_modern += 1,
            ("doorbell", "legacy_register") => self.doorbells_command += 1,
            ("doorbell", _) => self.doorbells_legacy += 1,
            ("interrupt", _) => self.interrupts += 1,
            ("violation", _) => {
                self.violations.insert(text("violation").to_owned());
            }
            ("needs_reset", _) => self.needs_reset.push(text("reason").to_owned()),
            _ => {}
        }
    }

    fn command(&mut self, record: &Value) {
        let number = |key: &str| record.get(key).and_then(Value::as_u64);
        let opcode = number("opcode").and_then(|n| u16::try_from(n).ok());
        let offset = number("offset").and_then(|n| u8::try_from(n).ok());
        let (Some(opcode), Some(offset)) = (opcode, offset) else {
            return;
        };
        if number("status") != Some(0) {
            self.refused += 1;
            return;
        }
        *self.commands.entry((opcode, offset)).or_default() += 1;
        if opcode == opcode::LEGACY_DEV_CFG_READ {
            let len = number("len").and_then(|n| u8::try_from(n).ok());
            self.config
                .extend(offset..offset.saturating_add(len.unwrap_or(1)));
        }
        let queue = HEADER
            .iter()
            .any(|field| field.register == Register::QueueAddress && field.offset == offset);
        if queue && opcode == opcode::LEGACY_COMMON_CFG_WRITE && number("data") != Some(0) {
            self.queues += 1;
        }
    }

    /// All legacy commands.
    pub(crate) fn legacy_commands(&self) -> u64 {
        self.commands.values().sum()
    }

    /// How many commands with this opcode there were at a register of the header.
    pub(crate) fn count(&self, opcode: u16, register: Register) -> u64 {
        HEADER
            .iter()
            .filter(|field| field.register == register)
            .map(|field| self.at(opcode, field.offset))
            .sum()
    }

    fn at(&self, opcode: u16, offset: u8) -> u64 {
        self.commands.get(&(opcode, offset)).copied().unwrap_or(0)
    }

    /// Checks that a driver of the legacy interface was there: it accessed the registers that every
    /// set-up has to, and read the features and the device configuration at `config`, both only if
    /// that is not empty. Whether it negotiated features
    /// is not asked: SeaBIOS leaves them at 0 without a write.
    ///
    /// # Errors
    /// What was not seen, or should not have been.
    pub(crate) fn check_legacy_set_up(&self, config: &[u8]) -> Result<()> {
        use Register::{DeviceStatus, QueueAddress, QueueSelect, QueueSize};
        let (read, write) = (
            opcode::LEGACY_COMMON_CFG_READ,
            opcode::LEGACY_COMMON_CFG_WRITE,
        );
        for (opcode, register) in [
            (write, QueueSelect),
            (read, QueueSize),
            (write, QueueAddress),
            (write, DeviceStatus),
        ] {
            ensure!(
                self.count(opcode, register) > 0,
                "no {} of {register:?}; {self}",
                name(opcode)
            );
        }
        ensure!(
            config.is_empty() || self.count(read, Register::DeviceFeatures) > 0,
            "the features were not read; {self}"
        );
        for offset in config {
            ensure!(
                self.config.contains(offset),
                "the device configuration was not read at offset {offset}; {self}"
            );
        }
        ensure!(self.queues > 0, "no queue was set up; {self}");
        self.check_well()
    }

    /// Checks that a driver of the legacy interface did its work: what [`Seen::check_legacy_set_up`]
    /// asks for, and it rang the VF's own doorbells and no others.
    ///
    /// # Errors
    /// What was not seen, or should not have been.
    pub(crate) fn check_legacy_driver(&self, config: &[u8]) -> Result<()> {
        self.check_legacy_set_up(config)?;
        ensure!(
            self.doorbells_legacy > 0 && self.doorbells_modern == 0 && self.doorbells_command == 0,
            "notifications did not go straight to the VF's legacy address; {self}"
        );
        Ok(())
    }

    /// Checks that everything was done by the modern interface. Of the rules that a driver can
    /// break, those `forgiven` are known habits of this one.
    ///
    /// # Errors
    /// What was seen instead.
    pub(crate) fn check_modern_driver(&self, forgiven: &[&str]) -> Result<()> {
        // Those of the device itself, which finds out at its start whether it has the right VF.
        let own = self
            .count(opcode::LEGACY_COMMON_CFG_WRITE, Register::DeviceStatus)
            .min(OWN_WRITES);
        ensure!(
            self.legacy_commands() == own && self.doorbells_legacy + self.doorbells_command == 0,
            "a driver of the modern interface used legacy registers; {self}"
        );
        ensure!(self.doorbells_modern > 0, "no doorbell rang; {self}");
        let mut judged = self.clone();
        judged
            .violations
            .retain(|rule| !forgiven.contains(&rule.as_str()));
        judged.check_well()
    }

    /// Checks that nothing went wrong at the device.
    ///
    /// # Errors
    /// What did.
    pub(crate) fn check_well(&self) -> Result<()> {
        ensure!(
            self.refused == 0,
            "the device refused {} commands; {self}",
            self.refused
        );
        ensure!(self.needs_reset.is_empty(), "the device gave up; {self}");
        ensure!(self.violations.is_empty(), "the driver broke rules; {self}");
        Ok(())
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the simulator saw")?;
        for (opcode, _) in LEGACY {
            let found: Vec<String> = self
                .commands
                .iter()
                .filter(|((of, _), _)| *of == opcode)
                .map(|((_, offset), count)| format!("{offset}({count})"))
                .collect();
            if !found.is_empty() {
                write!(f, " {} {};", name(opcode), found.join(" "))?;
            }
        }
        write!(
            f,
            " doorbells: {} legacy, {} modern, {} by command; refused {}",
            self.doorbells_legacy, self.doorbells_modern, self.doorbells_command, self.refused
        )?;
        for text in self.violations.iter().chain(&self.needs_reset) {
            write!(f, "; {text}")?;
        }
        Ok(())
    }
}

fn name(opcode: u16) -> &'static str {
    LEGACY
        .iter()
        .find(|(of, _)| *of == opcode)
        .map_or("command", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(opcode: u16, offset: u8, data: u64, status: u16) -> String {
        format!(
            "{{\"event\":\"command\",\"function\":\"pf\",\"member\":1,\"opcode\":{opcode},\
             \"offset\":{offset},\"data\":{data},\"status\":{status}}}\n"
        )
    }

    fn boot() -> String {
        let mut log = String::new();
        for (opcode, offset) in [(2, 18), (3, 0), (2, 14), (3, 12), (2, 8), (5, 0)] {
            log += &command(opcode, offset, 5, 0);
        }
        log + "{\"event\":\"doorbell\",\"function\":{\"vf\":1},\"via\":\"member_area\",\"queue\":0}\n"
    }

    #[test]
    fn a_legacy_driver_is_known_by_its_registers() {
        let seen = Seen::of(&boot(), 1);
        seen.check_legacy_driver(&[0]).unwrap();
        assert_eq!((seen.queues, seen.legacy_commands()), (1, 6));
        assert!(seen.check_legacy_driver(&[1]).is_err());
        assert!(seen.check_modern_driver(&[]).is_err());
        // Another VF's commands are not this one's.
        assert_eq!(Seen::of(&boot(), 2), Seen::default());
        assert!(Seen::default().check_legacy_driver(&[]).is_err());
        // Any register that is missing is missed.
        for left_out in 0..6 {
            let log: Vec<&str> = boot()
                .leak()
                .lines()
                .enumerate()
                .filter(|(i, _)| *i != left_out)
                .map(|(_, line)| line)
                .collect();
            assert!(Seen::of(&log.join("\n"), 1)
                .check_legacy_driver(&[0])
                .is_err());
        }
    }

    #[test]
    fn polls_are_counted_like_other_commands() {
        let poll = |member: u16, status: u16| {
            format!(
                "{{\"data\":0,\"event\":\"command\",\"function\":\"pf\",\"len\":1,\"member\":{member},\
                 \"offset\":19,\"opcode\":3,\"qualifier\":0,\"status\":{status},\"writable\":9}}\n"
            )
        };
        let log = poll(1, 0) + &poll(2, 0) + &poll(1, 22) + &poll(1, 0);
        let seen = Seen::of(&log, 1);
        assert_eq!(seen.count(3, Register::IsrStatus), 2);
        assert_eq!(seen.refused, 1);
        assert_eq!(Seen::of(&log, 2).count(3, Register::IsrStatus), 1);
    }

    #[test]
    fn what_went_wrong_is_an_error() {
        let modern = "{\"event\":\"doorbell\",\"function\":{\"vf\":1},\"via\":\"modern\"}\n";
        Seen::of(modern, 1).check_modern_driver(&[]).unwrap();
        assert!(Seen::of(&(boot() + modern), 1)
            .check_legacy_driver(&[])
            .is_err());
        let refused = boot() + &command(2, 16, 0, 1);
        assert!(Seen::of(&refused, 1).check_legacy_driver(&[]).is_err());
        let violation = "{\"event\":\"violation\",\"function\":{\"vf\":1},\"violation\":\"x\"}\n";
        assert!(Seen::of(&(boot() + violation), 1)
            .check_legacy_driver(&[])
            .is_err());
        let broken = modern.to_owned() + violation;
        assert!(Seen::of(&broken, 1).check_modern_driver(&["y"]).is_err());
        Seen::of(&broken, 1).check_modern_driver(&["x"]).unwrap();
        // A line that is being written.
        let seen = Seen::of(&(boot() + "{\"event\":\"viol"), 1);
        seen.check_legacy_driver(&[0]).unwrap();
    }
}
