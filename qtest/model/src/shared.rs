// SPDX-License-Identifier: GPL-2.0-or-later
//! What every function of the device shares: time, output, knobs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::config::{Knobs, Leniency};
use crate::counters::Counters;
use crate::effect::{Effect, FunctionId};
use crate::event::{Event, EventLog, EventMask};
use crate::violation::Violation;

/// Frames that wait for delivery inside one call at most; a loop of functions that answer each
/// other cannot grow without bound.
const MAX_FRAMES: usize = 4096;

pub(crate) struct Shared {
    pub(crate) now_ns: u64,
    pub(crate) effects: Vec<Effect>,
    pub(crate) log: EventLog,
    pub(crate) counters: Counters,
    pub(crate) knobs: Knobs,
    pub(crate) leniency: Leniency,
    pub(crate) frames: VecDeque<(FunctionId, Vec<u8>)>,
    spare_frames: Vec<Vec<u8>>,
    /// Functions that were reset since the model last looked.
    pub(crate) reset: Vec<FunctionId>,
    /// Admin queues that were reset by themselves since then.
    pub(crate) admin_reset: Vec<u16>,
    /// When something becomes due, and at which function.
    timers: BinaryHeap<Reverse<(u64, FunctionId)>>,
    /// Queues that are to be served further in the next tick.
    later: VecDeque<(FunctionId, u16)>,
}

impl Shared {
    pub(crate) fn new(knobs: Knobs, leniency: Leniency, mask: EventMask) -> Self {
        Shared {
            now_ns: 0,
            effects: Vec::new(),
            log: EventLog::new(mask),
            counters: Counters::default(),
            knobs,
            leniency,
            frames: VecDeque::new(),
            spare_frames: Vec::new(),
            reset: Vec::new(),
            admin_reset: Vec::new(),
            timers: BinaryHeap::new(),
            later: VecDeque::new(),
        }
    }

    pub(crate) fn log(&mut self, function: FunctionId, event: Event) {
        self.log.push(self.now_ns, function, event);
        self.counters.records_lost = self.log.lost;
    }

    pub(crate) fn violation(&mut self, function: FunctionId, v: Violation) {
        *self.counters.violations.entry(v.name()).or_default() += 1;
        self.log(function, Event::Violation(v));
    }

    pub(crate) fn transmit(&mut self, from: FunctionId, frame: &[u8]) {
        if self.frames.len() >= MAX_FRAMES {
            self.counters.frames_dropped += 1;
            return;
        }
        let mut buf = self.spare_frames.pop().unwrap_or_default();
        buf.clear();
        buf.extend_from_slice(frame);
        self.frames.push_back((from, buf));
    }

    pub(crate) fn recycle_frame(&mut self, frame: Vec<u8>) {
        if self.spare_frames.len() < 64 {
            self.spare_frames.push(frame);
        }
    }

    pub(crate) fn was_reset(&mut self, function: FunctionId) {
        self.reset.push(function);
    }

    pub(crate) fn timer(&mut self, due_ns: u64, function: FunctionId) {
        self.timers.push(Reverse((due_ns, function)));
    }

    /// The next function whose time has come.
    pub(crate) fn due(&mut self) -> Option<FunctionId> {
        let Reverse((due, function)) = *self.timers.peek()?;
        if due > self.now_ns {
            return None;
        }
        self.timers.pop();
        Some(function)
    }

    pub(crate) fn later(&mut self, function: FunctionId, queue: u16) {
        self.later.push_back((function, queue));
    }

    pub(crate) fn take_later(&mut self) -> Option<(FunctionId, u16)> {
        self.later.pop_front()
    }

    pub(crate) fn later_len(&self) -> usize {
        self.later.len()
    }

    /// When the next tick is needed.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        if !self.later.is_empty() {
            return Some(self.now_ns);
        }
        self.timers.peek().map(|Reverse((due, _))| *due)
    }
}
