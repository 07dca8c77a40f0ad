// SPDX-License-Identifier: GPL-2.0-or-later
//! The loop's connections: accepted, read, written to and hung up.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use legacy_vf_proto::ErrorCode;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::files::Files;
use crate::backend::AccessBackend;
use crate::closing::{self, ClosingLimits};
use crate::hub::Hub;
use crate::listener::Listener;
use crate::pace::Paces;
use crate::peer::{Account, Peer};
use crate::ratelimit::{About, Kind};
use crate::session::SessionId;
use crate::wire::{self, Received, Sent};

/// Connections accepted per wait.
const MAX_ACCEPT: usize = 4;
/// Messages taken from one client per wait, if no other is waiting.
const MAX_READ: usize = 4;
/// Pause after accept() failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Connections of a process: so many at once, then one in this time.
const CONNECT_BURST: u32 = 64;
const CONNECT_EVERY: Duration = Duration::from_millis(5);
/// Those of all processes of a user: this many times as much.
const USER_FACTOR: u32 = 4;
/// One that would have to wait for longer is refused.
const LONGEST_HOLD: Duration = Duration::from_secs(1);
/// Pause after a connection was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// The same while too much waits to be closed.
const CLOSING_PAUSE: Duration = Duration::from_millis(10);
/// Notifications without reply of a client: so many at once, then one in this time. Nothing else slows down
/// who sends them, and one that comes a little later says the same.
const NOTIFY_BURST: u32 = 64;
const NOTIFY_EVERY: Duration = Duration::from_micros(50);
/// Pause after more than that.
const NOTIFY_PAUSE: Duration = Duration::from_micros(2000);
/// For a connection of which the kernel does not tell whose it is.
const NOBODY: Account = Account {
    uid: u32::MAX,
    pid: 0,
};
const SEVERAL: &str = "One file is a proof, several are none";
const UNCLOSED: &str = "Files that this process or user has sent before are not closed yet";

/// A connection.
#[derive(Debug)]
struct Client {
    id: SessionId,
    account: Account,
    socket: OwnedFd,
    interest: EventFlags,
    files: Files,
    /// It came, or notified, sooner than it may: nothing is read before.
    held_until: Option<Instant>,
}

/// The connection of a session, if it is still that one's.
fn find(by_slot: &mut [Option<Client>], id: SessionId) -> Option<&mut Client> {
    let client = by_slot.get_mut(id.slot as usize)?.as_mut();
    client.filter(|client| client.id == id)
}

/// The connections. What is waited for on each is in `epoll`, under the number of its session.
pub(super) struct Clients {
    /// By slot of the session.
    by_slot: Vec<Option<Client>>,
    buf: Box<wire::Buffer>,
    dirty: Vec<SessionId>,
    closing: ClosingLimits,
    by_pid: Paces<Account>,
    by_uid: Paces<u32>,
    notified: Paces<SessionId>,
    /// Clients with [`Client::held_until`].
    held: Vec<SessionId>,
}

impl Clients {
    /// None yet; so much may wait to be closed.
    pub(super) fn new(closing: ClosingLimits) -> Self {
        Clients {
            by_slot: Vec::new(),
            buf: Box::new([0; legacy_vf_proto::MAX_MESSAGE + 1]),
            dirty: Vec::new(),
            closing,
            by_pid: Paces::new(CONNECT_EVERY, CONNECT_BURST),
            by_uid: Paces::new(CONNECT_EVERY / USER_FACTOR, CONNECT_BURST * USER_FACTOR),
            notified: Paces::new(NOTIFY_EVERY, NOTIFY_BURST),
            held: Vec::new(),
        }
    }

    fn admits(&self, account: Account) -> bool {
        closing::started().is_some_and(|c| c.admits(account, &self.closing))
    }

    /// Whether what is accepted or received could be closed again.
    fn has_room(&self, of: usize) -> bool {
        closing::started().is_some_and(|c| c.pending() < of)
    }

    /// Accepts who waits. Returns when to listen again, if that is off until then.
    pub(super) fn accept(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        listener: &Listener,
        now: Instant,
    ) -> Option<Instant> {
        for _ in 0..MAX_ACCEPT {
            if !self.has_room(self.closing.total) {
                let _gone = epoll::delete(epoll, listener);
                return Some(now + CLOSING_PAUSE);
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(e) => {
                    if let Some(suppressed) = hub.limits().allow(Kind::Socket, About::Any, now) {
                        tracing::error!(
                            suppressed,
                            "accept: {e}; trying again in {ACCEPT_PAUSE:?}"
                        );
                    }
                    let _gone = epoll::delete(epoll, listener);
                    return Some(now + ACCEPT_PAUSE);
                }
            };
            let admitted = self.add(hub, epoll, socket, now);
            if !admitted {
                // Whoever that is must not come faster than what it leaves behind is closed.
                let pause = match self.has_room(self.closing.total / 2) {
                    true => REFUSED_PAUSE,
                    false => CLOSING_PAUSE,
                };
                let _gone = epoll::delete(epoll, listener);
                return Some(now + pause);
            }
        }
        None
    }

