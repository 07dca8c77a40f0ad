// SPDX-License-Identifier: GPL-2.0-or-later
//! Telling the driver: used buffers, configuration changes, DEVICE_NEEDS_RESET, and how they become
//! ISR bits, MSI-X messages or INTx levels.

use virtio_modern_spec::features;
use virtio_pci_spec::status::{DEVICE_NEEDS_RESET, NO_VECTOR};

use crate::effect::Effect;
use crate::event::Event;
use crate::function_core::Core;
use crate::msix::Raised;
use crate::queue::RingFault;
use crate::shared::Shared;
use crate::violation::Violation;

impl Core {
    /// Tells the driver about used buffers, as far as it wants to know.
    pub(crate) fn notify_driver(&mut self, shared: &mut Shared) {
        while let Some(queue) = self.dirty.pop() {
            if !self.queue_ready(queue) {
                continue;
            }
            let on_empty = self.virtio.has(features::NOTIFY_ON_EMPTY);
            let view = self.memory.view();
            let Some(q) = self.virtio.queues.get_mut(queue) else {
                continue;
            };
            match q.wants_signal(&view, on_empty) {
                Ok(true) => self.signal_queue(queue, shared),
                Ok(false) => self.counters.interrupts_suppressed += 1,
                Err(fault) => self.break_down(Some((queue, fault)), &fault.to_string(), shared),
            }
        }
    }

    fn signal_queue(&mut self, queue: u16, shared: &mut Shared) {
        self.virtio.set_isr_queue();
        let vector = self.virtio.queue(queue).map_or(NO_VECTOR, |q| q.vector);
        self.interrupt(vector, shared);
    }

    pub(crate) fn signal_config(&mut self, shared: &mut Shared) {
        if self.virtio.status == 0 || !self.live {
            return;
        }
        self.virtio.set_isr_config();
        self.interrupt(self.virtio.config_vector, shared);
    }

    fn interrupt(&mut self, vector: u16, shared: &mut Shared) {
        if !self.msix.enabled() {
            self.update_intx(shared);
            return;
        }
        if vector >= self.msix.vectors() {
            self.counters.interrupts_unmapped += 1;
            return;
        }
        match self.msix.raise(vector, self.config.bus_master()) {
            Raised::Send => self.send(vector, shared),
            Raised::Pended => self.counters.interrupts_pended += 1,
        }
    }

    fn send(&mut self, vector: u16, shared: &mut Shared) {
        self.counters.interrupts += 1;
        shared.log(self.id, Event::Interrupt { vector });
        shared.effects.push(Effect::Interrupt {
            function: self.id,
            vector,
        });
    }

    /// Sends the messages that a mask, a missing trigger or a missing bus master held back.
    pub(crate) fn flush_interrupts(&mut self, shared: &mut Shared) {
        if !self.config.bus_master() {
            return;
        }
        while let Some(vector) = self.msix.take_pending() {
            self.send(vector, shared);
        }
    }

    /// Interrupt Status and the INTx line follow the ISR while MSI-X is off.
    pub(crate) fn update_intx(&mut self, shared: &mut Shared) {
        if !self.interrupt_pin {
            return;
        }
        let pending = !self.msix.enabled() && self.virtio.isr != 0;
        self.config.set_interrupt_status(pending);
        let asserted = pending && !self.config.intx_disabled();
        if asserted != self.intx {
            self.intx = asserted;
            shared.effects.push(Effect::IntxLevel {
                function: self.id,
                asserted,
            });
        }
    }

    /// DEVICE_NEEDS_RESET, and the notification that goes with it.
    pub(crate) fn break_down(
        &mut self,
        ring: Option<(u16, RingFault)>,
        reason: &str,
        shared: &mut Shared,
    ) {
        if self.virtio.needs_reset() {
            return;
        }
        let tell = self.virtio.driver_ok();
        self.virtio.status |= DEVICE_NEEDS_RESET;
        self.counters.needs_reset += 1;
        shared.log(
            self.id,
            Event::NeedsReset {
                ring: ring.map(|(_, f)| f),
                queue: ring.map(|(q, _)| q),
                reason: reason.to_owned(),
            },
        );
        if tell {
            self.virtio.config_changed();
            self.signal_config(shared);
        }
    }

    /// Maps an event to a vector: what the register reads afterwards.
    pub(crate) fn map_vector(&mut self, vector: u16, shared: &mut Shared) -> u16 {
        if vector == NO_VECTOR {
            return NO_VECTOR;
        }
        if vector >= self.msix.vectors() {
            shared.violation(self.id, Violation::VectorOutOfRange { vector });
            return NO_VECTOR;
        }
        if shared.knobs.vector_mapping_fails {
            return NO_VECTOR;
        }
        vector
    }

    /// MSI-X Enable, Function Mask or Bus Master Enable may have changed.
    pub(crate) fn apply_msix_control(&mut self, shared: &mut Shared) {
        let (enable, mask) = self.config.msix_control();
        self.msix.set_control(enable, mask);
        self.update_intx(shared);
        self.flush_interrupts(shared);
    }
}
