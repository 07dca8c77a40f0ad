// SPDX-License-Identifier: GPL-2.0-or-later
//! One virtqueue: its registers and its split ring, with every driver-made value checked.
//!
//! Index arithmetic and ring accesses are `virtio-queue`'s.

mod chain;
mod set;

pub(crate) use chain::{cover, ChainRules};
pub use chain::{Chain, RingFault, Segment};
pub(crate) use set::QueueSet;

use std::sync::atomic::{fence, Ordering};

use virtio_modern_spec::ring;
use virtio_pci_spec::status::NO_VECTOR;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::dma::DmaView;

/// Offset of the elements in the used ring.
const USED_ELEMENTS: u64 = 4;
/// Bytes of one of them.
const USED_ELEMENT_LEN: u64 = 8;

/// Which interface gave a queue its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not in use.
    Off,
    /// Three addresses and queue_enable.
    Modern,
    /// A page frame number, layout by the legacy formula.
    Legacy,
}

/// The three addresses of a modern queue, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Addresses {
    pub(crate) desc: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

/// Registers and ring of one virtqueue.
#[derive(Debug)]
pub(crate) struct VirtQueue {
    ring: Queue,
    pub(crate) mode: Mode,
    pub(crate) pfn: u32,
    pub(crate) addresses: Addresses,
    pub(crate) vector: u16,
    /// queue_reset reads 1 until this time.
    pub(crate) resetting_until: Option<u64>,
    /// The driver kicked while the queue could not be served.
    pub(crate) kicked: bool,
    /// Buffers were used since the last look at whether to notify.
    pub(crate) used_pending: bool,
    /// used.idx when it was last decided whether to notify.
    signalled: u16,
    /// Counts lives of the queue: a buffer of an earlier life is never completed.
    pub(crate) epoch: u32,
}

impl VirtQueue {
    /// A queue of `max_size` entries, which must be a power of two up to 32768.
    pub(crate) fn new(max_size: u16) -> Option<Self> {
        Some(VirtQueue {
            ring: Queue::new(max_size).ok()?,
            mode: Mode::Off,
            pfn: 0,
            addresses: Addresses::default(),
            vector: NO_VECTOR,
            resetting_until: None,
            kicked: false,
            used_pending: false,
            signalled: 0,
            epoch: 0,
        })
    }