    /// How long a new connection has to wait; `None` if its peer may not have one.
    fn pace(&mut self, account: Account, now: Instant) -> Option<Duration> {
        let by_pid = self.by_pid.wait(account, now, LONGEST_HOLD)?;
        // A process must not use up what its user's others need: these may have to wait, no more.
        let by_uid = self.by_uid.wait(account.uid, now, LONGEST_HOLD);
        Some(by_pid.max(by_uid.unwrap_or(LONGEST_HOLD)))
    }

    /// Takes a connection in. Returns whether its peer may have one.
    fn add(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        socket: OwnedFd,
        now: Instant,
    ) -> bool {
        let peer = match Peer::of(&socket) {
            Ok(peer) => peer,
            Err(e) => {
                if let Some(suppressed) = hub.limits().allow(Kind::Socket, About::Any, now) {
                    tracing::warn!(suppressed, "Client without credentials refused: {e}");
                }
                closing::hang_up(NOBODY, socket);
                return false;
            }
        };
        let account = peer.account();
        if !self.admits(account) {
            if let Some(suppressed) = hub.limits().allow(Kind::TooMany, About::Peer(account), now) {
                tracing::warn!(
                    pid = peer.pid,
                    uid = peer.uid,
                    suppressed,
                    "Client refused: what it has sent before is not closed yet"
                );
            }
            closing::hang_up(account, socket);
            return false;
        }
        let pace = self.pace(account, now);
        let connected = pace.and_then(|wait| Some((wait, hub.connect(peer, now).ok()?)));
        let Some((wait, id)) = connected else {
            closing::hang_up(account, socket);
            return false;
        };
        let held_until = (!wait.is_zero()).then(|| now + wait);
        let interest = match held_until {
            None => EventFlags::IN,
            Some(_) => {
                self.held.push(id);
                EventFlags::empty()
            }
        };
        let data = EventData::new_u64(id.to_u64());
        if let Err(e) = epoll::add(epoll, &socket, data, interest) {
            if let Some(suppressed) = hub.limits().allow(Kind::Socket, About::Any, now) {
                tracing::error!(suppressed, "epoll: {e}");
            }
            closing::hang_up(account, socket);
            hub.disconnect(id, now);
            return true;
        }
        tracing::debug!(pid = peer.pid, uid = peer.uid, "Client connected");
        let slot = id.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.by_slot.get_mut(slot) {
            *place = Some(Client {
                id,
                account,
                socket,
                interest,
                files: Files::Possible,
                held_until,
            });
        }
        true
    }

    fn client(&self, id: SessionId) -> Option<&Client> {
        self.by_slot
            .get(id.slot as usize)?
            .as_ref()
            .filter(|c| c.id == id)
    }

    fn remove(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        id: SessionId,
        now: Instant,
    ) {
        if let Some(place) = self.by_slot.get_mut(id.slot as usize) {
            if let Some(client) = place.take_if(|c| c.id == id) {
                // It may be closed much later only.
                let _gone = epoll::delete(epoll, &client.socket);
                closing::hang_up(client.account, client.socket);
            }
        }
        hub.disconnect(id, now);
    }

    /// Does what epoll said about a client, which may be the only one of which it said something.
    pub(super) fn event(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        (id, only): (SessionId, bool),
        flags: EventFlags,
        now: Instant,
    ) {
        if flags.contains(EventFlags::IN) {
            let most = if only { MAX_READ } else { 1 };
            self.read(hub, epoll, (id, most), now);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.remove(hub, epoll, id, now);
        }
        if flags.contains(EventFlags::OUT) {
            self.transmit(hub, epoll, id, now);
        }
    }

