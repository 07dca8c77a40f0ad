// SPDX-License-Identifier: GPL-2.0-or-later
//! The queue itself: making buffers available and taking used ones back.

use std::sync::atomic::{fence, Ordering};

use pci_transport::{dma_mb, dma_rmb, dma_wmb, DmaRegion, Order};
use virtio_modern_spec::ring;

use crate::error::{AddError, QueueError};
use crate::layout::{Layout, QueueAddresses};

/// Offsets in the available and used rings.
pub(crate) const FLAGS: usize = 0;
pub(crate) const IDX: usize = 2;
pub(crate) const RING: usize = 4;
const USED_ELEM: usize = ring::USED_ELEM_LEN as usize;
const DESC: usize = ring::DESC_LEN as usize;
/// End of the free list.
const NIL: u16 = u16::MAX;

/// How strong the barriers between driver and device must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barriers {
    /// The device is another CPU of this system (ORDER_PLATFORM was not negotiated).
    Processor,
    /// The device may be hardware behind a bus (ORDER_PLATFORM).
    Platform,
}

/// How a queue is to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Entries, a power of two.
    pub size: u16,
    /// EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// Strength of the barriers.
    pub barriers: Barriers,
}

/// One element of a buffer: a piece of memory at an address that the device understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Address.
    pub iova: u64,
    /// Bytes, at least 1.
    pub len: u32,
    /// The device writes it (otherwise it reads it).
    pub writable: bool,
}

/// A buffer that the device has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the caller gave with the buffer.
    pub token: u64,
    /// Bytes that the device wrote, no more than the buffer has writable.
    pub len: u32,
    /// The buffer had been given up ([`SplitQueue::quarantine`]) before.
    pub late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    token: u64,
    /// Descriptors.
    count: u16,
    writable: u32,
    quarantined: bool,
}

/// Driver side of one split virtqueue.
pub struct SplitQueue {
    pub(crate) ring: DmaRegion,
    pub(crate) layout: Layout,
    pub(crate) config: QueueConfig,
    /// Links of chains and of the free list. The descriptor table holds a copy for the device.
    next: Vec<u16>,
    free_head: u16,
    free: u16,
    /// By head descriptor.
    chains: Vec<Option<Chain>>,
    in_flight: u16,
    quarantined: u16,
    pub(crate) avail_idx: u16,
    /// avail.idx when the device was last considered for a notification.
    pub(crate) notified_idx: u16,
    pub(crate) last_used: u16,
    broken: Option<QueueError>,
}

impl SplitQueue {
    /// A queue in `ring`, which must be zeroed and hold [`Layout::total`] bytes. Used-buffer
    /// notifications are wanted.
    pub fn new(ring: DmaRegion, config: QueueConfig) -> Result<Self, QueueError> {
        let layout = Layout::new(config.size)?;
        if layout.total > ring.len() {
            return Err(QueueError::Internal("ring memory is too small"));
        }
        let last = config.size - 1;
        let next = (0..config.size)
            .map(|i| if i == last { NIL } else { i + 1 })
            .collect();
        Ok(SplitQueue {
            ring,
            layout,
            config,
            next,
            free_head: 0,
            free: config.size,
            chains: vec![None; usize::from(config.size)],
            in_flight: 0,
            quarantined: 0,
            avail_idx: 0,
            notified_idx: 0,
            last_used: 0,
            broken: None,
        })
    }

    /// Queue size.
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// What to tell the device.
    pub fn addresses(&self) -> QueueAddresses {
        let base = self.ring.iova();
        QueueAddresses {
            desc: base + self.layout.desc as u64,
            driver: base + self.layout.avail as u64,
            device: base + self.layout.used as u64,
        }
    }

    /// Free descriptors.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Buffers that the device has, given-up ones included.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Buffers that were given up and that the device still has.
    pub fn quarantined(&self) -> u16 {
        self.quarantined
    }

    /// What broke the queue, if anything.
    pub fn broken(&self) -> Option<&QueueError> {
        self.broken.as_ref()
    }

    /// Position of the next available entry modulo 2^16, as notification data need it.
    pub fn avail_idx(&self) -> u16 {
        self.avail_idx
    }

