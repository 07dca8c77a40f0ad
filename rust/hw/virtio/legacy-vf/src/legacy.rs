// SPDX-License-Identifier: GPL-2.0-or-later

//! What both devices have, whatever their parent is.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use hwcore::{bindings::PropertyInfo, QDevProp};
use pci::{
    blocker::MigrationBlocker,
    shown::{self, Shown},
    ChainedPciDevice, FdHandler, PciDevice,
};
use qom::prelude::*;
use system::MemoryRegion;
use vfio::VfioPciBase;

use crate::{
    hide::HiddenRange,
    identity::Identity,
    intx::IntxState,
    kernel_doorbells::KernelDoorbells,
    link::{Link, RunningLink},
    place::Kind,
    stats::{LinkState, Stats},
};

/// What the user asked for.
pub struct Options {
    /// The helper's socket.
    pub helper: Option<String>,
    /// Member number of the VF; 0 if not given.
    pub vf: u16,
    /// Longest wait for the helper in one access, in milliseconds.
    pub deadline_ms: u32,
    /// No modern interface for the guest.
    pub disable_modern: bool,
    /// Enable bus mastering for guests that forget it.
    pub bus_master_fixup: bool,
    /// `INTx` for guests without MSI-X: on, off, or if possible.
    pub intx: Option<bool>,
}

/// A device of this crate.
pub trait LegacyVf: ChainedPciDevice + IsA<VfioPciBase> {
    /// Which parent it has.
    const KIND: Kind;
    /// Its properties.
    fn options(&self) -> Options;
    /// The shared state.
    fn state(&self) -> &State;
    /// BAR0.
    fn bar0(&self) -> &MemoryRegion;
    /// Regions to put over modern structures, [`crate::hide::MAX_HIDDEN`] of them.
    fn covers(&self) -> &[MemoryRegion];
}

/// State of a device, empty until it is realized.
#[derive(Default)]
pub struct State {
    /// Counters, for the whole life of the device.
    pub stats: Arc<Stats>,
    /// What the VF is, once known.
    pub identity: OnceLock<Identity>,
    /// The connection; `None` before realize and after exit.
    pub link: RwLock<Option<Arc<Link>>>,
    /// Owner of the connection's thread.
    pub running: Mutex<Option<RunningLink>>,
    /// What of the VF is hidden now.
    pub covered: Mutex<Vec<HiddenRange>>,
    /// Queues that the kernel notifies.
    pub doorbells: KernelDoorbells,
    /// Watches [`Link::moved`].
    pub moved: Mutex<Option<FdHandler>>,
    /// What the device keeps for `INTx`.
    pub intx: IntxState,
    /// Keeps QEMU from migrating.
    pub blocker: MigrationBlocker,
}

impl State {
    /// The connection, while there is one.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How doorbells reach the VF now, as `qom-get doorbell-path` shows it; empty while unrealized.
    pub fn doorbell_path(&self) -> &'static str {
        match self.link() {
            Some(_) if self.doorbells.count() > 0 => "kernel",
            Some(link) => link
                .delivery
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .path(),
            None => "",
        }
    }
}

impl Shown for State {
    fn text(&self) -> String {
        let Some(link) = self.link() else {
            return LinkState::Closed.name().to_owned();
        };
        let mut text = format!(
            "VF {}, helper {} {}, doorbells by {}",
            link.target.member,
            link.target.path.display(),
            self.stats.link.get().name(),
            self.doorbell_path()
        );
        if self.stats.state_lost.get() {
            text.push_str(", state lost");
        }
        text
    }
}

// SAFETY: the description is made for this type.
unsafe impl QDevProp for State {
    const BASE_INFO: *const PropertyInfo = &shown::info::<Self>();
}

/// The device as its parent's parent.
pub fn pci<D: LegacyVf>(dev: &D) -> &PciDevice {
    dev.upcast()
}

/// The device as its parent.
pub fn vfio<D: LegacyVf>(dev: &D) -> &VfioPciBase {
    dev.upcast()
}
