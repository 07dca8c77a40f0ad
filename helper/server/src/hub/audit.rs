// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines about who had which VF. There is no limit for all together, with which one client could
//! hide what another does: each peer has its own, and for what it does with each VF.
//!
//! What clients choose is quoted, so that it cannot look like fields of the line.

use std::time::{Duration, Instant};

use legacy_vf_proto::{ErrorCode, Name};

use super::Hub;
use crate::backend::AccessBackend;
use crate::pace::Paces;
use crate::peer::{Account, Peer};
use crate::registry::Owner;
use crate::session::Session;

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

    fn change(&mut self, by: Peer, member: u16, now: Instant) -> Option<u64> {
        let account = by.account();
        let allowed =
            self.changes.allow((account, member), now) && self.changes_of_peer.allow(account, now);
        self.told(allowed)
    }

    fn refusal(&mut self, of: Peer, now: Instant) -> Option<u64> {
        let allowed = self.refusals.allow(of.account(), now);
        self.told(allowed)
    }
}

impl<B: AccessBackend> Hub<B> {
    /// A client has a VF now.
    pub(super) fn log_opened(&mut self, peer: Peer, name: Name, member: u16, now: Instant) {
        if let Some(left_out) = self.audit.change(peer, member, now) {
            let Peer { pid, uid, gid } = peer;
            let pf = &*self.backend.info().id;
            tracing::info!(pf, vf = member, pid, uid, gid, ?name, left_out, "VF opened");
        }
    }

    /// A client did not get a VF.
    pub(super) fn log_refused(
        &mut self,
        session: &Session,
        member: u16,
        code: ErrorCode,
        why: &str,
        now: Instant,
    ) {
        let (peer, name) = (session.peer(), session.name());
        if let Some(left_out) = self.audit.refusal(peer, now) {
            let Peer { pid, uid, gid } = peer;
            let pf = &*self.backend.info().id;
            tracing::warn!(pf, vf = member, pid, uid, gid, ?name, %code, why = ?why, left_out,
                "OPEN refused");
        }
    }

    /// A client has shown that it holds a VF, and its former owner has lost it.
    pub(super) fn log_taken_over(&mut self, by: Peer, member: u16, from: &Owner, now: Instant) {
        if let Some(left_out) = self.audit.change(by, member, now) {
            let Peer { pid, uid, gid } = by;
            let pf = &*self.backend.info().id;
            tracing::warn!(pf, vf = member, pid, uid, gid, from_pid = from.peer.pid,
                from_uid = from.peer.uid, from_name = ?from.name, left_out,
                "VF taken over: another process holds its device file now");
        }
    }

    /// The connection of a VF's owner has ended.
    pub(super) fn log_ended(&mut self, session: &Session, member: u16, now: Instant) {
        let (peer, name) = (session.peer(), session.name());
        if let Some(left_out) = self.audit.change(peer, member, now) {
            let Peer { pid, uid, gid } = peer;
            let pf = &*self.backend.info().id;
            let counts = session.counters();
            tracing::info!(
                pf,
                vf = member,
                pid,
                uid,
                gid,
                ?name,
                requests = counts.requests,
                errors = counts.errors,
                left_out,
                "VF's connection ended"
            );
        }
    }
}
