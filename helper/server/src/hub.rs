// SPDX-License-Identifier: GPL-2.0-or-later
//! All sessions together with the PF they share, without I/O: executes the sessions' jobs, routes
//! completions back, and keeps the rules between clients.

mod events;
mod execute;
mod lifecycle;

use std::time::{Duration, Instant};

use crate::backend::AccessBackend;
use crate::counters::Counters;
use crate::peer::Peer;
use crate::policy::Policy;
use crate::ratelimit::{Kind, RateLimits};
use crate::registry::Registry;
use crate::session::{Phase, Session, SessionId};

/// Limits and rules.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Who may open VFs.
    pub policy: Policy,
    /// Connections that own no VF (those that own one are limited by the number of VFs).
    pub max_unopened: usize,
    /// Time for HELLO after connect().
    pub hello_timeout: Duration,
    /// Time for a client to take a message that is there for it.
    pub write_timeout: Duration,
    /// Time for what is in flight to end at shutdown.
    pub drain_timeout: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        HubConfig {
            policy: Policy::own_user(),
            max_unopened: 64,
            hello_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// What the hub as a whole is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Serving.
    Serving,
    /// Finishing what is in flight, until this time.
    Draining(Instant),
    /// The PF has failed for this reason; every access is refused.
    Failed(String),
}

#[derive(Debug)]
enum Slot {
    Free,
    Used(Box<Session>),
    /// Its session is being worked on.
    Taken,
}

/// See the module's description.
#[derive(Debug)]
pub struct Hub<B> {
    backend: B,
    config: HubConfig,
    registry: Registry,
    counters: Counters,
    limits: RateLimits,
    started: Instant,
    stage: Stage,
    removal_requested: bool,
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
    /// Sessions in use, and those of them that own no VF.
    connected: usize,
    unopened: usize,
    in_flight: usize,
    next_token: u32,
    /// Sessions with a job that the backend had no room for, oldest first.
    stalled: Vec<SessionId>,
    /// When to try these again, if no completion comes first.
    next_retry: Option<Instant>,
    /// Sessions that the caller must look at: output, end, or room for input.
    dirty: Vec<SessionId>,
    /// When deadlines of sessions must be looked at; never later than the first of them.
    next_scan: Option<Instant>,
}

impl<B: AccessBackend> Hub<B> {
    /// A hub without clients.
    pub fn new(backend: B, config: HubConfig) -> Self {
        let num_vfs = backend.info().num_vfs;
        Hub {
            backend,
            config,
            registry: Registry::new(num_vfs),
            counters: Counters::new(num_vfs),
            limits: RateLimits::default(),
            started: Instant::now(),
            stage: Stage::Serving,
            removal_requested: false,
            slots: Vec::new(),
            free: Vec::new(),
            connected: 0,
            unopened: 0,
            in_flight: 0,
            next_token: 0,
            stalled: Vec::new(),
            next_retry: None,
            dirty: Vec::new(),
            next_scan: None,
        }
    }

    /// The PF.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The PF, to shut it down or to prepare waiting.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Owners.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the hub is doing.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Most connections that own no VF.
    pub fn max_unopened(&self) -> usize {
        self.config.max_unopened
    }

    /// When it was made.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Connections now.
    pub fn connected(&self) -> usize {
        self.connected
    }

    /// Operations that the backend works on.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The rate limiter of the log, for the caller's own lines.
    pub fn limits(&mut self) -> &mut RateLimits {
        &mut self.limits
    }

    /// Log lines left out that no later line has told yet.
    pub fn lines_left_out(&self) -> u64 {
        self.limits.pending()
    }

