// SPDX-License-Identifier: GPL-2.0-or-later

//! `INTx` for a guest that has MSI-X off.
//!
//! A VF has no interrupt pin. While the guest drives the device with MSI-X off, the device takes the
//! VF's first two vectors (or its only one) for itself, has the VF use them for queues and
//! configuration changes, keeps the ISR of which the guest knows, and moves the pin.
//!
//! Who holds the vectors changes under the big QEMU lock only; see `intx_guest` for when, and
//! `intx_link` for the VF's side of it. The ISR is read by vCPUs without that lock, which they take
//! only to lower the pin.

use std::{
    ffi::CString,
    io,
    sync::{
        atomic::{AtomicBool, AtomicU8, Ordering},
        Arc, Mutex, PoisonError, RwLock,
    },
};

use legacy_window::{Causes, OwnVectors};
use pci::{FdHandler, PciDevice};
use virtio_pci_spec::status::{ISR_CONFIG, ISR_QUEUE};

use crate::{eventfd::EventFd, events, stats::Stats};

/// Index in [`Intx::events`] of what this process itself has to say.
pub const OWN_EVENT: usize = 2;

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
    /// The VF's vectors go to `events`. Changed under the big QEMU lock.
    pub held: AtomicBool,
    /// The VF is to use its vectors as [`Intx::own`] says. Changed under the big QEMU lock.
    pub wanted: AtomicBool,
    /// The guest drives the device, by what the register window knows.
    pub driven: AtomicBool,
    /// The host gave no vectors; not tried again before the next reset.
    pub failed: AtomicBool,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Vectors of the guest whose pending bits this process has set.
    pub told: Mutex<Vec<u16>>,
    isr: AtomicU8,
    /// A queue interrupt may have been a configuration change.
    unsure: AtomicBool,
    /// The pin. Changed under the big QEMU lock.
    level: AtomicBool,
    causes: [AtomicU8; 2],
    /// ISR bits that go with [`OWN_EVENT`].
    bits: AtomicU8,
}

impl Intx {
    /// For a VF with this many vectors, at least one.
    pub fn new(name: CString, msix_cap: u8, vectors: u16, stats: Arc<Stats>) -> io::Result<Self> {
        Ok(Self {
            name,
            msix_cap,
            vectors: vectors.min(2),
            events: [EventFd::new()?, EventFd::new()?, EventFd::new()?],
            held: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            stats,
            told: Mutex::default(),
            isr: AtomicU8::new(0),
            unsure: AtomicBool::new(false),
            level: AtomicBool::new(false),
            causes: [const { AtomicU8::new(0) }; 2],
            bits: AtomicU8::new(0),
        })
    }

    /// Which vector is for what, while the device has them.
    pub fn own(&self) -> Option<OwnVectors> {
        self.wanted.load(Ordering::Acquire).then_some(OwnVectors {
            config: 0,
            queues: self.vectors - 1,
        })
    }

    /// What a vector may mean, now that the VF has taken it.
    pub fn set_causes(&self, vector: u16, causes: Causes) {
        if let Some(slot) = self.causes.get(usize::from(vector)) {
            let queues = if causes.queues { ISR_QUEUE } else { 0 };
            let config = if causes.config { ISR_CONFIG } else { 0 };
            slot.store(queues | config, Ordering::Release);
        }
    }

    /// Interrupts for reasons of this process. Any thread.
    pub fn poke(&self, isr: u8) {
        self.bits.fetch_or(isr, Ordering::AcqRel);
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
        let mut bits = if index == OWN_EVENT {
            self.bits.swap(0, Ordering::AcqRel)
        } else {
            self.stats.intx_interrupts.add_many(count);
            self.causes
                .get(index)
                .map_or(0, |causes| causes.load(Ordering::Acquire))
        };
        if !self.held.load(Ordering::Acquire) {
            return;
        }
        // One vector for both, or none known yet: the guest looks at the queues, and whether the
        // configuration changed is found out when it asks.
        if index != OWN_EVENT && bits != ISR_QUEUE && bits != ISR_CONFIG {
            self.unsure.store(true, Ordering::Release);
            bits = ISR_QUEUE;
        }
        self.isr.fetch_or(bits, Ordering::AcqRel);
        self.update_pin(pci);
    }

    /// Takes the ISR, as a read by the guest does. The second value says that the configuration bit
    /// may be missing.
    pub fn take_isr(&self) -> (u8, bool) {
        let isr = self.isr.swap(0, Ordering::AcqRel);
        let unsure = isr & ISR_QUEUE != 0 && self.unsure.swap(false, Ordering::AcqRel);
        (isr, unsure)
    }

    /// The ISR, without taking it.
    pub fn isr(&self) -> u8 {
        self.isr.load(Ordering::Acquire)
    }

    /// Vectors held now.
    pub fn in_use(&self) -> u16 {
        if self.held.load(Ordering::Acquire) {
            self.vectors
        } else {
            0
        }
    }

    /// Whether the pin is raised.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::Acquire)
    }

    /// Makes the pin follow the ISR. Needs the big QEMU lock.
    pub fn update_pin(&self, pci: &PciDevice) {
        let isr = self.isr();
        let level = isr != 0 && self.held.load(Ordering::Acquire);
        if self.level.swap(level, Ordering::AcqRel) != level {
            if level {
                self.stats.intx_raised.add();
            }
            events::trace_virtio_legacy_vf_intx_level(&self.name, level, isr.into());
            pci.set_irq(level);
        }
    }

    /// Nothing is pending any more. Needs the big QEMU lock.
    pub fn clear(&self, pci: &PciDevice) {
        for (index, event) in self.events.iter().enumerate() {
            let count = event.take();
            if index != OWN_EVENT {
                self.stats.intx_interrupts.add_many(count);
            }
        }
        self.bits.store(0, Ordering::Release);
        self.isr.store(0, Ordering::Release);
        self.unsure.store(false, Ordering::Release);
        for causes in &self.causes {
            causes.store(0, Ordering::Release);
        }
        self.update_pin(pci);
    }
}

/// The interrupt pin as the guest sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// The VF's own: VFIO does what is needed.
    #[default]
    Own,
    /// This one.
    Shown(u8),
}

/// What a device keeps for `INTx`.
#[derive(Default)]
pub struct IntxState {
    /// `INTx`, if the device does it.
    pub intx: RwLock<Option<Arc<Intx>>>,
    /// The pin.
    pub pin: RwLock<Pin>,
    /// Watch the events of `intx`.
    pub handlers: Mutex<Vec<FdHandler>>,
}

impl IntxState {
    /// What `intx` holds now.
    pub fn get(&self) -> Option<Arc<Intx>> {
        self.intx
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
