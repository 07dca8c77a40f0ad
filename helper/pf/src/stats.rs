// SPDX-License-Identifier: GPL-2.0-or-later
//! Counters of a PF driver.

use std::collections::BTreeMap;

use virtio_modern_spec::admin::opcode;

/// Distinct statuses counted one by one; a device that invents more is counted under the last.
const MAX_STATUSES: usize = 32;

/// Counters of a PF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands given to the device, by opcode.
    pub commands: BTreeMap<u16, u64>,
    /// Commands answered by the device, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers with a status that is counted elsewhere because there were too many different ones.
    pub other_statuses: u64,
    /// Attempts repeated.
    pub retries: u64,
    /// Commands that ended at their deadline.
    pub timed_out: u64,
    /// Completions of commands that had ended at their deadline.
    pub late: u64,
    /// Commands sent to find out whether a queue still answers.
    pub probes: u64,
    /// Of these, answered in time.
    pub probes_answered: u64,
    /// Answers shorter than the command defines.
    pub short_replies: u64,
    /// Notifications of the admin queue sent.
    pub kicks: u64,
    /// Notifications of the admin queue that the device did not want.
    pub kicks_suppressed: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Interrupts that announced nothing.
    pub spurious: u64,
    /// Resets of the PF begun in order to recover it.
    pub recoveries: u64,
}

impl Counters {
    /// What is counted of the PF as a whole, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let commands = self.commands.iter().map(|(o, n)| (opcode::name(*o), *n));
        commands.chain([
            ("retries", self.retries),
            ("timed_out", self.timed_out),
            ("late", self.late),
            ("probes", self.probes),
            ("probes_answered", self.probes_answered),
            ("short_replies", self.short_replies),
            ("kicks", self.kicks),
            ("kicks_suppressed", self.kicks_suppressed),
            ("interrupts", self.interrupts),
            ("spurious_interrupts", self.spurious),
            ("recoveries", self.recoveries),
        ])
    }

    /// A command of this opcode was given to the device.
    pub(crate) fn sent(&mut self, opcode: u16) {
        *self.commands.entry(opcode).or_default() += 1;
    }

    pub(crate) fn count_status(&mut self, status: u16) {
        if self.statuses.len() < MAX_STATUSES || self.statuses.contains_key(&status) {
            *self.statuses.entry(status).or_default() += 1;
        } else {
            self.other_statuses += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_cannot_make_the_counters_grow() {
        let mut c = Counters::default();
        for s in 0..=u16::MAX {
            c.count_status(s);
        }
        c.count_status(3);
        assert_eq!(c.statuses.len(), MAX_STATUSES);
        assert_eq!(c.statuses.get(&3), Some(&2));
        assert_eq!(c.other_statuses, 65536 - MAX_STATUSES as u64);
    }
}