    /// The session of this name.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        match self.slots.get(id.slot as usize) {
            Some((generation, Slot::Used(s))) if *generation == id.generation => Some(s),
            _ => None,
        }
    }

    /// Sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Used(s) => Some(&**s),
            _ => None,
        })
    }

    fn take(&mut self, id: SessionId) -> Option<Box<Session>> {
        let (generation, slot) = self.slots.get_mut(id.slot as usize)?;
        if *generation != id.generation || !matches!(slot, Slot::Used(_)) {
            return None;
        }
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Used(session) => Some(session),
            _ => None,
        }
    }

    /// Puts a session back; counts its failures and marks it for the caller.
    fn put(&mut self, mut session: Box<Session>) {
        for code in session.take_errors() {
            self.counters.error(code);
        }
        let id = session.id();
        if let Some((_, slot)) = self.slots.get_mut(id.slot as usize) {
            *slot = Slot::Used(session);
        }
        if self.dirty.last() != Some(&id) {
            self.dirty.push(id);
        }
    }

    fn ids(&self) -> Vec<SessionId> {
        self.sessions().map(Session::id).collect()
    }

    /// A client has connected.
    ///
    /// # Errors
    /// `TooMany`: not even a connection to be told so is possible; close it.
    pub fn connect(&mut self, peer: Peer, now: Instant) -> Result<SessionId, TooMany> {
        let surplus = self.unopened >= self.config.max_unopened;
        if surplus {
            self.counters.surplus += 1;
            if let Some(suppressed) = self.limits.allow(Kind::TooMany, now) {
                tracing::warn!(
                    %peer,
                    limit = self.config.max_unopened,
                    suppressed,
                    "Too many connections own no VF; refusing a new one"
                );
            }
            if self.unopened >= 2 * self.config.max_unopened {
                return Err(TooMany);
            }
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).map_err(|_| TooMany)?;
                self.slots.push((0, Slot::Free));
                slot
            }
        };
        let Some((generation, place)) = self.slots.get_mut(slot as usize) else {
            return Err(TooMany);
        };
        let id = SessionId {
            slot,
            generation: *generation,
        };
        *place = Slot::Used(Box::new(Session::new(id, peer, surplus, now)));
        self.connected += 1;
        self.unopened += 1;
        self.counters.connections += 1;
        self.scan_by(now + self.config.hello_timeout);
        Ok(id)
    }

    /// A client has gone, or is to be forgotten.
    pub fn disconnect(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.take(id) else {
            return;
        };
        let member = session.member();
        match member {
            Some(member) => self.registry.release(member, id),
            None => self.unopened = self.unopened.saturating_sub(1),
        }
        if let Some(suppressed) = self.limits.allow(Kind::Disconnect, now) {
            let peer = session.peer();
            let counts = session.counters();
            tracing::info!(%peer, name = %session.name(), member = member.unwrap_or(0),
                requests = counts.requests, errors = counts.errors, suppressed,
                "Client disconnected");
        }
        self.connected = self.connected.saturating_sub(1);
        if let Some((generation, slot)) = self.slots.get_mut(id.slot as usize) {
            *slot = Slot::Free;
            *generation = generation.wrapping_add(1);
            self.free.push(id.slot);
        }
    }

    /// The next message for a client.
    pub fn outgoing(&self, id: SessionId) -> Option<&[u8]> {
        self.session(id)?.outgoing()
    }

    /// The client's socket takes no more at present.
    pub fn blocked(&mut self, id: SessionId, now: Instant) {
        if let Some(mut session) = self.take(id) {
            session.blocked(now);
            if let Some((_, slot)) = self.slots.get_mut(id.slot as usize) {
                *slot = Slot::Used(session);
            }
            self.scan_by(now + self.config.write_timeout);
        }
    }

    /// Sessions that have changed since the last call: messages to send, an end
    /// ([`Session::is_finished`]), or another answer of [`Session::wants_input`]. May name a
    /// session more than once, and sessions that are gone.
    pub fn take_dirty(&mut self, into: &mut Vec<SessionId>) {
        into.append(&mut self.dirty);
    }

    /// When [`Hub::poll`] must be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let drain = match self.stage {
            Stage::Draining(until) => Some(until),
            _ => None,
        };
        [
            self.backend.next_deadline(),
            self.next_scan,
            self.next_retry,
            drain,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn scan_by(&mut self, deadline: Instant) {
        self.next_scan = Some(self.next_scan.map_or(deadline, |t| t.min(deadline)));
    }

    /// Whether [`Hub::poll`] has something to do although the backend's descriptors are silent.
    pub fn is_due(&self, now: Instant) -> bool {
        self.in_flight > 0 || self.next_deadline().is_some_and(|t| t <= now)
    }

    /// Closes connections whose time is over.
    fn scan(&mut self, now: Instant) {
        self.next_scan = None;
        for id in self.ids() {
            let Some(session) = self.session(id) else {
                continue;
            };
            let (deadline, what) = match (session.blocked_since(), session.phase()) {
                (Some(since), _) => (
                    since + self.config.write_timeout,
                    "does not read its replies",
                ),
                (None, Phase::New) => (
                    session.connected() + self.config.hello_timeout,
                    "sent no HELLO",
                ),
                _ => continue,
            };
            if deadline > now {
                self.scan_by(deadline);
                continue;
            }
            let (peer, name) = (session.peer(), session.name());
            self.counters.slow += 1;
            if let Some(suppressed) = self.limits.allow(Kind::Slow, now) {
                tracing::warn!(%peer, %name, suppressed, "Client {what}; disconnecting it");
            }
            self.drop_session(id);
        }
    }

    /// Makes a session finished at once; what is queued for its client is lost.
    pub(super) fn drop_session(&mut self, id: SessionId) {
        if let Some(mut session) = self.take(id) {
            session.abort();
            self.put(session);
        }
    }
}

/// The limit on connections was passed by far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many connections")]
pub struct TooMany;
