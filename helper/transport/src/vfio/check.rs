// SPDX-License-Identifier: GPL-2.0-or-later
//! What is looked at before an access, and what its failure says about the function.

use rustix::io::{pread, Errno};

use super::function::{Bar, VfioFunction};
use crate::error::{Cause, Error, HostError, Place};
use crate::function::{check_config, BarInfo, Width};

impl VfioFunction {
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
        BarInfo::of(found.region.size)
            .and_then(|bar| bar.check(offset, width))
            .map_err(|cause| self.fail(&place, cause))?;
        if !self.memory.get() {
            let why = "the function's memory space is off".into();
            return Err(self.fail(&place, Cause::State(why)));
        }
        Ok((place, found))
    }
}
