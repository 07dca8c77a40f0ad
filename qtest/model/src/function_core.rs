// SPDX-License-Identifier: GPL-2.0-or-later
//! Everything of a PCI function but its device type: configuration space, MSI-X, virtio state, memory,
//! and the buffers that a device type takes from queues and gives back.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::bars::BarLayout;
use crate::config_space::ConfigSpace;
use crate::counters::FunctionCounters;
use crate::dma::{DmaMemory, DmaView, IovaMap};
use crate::effect::FunctionId;
use crate::msix::Msix;
use crate::queue::{cover, Chain, RingFault, Segment};
use crate::virtio::VirtioState;

/// Buffers a function takes in one call at most, so that a driver that refills its rings while they
/// are served cannot keep the model; the rest follows in the next tick.
const BUDGET: u32 = 4096;

/// A function's DMA address space.
pub(crate) enum Memory {
    Map(IovaMap),
    Other(Arc<dyn DmaMemory>),
}

impl Memory {
    pub(crate) fn view(&self) -> DmaView<'_> {
        match self {
            Memory::Map(m) => DmaView(m),
            Memory::Other(m) => DmaView(m.as_ref()),
        }
    }
}

/// Everything of a function but its device type.
pub(crate) struct Core {
    pub(crate) id: FunctionId,
    /// The function exists: always for the PF, for a VF while VF Enable covers it.
    pub(crate) live: bool,
    pub(crate) interrupt_pin: bool,
    /// Drivers are asked to notify.
    pub(crate) wants_kicks: bool,
    pub(crate) virtio: VirtioState,
    pub(crate) config: ConfigSpace,
    pub(crate) msix: Msix,
    pub(crate) bars: BarLayout,
    pub(crate) memory: Memory,
    pub(crate) counters: FunctionCounters,
    /// Status that reads show while a reset is under way.
    pub(crate) status_in_reset: u8,
    budget: u32,
    /// Queues with used buffers that the driver was not told of yet.
    pub(crate) dirty: Vec<u16>,
    spare: Vec<Vec<Segment>>,
    /// The INTx line is asserted.
    pub(crate) intx: bool,
}

impl Core {
    pub(crate) fn new(
        id: FunctionId,
        virtio: VirtioState,
        config: ConfigSpace,
        msix: Msix,
        bars: BarLayout,
        interrupt_pin: bool,
    ) -> Self {
        Core {
            id,
            live: matches!(id, FunctionId::Pf),
            interrupt_pin,
            wants_kicks: true,
            virtio,
            config,
            msix,
            bars,
            memory: Memory::Map(IovaMap::new()),
            counters: FunctionCounters::default(),
            status_in_reset: 0,
            budget: BUDGET,
            dirty: Vec::new(),
            spare: Vec::new(),
            intx: false,
        }
    }

