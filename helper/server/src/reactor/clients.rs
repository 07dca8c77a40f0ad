// SPDX-License-Identifier: GPL-2.0-or-later
//! The loop's connections: accepted, read, written to and hung up.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::{add, Reactor};
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::ratelimit::Kind;
use crate::received;
use crate::session::SessionId;
use crate::wire::{self, Received, Sent};

/// Connections accepted per wait.
const MAX_ACCEPT: usize = 16;
/// Messages taken from one client per wait.
const MAX_READ: usize = 16;
/// Pause after accept() failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    id: SessionId,
    pub(super) socket: OwnedFd,
    interest: EventFlags,
}

impl<B: AccessBackend> Reactor<B> {
    pub(super) fn accept(&mut self, now: Instant) {
        for _ in 0..MAX_ACCEPT {
            let Some(listener) = &self.listener else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(e) => return self.pause_accepting(e, now),
            };
            self.add_client(socket, now);
        }
    }

    fn pause_accepting(&mut self, e: Errno, now: Instant) {
        if let Some(suppressed) = self.hub.limits().allow(Kind::Socket, now) {
            tracing::error!(suppressed, "accept: {e}; trying again in {ACCEPT_PAUSE:?}");
        }
        if let Some(listener) = &self.listener {
            let _gone = epoll::delete(&self.epoll, listener);
            self.accept_after = Some(now + ACCEPT_PAUSE);
        }
    }

    fn add_client(&mut self, socket: OwnedFd, now: Instant) {
        let peer = match Peer::of(&socket) {
            Ok(peer) => peer,
            Err(e) => {
                if let Some(suppressed) = self.hub.limits().allow(Kind::Socket, now) {
                    tracing::warn!(suppressed, "Client without credentials refused: {e}");
                }
                return received::hang_up(socket);
            }
        };
        let Ok(id) = self.hub.connect(peer, now) else {
            return received::hang_up(socket);
        };
        if let Err(e) = add(&self.epoll, &socket, id.to_u64()) {
            if let Some(suppressed) = self.hub.limits().allow(Kind::Socket, now) {
                tracing::error!(suppressed, "epoll: {e}");
            }
            received::hang_up(socket);
            return self.hub.disconnect(id, now);
        }
        if let Some(suppressed) = self.hub.limits().allow(Kind::Connect, now) {
            tracing::info!(%peer, suppressed, "Client connected");
        }
        let slot = id.slot as usize;
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.clients.get_mut(slot) {
            *place = Some(Client {
                id,
                socket,
                interest: EventFlags::IN,
            });
        }
    }

    fn client(&self, id: SessionId) -> Option<&Client> {
        self.clients
            .get(id.slot as usize)?
            .as_ref()
            .filter(|c| c.id == id)
    }

    fn remove(&mut self, id: SessionId, now: Instant) {
        if let Some(place) = self.clients.get_mut(id.slot as usize) {
            if let Some(client) = place.take_if(|c| c.id == id) {
                // It may be closed much later only.
                let _gone = epoll::delete(&self.epoll, &client.socket);
                received::hang_up(client.socket);
            }
        }
        self.hub.disconnect(id, now);
    }

    pub(super) fn client_event(&mut self, id: SessionId, flags: EventFlags, now: Instant) {
        if flags.contains(EventFlags::IN) {
            self.read(id, now);
        } else if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.remove(id, now);
        }
        if flags.contains(EventFlags::OUT) {
            self.transmit(id, now);
        }
    }

    /// Takes messages of one client. One at a time is normal: a second receive would only cost a
    /// system call, unless notifications, which are not waited for, come in a row.
    fn read(&mut self, id: SessionId, now: Instant) {
        for _ in 0..MAX_READ {
            let wants = self.hub.session(id).is_some_and(|s| s.wants_input());
            let Some(client) = self
                .clients
                .get(id.slot as usize)
                .and_then(Option::as_ref)
                .filter(|c| c.id == id && wants)
            else {
                return;
            };
            match wire::receive(&client.socket, &mut self.buf, received::has_room()) {
                Received::Message(len, files) => {
                    let bytes = self.buf.get(..len).unwrap_or(&[]);
                    let more = bytes.get(2).is_some_and(|flags| flags & 4 != 0);
                    self.hub.receive(id, bytes, files, now);
                    if !more {
                        return;
                    }
                }
                Received::Nothing => return,
                Received::End => return self.remove(id, now),
                Received::Unwanted => {
                    if let Some(suppressed) = self.hub.limits().allow(Kind::Socket, now) {
                        tracing::warn!(
                            suppressed,
                            "Client disconnected: it sent files while others do not get closed"
                        );
                    }
                    return self.remove(id, now);
                }
                Received::Failed(e) => {
                    if let Some(suppressed) = self.hub.limits().allow(Kind::Socket, now) {
                        tracing::warn!(suppressed, "Client's socket: {e}");
                    }
                    return self.remove(id, now);
                }
            }
        }
    }

    /// Looks at every session that has changed.
    pub(super) fn flush(&mut self, now: Instant) {
        // Sending can make a session start its next job, and so mark it again.
        for _ in 0..4 {
            let mut dirty = std::mem::take(&mut self.dirty);
            self.hub.take_dirty(&mut dirty);
            if dirty.is_empty() {
                self.dirty = dirty;
                return;
            }
            for id in dirty.drain(..) {
                self.transmit(id, now);
            }
            self.dirty = dirty;
        }
    }

    /// Sends what there is for a client, and adapts what to wait for.
    fn transmit(&mut self, id: SessionId, now: Instant) {
        let mut full = false;
        while let Some(message) = self.hub.outgoing(id) {
            let Some(client) = self.client(id) else {
                return;
            };
            match wire::transmit(&client.socket, message) {
                Sent::Done => self.hub.sent(id, now),
                Sent::Full => {
                    full = true;
                    self.hub.blocked(id, now);
                    break;
                }
                Sent::End => return self.remove(id, now),
            }
        }
        self.update_interest(id, full, now);
    }

    fn update_interest(&mut self, id: SessionId, full: bool, now: Instant) {
        let Some(session) = self.hub.session(id) else {
            return;
        };
        if session.is_finished() {
            return self.remove(id, now);
        }
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, session.wants_input());
        interest.set(EventFlags::OUT, full);
        let epoll = &self.epoll;
        let client = self
            .clients
            .get_mut(id.slot as usize)
            .and_then(Option::as_mut);
        if let Some(client) = client.filter(|c| c.id == id && c.interest != interest) {
            client.interest = interest;
            let data = EventData::new_u64(id.to_u64());
            if epoll::modify(epoll, &client.socket, data, interest).is_err() {
                self.remove(id, now);
            }
        }
    }
}
