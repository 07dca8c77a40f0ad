// SPDX-License-Identifier: GPL-2.0-or-later
//! What the loop works on: the hardware, the clients, the uplink, the logs, and what of it can be asked.

use crate::control::ControlConnection;
use crate::dma::files::FileCache;
use crate::event_log::EventLog;
use crate::hardware::{Effect, Function, Hardware};
use crate::server::session::SessionOptions;
use crate::server::Connection;
use crate::uplink::pcap::Pcap;
use crate::uplink::peer::Peer;
use crate::uplink::tap::Tap;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use serde_json::{json, Value};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Second clients that are being told so, and clients of the control socket.
pub(super) const MAX_EXTRA: usize = 16;
/// How long records may stay in a file's buffer.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
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
    pub(super) fn encode(self) -> EventData {
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

    pub(super) fn decode(data: EventData) -> Option<Self> {
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
    pub(super) hardware: Box<dyn Hardware>,
    pub(super) epoll: OwnedFd,
    pub(super) dir: PathBuf,
    pub(super) busy_poll: Duration,
    /// Until then the loop does not sleep.
    pub(super) poll_until: Option<Instant>,
    pub(super) session: SessionOptions,
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) clients: Vec<Option<Box<Connection>>>,
    /// Functions whose clients have not agreed on a version yet, as far as is known. Each turn looks at
    /// these alone, whatever number of VFs there is.
    pub(super) ungreeted: Vec<usize>,
    pub(super) refused: Vec<Option<Connection>>,
    pub(super) control_listener: OwnedFd,
    pub(super) controls: Vec<Option<ControlConnection>>,
    pub(super) signal: UnixStream,
    /// Given up for a moment when no descriptor is left, to turn a client away.
    pub(super) spare: Option<OwnedFd>,
    pub(super) files: FileCache,
    pub(super) log: EventLog,
    pub(super) peer: Option<Peer>,
    pub(super) tap: Option<Tap>,
    pub(super) pcap: Option<Pcap>,
    pub(super) effects: Vec<Effect>,
    pub(super) frames_out: VecDeque<Vec<u8>>,
    pub(super) scratch: Vec<u8>,
    pub(super) counters: FrontCounters,
    pub(super) started: Instant,
    pub(super) flush_at: Option<Instant>,
    pub(super) peer_busy: bool,
    pub(super) stop: bool,
}

impl Simulator {
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds a record of the front end's own to the event log.
    pub(super) fn record(&mut self, function: Option<Function>, event: &str, mut more: Value) {
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

    pub(super) fn log(&mut self, record: Value) {
        self.log.push(record);
        if self.flush_at.is_none() {
            self.flush_at = Instant::now().checked_add(FLUSH_AFTER);
        }
    }

    pub(super) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        flags: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, token.encode(), flags)
    }

    pub(super) fn hardware_control(&mut self, cmd: &str, args: &Value) -> Result<Value, String> {
        self.hardware.control(cmd, args)
    }

    pub(super) fn total_vfs(&self) -> u16 {
        self.hardware.total_vfs()
    }

    pub(super) fn events_since(&self, since: u64, max: usize) -> (Vec<Value>, u64) {
        self.log.since(since, max)
    }

    /// Signals a function's error interrupt; `false` if nobody listens.
    pub(super) fn raise_error(&self, f: usize) -> bool {
        let client = self.clients.get(f).and_then(Option::as_ref);
        client.is_some_and(|c| c.session.irqs.fire_error())
    }

    pub(super) fn quit(&mut self) {
        self.stop = true;
    }

    /// The front end's counters.
    pub(super) fn front_counters(&self) -> Value {
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
    pub(super) fn status(&self) -> Value {
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
            Token::Doorbell(2048, 63),
            Token::Client(2048),
            Token::ControlListener,
            Token::Control(3),
            Token::Tap,
            Token::Backend(2048),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(EventData::new_u64(u64::MAX)), None);
    }
}