    pub(crate) fn fail<T>(&mut self, error: QueueError) -> Result<T, QueueError> {
        Err(self.broken.get_or_insert(error).clone())
    }

    pub(crate) fn usable(&self) -> Result<(), QueueError> {
        match &self.broken {
            None => Ok(()),
            Some(e) => Err(e.clone()),
        }
    }

    /// Makes a buffer available: its readable elements first, then its writable ones. The memory
    /// must stay as it is until the buffer comes back from [`SplitQueue::pop_used`] or the device
    /// was reset. Gives an id for [`SplitQueue::quarantine`].
    pub fn add(&mut self, elements: &[Buffer], token: u64) -> Result<u16, AddError> {
        self.usable()?;
        let writable = check(elements, self.layout.size)?;
        if elements.len() > usize::from(self.free) {
            return Err(AddError::Full {
                want: elements.len(),
                free: self.free,
            });
        }
        let head = self.free_head;
        let result = self.write_chain(elements, head);
        let end = match result {
            Ok(end) => end,
            Err(e) => return self.fail(e).map_err(AddError::Broken),
        };
        let count = elements.len() as u16;
        let chain = Chain {
            token,
            count,
            writable,
            quarantined: false,
        };
        match self.chains.get_mut(usize::from(head)) {
            Some(place @ None) => *place = Some(chain),
            _ => {
                let e = QueueError::Internal("a free descriptor heads a chain");
                return self.fail(e).map_err(AddError::Broken);
            }
        }
        self.free_head = end;
        self.free -= count;
        self.in_flight += 1;
        if let Err(e) = self.publish(head) {
            return self.fail(e).map_err(AddError::Broken);
        }
        Ok(head)
    }

    /// Writes the descriptors of a chain from the free list on; gives the first descriptor behind.
    fn write_chain(&self, elements: &[Buffer], head: u16) -> Result<u16, QueueError> {
        let mut at = head;
        for (i, e) in elements.iter().enumerate() {
            let next = self.link(at)?;
            let last = i + 1 == elements.len();
            let mut flags = 0;
            if e.writable {
                flags |= ring::DESC_F_WRITE;
            }
            if !last {
                flags |= ring::DESC_F_NEXT;
            }
            let desc = self.layout.desc + DESC * usize::from(at);
            self.ring.store_u64(desc, e.iova, Order::Relaxed)?;
            self.ring.store_u32(desc + 8, e.len, Order::Relaxed)?;
            self.ring.store_u16(desc + 12, flags, Order::Relaxed)?;
            let link = if last { 0 } else { next };
            self.ring.store_u16(desc + 14, link, Order::Relaxed)?;
            at = next;
        }
        Ok(at)
    }

    fn link(&self, at: u16) -> Result<u16, QueueError> {
        self.next
            .get(usize::from(at))
            .copied()
            .ok_or(QueueError::Internal("free list ends early"))
    }

    fn publish(&mut self, head: u16) -> Result<(), QueueError> {
        let slot = usize::from(self.avail_idx & (self.layout.size - 1));
        let avail = self.layout.avail;
        self.ring
            .store_u16(avail + RING + 2 * slot, head, Order::Relaxed)?;
        self.avail_idx = self.avail_idx.wrapping_add(1);
        // Descriptors and ring entry before the index ("Updating idx").
        if self.config.barriers == Barriers::Platform {
            dma_wmb();
        }
        self.ring
            .store_u16(avail + IDX, self.avail_idx, Order::Ordered)?;
        Ok(())
    }

    /// The full barrier between an update of one's own index and a read of what the other side
    /// wants ("Notifying The Device", "Used Buffer Notification Suppression").
    pub(crate) fn barrier(&self) {
        match self.config.barriers {
            Barriers::Processor => fence(Ordering::SeqCst),
            Barriers::Platform => dma_mb(),
        }
    }

    /// Takes the next used buffer. An error breaks the queue: the device has to be reset.
    pub fn pop_used(&mut self) -> Result<Option<Used>, QueueError> {
        self.usable()?;
        match self.try_pop() {
            Ok(used) => Ok(used),
            Err(e) => self.fail(e),
        }
    }

