// SPDX-License-Identifier: GPL-2.0-or-later
//! Connections come, go, and make room for others.

use std::time::{Duration, Instant};

use super::{Hub, Slot, TooMany};
use crate::backend::AccessBackend;
use crate::peer::{Account, Peer};
use crate::ratelimit::{About, Kind};
use crate::session::{Phase, Session, SessionId};

/// A process's own connection makes room for its next one only if it was idle for as long.
const BARELY_IDLE: Duration = Duration::from_secs(1);

impl<B: AccessBackend> Hub<B> {
    /// A client has connected. Where there are too many that own no VF, another one has made room.
    ///
    /// # Errors
    /// `TooMany`: close the connection.
    pub fn connect(&mut self, peer: Peer, now: Instant) -> Result<SessionId, TooMany> {
        self.make_room(peer, now)?;
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
        *place = Slot::Used(Box::new(Session::new(id, peer, now)));
        self.connected += 1;
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
            Some(member) => {
                self.registry.release(member, id);
                self.log_ended(&session, member, now);
            }
            // Those who only ask come and go.
            None => {
                let Peer { pid, uid, .. } = session.peer();
                tracing::debug!(pid, uid, name = ?session.name(), "Client left");
            }
        }
        self.connected = self.connected.saturating_sub(1);
        if let Some((generation, slot)) = self.slots.get_mut(id.slot as usize) {
            *slot = Slot::Free;
            *generation = generation.wrapping_add(1);
            self.free.push(id.slot);
        }
    }

    /// Connections that own no VF and are not ending.
    fn without_vf(&self) -> impl Iterator<Item = &Session> {
        self.sessions()
            .filter(|s| s.member().is_none() && !s.is_finished())
    }

    /// If a limit is reached, ends the connection that has been idle for longest, of the process
    /// that has most of them, of the user that has most: never one of a peer that has few.
    fn make_room(&mut self, peer: Peer, now: Instant) -> Result<(), TooMany> {
        let own = peer.account();
        let (mut all, mut of_uid, mut of_pid) = (0, 0, 0);
        for account in self.without_vf().map(|s| s.peer().account()) {
            all += 1;
            of_uid += usize::from(account.uid == own.uid);
            of_pid += usize::from(account == own);
        }
        let most = self.config.max_unopened;
        let group = if of_pid >= most.div_ceil(2) {
            own
        } else if of_uid >= (3 * most).div_ceil(4) {
            self.largest(|account| account.uid == own.uid)
                .unwrap_or(own)
        } else if all >= most {
            let uid = self.largest_user().unwrap_or(own.uid);
            self.largest(|account| account.uid == uid).unwrap_or(own)
        } else {
            return Ok(());
        };
        let victim = self
            .without_vf()
            .filter(|s| s.peer().account() == group)
            .min_by_key(|s| s.active())
            .map(|s| (s.id(), s.peer(), s.name(), s.active()));
        let Some((id, of, name, active)) = victim else {
            return Err(TooMany);
        };
        let own_and_busy = group == own && now.saturating_duration_since(active) < BARELY_IDLE;
        if let Some(suppressed) = self.limits.allow(Kind::TooMany, About::Peer(group), now) {
            let what = match own_and_busy {
                true => "refusing another one",
                false => "closing the one that has been idle for longest",
            };
            tracing::warn!(
                pid = of.pid,
                uid = of.uid,
                ?name,
                suppressed,
                "Too many connections own no VF: {what}"
            );
        }
        if own_and_busy {
            self.counters.surplus += 1;
            return Err(TooMany);
        }
        self.counters.displaced += 1;
        self.drop_session(id);
        Ok(())
    }

    /// The one of these that has most connections without a VF; of several, the one whose
    /// connections are idle for longest.
    fn largest(&self, among: impl Fn(Account) -> bool) -> Option<Account> {
        self.most(|s| Some(s.peer().account()).filter(|a| among(*a)))
    }

    fn largest_user(&self) -> Option<u32> {
        self.most(|s| Some(s.peer().uid))
    }

    fn most<K: Ord>(&self, key: impl Fn(&Session) -> Option<K>) -> Option<K> {
        let mut groups = std::collections::BTreeMap::new();
        for session in self.without_vf() {
            if let Some(key) = key(session) {
                let (count, idle) = groups.entry(key).or_insert((0u32, session.active()));
                *count += 1;
                *idle = (*idle).min(session.active());
            }
        }
        groups
            .into_iter()
            .max_by_key(|(_, (count, idle))| (*count, std::cmp::Reverse(*idle)))
            .map(|(key, _)| key)
    }

    /// When a session is closed unless something happens, and why.
    fn time_over(&self, session: &Session) -> Option<(Instant, &'static str)> {
        let config = &self.config;
        if let Some(since) = session.blocked_since() {
            let over = since + config.write_timeout;
            return Some((over, "does not read its replies"));
        }
        match session.phase() {
            Phase::New => {
                let over = session.connected() + config.hello_timeout;
                Some((over, "sent no HELLO"))
            }
            Phase::Greeted => {
                let over = session.active() + config.idle_timeout;
                Some((over, "has opened no VF and asks nothing"))
            }
            Phase::Open(_) | Phase::Closing => None,
        }
    }

    /// Closes connections whose time is over.
    pub(super) fn scan(&mut self, now: Instant) {
        self.next_scan = None;
        for id in self.ids() {
            let Some(session) = self.session(id) else {
                continue;
            };
            let Some((deadline, what)) = self.time_over(session) else {
                continue;
            };
            if deadline > now {
                self.scan_by(deadline);
                continue;
            }
            let (peer, name) = (session.peer(), session.name());
            let about = About::Peer(peer.account());
            self.counters.slow += 1;
            if let Some(suppressed) = self.limits.allow(Kind::Slow, about, now) {
                tracing::warn!(
                    pid = peer.pid,
                    uid = peer.uid,
                    ?name,
                    suppressed,
                    "Client {what}; disconnecting it"
                );
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
