// SPDX-License-Identifier: GPL-2.0-or-later
//! A device that may have stopped: how long it is waited for, and how device_status is looked at
//! without waiting.

use std::time::{Duration, Instant};

use virtio_modern_spec::common::DEVICE_STATUS;
use virtio_pci_spec::status;

use crate::error::PfError;
use crate::pf::{Pf, Phase};
use crate::regs::{name, Common};
use crate::types::PfState;

/// How much later than its deadline an operation may end because a register access was under way:
/// the least that an access is waited for.
const SLACK: Duration = Duration::from_millis(500);

impl Pf {
    /// Until when a register access may be waited for: the earliest deadline of what is outstanding.
    /// `None`: for the time that the function was opened with.
    pub(crate) fn patience(&self, now: Instant) -> Option<Instant> {
        if self.state == PfState::Starting {
            return None;
        }
        let earliest = match self.phase.is_live() {
            // Never later, and cheap.
            true => self.timer,
            false => self.lanes.iter().filter_map(|lane| lane.timer()).min(),
        };
        earliest.map(|t| t.max(now + SLACK))
    }

    /// Whether something has ended that its owner must hear of before this driver does anything that
    /// may have to wait. It is called again at once then.
    pub(crate) fn completions_first(&mut self, now: Instant) -> bool {
        let first = !self.completions.is_empty();
        if first {
            self.wake = Some(now);
        }
        first
    }

    /// Looks whether the device still works at all: now, or when its answer comes.
    pub(crate) fn ask_status(&mut self, now: Instant) -> Result<(), PfError> {
        match self.status_later()? {
            Some(value) => self.judge_status(value),
            None => {
                self.expect_status(now);
                Ok(())
            }
        }
    }

    pub(crate) fn status_later(&self) -> Result<Option<u8>, PfError> {
        Common::new(&*self.function, self.structures.common).status_later()
    }

    /// The device was asked for its status and has to answer like to a command.
    pub(crate) fn expect_status(&mut self, now: Instant) {
        let by = now + self.config.command_timeout;
        self.status_by.get_or_insert(by);
    }

    /// Takes device_status, which was asked for.
    pub(crate) fn status_came(&mut self, value: u32, now: Instant) -> Result<(), PfError> {
        if self.status_by.take().is_none() {
            // Asked for before a reset.
            return Ok(());
        }
        match self.phase {
            Phase::Asking => {
                self.phase = Phase::Answering;
                self.wake = Some(now);
                Ok(())
            }
            _ if self.phase.is_live() => self.judge_status((value & 0xff) as u8),
            _ => Ok(()),
        }
    }

    /// A device that does not even say its status is gone.
    pub(crate) fn check_silence(&self, now: Instant) -> Result<(), PfError> {
        if self.status_by.is_some_and(|by| now >= by) {
            return Err(PfError::TimedOut {
                function: self.id.clone(),
                what: "read of device_status",
                after: self.config.command_timeout,
            });
        }
        Ok(())
    }

    fn judge_status(&self, now: u8) -> Result<(), PfError> {
        let why = if now & status::DEVICE_NEEDS_RESET != 0 {
            format!("{now:#x}: the device needs a reset")
        } else if now & status::DRIVER_OK == 0 {
            format!("{now:#x}: the device lost its state")
        } else {
            return Ok(());
        };
        Err(PfError::Misbehaved {
            function: self.id.clone(),
            register: name(DEVICE_STATUS),
            why,
        })
    }
}
