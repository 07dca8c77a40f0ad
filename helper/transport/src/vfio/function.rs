// SPDX-License-Identifier: GPL-2.0-or-later
//! [`PciFunction`] over the kernel's VFIO.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::{pread, pwrite, Errno};
use virtio_pci_spec::bytes::{get_u16, get_u8};
use virtio_pci_spec::pci;

use super::error::HostError;
use super::opening::{open_function, Files};
use super::sysfs::Device;
use super::{Deadlines, Options};
use crate::address::{PciAddress, VfToken};
use crate::capability::ConfigImage;
use crate::dma::{DmaPool, DmaRegion, PoolStats};
use crate::error::{Cause, Error, Place};
use crate::function::{
    BarInfo, DmaAddressing, Doorbell, FunctionEvent, PciFunction, Posted, SriovStatus, VfBar, Width,
};
use crate::irq::{ready, IrqEvent};
use crate::sys::{vfio, RegisterMapping};

/// Regions and interrupts of VFIO's PCI devices.
const REGION_CONFIG: u32 = 7;
const IRQ_MSIX: u32 = 2;
const IRQ_ERR: u32 = 3;
const IRQ_REQ: u32 = 4;
/// Bytes of one mappable part that are mapped; the rest is accessed through the file.
const MAX_MAPPED: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// A BAR.
#[derive(Default)]
struct Bar {
    region: vfio::Region,
    /// Offset in the BAR, and the registers there.
    maps: Vec<(u64, RegisterMapping)>,
}

/// A doorbell that the kernel has taken.
struct Bell {
    bar: u8,
    offset: u64,
    width: Width,
    value: u32,
    event: IrqEvent,
}

/// A PCI function that this process has through the kernel's VFIO.
///
/// The device file, the IOMMU's files and the DMA memory are kept apart from everything else
/// ([`VfioFunction::keepers`]): whoever holds on to them keeps the function as it is when this
/// process ends.
pub struct VfioFunction {
    id: Arc<str>,
    // Dropped before the files: they map them.
    bars: [Bar; 6],
    config: vfio::Region,
    files: Files,
    pool: DmaPool,
    host: Device,
    deadlines: Deadlines,
    vectors: u32,
    /// The kernel refuses to disable what is not enabled.
    irqs_enabled: bool,
    request: Option<IrqEvent>,
    error: Option<IrqEvent>,
    bells: Vec<Bell>,
    /// Memory space, as last written to COMMAND; mapped registers must not be touched without it.
    memory: Cell<bool>,
    dead: RefCell<Option<Cause>>,
}

impl VfioFunction {
    /// Opens the function at `address`: checks the host, gives it to vfio-pci if that is wanted,
    /// opens it, shows or sets the VF token, makes the DMA pool.
    ///
    /// # Errors
    /// With [`Cause::Host`] where the host lacks something.
    pub fn open(address: PciAddress, options: &Options) -> Result<Self, Error> {
        let id: Arc<str> = address.to_string().into();
        let host_error =
            |e: HostError| Error::new(id.clone(), Place::Function, Cause::Host(Box::new(e)));
        let host = options.host.device(address).map_err(host_error)?;
        // Before its driver is asked to give it away: without an IOMMU that would be for nothing.
        host.group().map_err(host_error)?;
        if !host.is_on_vfio() {
            if !options.bind {
                return Err(host_error(HostError::NotOnVfio {
                    driver: host.driver(),
                }));
            }
            host.bind_to_vfio(options.deadlines.kernel)
                .map_err(host_error)?;
        }
        let files =
            open_function(&host, options.interface, options.token.as_ref()).map_err(host_error)?;
        let pool = files.iommu.make_pool(&id, options.dma_pool)?;
        let function = Self::set_up(id, host, files, pool, options)?;
        if let Some(token) = &options.token {
            function.give_token(token)?;
        }
        Ok(function)
    }