    pub(crate) fn used_idx(&self) -> Result<u16, QueueError> {
        // The elements are read after the index that announces them.
        let idx = self.ring.load_u16(self.layout.used + IDX, Order::Ordered)?;
        if self.config.barriers == Barriers::Platform {
            dma_rmb();
        }
        Ok(idx)
    }

    fn try_pop(&mut self) -> Result<Option<Used>, QueueError> {
        let to = self.used_idx()?;
        let from = self.last_used;
        if to == from {
            return Ok(None);
        }
        let in_flight = self.in_flight;
        if to.wrapping_sub(from) > in_flight {
            return Err(QueueError::UsedIndex {
                from,
                to,
                in_flight,
            });
        }
        let size = self.layout.size;
        let slot = from & (size - 1);
        let elem = self.layout.used + RING + USED_ELEM * usize::from(slot);
        let id = self.ring.load_u32(elem, Order::Relaxed)?;
        let len = self.ring.load_u32(elem + 4, Order::Relaxed)?;
        let head = match u16::try_from(id) {
            Ok(head) if head < size => head,
            _ => return Err(QueueError::IdOutOfRange { slot, id, size }),
        };
        let place = self.chains.get_mut(usize::from(head));
        let Some(chain) = place.as_ref().and_then(|c| **c) else {
            return Err(QueueError::NotInFlight { slot, id: head });
        };
        if len > chain.writable {
            return Err(QueueError::UsedLength {
                slot,
                id: head,
                len,
                writable: chain.writable,
            });
        }
        if let Some(place) = place {
            *place = None;
        }
        self.free_chain(head, chain.count)?;
        self.in_flight -= 1;
        if chain.quarantined {
            self.quarantined -= 1;
        }
        self.last_used = from.wrapping_add(1);
        Ok(Some(Used {
            token: chain.token,
            len,
            late: chain.quarantined,
        }))
    }

    /// Puts the descriptors of a chain at the front of the free list.
    fn free_chain(&mut self, head: u16, count: u16) -> Result<(), QueueError> {
        let mut last = head;
        for _ in 1..count {
            last = self.link(last)?;
        }
        match self.next.get_mut(usize::from(last)) {
            Some(link) => *link = self.free_head,
            None => return Err(QueueError::Internal("a chain ends early")),
        }
        self.free_head = head;
        self.free += count;
        Ok(())
    }

    /// Gives up on the buffer with this id: the device keeps it, and it comes back from
    /// [`SplitQueue::pop_used`] marked late, or never. `false` if it is not in flight or was given
    /// up before.
    pub fn quarantine(&mut self, id: u16) -> bool {
        match self.chains.get_mut(usize::from(id)) {
            Some(Some(chain)) if !chain.quarantined => {
                chain.quarantined = true;
                self.quarantined += 1;
                true
            }
            _ => false,
        }
    }

    /// Gives the ring memory back; see [`DmaRegion::release_after_reset`]. A queue that is merely
    /// dropped leaves its memory to the device.
    pub fn release_after_reset(self) {
        self.ring.release_after_reset();
    }
}

/// Checks the shape of a buffer ("Message Framing"); gives its device-writable bytes.
fn check(elements: &[Buffer], size: u16) -> Result<u32, AddError> {
    if elements.is_empty() {
        return Err(AddError::Invalid("it has no elements"));
    }
    if elements.len() > usize::from(size) {
        return Err(AddError::Invalid("it has more elements than the queue"));
    }
    let mut total = 0u64;
    let mut writable = 0u32;
    let mut seen_writable = false;
    for e in elements {
        if e.len == 0 {
            return Err(AddError::Invalid("an element is empty"));
        }
        if seen_writable && !e.writable {
            return Err(AddError::Invalid(
                "a readable element follows a writable one",
            ));
        }
        seen_writable |= e.writable;
        total += u64::from(e.len);
        if total > u64::from(u32::MAX) {
            return Err(AddError::Invalid("it is longer than 2^32 bytes"));
        }
        if e.writable {
            writable += e.len;
        }
    }
    Ok(writable)
}