    /// Everything but the vector and the life counter as after power-on.
    pub(crate) fn stop(&mut self) {
        self.ring.reset();
        self.mode = Mode::Off;
        self.pfn = 0;
        self.addresses = Addresses::default();
        self.kicked = false;
        self.used_pending = false;
        self.signalled = 0;
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// The reset of a queue or device: [`stop`](Self::stop) and no vector.
    pub(crate) fn reset(&mut self) {
        self.stop();
        self.vector = NO_VECTOR;
        self.resetting_until = None;
    }

    /// Most entries it can have.
    pub(crate) fn max_size(&self) -> u16 {
        self.ring.max_size()
    }

    pub(crate) fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Shrinks the queue; `false` if the size is not a power of two up to the maximum.
    pub(crate) fn set_size(&mut self, size: u16) -> bool {
        self.ring.try_set_size(size).is_ok()
    }

    pub(crate) fn enabled(&self) -> bool {
        self.mode != Mode::Off
    }

    /// Takes the written addresses into use; `false` if one is misaligned.
    pub(crate) fn enable_modern(&mut self, event_idx: bool) -> bool {
        let a = self.addresses;
        self.start(a, event_idx, Mode::Modern)
    }

    /// Takes the ring at page frame `pfn` into use; 0 stops the queue.
    pub(crate) fn set_pfn(&mut self, pfn: u32, event_idx: bool) {
        self.stop();
        if pfn == 0 {
            return;
        }
        self.pfn = pfn;
        let l = ring::legacy_layout(pfn, self.ring.size());
        self.addresses = Addresses {
            desc: l.desc,
            driver: l.avail,
            device: l.used,
        };
        // Page-aligned by construction.
        let _aligned = self.start(self.addresses, event_idx, Mode::Legacy);
    }

    fn start(&mut self, a: Addresses, event_idx: bool, mode: Mode) -> bool {
        let q = &mut self.ring;
        if q.try_set_desc_table_address(GuestAddress(a.desc)).is_err()
            || q.try_set_avail_ring_address(GuestAddress(a.driver))
                .is_err()
            || q.try_set_used_ring_address(GuestAddress(a.device)).is_err()
        {
            return false;
        }
        q.set_event_idx(event_idx);
        q.set_ready(true);
        self.mode = mode;
        true
    }

    /// Legacy drivers may write features after the queue address.
    pub(crate) fn set_event_idx(&mut self, event_idx: bool) {
        self.ring.set_event_idx(event_idx);
    }

    /// The number of buffers that the driver made available and that were not taken yet.
    pub(crate) fn pending(&self, mem: &DmaView<'_>) -> Result<u16, RingFault> {
        let idx = self
            .ring
            .avail_idx(mem, std::sync::atomic::Ordering::Acquire)
            .map_err(|_| RingFault::RingUnreachable)?
            .0;
        let n = idx.wrapping_sub(self.ring.next_avail());
        if n > self.ring.size() {
            return Err(RingFault::AvailIndex {
                idx,
                seen: self.ring.next_avail(),
            });
        }
        Ok(n)
    }

    /// Whether there is a buffer to take. If there is none, the driver is asked to notify when it
    /// adds one (or not to, if notifications are unwanted): whoever finds the ring empty is the one
    /// that waits.
    pub(crate) fn has_next(
        &mut self,
        mem: &DmaView<'_>,
        wants_kicks: bool,
    ) -> Result<bool, RingFault> {
        if self.pending(mem)? != 0 {
            return Ok(true);
        }
        let raced = if wants_kicks {
            self.ring.enable_notification(mem)
        } else {
            self.ring.disable_notification(mem).map(|()| false)
        };
        if !raced.map_err(|_| RingFault::RingUnreachable)? {
            return Ok(false);
        }
        Ok(self.pending(mem)? != 0)
    }

    /// Takes the next buffer, which [`has_next`](Self::has_next) found. `segments` is storage to
    /// build it in.
    pub(crate) fn pop(
        &mut self,
        queue: u16,
        mem: &DmaView<'_>,
        rules: ChainRules,
        segments: Vec<Segment>,
    ) -> Result<Chain, RingFault> {
        let head = self
            .ring
            .iter(mem)
            .map_err(|_| RingFault::RingUnreachable)?
            .next()
            .ok_or(RingFault::RingUnreachable)?
            .head_index();
        let mut chain = Chain::new(queue, head, self.epoch, segments);
        chain.walk(mem, self.ring.desc_table(), self.ring.size(), rules)?;
        Ok(chain)
    }

    /// Gives the buffer taken last back to the queue, as if it had not been taken.
    pub(crate) fn unpop(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Puts a buffer into the used ring.
    pub(crate) fn push_used(
        &mut self,
        mem: &DmaView<'_>,
        head: u16,
        len: u32,
    ) -> Result<(), RingFault> {
        self.push_used_together(mem, &[(head, len)])
    }

    /// Puts several buffers into the used ring with one update of its index, so that the driver
    /// sees all of them or none.
    pub(crate) fn push_used_together(
        &mut self,
        mem: &DmaView<'_>,
        buffers: &[(u16, u32)],
    ) -> Result<(), RingFault> {
        let Some(((head, len), before)) = buffers.split_last() else {
            return Ok(());
        };
        let size = self.ring.size().max(1);
        let mut next = self.ring.next_used();
        for (head, len) in before {
            let at = u64::from(next % size) * USED_ELEMENT_LEN + USED_ELEMENTS;
            let mut element = [0; USED_ELEMENT_LEN as usize];
            element[..4].copy_from_slice(&u32::from(*head).to_le_bytes());
            element[4..].copy_from_slice(&len.to_le_bytes());
            let at = self
                .ring
                .used_ring()
                .checked_add(at)
                .ok_or(RingFault::RingUnreachable)?;
            mem.write_slice(&element, GuestAddress(at))
                .map_err(|_| RingFault::RingUnreachable)?;
            next = next.wrapping_add(1);
        }
        self.ring.set_next_used(next);
        // The last element, and the index behind all of them.
        self.ring
            .add_used(mem, *head, *len)
            .map_err(|_| RingFault::RingUnreachable)?;
        self.used_pending = true;
        Ok(())
    }

    /// Whether the driver wants a notification for the buffers used since the last call.
    pub(crate) fn wants_signal(
        &mut self,
        mem: &DmaView<'_>,
        notify_on_empty: bool,
    ) -> Result<bool, RingFault> {
        self.used_pending = false;
        let new = self.ring.next_used();
        let old = std::mem::replace(&mut self.signalled, new);
        // The index must be visible before the driver's wish is read: the driver writes its wish
        // and then looks at the index.
        fence(Ordering::SeqCst);
        let read = |offset: u64| -> Result<u16, RingFault> {
            let at = self
                .ring
                .avail_ring()
                .checked_add(offset)
                .ok_or(RingFault::RingUnreachable)?;
            mem.read_obj(GuestAddress(at))
                .map(u16::from_le)
                .map_err(|_| RingFault::RingUnreachable)
        };
        let wanted = if self.ring.event_idx_enabled() {
            // used_event lies among the indices written since the last look.
            let event = read(4 + 2 * u64::from(self.ring.size()))?;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            read(0)? & ring::AVAIL_F_NO_INTERRUPT == 0
        };
        Ok(wanted || (notify_on_empty && self.pending(mem)? == 0))
    }
}
