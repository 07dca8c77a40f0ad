// SPDX-License-Identifier: GPL-2.0-or-later
//! [`PciFunction`] over a vfio-user connection.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use vfio_user_wire::{
    irq_flags, IoFdsReply, RegionAccess, Reply, Request, SetIrqs, IRQ_MSIX, REGION_BAR0,
    REGION_CONFIG,
};
use virtio_pci_spec::pci;

use super::connection::Connection;
use super::doorbell::{adopt_eventfd, stands_for};
use super::opening::{wrong_reply, Opened, Options, MAX_IO_FDS};
use super::Deadlines;
use crate::capability::ConfigImage;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, Place};
use crate::function::{
    check_config, check_vectors, BarInfo, DmaAddressing, Doorbell, FunctionEvent, PciFunction,
    Posted, SriovStatus, VfBar, Width,
};
use crate::irq::IrqEvent;
use crate::sriov::ConfigSriov;

/// A PCI function served by a vfio-user peer.
pub struct VfioUserFunction {
    id: Arc<str>,
    connection: RefCell<Connection>,
    /// The same socket, so that it can be polled while the connection is borrowed.
    socket: OwnedFd,
    pool: DmaPool,
    bars: [u64; 6],
    config_size: u16,
    vectors: u32,
    /// Offset of the MSI-X capability.
    msix: Option<u16>,
    /// File descriptors that the server takes with one message.
    max_msg_fds: usize,
    max_transfer: u32,
    resettable: bool,
    io_fds: bool,
    sriov: ConfigSriov,
}

impl VfioUserFunction {
    /// Connects to the server at `path` with default options.
    pub fn connect(path: &Path, deadlines: Deadlines) -> Result<Self, Error> {
        Self::open(
            path,
            Options {
                deadlines,
                ..Options::default()
            },
        )
    }

    /// Connects to the server at `path`, agrees on the version, learns what the function is and
    /// makes the DMA pool known to it.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let opened = Opened::open(path, &options)?;
        let id = opened.connection.id().clone();
        let socket = opened
            .connection
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::MFILE);
                let cause = Cause::Os { call: "dup", errno };
                Error::new(id.clone(), Place::Function, cause)
            })?;
        let mut function = VfioUserFunction {
            id,
            connection: RefCell::new(opened.connection),
            socket,
            pool: opened.pool,
            bars: opened.bars,
            config_size: opened.config_size,
            vectors: opened.vectors,
            msix: None,
            max_msg_fds: opened.max_msg_fds,
            max_transfer: opened.max_transfer,
            resettable: opened.resettable,
            io_fds: options.io_fds,
            sriov: ConfigSriov::new(),
        };
        function.find_msix()?;
        tracing::debug!(function = %function.id, ?function.bars, function.vectors, "connected");
        Ok(function)
    }

    /// The capability limits what the interrupt description says, and without it there is nothing
    /// to enable.
    fn find_msix(&mut self) -> Result<(), Error> {
        let msix = ConfigImage::read(self)?.msix();
        self.msix = msix.map(|(at, _)| at);
        self.vectors = self.vectors.min(msix.map_or(0, |(_, vectors)| vectors));
        Ok(())
    }

    fn error(&self, place: Place, cause: Cause) -> Error {
        Error::new(self.id.clone(), place, cause)
    }

    fn read(&self, place: &Place, region: u32, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let access = RegionAccess {
            offset,
            region,
            count: buf.len() as u32,
        };
        let result = self.connection.borrow_mut().call(
            place,
            &Request::RegionRead(access),
            &[],
            |reply, _| match reply {
                Reply::Read { access: got, data } => {
                    if got.region != region || got.offset != offset {
                        return Err(Cause::Protocol("the reply names another register".into()));
                    }
                    if data.len() != buf.len() {
                        return Err(Cause::Short {
                            got: data.len(),
                            want: buf.len(),
                        });
                    }
                    buf.copy_from_slice(data);
                    Ok(())
                }
                _ => Err(wrong_reply()),
            },
        );
        if result.is_err() {
            buf.fill(0);
        }
        result
    }

    fn write(
        &self,
        place: &Place,
        region: u32,
        offset: u64,
        data: &[u8],
        posted: Posted,
    ) -> Result<(), Error> {
        let access = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        let request = Request::RegionWrite { access, data };
        let mut connection = self.connection.borrow_mut();
        if posted == Posted::Yes {
            return connection.post(place, &request);
        }
        connection.call(place, &request, &[], |reply, _| match reply {
            Reply::Written(got) if got.region != region || got.offset != offset => {
                Err(Cause::Protocol("the reply names another register".into()))
            }
            Reply::Written(got) if got.count as usize != data.len() => Err(Cause::Short {
                got: got.count as usize,
                want: data.len(),
            }),
            Reply::Written(_) => Ok(()),
            _ => Err(wrong_reply()),
        })
    }

    fn check_config(&self, offset: u16, len: usize) -> Result<Place, Error> {
        let place = Place::Config { offset, len };
        match check_config(self.config_size.into(), offset, len) {
            Ok(()) => Ok(place),
            Err(cause) => Err(self.error(place, cause)),
        }
    }

    fn check_bar(&self, bar: u8, offset: u64, width: Width) -> Result<Place, Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        match BarInfo::check(self.bar_size(bar), offset, width) {
            Ok(()) => Ok(place),
            Err(cause) => Err(self.error(place, cause)),
        }
    }

    fn bar_size(&self, bar: u8) -> u64 {
        self.bars.get(usize::from(bar)).copied().unwrap_or(0)
    }

    fn set_irqs(&self, set: SetIrqs<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.connection.borrow_mut().call(
            &Place::Interrupts,
            &Request::SetIrqs(set),
            fds,
            |reply, _| match reply {
                Reply::Empty => Ok(()),
                _ => Err(wrong_reply()),
            },
        )
    }

    fn set_msix_enable(&self, on: bool) -> Result<(), Error> {
        let Some(at) = self.msix else { return Ok(()) };
        let at = at + pci::msix::CONTROL as u16;
        let mut b = [0; 2];
        self.config_read(at, &mut b)?;
        let mut control = u16::from_le_bytes(b);
        control &= !(pci::msix::CONTROL_ENABLE | pci::msix::CONTROL_MASK_ALL);
        if on {
            control |= pci::msix::CONTROL_ENABLE;
        }
        self.config_write(at, &control.to_le_bytes())
    }
}

