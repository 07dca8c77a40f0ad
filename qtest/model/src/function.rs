// SPDX-License-Identifier: GPL-2.0-or-later
//! A PCI function with its device type: notifications, resets and status reach the device.

use virtio_pci_spec::status::DRIVER_OK;

use crate::device::{DeviceCtx, VirtioDevice};
use crate::effect::Interface;
use crate::event::{Event, ResetCause, Via};
use crate::function_core::Core;
use crate::queue::{Mode, RingFault};
use crate::shared::Shared;
use crate::violation::Violation;

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
        let used = self.core.virtio.queues.used();
        used.filter(|(_, q)| q.kicked).map(|(n, _)| n).collect()
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
        for q in v.queues.used_mut() {
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
