// SPDX-License-Identifier: GPL-2.0-or-later
//! An admin queue: commands in, answers out ("Administration Virtqueues").
//!
//! Each command in flight has a slot of DMA memory with its readable and its writable part. A slot
//! is used again only when the device has used its buffer, on time or late.

use driver_virtqueue::{AddError, Buffer, QueueError, SplitQueue};
use pci_transport::{DmaRegion, Doorbell, PciFunction, Posted, Width};
use virtio_modern_spec::admin::{Reply, REPLY_LEN};

use crate::command::{Command, MAX_READABLE, MAX_WRITABLE};
use crate::watch::Watch;

/// Bytes of a slot; the readable part starts at 0, the writable part in the middle.
pub(crate) const SLOT_LEN: usize = 256;
const WRITABLE_AT: usize = SLOT_LEN / 2;
/// Descriptors of a command.
const ELEMENTS: usize = 2;
/// Bytes of the longest result.
const MAX_RESULT: usize = MAX_WRITABLE - REPLY_LEN;

const _: () = assert!(MAX_READABLE <= WRITABLE_AT && MAX_WRITABLE <= SLOT_LEN - WRITABLE_AT);

/// How the device is told of available buffers.
pub(crate) enum Kick {
    /// Somebody else performs the store.
    Doorbell(Doorbell),
    /// A 16-bit store.
    Store { bar: u8, offset: u64, value: u16 },
}

#[derive(Clone, Copy)]
struct Busy {
    lane: u16,
    id: u16,
    order: u64,
    writable: usize,
    needed: usize,
}

/// The end of a command.
pub(crate) struct Done {
    pub(crate) lane: u16,
    pub(crate) slot: u16,
    /// Its number among the commands of the queue.
    pub(crate) order: u64,
    /// It had been given up before.
    pub(crate) late: bool,
    pub(crate) answer: Answer,
}

/// What the device answered.
pub(crate) struct Answer {
    /// Bytes that the device wrote.
    pub(crate) got: usize,
    /// Bytes that a successful command must give.
    pub(crate) needed: usize,
    /// Status and qualifier, if the device wrote them.
    pub(crate) reply: Option<Reply>,
    /// The result; bytes that the device did not write are zero.
    pub(crate) result: [u8; MAX_RESULT],
}

/// Why a command was not sent.
pub(crate) enum SendError {
    /// No slot or descriptor is free now.
    Full,
    /// The queue is broken.
    Queue(QueueError),
}

/// An admin queue in use.
pub(crate) struct AdminQueue {
    queue: SplitQueue,
    memory: DmaRegion,
    slots: Vec<Option<Busy>>,
    free: Vec<u16>,
    kick: Kick,
    /// Commands sent.
    sent: u64,
    pub(crate) watch: Watch,
}

impl AdminQueue {
    /// Slots that a queue of `size` descriptors can use.
    pub(crate) fn slots(size: u16) -> usize {
        usize::from(size) / ELEMENTS
    }

    /// A queue with its command memory, [`AdminQueue::slots`] times [`SLOT_LEN`] bytes.
    pub(crate) fn new(queue: SplitQueue, memory: DmaRegion, kick: Kick) -> Self {
        let slots = Self::slots(queue.size()).min(memory.len() / SLOT_LEN);
        AdminQueue {
            queue,
            memory,
            slots: vec![None; slots],
            free: (0..slots as u16).rev().collect(),
            kick,
            sent: 0,
            watch: Watch::default(),
        }
    }

    /// Commands that the device can have.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Commands that were given up and that the device still has.
    pub(crate) fn given_up(&self) -> usize {
        usize::from(self.queue.quarantined())
    }

