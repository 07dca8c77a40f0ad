// SPDX-License-Identifier: GPL-2.0-or-later
//! What the driver is told unasked, on the event queue.

use super::config::{feature, EVENT_LEN};
use super::request::Event;
use super::{ScsiDevice, EVENT_QUEUE};
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
}

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        match self.waiting.len() < MAX_WAITING {
            true => self.waiting.push(event),
            false => self.missed = true,
        }
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

impl ScsiDevice {
    /// Sends what waits. An event that finds no buffer is lost, as the specification has it: the
    /// next buffer says so.
    pub(super) fn send_events(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        for event in std::mem::take(&mut self.events.waiting) {
            if needed(event).is_some_and(|n| !ctx.has(n)) {
                continue;
            }
            if !self.send(event, ctx)? {
                self.events.missed = true;
                self.counts.events_missed += 1;
            }
        }
        if self.events.missed {
            self.send(Event::Missed, ctx)?;
        }
        Ok(())
    }

    fn send(&mut self, event: Event, ctx: &mut DeviceCtx<'_>) -> Result<bool, RingFault> {
        let Some(chain) = ctx.pop(EVENT_QUEUE)? else {
            return Ok(false);
        };
        let bytes = event.encode(self.events.missed);
        if chain.writable_len() < EVENT_LEN as u64 {
            ctx.violation("scsi_event_room", chain.writable_len());
        }
        let used = ctx.write(&chain, 0, &bytes)?;
        ctx.complete(chain, u32::try_from(used).unwrap_or(u32::MAX))?;
        self.events.missed = false;
        self.counts.events += 1;
        Ok(true)
    }
}