    /// Takes messages of one client. One at a time is normal: a second receive would only cost a
    /// system call, unless notifications, which are not waited for, come in a row.
    fn read(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        (id, most): (SessionId, usize),
        now: Instant,
    ) {
        let mut taken = 0;
        // Also to find nothing, if that is to be found out.
        for _ in 0..most + 2 {
            let Some(session) = hub.session(id).filter(|s| s.wants_input()) else {
                return;
            };
            let bound = session.member().is_some();
            let Some(account) = self.client(id).map(|client| client.account) else {
                return;
            };
            let admits = self.admits(account);
            let Some(client) = find(&mut self.by_slot, id) else {
                return;
            };
            if bound {
                client.files.refuse(&client.socket);
            }
            let looking = client.files.is_open();
            let mut refused = None;
            let wants = |bytes: &[u8]| {
                refused = match hub.wants_file(id, bytes) {
                    Ok(()) if !admits => Some((ErrorCode::TOO_MANY, UNCLOSED.to_owned())),
                    other => other.err(),
                };
                refused.is_none()
            };
            let received = match client.files {
                Files::Impossible => wire::receive_bytes(&client.socket, &mut self.buf),
                _ => wire::receive(&client.socket, &mut self.buf, account, wants),
            };
            match received {
                Received::Message(len, file) => {
                    let bytes = self.buf.get(..len).unwrap_or(&[]);
                    let more = bytes.get(2).is_some_and(|flags| flags & 4 != 0);
                    hub.receive(id, bytes, file, now);
                    taken += 1;
                    let wait = match more {
                        true => self.notified.wait(id, now, LONGEST_HOLD),
                        false => None,
                    };
                    if wait.is_some_and(|wait| !wait.is_zero()) {
                        client.held_until = Some(now + NOTIFY_PAUSE);
                        self.held.push(id);
                        return self.update_interest(hub, epoll, id, false, now);
                    }
                    if (!more || taken >= most) && !looking {
                        return;
                    }
                }
                Received::Nothing if client.files.nothing_there() => {}
                Received::Nothing => return,
                Received::End => return self.remove(hub, epoll, id, now),
                Received::Unwanted(len) => {
                    let bytes = self.buf.get(..len).unwrap_or(&[]);
                    let several = || (ErrorCode::BAD_PROOF, SEVERAL.to_owned());
                    hub.refuse_files(id, bytes, refused.unwrap_or_else(several), now);
                    return;
                }
                Received::Failed(e) => {
                    if let Some(suppressed) =
                        hub.limits().allow(Kind::Socket, About::Peer(account), now)
                    {
                        tracing::warn!(suppressed, "Client's socket: {e}");
                    }
                    return self.remove(hub, epoll, id, now);
                }
            }
        }
    }

    /// Looks at every session that has changed.
    pub(super) fn flush(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        now: Instant,
    ) {
        // Sending can make a session start its next job, and so mark it again.
        for _ in 0..4 {
            let mut dirty = std::mem::take(&mut self.dirty);
            hub.take_dirty(&mut dirty);
            if dirty.is_empty() {
                self.dirty = dirty;
                return;
            }
            for id in dirty.drain(..) {
                self.transmit(hub, epoll, id, now);
            }
            self.dirty = dirty;
        }
    }

    /// Sends what there is for a client, and adapts what to wait for.
    fn transmit(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        id: SessionId,
        now: Instant,
    ) {
        let mut full = false;
        while let Some(message) = hub.outgoing(id) {
            let Some(client) = self.client(id) else {
                return;
            };
            match wire::transmit(&client.socket, message) {
                Sent::Done => hub.sent(id, now),
                Sent::Full => {
                    full = true;
                    hub.blocked(id, now);
                    break;
                }
                Sent::End => return self.remove(hub, epoll, id, now),
            }
        }
        self.update_interest(hub, epoll, id, full, now);
    }

    fn update_interest(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        id: SessionId,
        full: bool,
        now: Instant,
    ) {
        let Some(session) = hub.session(id) else {
            return;
        };
        if session.is_finished() {
            return self.remove(hub, epoll, id, now);
        }
        let Some(client) = find(&mut self.by_slot, id) else {
            return;
        };
        let mut interest = EventFlags::empty();
        let wanted = session.wants_input() && client.held_until.is_none();
        interest.set(EventFlags::IN, wanted);
        interest.set(EventFlags::OUT, full);
        if client.interest != interest {
            client.interest = interest;
            let data = EventData::new_u64(id.to_u64());
            if epoll::modify(epoll, &client.socket, data, interest).is_err() {
                self.remove(hub, epoll, id, now);
            }
        }
    }

    /// When the first of the connections that came too soon may be read.
    pub(super) fn next_release(&self) -> Option<Instant> {
        let held = self.held.iter().filter_map(|id| self.client(*id));
        held.filter_map(|client| client.held_until).min()
    }

    /// Reads from those whose time has come.
    pub(super) fn release(
        &mut self,
        hub: &mut Hub<impl AccessBackend>,
        epoll: &OwnedFd,
        now: Instant,
    ) {
        for id in std::mem::take(&mut self.held) {
            let Some(client) = find(&mut self.by_slot, id) else {
                continue;
            };
            if client.held_until.is_some_and(|until| until > now) {
                self.held.push(id);
            } else {
                client.held_until = None;
                self.update_interest(hub, epoll, id, false, now);
            }
        }
    }

    /// Ends every connection.
    pub(super) fn hang_up(self) {
        for client in self.by_slot.into_iter().flatten() {
            closing::hang_up(client.account, client.socket);
        }
    }
}