    pub(crate) fn view(&self) -> DmaView<'_> {
        self.memory.view()
    }

    pub(crate) fn queue_ready(&self, queue: u16) -> bool {
        self.live && self.config.bus_master() && self.virtio.queue_live(queue)
    }

    pub(crate) fn refill_budget(&mut self) {
        self.budget = BUDGET;
    }

    pub(crate) fn budget_used_up(&self) -> bool {
        self.budget == 0
    }

    pub(crate) fn pending(&mut self, queue: u16) -> Result<u16, RingFault> {
        if !self.queue_ready(queue) {
            return Ok(0);
        }
        match self.virtio.queue(queue) {
            Some(q) => q.pending(&self.memory.view()),
            None => Ok(0),
        }
    }

    pub(crate) fn pop(&mut self, queue: u16) -> Result<Option<Chain>, RingFault> {
        if self.budget == 0 || !self.queue_ready(queue) {
            return Ok(None);
        }
        let rules = self.virtio.chain_rules();
        let view = self.memory.view();
        let Some(q) = self.virtio.queues.get_mut(queue) else {
            return Ok(None);
        };
        if !q.has_next(&view, self.wants_kicks)? {
            return Ok(None);
        }
        let segments = self.spare.pop().unwrap_or_default();
        let chain = q.pop(queue, &view, rules, segments)?;
        self.budget -= 1;
        self.counters.buffers += 1;
        Ok(Some(chain))
    }

    /// Whether the buffer still belongs to a running queue.
    pub(crate) fn is_current(&self, chain: &Chain) -> bool {
        self.queue_ready(chain.queue)
            && self
                .virtio
                .queue(chain.queue)
                .is_some_and(|q| q.epoch == chain.epoch)
    }

    /// As [`is_current`](Self::is_current), for code that is about to do DMA: trying it for a queue that
    /// does not run any more is a fault of the model, which the counter shows.
    fn may_touch(&mut self, chain: &Chain) -> Result<(), RingFault> {
        if self.is_current(chain) {
            return Ok(());
        }
        self.counters.dma_forbidden += 1;
        Err(RingFault::Stale)
    }

    pub(crate) fn unpop(&mut self, chain: Chain) {
        if self.is_current(&chain) {
            if let Some(q) = self.virtio.queue_mut(chain.queue) {
                q.unpop();
                self.counters.buffers -= 1;
                self.budget += 1;
            }
        }
        self.recycle(chain.segments);
    }

    fn recycle(&mut self, segments: Vec<Segment>) {
        if self.spare.len() < 16 {
            self.spare.push(segments);
        }
    }

    pub(crate) fn read_chain(
        &mut self,
        chain: &Chain,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, RingFault> {
        self.may_touch(chain)?;
        let view = self.memory.view();
        copy(chain.readable(), offset, buf.len(), |part, addr| {
            view.read_slice(buf.get_mut(part)?, addr).ok()
        })
    }

    pub(crate) fn write_chain(
        &mut self,
        chain: &Chain,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, RingFault> {
        self.may_touch(chain)?;
        let view = self.memory.view();
        copy(chain.writable(), offset, data.len(), |part, addr| {
            view.write_slice(data.get(part)?, addr).ok()
        })
    }

    pub(crate) fn complete(&mut self, chain: Chain, written: u32) -> Result<(), RingFault> {
        if !self.is_current(&chain) {
            self.counters.stale_completions += 1;
            self.recycle(chain.segments);
            return Ok(());
        }
        let view = self.memory.view();
        let Some(q) = self.virtio.queues.get_mut(chain.queue) else {
            return Ok(());
        };
        if !q.used_pending {
            self.dirty.push(chain.queue);
        }
        q.push_used(&view, chain.head, written)?;
        self.recycle(chain.segments);
        Ok(())
    }

    /// Completes buffers of one queue so that the driver sees all of them or none.
    pub(crate) fn complete_together(
        &mut self,
        buffers: Vec<(Chain, u32)>,
    ) -> Result<(), RingFault> {
        let Some(queue) = buffers.first().map(|(chain, _)| chain.queue) else {
            return Ok(());
        };
        let mut used = Vec::with_capacity(buffers.len());
        for (chain, written) in buffers {
            if chain.queue == queue && self.is_current(&chain) {
                used.push((chain.head, written));
            } else {
                self.counters.stale_completions += 1;
            }
            self.recycle(chain.segments);
        }
        let view = self.memory.view();
        let Some(q) = self.virtio.queues.get_mut(queue) else {
            return Ok(());
        };
        if !used.is_empty() && !q.used_pending {
            self.dirty.push(queue);
        }
        q.push_used_together(&view, &used)
    }
}

/// Copies bytes `offset..` of a chain's part: `f` gets the place in the other buffer, which has `len`
/// bytes, and the address of each piece.
fn copy(
    segments: &[Segment],
    offset: u64,
    len: usize,
    mut f: impl FnMut(Range<usize>, GuestAddress) -> Option<()>,
) -> Result<usize, RingFault> {
    let mut done = 0;
    cover(segments, offset, len, |addr, n| {
        let part = done..done + n;
        done += n;
        f(part, GuestAddress(addr)).ok_or(RingFault::BufferUnreachable { addr })
    })
}
