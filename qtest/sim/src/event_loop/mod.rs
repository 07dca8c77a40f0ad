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
mod pump;
mod setup;

pub use setup::{Options, SetupError};

use crate::control::ControlConnection;
use crate::dma::files::FileCache;
use crate::event_log::EventLog;
use crate::hardware::{Effect, Function, Hardware};
use crate::server::session::SessionOptions;
use crate::server::Connection;
use crate::uplink::pcap::Pcap;
use crate::uplink::peer::Peer;
use crate::uplink::tap::Tap;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use serde_json::{json, Value};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Second clients that are being told so, and clients of the control socket.
const MAX_EXTRA: usize = 16;
/// How long records may stay in a file's buffer.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// Events taken from `epoll` in one turn.
const BATCH: usize = 128;

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Listener(usize),
    Client(usize),
    Refused(usize),
    Doorbell(usize, usize),
    ControlListener,
    Control(usize),
    Tap,
    Backend(usize),
}

impl Token {
    fn encode(self) -> EventData {
        let (kind, a, b) = match self {
            Self::Signal => (0, 0, 0),
            Self::Listener(f) => (1, f, 0),
            Self::Client(f) => (2, f, 0),
            Self::Refused(n) => (3, n, 0),
            Self::Doorbell(f, n) => (4, f, n),
            Self::ControlListener => (5, 0, 0),
            Self::Control(n) => (6, n, 0),
            Self::Tap => (7, 0, 0),
            Self::Backend(f) => (8, f, 0),
        };
        EventData::new_u64(kind << 48 | (a as u64 & 0xff_ffff) << 24 | b as u64 & 0xff_ffff)
    }

    fn decode(data: EventData) -> Option<Self> {
        let raw = data.u64();
        let (a, b) = ((raw >> 24 & 0xff_ffff) as usize, (raw & 0xff_ffff) as usize);
        Some(match raw >> 48 {
            0 => Self::Signal,
            1 => Self::Listener(a),
            2 => Self::Client(a),
            3 => Self::Refused(a),
            4 => Self::Doorbell(a, b),
            5 => Self::ControlListener,
            6 => Self::Control(a),
            7 => Self::Tap,
            8 => Self::Backend(a),
            _ => return None,
        })
    }
}

/// Counters of the front end.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct FrontCounters {
    /// Clients accepted, over all functions.
    pub connections: u64,
    /// Second clients turned away.
    pub refused: u64,
    /// Clients that left or were cut off.
    pub disconnections: u64,
    /// Messages taken from clients.
    pub messages: u64,
    /// Interrupts signalled to clients.
    pub interrupts: u64,
    /// Interrupts for which no client had attached an eventfd.
    pub interrupts_lost: u64,
    /// Frames from the device to the uplink.
    pub frames_out: u64,
    /// Frames from the uplink to the device.
    pub frames_in: u64,
    /// Frames dropped because a queue was full.
    pub frames_dropped: u64,
    /// Times the built-in peer was started anew, because frames of a guest broke it.
    pub peer_restarts: u64,
    /// Turns of the loop.
    pub turns: u64,
}

