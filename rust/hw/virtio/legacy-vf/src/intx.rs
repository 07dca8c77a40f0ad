// SPDX-License-Identifier: GPL-2.0-or-later

//! `INTx` for a guest that has MSI-X off.
//!
//! A VF has no interrupt pin. While the guest drives the device with MSI-X off, the device takes the
//! VF's first two vectors (or its only one) for itself, has the VF use them for queues and
//! configuration changes, keeps the ISR of which the guest knows, and moves the pin.
//!
//! One rule says who is to have the vectors, [`Guest::holder`](crate::guest::Guest::holder), and one
//! function makes it so, [`hand_over`]; it needs the big QEMU lock, with which alone vectors change
//! hands. The VF's side, which waits for the helper, is in `vectors`. The ISR is read by vCPUs
//! without the big lock, which they take only to lower the pin.

use std::{
    ffi::CString,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard},
};

use legacy_window::{Causes, OwnVectors};
use pci::{report, with_bql, PciDevice};
use vfio::{irq, CONFIG_REGION};
use virtio_pci_spec::{
    pci::msix,
    status::{ISR_CONFIG, ISR_QUEUE},
};

use crate::{
    counters::Counters,
    device::{pci, vfio, LegacyVf},
    events,
    guest::Holder,
    link::{lock, Link},
    socket::EventFd,
    vf::Kind,
};

/// Index in [`Intx::events`] of what this process itself has to say.
const OWN_EVENT: usize = 2;

/// The interrupts of one device, as the guest sees them without MSI-X.
pub struct Intx {
    /// How trace points name the device.
    name: CString,
    /// Where the MSI-X capability is.
    pub msix_cap: u8,
    /// Vectors that are used, 1 or 2.
    vectors: u16,
    /// One for each vector, and [`OWN_EVENT`].
    pub events: [EventFd; 3],
    counters: Arc<Counters>,
    isr: Mutex<Isr>,
}

/// What changes. Held by nobody who waits for anything.
#[derive(Default)]
struct Isr {
    /// The ISR.
    bits: u8,
    /// A queue interrupt may have been a configuration change.
    unsure: bool,
    /// The pin is raised.
    pin: bool,
    /// The VF's vectors go to `events`. Changed with the big QEMU lock held.
    held: bool,
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

