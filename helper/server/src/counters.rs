// SPDX-License-Identifier: GPL-2.0-or-later
//! What has happened since the process started.

use std::collections::BTreeMap;
use std::time::Duration;

use legacy_vf_proto::{ErrorCode, MessageType};
use virtio_pf::{Access, LegacyOp, Space};

use crate::histogram::Histogram;

/// Different (status, qualifier) pairs that are told apart; the device chooses them freely.
const MAX_STATUSES: usize = 32;

/// Failures of admin commands by what the device answered.
#[derive(Clone, Debug, Default)]
pub struct DeviceStatuses {
    counts: BTreeMap<(u16, u16), u64>,
    others: u64,
}

impl DeviceStatuses {
    /// Counts one answer.
    pub fn record(&mut self, status: u16, qualifier: u16) {
        let full = self.counts.len() >= MAX_STATUSES;
        match self.counts.entry((status, qualifier)) {
            std::collections::btree_map::Entry::Occupied(mut e) => *e.get_mut() += 1,
            std::collections::btree_map::Entry::Vacant(e) if !full => {
                e.insert(1);
            }
            std::collections::btree_map::Entry::Vacant(_) => self.others += 1,
        }
    }

    /// Status, qualifier and count.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16, u64)> + '_ {
        self.counts.iter().map(|((s, q), n)| (*s, *q, *n))
    }

    /// Answers that came after the table was full.
    pub fn others(&self) -> u64 {
        self.others
    }
}

/// Accesses of one VF, or of all.
#[derive(Clone, Debug, Default)]
pub struct AccessCounters {
    /// Reads of the common registers (LEGACY_COMMON_CFG_READ).
    pub common_read: u64,
    /// Writes of the common registers (LEGACY_COMMON_CFG_WRITE).
    pub common_write: u64,
    /// Reads of the device configuration (LEGACY_DEV_CFG_READ).
    pub device_read: u64,
    /// Writes of the device configuration (LEGACY_DEV_CFG_WRITE).
    pub device_write: u64,
    /// Notifications, through an address or by command.
    pub notifications: u64,
    /// Of these, by command (LEGACY_COMMON_CFG_WRITE).
    pub notify_commands: u64,
    /// Accesses and notifications that failed.
    pub failed: u64,
    /// Of these, by the deadline.
    pub timed_out: u64,
    /// From request to reply, of accesses that succeeded.
    pub latency: Histogram,
}

impl AccessCounters {
    /// Counts the start of an access.
    pub fn started(&mut self, op: &LegacyOp) {
        let count = match (op.space, op.access) {
            (Space::Common, Access::Read { .. }) => &mut self.common_read,
            (Space::Common, Access::Write { .. }) => &mut self.common_write,
            (Space::Device, Access::Read { .. }) => &mut self.device_read,
            (Space::Device, Access::Write { .. }) => &mut self.device_write,
        };
        *count += 1;
    }

    /// Counts the end of an access.
    pub fn succeeded(&mut self, latency: Duration) {
        self.latency.record(latency);
    }
}

/// All counters but those of sessions.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused because of a limit.
    pub surplus: u64,
    /// Connections without a VF closed to make room for others.
    pub displaced: u64,
    /// Connections closed because the client did not read, or said nothing.
    pub slow: u64,
    /// Connections ended because another process has shown the VF's device file.
    pub evicted: u64,
    /// Messages that are not requests.
    pub bad_messages: u64,
    /// Messages with files that were not wanted; each has ended its connection.
    pub unwanted_files: u64,
    /// OPEN requests that succeeded.
    pub opens: u64,
    /// Completions for connections that were gone.
    pub orphans: u64,
    /// Times that the PF was reset and initialised anew.
    pub pf_resets: u64,
    /// Requests by type number; index 0 counts types unknown to this version.
    requests: [u64; 9],
    /// Error replies by code; the last counts unlisted ones.
    errors: [u64; ErrorCode::ALL.len() + 1],
    /// What the device answered to failed commands.
    pub device: DeviceStatuses,
    /// Accesses of all VFs.
    pub accesses: AccessCounters,
    vfs: Vec<AccessCounters>,
}

impl Counters {
    /// Counters for a PF with this many VFs.
    pub fn new(num_vfs: u16) -> Self {
        Counters {
            vfs: vec![AccessCounters::default(); usize::from(num_vfs)],
            ..Counters::default()
        }
    }

    /// Counts a request by its type number as received.
    pub fn request(&mut self, kind: u16) {
        let index = match MessageType::from_u16(kind) {
            Some(_) => usize::from(kind),
            None => 0,
        };
        if let Some(count) = self.requests.get_mut(index) {
            *count += 1;
        }
    }

    /// Requests of each type.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.requests.iter().enumerate().map(|(kind, count)| {
            let name = u16::try_from(kind)
                .ok()
                .and_then(MessageType::from_u16)
                .map_or("unknown", MessageType::name);
            (name, *count)
        })
    }

    /// Counts an error reply.
    pub fn error(&mut self, code: ErrorCode) {
        let last = self.errors.len() - 1;
        if let Some(count) = self.errors.get_mut(usize::from(code.0).min(last)) {
            *count += 1;
        }
    }

    /// Error replies of each code.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let names = ErrorCode::ALL.iter().map(|c| c.name()).chain(["UNKNOWN"]);
        names.zip(self.errors.iter().copied())
    }

    /// Counters of one VF.
    pub fn vf(&self, member: u16) -> Option<&AccessCounters> {
        self.vfs.get(usize::from(member).checked_sub(1)?)
    }

    /// Counts something for all VFs together and for `member`.
    pub fn access(&mut self, member: u16, mut count: impl FnMut(&mut AccessCounters)) {
        count(&mut self.accesses);
        let vf = usize::from(member)
            .checked_sub(1)
            .and_then(|i| self.vfs.get_mut(i));
        if let Some(vf) = vf {
            count(vf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_device_cannot_grow_the_table() {
        let mut s = DeviceStatuses::default();
        for status in 0..1000 {
            s.record(status, 1);
            s.record(status, 1);
        }
        assert_eq!(s.iter().count(), MAX_STATUSES);
        assert!(s.iter().all(|(_, _, n)| n == 2));
        assert_eq!(s.others(), 2 * (1000 - MAX_STATUSES as u64));
    }

    #[test]
    fn types_and_codes_are_counted_under_their_names() {
        let mut c = Counters::new(2);
        c.request(4);
        c.request(0);
        c.request(999);
        c.error(ErrorCode::BUSY);
        c.error(ErrorCode(60000));
        let get = |list: Vec<(&str, u64)>, name| list.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(get(c.requests().collect(), "READ"), 1);
        assert_eq!(get(c.requests().collect(), "unknown"), 2);
        assert_eq!(get(c.errors().collect(), "BUSY"), 1);
        assert_eq!(get(c.errors().collect(), "UNKNOWN"), 1);
        c.access(2, |a| a.notifications += 1);
        c.access(9, |a| a.notifications += 1);
        assert_eq!(c.accesses.notifications, 2);
        assert_eq!(c.vf(2).unwrap().notifications, 1);
        assert!(c.vf(3).is_none() && c.vf(0).is_none());
    }
}
