// SPDX-License-Identifier: GPL-2.0-or-later

//! What is known of the guest, and the register window, each behind its lock.
//!
//! `Link::lock_io` is held while the helper answers, so nobody takes it with the big QEMU lock
//! held, except a reset, which gives up soon. `Link::guest` is held by nobody who waits for
//! anything; it may be taken while either of the others is held.
//!
//! A reset begins a new epoch of the guest. An access that began in an older one sends the VF nothing
//! more and changes nothing when it ends, whatever the driver of before had asked for.

use legacy_window::{Queues, Window};
use virtio_pci_spec::status::DRIVER_OK;

use crate::connection::Connection;

/// The driver, as the register window has seen it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Driver {
    /// The device status that it wrote last.
    pub status: u8,
    /// The device may interrupt it.
    pub driven: bool,
    /// Queues to which it has given memory.
    pub queues: Queues,
}

impl Driver {
    /// What `window` knows.
    pub fn of(window: &Window) -> Self {
        Self {
            status: window.status(),
            driven: window.driven(),
            queues: window.queues(),
        }
    }

    /// Whether it has set up the VF.
    pub const fn runs(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// The queues that it may notify.
    pub fn notified(&self) -> Queues {
        if self.runs() {
            self.queues
        } else {
            Queues::default()
        }
    }
}

/// Who is to have the VF's interrupt vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The guest, which has MSI-X on.
    Guest,
    /// This device, for `INTx`.
    Device,
    /// Nobody.
    Nobody,
}

/// What is known of the guest.
#[derive(Default)]
pub struct Guest {
    /// Counts resets of the function.
    pub epoch: u64,
    /// MSI-X Enable.
    pub msix: bool,
    /// Counts its changes.
    pub msix_switches: u64,
    /// The driver.
    pub driver: Driver,
    /// A command has written to the VF since the last reset.
    pub touched: bool,
    /// The VF waits for a status 0 that could not be written yet; nothing else resets it.
    pub reset_due: bool,
    /// Counts how often the VF's vectors have changed hands.
    pub turn: u64,
    /// The host gave no vectors for `INTx`; not tried again before the next reset.
    pub no_vectors: bool,
    /// Vectors of the guest that are to be told once more: the VF's have changed hands.
    pub tell: Vec<u16>,
    /// Those that were, whose pending bits this device has set if they were masked.
    pub told: Vec<u16>,
}

/// What an access of the guest has changed.
#[derive(Clone, Copy, Default)]
pub struct Moved {
    /// Which queues are notified.
    pub doorbells: bool,
    /// Who is to have the vectors, perhaps; or pending bits are to be forgotten.
    pub vectors: bool,
}

impl Guest {
    /// The function was reset, by whatever means.
    pub fn reset(&mut self) {
        *self = Self {
            epoch: self.epoch + 1,
            msix: self.msix,
            msix_switches: self.msix_switches,
            turn: self.turn,
            reset_due: self.reset_due,
            told: std::mem::take(&mut self.told),
            ..Self::default()
        };
    }

    /// MSI-X Enable is this now.
    pub fn set_msix(&mut self, on: bool) {
        if self.msix != on {
            self.msix = on;
            self.msix_switches += 1;
        }
    }

    /// An access that began in `epoch` has ended, and left `window` like this; `reset` if the driver
    /// reset the device with it.
    ///
    /// `None` if that does not count any more.
    pub fn follow(&mut self, epoch: u64, window: &Window, reset: bool) -> Option<Moved> {
        if self.epoch != epoch {
            return None;
        }
        let before = (self.driver.notified(), self.holder());
        self.driver = Driver::of(window);
        if reset {
            self.no_vectors = false;
            self.tell.clear();
        }
        Some(Moved {
            doorbells: before.0 != self.driver.notified(),
            vectors: before.1 != self.holder() || reset && !self.told.is_empty(),
        })
    }

    /// Who is to have the VF's vectors now.
    pub const fn holder(&self) -> Holder {
        if self.msix {
            Holder::Guest
        } else if self.driver.driven && !self.no_vectors {
            Holder::Device
        } else {
            Holder::Nobody
        }
    }
}

/// Window and connection, which belong together: what the window remembers is true only of the
/// connection it was learnt through.
pub struct Io {
    /// The register window.
    pub window: Window,
    /// The connection, unless the helper is lost.
    pub connection: Option<Connection>,
    /// The epoch of [`Guest`] to which the window belongs.
    pub epoch: u64,
    /// The change of MSI-X Enable that the window knows of.
    pub msix_switches: u64,
    /// The change of hands for which the VF's vectors were written last.
    pub turn: u64,
    /// Whether the window said then that the device may interrupt.
    pub driven: bool,
}
