// SPDX-License-Identifier: GPL-2.0-or-later
//! One PCI function: configuration space, MSI-X, virtio state, memory and a device type.

use std::sync::Arc;

use virtio_pci_spec::status::DRIVER_OK;
use vm_memory::VolatileSlice;

use crate::bars::BarLayout;
use crate::config_space::ConfigSpace;
use crate::counters::FunctionCounters;
use crate::device::{copy_in, copy_out, DeviceCtx, Interface, VirtioDevice};
use crate::dma::{Access, DmaMemory, DmaView, IovaMap};
use crate::effect::FunctionId;
use crate::event::{Event, ResetCause, Via, Violation};
use crate::msix::Msix;
use crate::queue::{cover, Chain, Mode, RingFault, Segment};
use crate::shared::Shared;
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
        let Some(Some(q)) = self.virtio.queues.get_mut(usize::from(queue)) else {
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
        copy_in(self, chain, offset, buf)
    }

    pub(crate) fn write_chain(
        &mut self,
        chain: &Chain,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, RingFault> {
        self.may_touch(chain)?;
        copy_out(self, chain, offset, data)
    }

    pub(crate) fn pieces(
        &mut self,
        chain: &Chain,
        offset: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(VolatileSlice<'_>),
    ) -> Result<usize, RingFault> {
        self.may_touch(chain)?;
        let view = self.memory.view();
        let segments = match access {
            Access::Read => chain.readable(),
            Access::Write => chain.writable(),
        };
        cover(segments, offset, len, |addr, n| {
            if view.for_each(addr, n, access, &mut f) {
                Ok(())
            } else {
                Err(RingFault::BufferUnreachable { addr })
            }
        })
    }

    pub(crate) fn complete(&mut self, chain: Chain, written: u32) -> Result<(), RingFault> {
        if !self.is_current(&chain) {
            self.counters.stale_completions += 1;
            self.recycle(chain.segments);
            return Ok(());
        }
        let view = self.memory.view();
        let Some(Some(q)) = self.virtio.queues.get_mut(usize::from(chain.queue)) else {
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
        let Some(Some(q)) = self.virtio.queues.get_mut(usize::from(queue)) else {
            return Ok(());
        };
        if !used.is_empty() && !q.used_pending {
            self.dirty.push(queue);
        }
        q.push_used_together(&view, &used)
    }
}

/// What a notification asks the caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kick {
    /// Nothing more.
    Done,
    /// Admin queue: its commands concern other functions too.
    Admin,
}

/// A function with its device type.
pub(crate) struct Function {
    pub(crate) core: Core,
    pub(crate) device: Box<dyn VirtioDevice>,
}

impl Function {
    /// Runs `f` on the device and then tells the driver about used buffers.
    pub(crate) fn with_device<R>(
        &mut self,
        shared: &mut Shared,
        f: impl FnOnce(&mut dyn VirtioDevice, &mut DeviceCtx<'_>) -> R,
    ) -> R {
        let mut ctx = DeviceCtx {
            core: &mut self.core,
            shared,
        };
        let r = f(self.device.as_mut(), &mut ctx);
        self.core.notify_driver(shared);
        r
    }

    /// The driver notified queue `queue`.
    pub(crate) fn kick(&mut self, queue: u16, via: Via, shared: &mut Shared) -> Kick {
        let c = &mut self.core.counters;
        match via {
            Via::Modern => c.doorbells_modern += 1,
            Via::MemberArea => c.doorbells_member += 1,
            Via::OwnerArea => c.doorbells_owner += 1,
            Via::LegacyRegister => c.doorbells_command += 1,
        }
        let id = self.core.id;
        shared.log(id, Event::Doorbell { queue, via });
        let driver_ok = self.core.virtio.driver_ok();
        let Some(q) = self.core.virtio.queue_mut(queue) else {
            shared.violation(id, Violation::NoSuchQueue { queue });
            return Kick::Done;
        };
        match q.mode {
            // Spurious notifications are harmless.
            Mode::Off => return Kick::Done,
            // Too early: noted, and served with DRIVER_OK.
            Mode::Modern if !driver_ok => {
                q.kicked = true;
                shared.violation(id, Violation::NotifyBeforeDriverOk { queue });
                return Kick::Done;
            }
            Mode::Modern | Mode::Legacy => {}
        }
        q.kicked = true;
        if !self.core.config.bus_master() {
            shared.violation(id, Violation::BusMasterOff { queue });
            return Kick::Done;
        }
        if self.core.virtio.numbers.is_admin(queue) {
            return Kick::Admin;
        }
        self.core.refill_budget();
        self.service(queue, shared);
        Kick::Done
    }

    /// Serves a queue until it is empty, the device takes no more, or the budget is used up.
    pub(crate) fn service(&mut self, queue: u16, shared: &mut Shared) {
        if !self.core.queue_ready(queue) {
            return;
        }
        if let Some(q) = self.core.virtio.queue_mut(queue) {
            q.kicked = false;
        }
        if let Err(fault) = self.try_service(queue, shared) {
            self.ring_fault(queue, fault, shared);
        }
        self.core.notify_driver(shared);
    }

    /// The device takes buffers until the ring is empty, which then also asks for the next
    /// notification, or until it wants no more.
    fn try_service(&mut self, queue: u16, shared: &mut Shared) -> Result<(), RingFault> {
        let mut ctx = DeviceCtx {
            core: &mut self.core,
            shared,
        };
        self.device.process_queue(queue, &mut ctx)?;
        if self.core.budget_used_up() {
            if let Some(q) = self.core.virtio.queue_mut(queue) {
                q.kicked = true;
            }
            shared.later(self.core.id, queue);
        }
        Ok(())
    }

    /// A fault of a ring stops the device, unless it is only a buffer from before a reset.
    pub(crate) fn ring_fault(&mut self, queue: u16, fault: RingFault, shared: &mut Shared) {
        if fault != RingFault::Stale {
            self.core
                .break_down(Some((queue, fault)), &fault.to_string(), shared);
        }
    }

    /// Lets the device do what time or the outside made possible.
    pub(crate) fn wake(&mut self, shared: &mut Shared) {
        self.core.refill_budget();
        if let Err(fault) = self.with_device(shared, |d, ctx| d.wake(ctx)) {
            self.ring_fault(0, fault, shared);
        }
    }

    /// Queues that were notified while they could not be served.
    pub(crate) fn waiting_queues(&self) -> Vec<u16> {
        let all = self.core.virtio.queues.iter().enumerate();
        all.filter(|(_, q)| q.as_ref().is_some_and(|q| q.kicked))
            .map(|(i, _)| i as u16)
            .collect()
    }

    /// The virtio device reset. The device has stopped when this returns; with a delay configured,
    /// status goes on showing the old value for that time.
    pub(crate) fn reset_virtio(&mut self, cause: ResetCause, shared: &mut Shared) {
        let old = self.core.virtio.status;
        self.core.virtio.reset();
        self.device.reset();
        self.core.dirty.clear();
        self.core.msix.clear_pending();
        self.core.counters.resets += 1;
        self.core.update_intx(shared);
        shared.log(self.core.id, Event::Reset { cause });
        shared.was_reset(self.core.id);
        let slow = matches!(cause, ResetCause::LegacyStatus | ResetCause::ModernStatus);
        if slow && old != 0 && shared.knobs.reset_delay_ns > 0 {
            let due = shared.now_ns.saturating_add(shared.knobs.reset_delay_ns);
            self.core.virtio.resetting_until = Some(due);
            self.core.status_in_reset = old;
            shared.timer(due, self.core.id);
        }
    }

    /// Resets of the device and of its queues that take until now or less are over.
    pub(crate) fn end_resets(&mut self, now: u64) {
        let over = |t: &mut Option<u64>| {
            if t.is_some_and(|due| due <= now) {
                *t = None;
            }
        };
        let v = &mut self.core.virtio;
        over(&mut v.resetting_until);
        for q in v.queues.iter_mut().flatten() {
            over(&mut q.resetting_until);
        }
    }

    /// The reset of the whole function: virtio, MSI-X and configuration space.
    pub(crate) fn reset_function(&mut self, cause: ResetCause, shared: &mut Shared) {
        self.core.msix.reset();
        match cause {
            ResetCause::Disconnected => self.core.config.reset_keeping_vfs(),
            _ => self.core.config.reset(),
        }
        self.reset_virtio(cause, shared);
    }

    /// The driver wrote a status other than 0.
    pub(crate) fn write_status(&mut self, new: u8, via: Interface, shared: &mut Shared) {
        let old = self.core.virtio.status;
        self.core.virtio.status = new;
        shared.log(self.core.id, Event::Status { old, new, via });
        self.with_device(shared, |d, ctx| d.status_changed(old, new, via, ctx));
        if new & !old & DRIVER_OK != 0 {
            self.serve_early(shared);
        }
    }

    /// DRIVER_OK was set: serves what every queue has by now, whichever interface set it up. A
    /// driver that notified too early does not notify again. Rings that nobody notified are only
    /// looked at: what is wrong with them shows when they are used.
    fn serve_early(&mut self, shared: &mut Shared) {
        self.core.refill_budget();
        for queue in 0..self.core.virtio.queues.len() as u16 {
            let kicked = self.core.virtio.queue(queue).is_some_and(|q| q.kicked);
            if !kicked && self.core.pending(queue).unwrap_or(0) == 0 {
                continue;
            }
            if self.core.virtio.numbers.is_admin(queue) {
                // Its commands concern other functions too.
                shared.later(self.core.id, queue);
            } else {
                self.service(queue, shared);
            }
        }
    }
}
