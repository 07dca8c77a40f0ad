// SPDX-License-Identifier: GPL-2.0-or-later
//! The one loop that serves all functions, the control socket and the uplink.
//!
//! One thread and one `epoll` instance, not a thread per connection. The model is one object (the
//! functions share the admin queue, the switch and the fault rules), so threads would take turns
//! on one lock: each request would pay a wake-up of another thread on top, and with 64 VFs on two
//! cores most of the time would go into that. A request costs here one `epoll_wait`, one
//! `recvmsg`, the model's work and one `sendmsg`; under load several requests share the first two.
//!
//! Nothing in the loop blocks: all sockets, eventfds and taps are non-blocking, a client that does
//! not read its replies is no longer read from, and each turn takes one receive call's worth from
//! each connection. So a client can slow down others by at most its share of one core. Files behind
//! disks are read and written in place: the page cache answers.

mod clients;
mod commands;
mod controls;
mod pump;
mod setup;
mod simulator;

pub use setup::{Options, SetupError};
pub use simulator::{FrontCounters, Simulator};

use crate::hardware::Function;
use crate::server::Connection;
use crate::uplink::peer::Peer;
use rustix::event::epoll::{self, Event, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use simulator::Token;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Events taken from `epoll` in one turn.
const BATCH: usize = 128;

impl Simulator {
    /// Serves until a signal or the command `quit`.
    ///
    /// # Errors
    /// Waiting failed; nothing else ends the loop.
    pub fn run(&mut self) -> Result<(), Errno> {
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        while !self.stop {
            let timeout = self.timeout();
            let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e),
            };
            if !ready.is_empty() && !self.busy_poll.is_zero() {
                self.poll_until = Instant::now().checked_add(self.busy_poll);
            }
            self.counters.turns += 1;
            self.tick();
            for event in ready.iter() {
                let (flags, data) = (event.flags, event.data);
                if let Some(token) = Token::decode(data) {
                    self.dispatch(token, flags);
                }
            }
            self.pump();
            self.expire();
        }
        self.log.flush();
        if let Some(pcap) = &mut self.pcap {
            pcap.flush();
        }
        Ok(())
    }

    fn tick(&mut self) {
        let now = self.now_ns();
        self.hardware.tick(now);
    }

    /// How long nothing has to be done unless something becomes ready.
    fn timeout(&mut self) -> Option<Timespec> {
        if self.peer_busy {
            return Some(Timespec::default());
        }
        let now = Instant::now();
        if self.poll_until.is_some_and(|until| now < until) {
            return Some(Timespec::default());
        }
        self.poll_until = None;
        let mut wait: Option<Duration> = None;
        let mut at_most = |d: Duration| wait = Some(wait.map_or(d, |w| w.min(d)));
        if let Some(at) = self.hardware.next_deadline_ns() {
            at_most(Duration::from_nanos(at.saturating_sub(self.now_ns())));
        }
        if let Some(d) = self.peer.as_mut().and_then(Peer::idle_for) {
            at_most(d);
        }
        if let Some(at) = self.flush_at {
            at_most(at.saturating_duration_since(now));
        }
        let clients = &self.clients;
        self.ungreeted.retain(|f| {
            let client = clients.get(*f).and_then(Option::as_ref);
            let waits = client.filter(|c| !c.session.is_ready());
            if let Some(client) = waits {
                at_most(client.greet_by.saturating_duration_since(now));
            }
            waits.is_some()
        });
        for client in self.refused.iter().flatten() {
            at_most(client.greet_by.saturating_duration_since(now));
        }
        wait.and_then(|d| Timespec::try_from(d).ok())
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Signal => {
                tracing::info!("signal received, stopping");
                self.stop = true;
            }
            Token::Listener(f) => self.accept_client(f),
            Token::Client(f) => self.serve_client(f, flags),
            Token::Refused(n) => self.serve_refused(n, flags),
            Token::Doorbell(f, n) => self.ring(f, n),
            Token::ControlListener => self.accept_control(),
            Token::Control(n) => self.serve_control(n, flags),
            Token::Tap => self.receive_from_tap(),
            Token::Backend(f) => {
                self.hardware.wake(Function::from_index(f));
                self.drain_effects();
            }
        }
    }

    /// Cuts off clients that never said hello and writes out what waits in buffers.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.log.flush();
            if let Some(pcap) = &mut self.pcap {
                pcap.flush();
            }
        }
        let late = |c: &Connection| !c.session.is_ready() && c.greet_by <= now;
        let clients = self.ungreeted.iter().copied().filter(|f| {
            let client = self.clients.get(*f).and_then(Option::as_deref);
            client.is_some_and(late)
        });
        for f in clients.collect::<Vec<_>>() {
            self.drop_client(f, "it did not agree on a version in time");
        }
        for slot in &mut self.refused {
            if slot.as_ref().is_some_and(late) {
                *slot = None;
            }
        }
    }
}
