// SPDX-License-Identifier: GPL-2.0-or-later
//! Log lines about who had which VF. What clients choose is quoted, so that it cannot look like fields
//! of the line.

use std::time::Instant;

use legacy_vf_proto::{ErrorCode, Name};

use super::Hub;
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::registry::Owner;
use crate::session::Session;

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
