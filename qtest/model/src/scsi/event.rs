// SPDX-License-Identifier: GPL-2.0-or-later
//! What the driver is told unasked, on the event queue.

use super::config::{feature, EVENT_LEN};
use super::request::{Event, EVENT_QUEUE};
use crate::device::DeviceCtx;
use crate::queue::RingFault;

/// Events that wait at most; more are lost, which the driver is told.
const MAX_WAITING: usize = 16;

/// Events on their way.
#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: Vec<Event>,
    /// Some were lost.
    missed: bool,
    /// How many were sent, and how many found no buffer; a reset does not set it back.
    pub(super) sent: u64,
    pub(super) lost: u64,
}

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        match self.waiting.len() < MAX_WAITING {
            true => self.waiting.push(event),
            false => self.missed = true,
        }
    }

    /// Nothing is on its way any more.
    pub(super) fn reset(&mut self) {
        self.waiting.clear();
        self.missed = false;
    }

    /// Sends what waits. An event that finds no buffer is lost, as the specification has it: the
    /// next buffer says so.
    pub(super) fn send_waiting(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        for event in std::mem::take(&mut self.waiting) {
            if needed(event).is_some_and(|n| !ctx.has(n)) {
                continue;
            }
            if !self.send(event, ctx)? {
                self.missed = true;
                self.lost += 1;
            }
        }
        if self.missed {
            self.send(Event::Missed, ctx)?;
        }
        Ok(())
    }

    fn send(&mut self, event: Event, ctx: &mut DeviceCtx<'_>) -> Result<bool, RingFault> {
        let Some(chain) = ctx.pop(EVENT_QUEUE)? else {
            return Ok(false);
        };
        let bytes = event.encode(self.missed);
        if chain.writable_len() < EVENT_LEN as u64 {
            ctx.violation("scsi_event_room", chain.writable_len());
        }
        let used = ctx.write(&chain, 0, &bytes)?;
        ctx.complete(chain, u32::try_from(used).unwrap_or(u32::MAX))?;
        self.missed = false;
        self.sent += 1;
        Ok(true)
    }
}

/// The feature without which the driver does not know an event.
fn needed(event: Event) -> Option<u32> {
    match event {
        Event::Missed => None,
        Event::Transport { .. } => Some(feature::HOTPLUG),
        Event::Parameter { .. } => Some(feature::CHANGE),
    }
}
