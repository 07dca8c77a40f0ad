// SPDX-License-Identifier: GPL-2.0-or-later
//! How a [`VfioFunction`] comes to be: opened, or taken over from an earlier process.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use virtio_pci_spec::bytes::get_u8;
use virtio_pci_spec::pci;

use super::fdinfo::FdinfoError;
use super::opened::{Bar, VfioFunction, IRQ_MSIX};
use super::opening::{open_function, Files};
use super::sysfs::Device;
use super::Options;
use crate::address::PciAddress;
use crate::capability::ConfigImage;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, HostError, Place};
use crate::irq::IrqEvent;
use crate::sys::{vfio, RegisterMapping};

/// Regions and interrupts of VFIO's PCI devices.
const REGION_CONFIG: u32 = 7;
const IRQ_ERR: u32 = 3;
const IRQ_REQ: u32 = 4;
/// Bytes of one mappable part that are mapped; the rest is accessed through the file.
const MAX_MAPPED: u64 = 64 << 20;
const PAGE: u64 = 4096;

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
        let other = match options.host.function_of_file(files.device.as_fd()) {
            Ok(other) => Some(other.to_string()).filter(|_| other != address),
            Err(FdinfoError::NotPci(other)) => Some(other),
            // This kernel does not tell.
            Err(FdinfoError::NoDevice | FdinfoError::Unreadable(_)) => None,
        };
        if let Some(other) = other {
            let why = format!("the files that were kept are those of {other}");
            return Err(error(Cause::State(why)));
        }
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

    fn limit_vectors(&mut self) -> Result<(), Error> {
        let image = ConfigImage::read(self)?;
        let table = image.msix().map_or(0, |(_, vectors)| vectors);
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
            let errno = rustix::io::Errno::MFILE;
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
            deadlines: super::Deadlines::default(),
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