/// The running simulator.
pub struct Simulator {
    hardware: Box<dyn Hardware>,
    epoll: OwnedFd,
    dir: PathBuf,
    busy_poll: Duration,
    /// Until then the loop does not sleep.
    poll_until: Option<Instant>,
    session: SessionOptions,
    listeners: Vec<OwnedFd>,
    clients: Vec<Option<Connection>>,
    refused: Vec<Option<Connection>>,
    control_listener: OwnedFd,
    controls: Vec<Option<ControlConnection>>,
    signal: UnixStream,
    /// Given up for a moment when no descriptor is left, to turn a client away.
    spare: Option<OwnedFd>,
    files: FileCache,
    log: EventLog,
    peer: Option<Peer>,
    tap: Option<Tap>,
    pcap: Option<Pcap>,
    effects: Vec<Effect>,
    frames_out: VecDeque<Vec<u8>>,
    scratch: Vec<u8>,
    counters: FrontCounters,
    started: Instant,
    flush_at: Option<Instant>,
    peer_busy: bool,
    stop: bool,
}

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

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
        let clients = self.clients.iter().chain(&self.refused).flatten();
        for client in clients.filter(|c| !c.session.is_ready()) {
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
        let late = |c: &Option<Connection>| {
            c.as_ref()
                .is_some_and(|c| !c.session.is_ready() && c.greet_by <= now)
        };
        for f in 0..self.clients.len() {
            if self.clients.get(f).is_some_and(late) {
                self.drop_client(f, "it did not agree on a version in time");
            }
        }
        for slot in &mut self.refused {
            if late(slot) {
                *slot = None;
            }
        }
    }

    /// Adds a record of the front end's own to the event log.
    fn record(&mut self, function: Option<Function>, event: &str, mut more: Value) {
        let time_ns = self.now_ns();
        if let Some(map) = more.as_object_mut() {
            map.insert("time_ns".to_owned(), time_ns.into());
            map.insert("event".to_owned(), event.into());
            if let Some(function) = function {
                map.insert("function".to_owned(), function.to_string().into());
            }
        }
        self.log(more);
    }

    fn log(&mut self, record: Value) {
        self.log.push(record);
        if self.flush_at.is_none() {
            self.flush_at = Instant::now().checked_add(FLUSH_AFTER);
        }
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, token.encode(), flags)
    }

    pub(crate) fn hardware_control(&mut self, cmd: &str, args: &Value) -> Result<Value, String> {
        self.hardware.control(cmd, args)
    }

    pub(crate) fn total_vfs(&self) -> u16 {
        self.hardware.total_vfs()
    }

    pub(crate) fn events_since(&self, since: u64, max: usize) -> (Vec<&Value>, u64) {
        self.log.since(since, max)
    }

    /// Cuts a function's client off; `false` if there is none.
    pub(crate) fn cut_off(&mut self, f: usize) -> bool {
        let there = self.clients.get(f).is_some_and(Option::is_some);
        self.drop_client(f, "cut off by the control socket");
        there
    }

    /// Signals a function's error interrupt; `false` if nobody listens.
    pub(crate) fn raise_error(&self, f: usize) -> bool {
        let client = self.clients.get(f).and_then(Option::as_ref);
        client.is_some_and(|c| c.session.irqs.fire_error())
    }

    pub(crate) fn quit(&mut self) {
        self.stop = true;
    }

    /// The front end's counters.
    pub(crate) fn front_counters(&self) -> Value {
        let mut counters = self.counters;
        for client in self.clients.iter().flatten() {
            counters.messages += client.session.counters.messages;
        }
        let dropped = self.peer.as_ref().map_or(0, Peer::dropped);
        counters.peer_restarts = self.peer.as_ref().map_or(0, Peer::restarts);
        counters.frames_dropped += dropped + self.tap.as_ref().map_or(0, |t| t.dropped);
        json!(counters)
    }

    /// The front end's side of the command `status`.
    pub(crate) fn status(&self) -> Value {
        let clients: Vec<Value> = self
            .clients
            .iter()
            .flatten()
            .map(|c| {
                let memory = &c.session.memory;
                let load =
                    |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
                json!({
                    "function": c.function().to_string(),
                    "pid": c.pid,
                    "ready": c.session.is_ready(),
                    "messages": c.session.counters,
                    "vectors_attached": c.session.irqs.attached(),
                    "interrupts": c.session.irqs.fired,
                    "dma": {
                        "mappings": memory.len(),
                        "maps": load(&memory.counters.maps),
                        "unmaps": load(&memory.counters.unmaps),
                        "unreachable": load(&memory.counters.unreachable),
                        "faults": load(&memory.counters.faults),
                    },
                })
            })
            .collect();
        json!({
            "dir": self.dir.display().to_string(),
            "vfs": self.hardware.total_vfs(),
            "uptime_ns": self.now_ns(),
            "clients": clients,
            "files_mapped": self.files.len(),
            "unsealed_files": self.files.unsealed,
            "next_event": self.log.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Signal,
            Token::Listener(0),
            Token::Client(64),
            Token::Refused(15),
            Token::Doorbell(255, 63),
            Token::ControlListener,
            Token::Control(3),
            Token::Tap,
            Token::Backend(255),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(EventData::new_u64(u64::MAX)), None);
    }
}
