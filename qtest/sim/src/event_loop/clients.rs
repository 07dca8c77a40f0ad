// SPDX-License-Identifier: GPL-2.0-or-later
//! Clients of functions: coming, being served, going.

use super::simulator::{Simulator, Token, MAX_EXTRA};
use crate::dma::DmaSpace;
use crate::hardware::Function;
use crate::server::session::{Session, Shared};
use crate::server::stream::{Stream, StreamError};
use crate::server::{Connection, Interest};
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{open, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{accept_with, sockopt::socket_peercred, SocketFlags};
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client has this long to agree on a version.
const GREETING: Duration = Duration::from_secs(10);
/// A second client has this long to be told that the function is taken.
const REFUSAL: Duration = Duration::from_secs(2);
/// Receive calls for a client that has left.
const LAST_WORDS: usize = 64;
/// Messages handled for one client in one turn.
const TURN: usize = 256;

impl Simulator {
    /// The next client of a function, or of the control socket.
    pub(super) fn accept(&mut self, listener: usize, control: bool) -> Option<OwnedFd> {
        let listener = if control {
            &self.control_listener
        } else {
            self.listeners.get(listener)?
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(listener, flags) {
            Ok(socket) => Some(socket),
            Err(Errno::MFILE | Errno::NFILE) => {
                // Without this the connection stays pending and the loop would spin on it.
                tracing::error!("no file descriptor left for a new client, it is turned away");
                self.spare = None;
                drop(accept_with(listener, flags));
                self.spare = spare();
                None
            }
            Err(_) => None,
        }
    }

    pub(super) fn accept_client(&mut self, f: usize) {
        let Some(socket) = self.accept(f, false) else {
            return;
        };
        let function = Function::from_index(f);
        let pid = socket_peercred(&socket).map_or(0, |c| c.pid.as_raw_nonzero().get());
        let stream = Stream::new(socket);
        self.drop_client_that_left(f);
        let in_use = self.clients.get(f).and_then(Option::as_ref).map(|c| c.pid);
        if let Some(holder) = in_use {
            self.counters.refused += 1;
            tracing::warn!(
                %function, pid, holder,
                "refused: {function} already has a client (pid {holder}); one at a time"
            );
            self.record(
                Some(function),
                "refused",
                json!({ "pid": pid, "holder": holder }),
            );
            let slot = self.refused.iter().position(Option::is_none);
            let Some(slot) = slot.filter(|n| *n < MAX_EXTRA) else {
                return;
            };
            let by = Instant::now() + REFUSAL;
            let connection = Connection::new(stream, Session::refused(function), pid, by);
            let token = Token::Refused(slot);
            if self
                .watch(connection.stream.socket(), token, EventFlags::IN)
                .is_ok()
            {
                if let Some(place) = self.refused.get_mut(slot) {
                    *place = Some(connection);
                }
            }
            return;
        }
        let session = Session::new(function, self.session, &mut *self.hardware);
        let by = Instant::now() + GREETING;
        let connection = Connection::new(stream, session, pid, by);
        if let Err(e) = self.watch(connection.stream.socket(), Token::Client(f), EventFlags::IN) {
            tracing::error!(%function, "cannot wait for the client: {e}");
            return;
        }
        if let Some(place) = self.clients.get_mut(f) {
            *place = Some(Box::new(connection));
            self.ungreeted.push(f);
        }
        self.counters.connections += 1;
        tracing::info!(%function, pid, "client connected");
        self.record(Some(function), "connected", json!({ "pid": pid }));
        self.drain_effects();
    }

    /// A client that left just before another came may not have been noticed yet: both became
    /// ready in the same turn. What it still asked for is done first.
    fn drop_client_that_left(&mut self, f: usize) {
        for _ in 0..LAST_WORDS {
            let Some(Some(client)) = self.clients.get(f) else {
                return;
            };
            let mut fds = [PollFd::from_borrowed_fd(
                client.stream.socket(),
                PollFlags::IN,
            )];
            let polled = poll(&mut fds, Some(&Timespec::default()));
            let [fd] = fds;
            if polled.is_err() || !fd.revents().contains(PollFlags::HUP) {
                return;
            }
            self.serve_client(f, EventFlags::IN | EventFlags::HUP);
        }
        self.drop_client(f, "it left with requests outstanding");
    }

    /// Ends a client's use of a function. The hardware stays as it is, except that the function
    /// can no longer reach memory and its configuration is as after power-on.
    pub(super) fn drop_client(&mut self, f: usize, why: &str) {
        let Some(connection) = self.clients.get_mut(f).and_then(Option::take) else {
            return;
        };
        self.ungreeted.retain(|other| *other != f);
        let (function, pid) = (connection.function(), connection.pid);
        // The client may hold the eventfds too, so closing them does not end the waiting.
        for doorbell in connection.session.doorbells.all() {
            let _ = epoll::delete(&self.epoll, &doorbell.fd);
        }
        self.counters.disconnections += 1;
        self.counters.messages += connection.session.counters.messages;
        connection.session.memory.clear();
        self.hardware.disconnected(function);
        self.hardware
            .set_memory(function, Arc::new(DmaSpace::default()));
        tracing::info!(%function, pid, "client disconnected: {why}");
        self.record(
            Some(function),
            "disconnected",
            json!({ "pid": pid, "why": why }),
        );
        self.drain_effects();
    }

    /// Cuts a function's client off; `false` if there is none.
    pub(super) fn cut_off(&mut self, f: usize) -> bool {
        let there = self.clients.get(f).is_some_and(Option::is_some);
        self.drop_client(f, "cut off by the control socket");
        there
    }

    pub(super) fn serve_client(&mut self, f: usize, flags: EventFlags) {
        if let Err(e) = self.try_serve_client(f, flags) {
            match e {
                StreamError::Closed => {}
                _ => tracing::warn!(function = %Function::from_index(f), "connection closed: {e}"),
            }
            self.drop_client(f, &e.to_string());
        }
    }

    fn try_serve_client(&mut self, f: usize, flags: EventFlags) -> Result<(), StreamError> {
        let Some(connection) = self.clients.get_mut(f).and_then(Option::as_mut) else {
            return Ok(());
        };
        if flags.contains(EventFlags::OUT) {
            connection.stream.flush()?;
        }
        let readable = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let received = match flags.intersects(readable) && !connection.stream.is_clogged() {
            true => connection.receive()?,
            false => false,
        };
        if hung_up && !received {
            return Err(StreamError::Closed);
        }
        let mut handled = 0;
        loop {
            let Some(connection) = self.clients.get_mut(f).and_then(Option::as_mut) else {
                return Ok(());
            };
            let mut shared = Shared {
                hardware: &mut *self.hardware,
                files: &mut self.files,
            };
            let Some(new_doorbells) = connection.handle_one(&mut shared, &mut self.scratch)? else {
                break;
            };
            if new_doorbells {
                self.watch_doorbells(f);
            }
            self.drain_effects();
            handled += 1;
            if handled % TURN == 0 {
                // A burst of doorbells makes frames; let them go before the queues fill.
                self.pump();
            }
        }
        self.after_serving(f)
    }

    /// Sets what to wait for next on a client's socket.
    fn after_serving(&mut self, f: usize) -> Result<(), StreamError> {
        let Some(connection) = self.clients.get_mut(f).and_then(Option::as_mut) else {
            return Ok(());
        };
        if connection.closing && !connection.stream.must_write() {
            return Err(StreamError::Closed);
        }
        let interest = Interest {
            read: !connection.closing && !connection.stream.is_clogged(),
            write: connection.stream.must_write(),
        };
        if interest != connection.interest {
            connection.interest = interest;
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, interest.read);
            flags.set(EventFlags::OUT, interest.write);
            let data = Token::Client(f).encode();
            epoll::modify(&self.epoll, connection.stream.socket(), data, flags)?;
        }
        Ok(())
    }

    pub(super) fn serve_refused(&mut self, n: usize, flags: EventFlags) {
        let Some(Some(connection)) = self.refused.get_mut(n) else {
            return;
        };
        let mut shared = Shared {
            hardware: &mut *self.hardware,
            files: &mut self.files,
        };
        let over = match connection.receive() {
            Ok(_) => connection
                .handle_one(&mut shared, &mut self.scratch)
                .is_err(),
            Err(_) => true,
        };
        if over || connection.closing || flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            if let Some(place) = self.refused.get_mut(n) {
                *place = None;
            }
        }
    }

    /// Waits on the eventfds that were handed out last.
    fn watch_doorbells(&self, f: usize) {
        let Some(Some(connection)) = self.clients.get(f) else {
            return;
        };
        for (n, doorbell) in connection.session.doorbells.all().iter().enumerate() {
            let token = Token::Doorbell(f, n);
            match self.watch(doorbell.fd.as_fd(), token, EventFlags::IN) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => tracing::error!("cannot wait for a doorbell: {e}"),
            }
        }
    }

    /// A client wrote to the eventfd of a doorbell.
    pub(super) fn ring(&mut self, f: usize, n: usize) {
        let Some(Some(connection)) = self.clients.get_mut(f) else {
            return;
        };
        let Some(rung) = connection.session.doorbells.all().get(n) else {
            return;
        };
        let (bar, doorbell) = (rung.bar, rung.doorbell);
        let mut count = [0; 8];
        if !matches!(rustix::io::read(&rung.fd, &mut count[..]), Ok(8)) {
            return;
        }
        connection.session.counters.doorbells += 1;
        let function = connection.function();
        let bytes = doorbell.value.to_le_bytes();
        if let Some(data) = bytes.get(..usize::from(doorbell.width)) {
            self.hardware
                .bar_write(function, bar, doorbell.offset, data);
        }
        self.drain_effects();
    }
}

/// A descriptor to give up when none is left.
pub(super) fn spare() -> Option<OwnedFd> {
    open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}
