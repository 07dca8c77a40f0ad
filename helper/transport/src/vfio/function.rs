// SPDX-License-Identifier: GPL-2.0-or-later
//! [`PciFunction`] over the kernel's VFIO.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{pread, pwrite, Errno};
use virtio_pci_spec::bytes::get_u16;
use virtio_pci_spec::pci;

use super::opened::{Bell, VfioFunction, IRQ_MSIX};
use crate::address::VfToken;
use crate::capability::ConfigImage;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, HostError, Place};
use crate::function::{
    check_vectors, BarInfo, DmaAddressing, Doorbell, FunctionEvent, PciFunction, Posted,
    SriovStatus, VfBar, Width,
};
use crate::irq::{ready, IrqEvent};
use crate::sys::vfio;

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
        let size = self.bars.get(usize::from(bar)).map_or(0, |b| b.region.size);
        BarInfo::of(size).map_err(|cause| self.fail(&Place::whole_bar(bar), cause))
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
        check_vectors(self.vectors, n).map_err(|cause| self.fail(&place, cause))?;
        self.disable_irqs()?;
        let events = IrqEvent::several(&self.id, n)?;
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

    fn dma_pool(&self) -> &DmaPool {
        &self.pool
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
                get_u16(image.tail(at), virtio_modern_spec::sriov::VF_DEVICE_ID).unwrap_or(0)
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