    /// Takes over a function from the files that an earlier process had kept of it
    /// ([`VfioFunction::keepers`]), as it left it: no reset, VFs and their users untouched. Only
    /// the interrupts and doorbells are new. The device may still write to the memory until it is
    /// reset.
    ///
    /// # Errors
    /// If the files are not all there, or not those of the function.
    pub fn adopt(
        address: PciAddress,
        kept: Vec<(String, OwnedFd)>,
        options: &Options,
    ) -> Result<Self, Error> {
        let id: Arc<str> = address.to_string().into();
        let error = |cause| Error::new(id.clone(), Place::Function, cause);
        let host_error = |e: HostError| error(Cause::Host(Box::new(e)));
        let host = options.host.device(address).map_err(host_error)?;
        let (files, memory, iova) = Files::from_kept(kept)
            .ok_or_else(|| error(Cause::State("files were kept, but not all".into())))?;
        let pool = files.iommu.adopt_pool(&id, memory, iova)?;
        let mut function = Self::set_up(id.clone(), host, files, pool, options)?;
        // Those of the earlier process.
        function.irqs_enabled = true;
        function.check_present(&Place::Function)?;
        if let Some(token) = &options.token {
            function.give_token(token)?;
        }
        Ok(function)
    }

    fn set_up(
        id: Arc<str>,
        host: Device,
        files: Files,
        pool: DmaPool,
        options: &Options,
    ) -> Result<Self, Error> {
        let place = Place::Function;
        let os = |call| {
            let id = id.clone();
            move |errno| Error::new(id.clone(), Place::Function, Cause::Os { call, errno })
        };
        let misbehaved =
            |why: String| Error::new(id.clone(), place.clone(), Cause::Misbehaved(why));
        let device = files.device.as_fd();
        let info = vfio::device_info(device).map_err(os("VFIO_DEVICE_GET_INFO"))?;
        if !info.pci || info.regions <= REGION_CONFIG {
            return Err(misbehaved("VFIO does not show it as a PCI function".into()));
        }
        let config = vfio::region(device, REGION_CONFIG).map_err(os("config space region"))?;
        if config.size < 256 {
            return Err(misbehaved(format!(
                "configuration space of {} bytes",
                config.size
            )));
        }
        let mut bars: [Bar; 6] = Default::default();
        for (index, bar) in (0u32..).zip(bars.iter_mut()) {
            bar.region = vfio::region(device, index).map_err(os("BAR region"))?;
            if options.map_bars {
                bar.maps = map_areas(device, &bar.region, &id);
            }
        }
        let count = |index| match info.irqs > index {
            true => vfio::irq_count(device, index).unwrap_or(0),
            false => 0,
        };
        let vectors = count(IRQ_MSIX).min(2048);
        let (requests, errors) = (count(IRQ_REQ), count(IRQ_ERR));
        let mut function = VfioFunction {
            id,
            bars,
            config,
            files,
            pool,
            host,
            deadlines: options.deadlines,
            vectors,
            irqs_enabled: false,
            request: None,
            error: None,
            bells: Vec::new(),
            memory: Cell::new(false),
            dead: RefCell::new(None),
        };
        function.limit_vectors()?;
        function.request = function.watch(requests, IRQ_REQ)?;
        function.error = function.watch(errors, IRQ_ERR)?;
        tracing::debug!(
            function = %function.id,
            interface = function.files.iommu.name(),
            vectors = function.vectors,
            mapped = function.bars.iter().map(|b| b.maps.len()).sum::<usize>(),
            reset = info.reset,
            "opened through VFIO"
        );
        Ok(function)
    }

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

    fn limit_vectors(&mut self) -> Result<(), Error> {
        let image = ConfigImage::read(self)?;
        let table = image
            .capability(pci::CAP_ID_MSIX)
            .and_then(|at| get_u16(image.tail(at), pci::msix::CONTROL))
            .map_or(0, |c| u32::from(c & pci::msix::CONTROL_SIZE_MASK) + 1);
        self.vectors = self.vectors.min(table);
        let command = get_u8(image.bytes(), pci::header::COMMAND).unwrap_or(0);
        self.memory
            .set(u16::from(command) & pci::COMMAND_MEMORY != 0);
        Ok(())
    }

