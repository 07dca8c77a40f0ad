// SPDX-License-Identifier: GPL-2.0-or-later
//! A function that this process has open: its state, what is looked at before an access, and what
//! the failure of one says about it.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::{pread, Errno};

use super::opening::Files;
use super::sysfs::Device;
use super::Deadlines;
use crate::address::VfToken;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, HostError, Place};
use crate::function::{check_config, BarInfo, Width};
use crate::irq::IrqEvent;
use crate::sys::{vfio, RegisterMapping};

/// The MSI-X interrupts of VFIO's PCI devices.
pub(super) const IRQ_MSIX: u32 = 2;

/// A BAR.
#[derive(Default)]
pub(super) struct Bar {
    pub(super) region: vfio::Region,
    /// Offset in the BAR, and the registers there.
    pub(super) maps: Vec<(u64, RegisterMapping)>,
}

/// A doorbell that the kernel has taken.
pub(super) struct Bell {
    pub(super) bar: u8,
    pub(super) offset: u64,
    pub(super) width: Width,
    pub(super) value: u32,
    pub(super) event: IrqEvent,
}

/// A PCI function that this process has through the kernel's VFIO.
///
/// The device file, the IOMMU's files and the DMA memory are kept apart from everything else
/// ([`VfioFunction::keepers`]): whoever holds on to them keeps the function as it is when this
/// process ends.
pub struct VfioFunction {
    pub(super) id: Arc<str>,
    // Dropped before the files: they map them.
    pub(super) bars: [Bar; 6],
    pub(super) config: vfio::Region,
    pub(super) files: Files,
    pub(super) pool: DmaPool,
    pub(super) host: Device,
    pub(super) deadlines: Deadlines,
    pub(super) vectors: u32,
    /// The kernel refuses to disable what is not enabled.
    pub(super) irqs_enabled: bool,
    pub(super) request: Option<IrqEvent>,
    pub(super) error: Option<IrqEvent>,
    pub(super) bells: Vec<Bell>,
    /// Memory space, as last written to COMMAND; mapped registers must not be touched without it.
    pub(super) memory: Cell<bool>,
    pub(super) dead: RefCell<Option<Cause>>,
}

impl Bar {
    /// The mapping that has the register, and where.
    pub(super) fn mapped(&self, offset: u64) -> Option<(&RegisterMapping, usize)> {
        self.maps.iter().find_map(|(start, map)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            (at < map.len()).then_some((map, at))
        })
    }
}

impl VfioFunction {
    /// Files that must stay open, in this process or another, for the function to stay as it is, and
    /// the names by which [`VfioFunction::adopt`] knows them.
    pub fn keepers(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.files.keepers(&self.pool)
    }

    /// Which of the kernel's interfaces is in use: "group" or "iommufd".
    pub fn interface(&self) -> &'static str {
        self.files.iommu.name()
    }

    /// The function in sysfs.
    pub fn host(&self) -> &Device {
        &self.host
    }

    pub(super) fn give_token(&self, token: &VfToken) -> Result<bool, Error> {
        match vfio::set_vf_token(self.files.device.as_fd(), &token.0) {
            Ok(()) => Ok(true),
            Err(Errno::NOTTY | Errno::INVAL) => Ok(false),
            Err(errno) => {
                let call = "setting the VF token";
                Err(self.fail(&Place::Sriov, Cause::Os { call, errno }))
            }
        }
    }

    pub(super) fn fail(&self, place: &Place, cause: Cause) -> Error {
        Error::new(self.id.clone(), place.clone(), cause)
    }

    pub(super) fn host_failed(&self, e: HostError) -> Error {
        self.fail(&Place::Sriov, Cause::Host(Box::new(e)))
    }

    pub(super) fn check_alive(&self, place: &Place) -> Result<(), Error> {
        match &*self.dead.borrow() {
            None => Ok(()),
            Some(cause) => Err(self.fail(place, Cause::Dead(Box::new(cause.clone())))),
        }
    }

    /// Ends the use of the function for ever.
    fn kill(&self, place: &Place, cause: Cause) -> Error {
        tracing::error!(function = %self.id, %place, %cause, "function lost");
        *self.dead.borrow_mut() = Some(cause.clone());
        self.fail(place, cause)
    }

    /// An error of the kernel about the device.
    pub(super) fn broken(&self, place: &Place, call: &'static str, errno: Errno) -> Error {
        match errno {
            Errno::NODEV | Errno::NXIO => self.kill(place, Cause::Gone),
            errno => {
                let error = self.fail(place, Cause::Os { call, errno });
                // Whatever it was: a device that has gone must not look like a passing error.
                self.check_present(place).err().unwrap_or(error)
            }
        }
    }

    /// Looks whether the device is still there: its vendor ID can never read as ones.
    pub(super) fn check_present(&self, place: &Place) -> Result<(), Error> {
        let mut id = [0xff; 2];
        let got = pread(&self.files.device, &mut id, self.config.offset);
        if got != Ok(2) || id == [0xff; 2] {
            return Err(self.kill(place, Cause::Gone));
        }
        Ok(())
    }

    /// The place of an access to configuration space that may be made.
    pub(super) fn check_config(&self, offset: u16, len: usize) -> Result<Place, Error> {
        let place = Place::Config { offset, len };
        self.check_alive(&place)?;
        check_config(self.config.size.min(4096), offset, len)
            .map_err(|cause| self.fail(&place, cause))?;
        Ok(place)
    }

    /// The place of an access to a BAR that may be made, and the BAR.
    pub(super) fn check_bar(
        &self,
        bar: u8,
        offset: u64,
        width: Width,
    ) -> Result<(Place, &Bar), Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        self.check_alive(&place)?;
        let found = self
            .bars
            .get(usize::from(bar))
            .ok_or_else(|| self.fail(&place, Cause::NoSuchBar))?;
        BarInfo::check(found.region.size, offset, width)
            .map_err(|cause| self.fail(&place, cause))?;
        if !self.memory.get() {
            let why = "the function's memory space is off".into();
            return Err(self.fail(&place, Cause::State(why)));
        }
        Ok((place, found))
    }
}

impl std::fmt::Debug for VfioFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioFunction")
            .field("id", &self.id)
            .field("interface", &self.interface())
            .finish_non_exhaustive()
    }
}
