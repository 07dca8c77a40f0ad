// SPDX-License-Identifier: GPL-2.0-or-later
//! How many log lines about who had which VF are written. There is no limit for all together, with which one client could
//! hide what another does: each peer has its own, and for what it does with each VF.

use std::time::{Duration, Instant};

use crate::pace::Paces;
use crate::peer::{Account, Peer};

/// Lines of one peer about one VF: so many at once, then one per interval.
const OF_VF: (Duration, u32) = (Duration::from_secs(1), 16);
/// Lines of one peer about all VFs; a process may open every VF of a large PF at its start.
const OF_PEER: (Duration, u32) = (Duration::from_millis(250), 512);

/// What may be written.
#[derive(Debug)]
pub(super) struct Audit {
    changes: Paces<(Account, u16)>,
    changes_of_peer: Paces<Account>,
    refusals: Paces<Account>,
    left_out: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            changes: Paces::new(OF_VF.0, OF_VF.1),
            changes_of_peer: Paces::new(OF_PEER.0, OF_PEER.1),
            refusals: Paces::new(OF_VF.0, OF_VF.1),
            left_out: 0,
        }
    }
}

impl Audit {
    /// Lines left out that no later line has told yet.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    fn told(&mut self, allowed: bool) -> Option<u64> {
        if allowed {
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }

    pub(super) fn change(&mut self, by: Peer, member: u16, now: Instant) -> Option<u64> {
        let account = by.account();
        let allowed =
            self.changes.allow((account, member), now) && self.changes_of_peer.allow(account, now);
        self.told(allowed)
    }

    pub(super) fn refusal(&mut self, of: Peer, now: Instant) -> Option<u64> {
        let allowed = self.refusals.allow(of.account(), now);
        self.told(allowed)
    }
}