    /// An eventfd for one of the interrupts that are about the function itself.
    fn watch(&self, count: u32, index: u32) -> Result<Option<IrqEvent>, Error> {
        if count == 0 {
            return Ok(None);
        }
        let event = IrqEvent::new(self.id.clone())?;
        match vfio::set_irqs(self.files.device.as_fd(), index, &[event.as_fd()]) {
            Ok(()) => Ok(Some(event)),
            Err(errno) => {
                tracing::debug!(function = %self.id, index, %errno, "no such interrupt");
                Ok(None)
            }
        }
    }

    fn give_token(&self, token: &VfToken) -> Result<bool, Error> {
        match vfio::set_vf_token(self.files.device.as_fd(), &token.0) {
            Ok(()) => Ok(true),
            Err(Errno::NOTTY | Errno::INVAL) => Ok(false),
            Err(errno) => {
                let call = "setting the VF token";
                Err(self.fail(&Place::Sriov, Cause::Os { call, errno }))
            }
        }
    }

    fn fail(&self, place: &Place, cause: Cause) -> Error {
        Error::new(self.id.clone(), place.clone(), cause)
    }

    fn host_failed(&self, e: HostError) -> Error {
        self.fail(&Place::Sriov, Cause::Host(Box::new(e)))
    }

    fn check_alive(&self, place: &Place) -> Result<(), Error> {
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
    fn broken(&self, place: &Place, call: &'static str, errno: Errno) -> Error {
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
    fn check_present(&self, place: &Place) -> Result<(), Error> {
        let mut id = [0xff; 2];
        let got = pread(&self.files.device, &mut id, self.config.offset);
        if got != Ok(2) || id == [0xff; 2] {
            return Err(self.kill(place, Cause::Gone));
        }
        Ok(())
    }

    fn check_config(&self, offset: u16, len: usize) -> Result<Place, Error> {
        let place = Place::Config { offset, len };
        self.check_alive(&place)?;
        let size = self.config.size.min(4096);
        if u64::from(offset) + len as u64 > size {
            return Err(self.fail(&place, Cause::OutOfRange { size }));
        }
        Ok(place)
    }

    fn check_bar(&self, bar: u8, offset: u64, width: Width) -> Result<(Place, &Bar), Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        self.check_alive(&place)?;
        let found = self
            .bars
            .get(usize::from(bar))
            .filter(|b| b.region.size > 0)
            .ok_or_else(|| self.fail(&place, Cause::NoSuchBar))?;
        let size = found.region.size;
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= size);
        if !inside {
            return Err(self.fail(&place, Cause::OutOfRange { size }));
        }
        if offset % len as u64 != 0 {
            return Err(self.fail(&place, Cause::Unaligned));
        }
        if !self.memory.get() {
            let why = "the function's memory space is off".into();
            return Err(self.fail(&place, Cause::State(why)));
        }
        Ok((place, found))
    }
}

/// Maps what can be mapped of a BAR; what cannot is accessed through the file.
fn map_areas(
    device: BorrowedFd<'_>,
    region: &vfio::Region,
    id: &Arc<str>,
) -> Vec<(u64, RegisterMapping)> {
    region
        .areas
        .iter()
        .filter(|(at, _)| at % PAGE == 0 && region.offset % PAGE == 0)
        .filter_map(|(at, len)| {
            let len = (*len).min(MAX_MAPPED) as usize;
            match RegisterMapping::new(device, region.offset.checked_add(*at)?, len) {
                Ok(map) => Some((*at, map)),
                Err(errno) => {
                    tracing::debug!(function = %id, %errno, at, len, "BAR not mapped");
                    None
                }
            }
        })
        .collect()
}

impl Bar {
    /// The mapping that has the register, and where.
    fn mapped(&self, offset: u64) -> Option<(&RegisterMapping, usize)> {
        self.maps.iter().find_map(|(start, map)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            (at < map.len()).then_some((map, at))
        })
    }
}

