// SPDX-License-Identifier: GPL-2.0-or-later

//! The ISR and the pin of a guest that has MSI-X off, and the VF's messages that become them.

use std::{
    ffi::CString,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use legacy_window::OwnVectors;
use pci::PciDevice;
use virtio_pci_spec::status::{ISR_CONFIG, ISR_QUEUE};

use crate::{counters::Counters, events, socket::EventFd};

/// Index in [`Intx::events`] of what this process itself has to say.
const OWN_EVENT: usize = 2;

/// The interrupts of one device, as the guest sees them without MSI-X.
pub struct Intx {
    /// How trace points name the device.
    pub name: CString,
    /// Where the MSI-X capability is.
    pub msix_cap: u8,
    /// Vectors that are used, 1 or 2.
    pub vectors: u16,
    /// One for each vector, and [`OWN_EVENT`].
    pub events: [EventFd; 3],
    counters: Arc<Counters>,
    isr: Mutex<Isr>,
}

/// What changes. Held by nobody who waits for anything.
#[derive(Default)]
pub struct Isr {
    /// The ISR.
    pub bits: u8,
    /// A queue interrupt may have been a configuration change.
    unsure: bool,
    /// The pin is raised.
    pub pin: bool,
    /// The VF's vectors go to `events`. Changed with the big QEMU lock held.
    pub held: bool,
    /// What each vector may mean, as ISR bits.
    causes: [u8; 2],
    /// ISR bits that go with [`OWN_EVENT`].
    own: u8,
}

impl Intx {
    /// For a VF with this many vectors, at least one.
    pub fn new(
        name: CString,
        msix_cap: u8,
        vectors: u16,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        Ok(Self {
            name,
            msix_cap,
            vectors: vectors.min(2),
            events: [EventFd::new()?, EventFd::new()?, EventFd::new()?],
            counters,
            isr: Mutex::default(),
        })
    }

    /// What changes.
    pub fn isr(&self) -> MutexGuard<'_, Isr> {
        self.isr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which vector is for what, while the device has them.
    pub const fn own(&self) -> OwnVectors {
        OwnVectors {
            config: 0,
            queues: self.vectors - 1,
        }
    }

    /// What the vectors may mean, now that the VF has taken them.
    pub fn set_causes(&self, of: impl Fn(u16) -> u8) {
        self.isr().causes = [of(0), of(1)];
    }

    /// Interrupts for reasons of this process. Any thread.
    pub fn poke(&self, bits: u8) {
        self.isr().own |= bits;
        if let Some(own) = self.events.get(OWN_EVENT) {
            own.signal();
        }
    }

    /// An event has been signalled. In the main loop.
    pub fn signalled(&self, pci: &PciDevice, index: usize) {
        let count = self.events.get(index).map_or(0, EventFd::take);
        if count == 0 {
            return;
        }
        let mut isr = self.isr();
        let mut bits = if index == OWN_EVENT {
            std::mem::take(&mut isr.own)
        } else {
            self.counters.intx_interrupts.add_many(count);
            isr.causes.get(index).copied().unwrap_or(0)
        };
        if !isr.held {
            return;
        }
        // One vector for both, or none known yet: the guest looks at the queues, and whether the
        // configuration changed is found out when it asks.
        if index != OWN_EVENT && bits != ISR_QUEUE && bits != ISR_CONFIG {
            isr.unsure = true;
            bits = ISR_QUEUE;
        }
        isr.bits |= bits;
        drop(isr);
        self.sync_pin(pci);
    }

    /// Takes the ISR. Also whether a queue interrupt may have been a configuration change, and
    /// whether the pin is raised.
    pub fn take_bits(&self) -> (u8, bool, bool) {
        let mut isr = self.isr();
        let bits = std::mem::take(&mut isr.bits);
        let unsure = bits & ISR_QUEUE != 0 && std::mem::take(&mut isr.unsure);
        (bits, unsure, isr.pin)
    }

    /// Makes the pin follow the ISR. Needs the big QEMU lock.
    pub fn sync_pin(&self, pci: &PciDevice) {
        let mut isr = self.isr();
        let (bits, level) = (isr.bits, isr.bits != 0 && isr.held);
        if std::mem::replace(&mut isr.pin, level) == level {
            return;
        }
        drop(isr);
        if level {
            self.counters.intx_raised.add();
        }
        events::trace_virtio_legacy_vf_intx_level(&self.name, level, bits.into());
        pci.set_irq(level);
    }

    /// The vectors are the device's from now on, or not; nothing is pending any more. Needs the big
    /// QEMU lock.
    pub fn set_held(&self, pci: &PciDevice, held: bool) {
        for (index, event) in self.events.iter().enumerate() {
            let count = event.take();
            if index != OWN_EVENT {
                self.counters.intx_interrupts.add_many(count);
            }
        }
        let mut isr = self.isr();
        *isr = Isr {
            held,
            pin: isr.pin,
            ..Isr::default()
        };
        drop(isr);
        self.sync_pin(pci);
    }
}
