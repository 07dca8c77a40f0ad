// SPDX-License-Identifier: GPL-2.0-or-later
//! All sessions together with the PF they share, without I/O: executes the sessions' jobs, routes
//! completions back, and keeps the rules between clients.

mod audit;
mod connections;
mod events;
mod execute;
mod lifecycle;
mod opening;
mod owners_log;
mod shares;

use std::time::{Duration, Instant};

use crate::backend::AccessBackend;
use crate::counters::Counters;
use crate::policy::Policy;
use crate::ratelimit::RateLimits;
use crate::registry::Registry;
use crate::session::{Session, SessionId};

/// Limits and rules.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Who may open VFs.
    pub policy: Policy,
    /// Connections that own no VF (those that own one are limited by the number of VFs). One user may
    /// have three quarters of them, one process half.
    pub max_unopened: usize,
    /// Time for HELLO after connect().
    pub hello_timeout: Duration,
    /// Time without a request for a connection that owns no VF.
    pub idle_timeout: Duration,
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
            idle_timeout: Duration::from_secs(30),
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
    audit: audit::Audit,
    started: Instant,
    stage: Stage,
    removal_requested: bool,
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
    /// Sessions in use.
    connected: usize,
    in_flight: usize,
    next_token: u32,
    /// Sessions with a job that the backend had no room for, oldest first.
    stalled: Vec<SessionId>,
    /// When to try these again, if no completion comes first.
    next_retry: Option<Instant>,
    shares: shares::Shares,
    /// Sessions that have used up their share, first come first.
    put_off: Vec<SessionId>,
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
            audit: audit::Audit::default(),
            started: Instant::now(),
            stage: Stage::Serving,
            removal_requested: false,
            slots: Vec::new(),
            free: Vec::new(),
            connected: 0,
            in_flight: 0,
            next_token: 0,
            stalled: Vec::new(),
            next_retry: None,
            shares: shares::Shares::default(),
            put_off: Vec::new(),
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
        self.limits.pending() + self.audit.left_out()
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
            // Work that is put off is due at once.
            (!self.put_off.is_empty()).then_some(self.started),
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
}

/// No place for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many connections")]
pub struct TooMany;