impl PciFunction for VfioFunction {
    fn id(&self) -> &str {
        &self.id
    }

    fn config_size(&self) -> Result<u16, Error> {
        Ok(self.config.size.min(4096) as u16)
    }

    fn config_read(&self, offset: u16, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(0);
        let place = self.check_config(offset, buf.len())?;
        let (mut done, want) = (0, buf.len());
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = self.config.offset + u64::from(offset) + done as u64;
            match pread(&self.files.device, rest, at) {
                Ok(0) => {
                    buf.fill(0);
                    return Err(self.fail(&place, Cause::Short { got: done, want }));
                }
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    buf.fill(0);
                    return Err(self.broken(&place, "read of configuration space", errno));
                }
            }
        }
        if !buf.is_empty() && buf.iter().all(|b| *b == 0xff) {
            let present = self.check_present(&place);
            if present.is_err() {
                buf.fill(0);
            }
            return present;
        }
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<(), Error> {
        let place = self.check_config(offset, data.len())?;
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = self.config.offset + u64::from(offset) + done as u64;
            match pwrite(&self.files.device, rest, at) {
                Ok(0) => {
                    let want = data.len();
                    return Err(self.fail(&place, Cause::Short { got: done, want }));
                }
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(self.broken(&place, "write of configuration space", errno))
                }
            }
        }
        // COMMAND's low byte says whether registers can be accessed.
        let command = pci::header::COMMAND.checked_sub(usize::from(offset));
        if let Some(byte) = command.and_then(|at| data.get(at)) {
            self.memory.set(u16::from(*byte) & pci::COMMAND_MEMORY != 0);
        }
        Ok(())
    }

    fn bar(&self, bar: u8) -> Result<BarInfo, Error> {
        match self.bars.get(usize::from(bar)).map(|b| b.region.size) {
            Some(size) if size > 0 => Ok(BarInfo { size }),
            _ => {
                let (offset, len) = (0, 0);
                Err(self.fail(&Place::Bar { bar, offset, len }, Cause::NoSuchBar))
            }
        }
    }

    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u32, Error> {
        let (place, found) = self.check_bar(bar, offset, width)?;
        let mapped = found
            .mapped(offset)
            .and_then(|(map, at)| map.read(at, width));
        let value = match mapped {
            Some(value) => value,
            None => {
                let mut bytes = [0; 4];
                let (used, _rest) = bytes.split_at_mut(width.bytes());
                match pread(&self.files.device, used, found.region.offset + offset) {
                    Ok(n) if n == width.bytes() => {}
                    Ok(got) => {
                        let want = width.bytes();
                        return Err(self.fail(&place, Cause::Short { got, want }));
                    }
                    Err(errno) => return Err(self.broken(&place, "read of a BAR", errno)),
                }
                u32::from_le_bytes(bytes)
            }
        };
        if value == u32::MAX >> (32 - 8 * width.bytes()) {
            self.check_present(&place)?;
        }
        Ok(value)
    }

    fn bar_write(
        &self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
        _posted: Posted,
    ) -> Result<(), Error> {
        let (place, found) = self.check_bar(bar, offset, width)?;
        let mapped = found
            .mapped(offset)
            .and_then(|(map, at)| map.write(at, width, value));
        if mapped.is_some() {
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        let (used, _rest) = bytes.split_at(width.bytes());
        match pwrite(&self.files.device, used, found.region.offset + offset) {
            Ok(n) if n == width.bytes() => Ok(()),
            Ok(got) => {
                let want = width.bytes();
                Err(self.fail(&place, Cause::Short { got, want }))
            }
            Err(errno) => Err(self.broken(&place, "write of a BAR", errno)),
        }
    }

    /// `None` also where the register is mapped: a store costs less than a system call.
    fn doorbell(
        &mut self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
    ) -> Result<Option<Doorbell>, Error> {
        let (_place, found) = self.check_bar(bar, offset, width)?;
        if found.mapped(offset).is_some() {
            return Ok(None);
        }
        // The kernel takes each but once, and keeps it over resets.
        let known = self
            .bells
            .iter()
            .find(|b| (b.bar, b.offset, b.width, b.value) == (bar, offset, width, value));
        if let Some(bell) = known {
            return Ok(Some(Doorbell::new(bell.event.try_clone()?)));
        }
        let event = IrqEvent::new(self.id.clone())?;
        let at = found.region.offset + offset;
        let ioeventfd = |event| {
            let device = self.files.device.as_fd();
            vfio::ioeventfd(device, at, width.bytes(), value.into(), event)
        };
        let set = match ioeventfd(Some(event.as_fd())) {
            // That of an earlier process.
            Err(Errno::EXIST) => ioeventfd(None).and_then(|()| ioeventfd(Some(event.as_fd()))),
            other => other,
        };
        if let Err(errno) = set {
            tracing::debug!(function = %self.id, %errno, "no ioeventfd");
            return Ok(None);
        }
        let bell = Doorbell::new(event.try_clone()?);
        self.bells.push(Bell {
            bar,
            offset,
            width,
            value,
            event,
        });
        Ok(Some(bell))
    }

    fn irq_count(&self) -> Result<u32, Error> {
        Ok(self.vectors)
    }

    fn enable_irqs(&mut self, n: u32) -> Result<Vec<IrqEvent>, Error> {
        let place = Place::Interrupts;
        self.check_alive(&place)?;
        if n == 0 || n > self.vectors {
            let size = u64::from(self.vectors);
            return Err(self.fail(&place, Cause::OutOfRange { size }));
        }
        self.disable_irqs()?;
        let events = (0..n)
            .map(|_| IrqEvent::new(self.id.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        vfio::set_irqs(self.files.device.as_fd(), IRQ_MSIX, &fds)
            .map_err(|errno| self.broken(&place, "VFIO_DEVICE_SET_IRQS", errno))?;
        self.irqs_enabled = true;
        Ok(events)
    }

    fn disable_irqs(&mut self) -> Result<(), Error> {
        let place = Place::Interrupts;
        self.check_alive(&place)?;
        if self.irqs_enabled {
            match vfio::set_irqs(self.files.device.as_fd(), IRQ_MSIX, &[]) {
                // An earlier process had not enabled them either.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(self.broken(&place, "VFIO_DEVICE_SET_IRQS", errno)),
            }
            self.irqs_enabled = false;
        }
        Ok(())
    }

    fn dma_alloc(&mut self, len: usize) -> Result<DmaRegion, Error> {
        self.pool.alloc(len)
    }

    fn dma_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    fn dma_addressing(&self) -> DmaAddressing {
        DmaAddressing::Iommu
    }

    fn function_reset(&mut self) -> Result<(), Error> {
        let place = Place::Function;
        self.check_alive(&place)?;
        vfio::reset(self.files.device.as_fd())
            .map_err(|errno| self.broken(&place, "VFIO_DEVICE_RESET", errno))
    }

    fn sriov_status(&self) -> Result<SriovStatus, Error> {
        let host = |e| self.host_failed(e);
        let num_vfs = self.host.num_vfs().map_err(host)?;
        let num_vfs = num_vfs.ok_or_else(|| self.host_failed(HostError::NotAPf))?;
        let vf_device_id = match self.host.vf_device_id().map_err(host)? {
            Some(id) => id,
            // Kernels before 4.16 do not tell; the capability does.
            None => {
                let image = ConfigImage::read(self)?;
                let at = image
                    .extended(pci::EXT_CAP_ID_SRIOV)
                    .ok_or_else(|| self.fail(&Place::Sriov, Cause::NoCapability("SR-IOV")))?;
                get_u16(image.tail(at), pci::sriov::VF_DEVICE_ID).unwrap_or(0)
            }
        };
        Ok(SriovStatus {
            total_vfs: self.host.total_vfs().map_err(host)?,
            num_vfs,
            enabled: num_vfs > 0,
            // The kernel sets both together.
            memory_enabled: num_vfs > 0,
            vf_device_id,
        })
    }

    fn vf_bars(&mut self) -> Result<[VfBar; 6], Error> {
        let Some((_, first)) = self.host.vfs().first().copied() else {
            return Ok([VfBar::Unknown; 6]);
        };
        let vf = self.host.host().device(first);
        vf.and_then(|vf| vf.bars()).map_err(|e| self.host_failed(e))
    }

    fn enable_vfs(&mut self, n: u16) -> Result<(), Error> {
        self.check_alive(&Place::Sriov)?;
        super::vfs::enable(&self.host, n, self.deadlines.kernel).map_err(|e| self.host_failed(e))
    }

    fn disable_vfs(&mut self) -> Result<(), Error> {
        self.check_alive(&Place::Sriov)?;
        super::vfs::disable(&self.host, self.deadlines.kernel).map_err(|e| self.host_failed(e))
    }

    fn set_vf_token(&mut self, token: &[u8; 16]) -> Result<bool, Error> {
        self.check_alive(&Place::Sriov)?;
        self.give_token(&VfToken(*token))
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        [&self.request, &self.error]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect()
    }

    fn service(&mut self) -> Result<Vec<FunctionEvent>, Error> {
        self.check_alive(&Place::Function)?;
        let flags = ready(&self.event_fds())?;
        let watched = [
            (&self.request, FunctionEvent::RemovalRequested),
            (&self.error, FunctionEvent::BusError),
        ];
        let mut events = Vec::new();
        let watched = watched
            .into_iter()
            .filter_map(|(irq, event)| irq.as_ref().map(|irq| (irq, event)));
        for ((irq, event), ready) in watched.zip(flags) {
            if ready && irq.drain()? > 0 {
                events.push(event);
            }
        }
        if events.contains(&FunctionEvent::BusError) {
            self.check_present(&Place::Function)?;
        }
        Ok(events)
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

#[cfg(test)]
impl VfioFunction {
    /// A function whose device file is `device`, a plain file: configuration space at 0x10000, BAR2
    /// (0x2000 bytes) at 0x20000, of which the first page is mapped.
    pub(super) fn on_file(host: Device, device: OwnedFd) -> Result<Self, Error> {
        let id: Arc<str> = host.address().to_string().into();
        let pool = DmaPool::new(id.clone(), 4096, 0x1000)?;
        let region = |size, offset, areas: &[(u64, u64)]| vfio::Region {
            size,
            offset,
            areas: areas.to_vec(),
        };
        let mut bars: [Bar; 6] = Default::default();
        if let Some(bar) = bars.get_mut(2) {
            bar.region = region(0x2000, 0x20000, &[(0, 0x1000)]);
            bar.maps = map_areas(device.as_fd(), &bar.region, &id);
        }
        let null = || IrqEvent::new(id.clone());
        let (request, error) = (Some(null()?), Some(null()?));
        let iommufd = pool.fd().try_clone_to_owned().map_err(|_| {
            let errno = Errno::MFILE;
            Error::new(
                id.clone(),
                Place::Function,
                Cause::Os { call: "dup", errno },
            )
        })?;
        let iommu = super::opening::Iommu::Iommufd { iommufd, ioas: 1 };
        let mut function = VfioFunction {
            id: id.clone(),
            bars,
            config: region(4096, 0x10000, &[]),
            files: Files { device, iommu },
            pool,
            host,
            deadlines: Deadlines::default(),
            vectors: 2,
            irqs_enabled: false,
            request,
            error,
            bells: Vec::new(),
            memory: Cell::new(false),
            dead: RefCell::new(None),
        };
        function.limit_vectors()?;
        Ok(function)
    }

    /// The eventfds of the request and the error interrupt.
    pub(super) fn notices(&self) -> Option<(&IrqEvent, &IrqEvent)> {
        Some((self.request.as_ref()?, self.error.as_ref()?))
    }
}
