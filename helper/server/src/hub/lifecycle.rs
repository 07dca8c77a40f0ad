// SPDX-License-Identifier: GPL-2.0-or-later
//! Shutdown, and what becomes of clients when the PF changes.

use std::time::Instant;

use legacy_vf_proto::{ErrorCode, Event, EventKind};
use virtio_pf::PfEvent;

use super::{Hub, Stage};
use crate::backend::AccessBackend;
use crate::session::Session;

impl<B: AccessBackend> Hub<B> {
    fn tell_all(&mut self, kind: EventKind, detail: u32) {
        for id in self.ids() {
            if let Some(mut session) = self.take(id) {
                session.event(Event { kind, detail });
                self.put(session);
            }
        }
    }

    fn refuse_all_queued(&mut self, code: ErrorCode, text: &str) {
        for id in self.ids() {
            if let Some(mut session) = self.take(id) {
                session.refuse_queued(code, text);
                self.put(session);
            }
        }
        self.stalled.clear();
    }

    pub(super) fn pf_event(&mut self, event: &PfEvent, now: Instant) {
        match event {
            PfEvent::Reset { cause } => {
                // Rare by construction: the backend gives up after a few attempts.
                tracing::warn!(
                    %cause,
                    "The PF is being reset; VFs go on, accesses fail meanwhile"
                );
            }
            PfEvent::Recovered { .. } => {
                self.counters.pf_resets += 1;
                tracing::info!("The PF works again");
                self.tell_all(EventKind::PF_RESET, 0);
            }
            // Its cause is in the state.
            PfEvent::Failed { .. } => {}
            PfEvent::RemovalRequested => {
                // The kernel asks again and again until it gets it.
                if !self.removal_requested {
                    self.removal_requested = true;
                    tracing::warn!("The host wants the PF back: giving it up");
                    self.begin_shutdown(now);
                }
            }
        }
    }

    /// The PF is of no use any more: tells everybody and refuses everything from now on.
    pub(super) fn pf_failed(&mut self, cause: String) {
        let id = self.backend.info().id.clone();
        tracing::error!(pf = %id, "PF failed: {cause}");
        self.refuse_all_queued(ErrorCode::PF_FAILED, &format!("PF {id} failed: {cause}"));
        self.tell_all(EventKind::PF_FAILED, 0);
        self.stage = Stage::Failed(cause);
    }

    /// Takes no more work; what is in flight may end until the configured time has passed.
    pub fn begin_shutdown(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Draining(_)) {
            // Asked twice: do not wait any longer.
            self.stage = Stage::Draining(now);
            return;
        }
        self.refuse_all_queued(
            ErrorCode::SHUTTING_DOWN,
            "The helper is shutting down; connect again later",
        );
        self.tell_all(EventKind::SHUTDOWN, 0);
        self.stage = Stage::Draining(now + self.config.drain_timeout);
    }

    /// Whether the host wants the PF back, which is why the hub is shutting down.
    pub fn removal_requested(&self) -> bool {
        self.removal_requested
    }

    /// Whether nothing is in flight and every client has got what was queued for it, or the time
    /// for that is over.
    pub fn drained(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Draining(until) if now >= until => true,
            _ => self.in_flight == 0 && self.sessions().all(Session::is_quiet),
        }
    }
}
