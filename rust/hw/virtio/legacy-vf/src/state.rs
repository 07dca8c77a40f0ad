// SPDX-License-Identifier: GPL-2.0-or-later

//! What both types have in common: properties, state, and the trait by which the rest of this crate
//! reaches them.

use std::sync::{Arc, Mutex, OnceLock};

use hwcore::{bindings::PropertyInfo, QDevProp};
use pci::{
    backends::MemoryWatch,
    blocker::MigrationBlocker,
    property::{self, Shown, StringProperty},
    ChainedPciDevice, FdHandler, PciDevice,
};
use qom::prelude::*;
use system::MemoryRegion;
use vfio::VfioPciBase;

use crate::{
    capabilities::Function, capability_list::HiddenRange, counters::Counters, doorbell::Address,
    ioeventfd::KernelDoorbells, isr::Intx, link::Link, reconnect::RunningLink, vf::Kind,
};

/// What the user asked for.
pub struct Options<'a> {
    /// The helper's socket.
    pub helper: &'a StringProperty,
    /// Member number of the VF; 0 if not given.
    pub vf: u16,
    /// Longest wait for the helper in one access, in milliseconds.
    pub deadline_ms: u32,
    /// `INTx` for guests without MSI-X: on, off, or if possible.
    pub intx: Option<bool>,
    /// Find out whether socket and number are of the same VF.
    pub check_vf: bool,
    /// No modern interface for the guest.
    pub disable_modern: bool,
    /// Enable bus mastering for guests that forget it.
    pub bus_master_fixup: bool,
}

/// A device of this crate.
pub trait LegacyVf: ChainedPciDevice + IsA<VfioPciBase> {
    /// Which parent it has.
    const KIND: Kind;
    /// Its properties.
    fn options(&self) -> Options<'_>;
    /// The shared state.
    fn state(&self) -> &State;
    /// BAR0.
    fn bar0(&self) -> &MemoryRegion;
    /// Regions to put over modern structures, [`MAX_HIDDEN`] of them.
    fn covers(&self) -> &[MemoryRegion];
}

/// The device as its parent's parent.
pub fn pci<D: LegacyVf>(dev: &D) -> &PciDevice {
    dev.upcast()
}

/// The device as its parent.
pub fn vfio<D: LegacyVf>(dev: &D) -> &VfioPciBase {
    dev.upcast()
}

/// State of a device, empty until it is realized.
#[derive(Default)]
pub struct State {
    /// Counters, for the whole life of the device.
    pub counters: Arc<Counters>,
    /// What the VF is, once known.
    pub function: OnceLock<Function>,
    /// The interrupt pin that the guest sees, if not the VF's own.
    pub pin: OnceLock<u8>,
    /// The connection, once the device is realized.
    pub link: OnceLock<Arc<Link>>,
    /// Owner of the connection's thread.
    pub running: Mutex<Option<RunningLink>>,
    /// What of the VF is hidden now.
    pub covered: Mutex<Vec<HiddenRange>>,
    /// Queues that the kernel notifies.
    pub doorbells: KernelDoorbells,
    /// What the main loop watches for this device.
    pub handlers: Mutex<Vec<FdHandler>>,
    /// Memory that is plugged in later.
    pub memory: Mutex<Option<MemoryWatch>>,
    /// Keeps QEMU from migrating.
    pub blocker: MigrationBlocker,
}

impl State {
    /// The connection, between realize and exit.
    pub fn link(&self) -> Option<&Link> {
        let link = self.link.get()?;
        (!link.is_gone()).then_some(link)
    }

    /// How the connection to the helper stands, as `qom-get link-state` shows it.
    pub fn link_state(&self) -> &'static str {
        match self.link().map(|link| link.doorbell.sender()) {
            None => "closed",
            Some(None) => "lost",
            Some(Some(_)) => "connected",
        }
    }

    /// How doorbells reach the VF now, as `qom-get doorbell-path` shows it; empty while unrealized.
    pub fn doorbell_path(&self) -> &'static str {
        match self.link().map(|link| link.doorbell.address()) {
            None => "",
            Some(_) if self.doorbells.count() > 0 => "kernel",
            Some(Address::Vf(..)) => "region",
            Some(Address::Helper) => "helper",
        }
    }

    /// Who writes them then.
    pub fn notify_by(&self) -> &'static str {
        match self.doorbell_path() {
            "kernel" | "region" => "vf",
            path => path,
        }
    }

    /// Of the interrupts without MSI-X, 0 without them.
    pub fn intx<R: Default>(&self, of: impl FnOnce(&Intx) -> R) -> R {
        let intx = self.link().and_then(|link| link.intx.as_deref());
        intx.map(of).unwrap_or_default()
    }
}

impl Shown for State {
    fn text(&self) -> String {
        let Some(link) = self.link() else {
            return self.link_state().to_owned();
        };
        let mut text = format!(
            "VF {}, helper {} {}, doorbells by {}",
            link.target.member,
            link.target.path.display(),
            self.link_state(),
            self.doorbell_path()
        );
        if link.guest().state_lost {
            text.push_str(", state lost");
        }
        text
    }
}

// SAFETY: the description is made for this type.
unsafe impl QDevProp for State {
    const BASE_INFO: *const PropertyInfo = &property::shown::<Self>();
}