    fn isr(&self) -> MutexGuard<'_, Isr> {
        lock(&self.isr)
    }

    /// Whether the device has the vectors.
    pub fn held(&self) -> bool {
        self.isr().held
    }

    /// Which vector is for what, while the device has them.
    pub const fn own(&self) -> OwnVectors {
        OwnVectors {
            config: 0,
            queues: self.vectors - 1,
        }
    }

    /// What the vectors may mean, now that the VF has taken them.
    pub fn set_causes(&self, of: impl Fn(u16) -> Causes) {
        for (slot, vector) in self.isr().causes.iter_mut().zip(0..) {
            let causes = of(vector);
            let queues = if causes.queues { ISR_QUEUE } else { 0 };
            let config = if causes.config { ISR_CONFIG } else { 0 };
            *slot = queues | config;
        }
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

    /// The ISR, without taking it.
    pub fn bits(&self) -> u8 {
        self.isr().bits
    }

    /// Whether the pin is raised.
    pub fn pin(&self) -> bool {
        self.isr().pin
    }

    /// Vectors held now.
    pub fn in_use(&self) -> u16 {
        if self.held() {
            self.vectors
        } else {
            0
        }
    }

    /// Makes the pin follow the ISR. Needs the big QEMU lock.
    fn sync_pin(&self, pci: &PciDevice) {
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
    fn set_held(&self, pci: &PciDevice, held: bool) {
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

/// Gives the vectors to whom they belong now. Needs the big QEMU lock.
pub fn hand_over<D: LegacyVf>(dev: &D, link: &Link) {
    let Some(intx) = &link.intx else { return };
    let holder = link.guest().holder();
    match (intx.held(), holder) {
        (false, Holder::Device) => {
            if let Err(e) = take(dev, link, intx) {
                link.guest().no_vectors = true;
                link.log.report(report::warn_report, || {
                    format!(
                        "{}: cannot have the {} interrupt vectors that INTx needs: {e}; the guest \
                         gets no interrupts until it enables MSI-X or resets the device",
                        link.label, intx.vectors
                    )
                });
            }
        }
        (true, Holder::Guest | Holder::Nobody) => {
            intx.set_held(pci(dev), false);
            link.guest().turn += 1;
            irq::disable(vfio(dev), irq::MSIX_INDEX);
            let mut control = [0; 2];
            pci(dev).config_image(usize::from(intx.msix_cap) + msix::CONTROL, &mut control);
            write_control(dev, intx, u16::from_le_bytes(control));
            // What was written to the VF meanwhile, it may have refused.
            link.guest().turn += 1;
            events::trace_virtio_legacy_vf_intx_release(&intx.name);
        }
        (true, Holder::Device) | (false, Holder::Guest | Holder::Nobody) => {}
    }
}

fn take<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx) -> io::Result<()> {
    let events = intx.events.iter().take(intx.vectors.into());
    let fds: Vec<_> = events.map(AsFd::as_fd).collect();
    irq::signal(vfio(dev), irq::MSIX_INDEX, &fds)?;
    write_control(dev, intx, msix::CONTROL_ENABLE);
    intx.set_held(pci(dev), true);
    link.guest().turn += 1;
    events::trace_virtio_legacy_vf_intx_take(&intx.name, intx.vectors.into());
    Ok(())
}

/// A vfio-user server sees the MSI-X control word as the guest writes it; the kernel keeps its own.
/// While the device has the vectors, MSI-X is on and nothing masked, whatever the guest writes.
fn write_control<D: LegacyVf>(dev: &D, intx: &Intx, control: u16) {
    if D::KIND == Kind::User {
        let at = u64::from(intx.msix_cap) + msix::CONTROL as u64;
        // A server that is gone has no interrupts either.
        let _gone = vfio(dev).region_write(CONFIG_REGION, at, &control.to_le_bytes(), false);
    }
}

/// The guest has written the MSI-X control word, and the device goes on having the vectors. Needs
/// the big QEMU lock.
pub fn keep_control<D: LegacyVf>(dev: &D, link: &Link) {
    if let Some(intx) = link.intx.as_ref().filter(|intx| intx.held()) {
        write_control(dev, intx, msix::CONTROL_ENABLE);
    }
}

/// Sends the guest once more the messages that may have been lost while the vectors changed hands.
/// In the main loop.
pub fn tell<D: LegacyVf>(dev: &D, link: &Link) {
    let vectors = {
        let mut guest = link.guest();
        let vectors = std::mem::take(&mut guest.tell);
        // Before they are sent: a driver that resets the device meanwhile has them forgotten after.
        guest.told.extend(&vectors);
        guest.told.sort_unstable();
        guest.told.dedup();
        vectors
    };
    for vector in vectors {
        pci(dev).notify_msix(vector);
    }
}

/// Messages that a mask holds back do not outlive a reset, `reset`, nor MSI-X. Needs the big QEMU
/// lock.
pub fn forget_told<D: LegacyVf>(dev: &D, link: &Link, reset: bool) {
    let told = {
        let mut guest = link.guest();
        if !reset && guest.msix {
            return;
        }
        std::mem::take(&mut guest.told)
    };
    for vector in told {
        pci(dev).forget_msix(vector);
    }
}

/// The guest reads the ISR with MSI-X off. Runs without the big QEMU lock, and waits for nobody
/// unless the VF has a single vector.
pub fn read_isr<D: LegacyVf>(dev: &D, link: &Link, intx: &Intx) -> u8 {
    let (mut bits, unsure, pin) = {
        let mut isr = intx.isr();
        let bits = std::mem::take(&mut isr.bits);
        let unsure = bits & ISR_QUEUE != 0 && std::mem::take(&mut isr.unsure);
        (bits, unsure, isr.pin)
    };
    if unsure && link.config_changed() {
        bits |= ISR_CONFIG;
    }
    if pin {
        with_bql(|| {
            if !link.is_gone() {
                intx.sync_pin(pci(dev));
            }
        });
    }
    bits
}