impl PciFunction for VfioUserFunction {
    fn id(&self) -> &str {
        &self.id
    }

    fn config_size(&self) -> Result<u16, Error> {
        Ok(self.config_size)
    }

    fn config_read(&self, offset: u16, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(0);
        let place = self.check_config(offset, buf.len())?;
        let mut at = u64::from(offset);
        for chunk in buf.chunks_mut(self.max_transfer as usize) {
            self.read(&place, REGION_CONFIG, at, chunk)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<(), Error> {
        let place = self.check_config(offset, data.len())?;
        let mut at = u64::from(offset);
        for chunk in data.chunks(self.max_transfer as usize) {
            self.write(&place, REGION_CONFIG, at, chunk, Posted::No)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    fn bar(&self, bar: u8) -> Result<BarInfo, Error> {
        BarInfo::of(self.bar_size(bar)).map_err(|cause| self.error(Place::whole_bar(bar), cause))
    }

    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u32, Error> {
        let place = self.check_bar(bar, offset, width)?;
        let mut bytes = [0; 4];
        let (used, _rest) = bytes.split_at_mut(width.bytes());
        self.read(&place, REGION_BAR0 + u32::from(bar), offset, used)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn bar_read_later(&self, bar: u8, offset: u64, width: Width) -> Result<Option<u32>, Error> {
        let place = self.check_bar(bar, offset, width)?;
        let access = RegionAccess {
            offset,
            region: REGION_BAR0 + u32::from(bar),
            count: width.bytes() as u32,
        };
        self.connection.borrow_mut().read_later(place, access)?;
        Ok(None)
    }

    fn hurry(&self, until: Option<Instant>) {
        self.connection.borrow_mut().hurry(until);
    }

    fn bar_write(
        &self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
        posted: Posted,
    ) -> Result<(), Error> {
        let place = self.check_bar(bar, offset, width)?;
        let bytes = value.to_le_bytes();
        let (used, _rest) = bytes.split_at(width.bytes());
        self.write(&place, REGION_BAR0 + u32::from(bar), offset, used, posted)
    }

    fn doorbell(
        &mut self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
    ) -> Result<Option<Doorbell>, Error> {
        let place = self.check_bar(bar, offset, width)?;
        if !self.io_fds {
            return Ok(None);
        }
        let request = Request::GetRegionIoFds {
            argsz: IoFdsReply::payload_len(MAX_IO_FDS as usize) as u32,
            index: REGION_BAR0 + u32::from(bar),
        };
        let answer = self
            .connection
            .borrow_mut()
            .call(&place, &request, &[], |reply, fds| match reply {
                Reply::IoFds(table) => Ok((table, fds)),
                _ => Err(wrong_reply()),
            });
        let (table, fds) = match answer {
            Ok(answer) => answer,
            // Servers need not know this command.
            Err(e) if !e.is_fatal() => {
                tracing::debug!(error = %e, "no ioeventfds");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let found = table
            .entries
            .iter()
            .find(|e| stands_for(e, offset, width, value));
        let fd = found.and_then(|e| fds.into_iter().nth(e.fd_index as usize));
        Ok(fd
            .and_then(|fd| adopt_eventfd(&self.id, fd))
            .map(Doorbell::new))
    }

    fn irq_count(&self) -> Result<u32, Error> {
        Ok(self.vectors)
    }

    fn enable_irqs(&mut self, n: u32) -> Result<Vec<IrqEvent>, Error> {
        check_vectors(self.vectors, n).map_err(|cause| self.error(Place::Interrupts, cause))?;
        self.disable_irqs()?;
        let events = IrqEvent::several(&self.id, n)?;
        let mut start = 0;
        for chunk in events.chunks(self.max_msg_fds) {
            let fds: Vec<_> = chunk.iter().map(AsFd::as_fd).collect();
            let set = SetIrqs {
                flags: irq_flags::SET_DATA_EVENTFD | irq_flags::SET_ACTION_TRIGGER,
                index: IRQ_MSIX,
                start,
                count: chunk.len() as u32,
                data: &[],
            };
            self.set_irqs(set, &fds)?;
            start += chunk.len() as u32;
        }
        self.set_msix_enable(true)?;
        Ok(events)
    }

    fn disable_irqs(&mut self) -> Result<(), Error> {
        if self.vectors == 0 {
            return Ok(());
        }
        self.set_msix_enable(false)?;
        let set = SetIrqs {
            flags: irq_flags::SET_DATA_NONE | irq_flags::SET_ACTION_TRIGGER,
            index: IRQ_MSIX,
            start: 0,
            count: 0,
            data: &[],
        };
        self.set_irqs(set, &[])
    }

    fn dma_pool(&self) -> &DmaPool {
        &self.pool
    }

    fn dma_addressing(&self) -> DmaAddressing {
        DmaAddressing::Mapped
    }

    fn function_reset(&mut self) -> Result<(), Error> {
        if !self.resettable {
            let cause = Cause::NotSupported("reset");
            return Err(self.error(Place::Function, cause));
        }
        self.connection.borrow_mut().call(
            &Place::Function,
            &Request::DeviceReset,
            &[],
            |reply, _| match reply {
                Reply::Empty => Ok(()),
                _ => Err(wrong_reply()),
            },
        )
    }

    fn sriov_status(&self) -> Result<SriovStatus, Error> {
        self.sriov.status(self)
    }

    fn vf_bars(&mut self) -> Result<[VfBar; 6], Error> {
        self.sriov.vf_bars(self)
    }

    fn enable_vfs(&mut self, n: u16) -> Result<(), Error> {
        self.sriov.enable(self, n)
    }

    fn disable_vfs(&mut self) -> Result<(), Error> {
        self.sriov.disable(self)
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn service(&mut self) -> Result<Vec<FunctionEvent>, Error> {
        match self.connection.borrow_mut().service()? {
            Some(came) => Ok(vec![FunctionEvent::Register(came?)]),
            None => Ok(Vec::new()),
        }
    }
}

impl std::fmt::Debug for VfioUserFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioUserFunction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