    /// Commands that the device has, given-up ones included.
    pub(crate) fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    /// Makes a command available to the device; [`AdminQueue::flush`] tells it. Gives the slot.
    pub(crate) fn send(&mut self, command: &Command, lane: u16) -> Result<u16, SendError> {
        let Some(slot) = self.free.last().copied() else {
            return Err(SendError::Full);
        };
        let readable = command.readable();
        let readable = readable.bytes();
        let writable = command.writable_len();
        let at = usize::from(slot) * SLOT_LEN;
        let memory = |e| SendError::Queue(QueueError::Memory(e));
        self.memory.write_bytes(at, readable).map_err(memory)?;
        // Nothing of an earlier answer may be taken for this one's.
        self.memory
            .zero(at + WRITABLE_AT, writable)
            .map_err(memory)?;
        let iova = self.memory.iova_at(at, SLOT_LEN).map_err(memory)?;
        let elements: [Buffer; ELEMENTS] = [
            Buffer {
                iova,
                len: readable.len() as u32,
                writable: false,
            },
            Buffer {
                iova: iova + WRITABLE_AT as u64,
                len: writable as u32,
                writable: true,
            },
        ];
        let id = match self.queue.add(&elements, u64::from(slot)) {
            Ok(id) => id,
            Err(AddError::Full { .. }) => return Err(SendError::Full),
            Err(AddError::Broken(e)) => return Err(SendError::Queue(e)),
            Err(AddError::Invalid(what)) => {
                return Err(SendError::Queue(QueueError::Internal(what)))
            }
        };
        self.free.pop();
        self.sent += 1;
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(Busy {
                lane,
                id,
                order: self.sent,
                writable,
                needed: command.needed_len(),
            });
        }
        Ok(slot)
    }

    /// Notifies the device of the commands sent since the last time, if it wants that. `None`:
    /// there was nothing new; otherwise whether a notification was sent.
    pub(crate) fn flush(&mut self, function: &dyn PciFunction) -> Result<Option<bool>, FlushError> {
        if !self.queue.has_unannounced() {
            return Ok(None);
        }
        if !self.queue.needs_notify().map_err(FlushError::Queue)? {
            return Ok(Some(false));
        }
        match &self.kick {
            Kick::Doorbell(bell) => bell.ring(),
            Kick::Store { bar, offset, value } => {
                function.bar_write(*bar, *offset, Width::B2, (*value).into(), Posted::Yes)
            }
        }
        .map_err(FlushError::Transport)?;
        Ok(Some(true))
    }

    /// Takes the next answer.
    pub(crate) fn reap(&mut self) -> Result<Option<Done>, QueueError> {
        let Some(used) = self.queue.pop_used()? else {
            return Ok(None);
        };
        let index = usize::try_from(used.token).unwrap_or(usize::MAX);
        let Some(busy) = self.slots.get_mut(index).and_then(Option::take) else {
            return Err(QueueError::Internal("an answer for an idle slot"));
        };
        // The queue checked that it is no more than the writable part.
        let got = (used.len as usize).min(busy.writable);
        let mut bytes = [0; MAX_WRITABLE];
        if let Some(part) = bytes.get_mut(..got) {
            self.memory
                .read_bytes(index * SLOT_LEN + WRITABLE_AT, part)?;
        }
        let reply = bytes.get(..got).and_then(Reply::decode);
        let mut result = [0; MAX_RESULT];
        for (dst, src) in result.iter_mut().zip(bytes.iter().skip(REPLY_LEN)) {
            *dst = *src;
        }
        let slot = index as u16;
        self.free.push(slot);
        Ok(Some(Done {
            lane: busy.lane,
            slot,
            order: busy.order,
            late: used.late,
            answer: Answer {
                got,
                needed: busy.needed,
                reply,
                result,
            },
        }))
    }

    /// The number of the command in `slot`.
    pub(crate) fn order(&self, slot: u16) -> u64 {
        let busy = self.slots.get(usize::from(slot)).copied().flatten();
        busy.map_or(self.sent, |busy| busy.order)
    }

    /// Gives up on the command in `slot`; the device keeps its memory. Gives its number.
    pub(crate) fn give_up(&mut self, slot: u16) -> u64 {
        if let Some(Some(busy)) = self.slots.get(usize::from(slot)) {
            self.queue.quarantine(busy.id);
        }
        self.order(slot)
    }

    /// Asks for an interrupt with the next answer; `true` if there is an answer already.
    pub(crate) fn arm(&mut self) -> Result<bool, QueueError> {
        self.queue.enable_notifications()
    }

    /// Asks for no interrupts.
    pub(crate) fn disarm(&mut self) -> Result<(), QueueError> {
        self.queue.disable_notifications()
    }

    /// Gives all memory back; only when the device was seen to be reset.
    pub(crate) fn release_after_reset(self) {
        self.queue.release_after_reset();
        self.memory.release_after_reset();
    }
}

/// Why the device could not be notified.
pub(crate) enum FlushError {
    Queue(QueueError),
    Transport(pci_transport::Error),
}
