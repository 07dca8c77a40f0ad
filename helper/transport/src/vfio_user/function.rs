// SPDX-License-Identifier: GPL-2.0-or-later
//! [`PciFunction`] over a vfio-user connection.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{fcntl_getfl, fcntl_setfl, fstat, OFlags};
use vfio_user_wire::{
    device_flags, dma_flags, irq_flags, Capabilities, DmaMap, IoEventFd, IoFdsReply, Limits,
    RegionAccess, Reply, Request, SetIrqs, Version, IO_FD_TYPE_IOEVENTFD, IRQ_MSIX, MAJOR, MINOR,
    REGION_BAR0, REGION_CONFIG,
};
use virtio_pci_spec::bytes::get_u16;
use virtio_pci_spec::pci;

use super::connection::{Connection, MAX_FDS};
use super::Deadlines;
use crate::capability::ConfigImage;
use crate::dma::{DmaPool, DmaRegion, PoolStats};
use crate::error::{Cause, Error, Place};
use crate::function::{
    BarInfo, DmaAddressing, Doorbell, FunctionEvent, PciFunction, Posted, SriovStatus, VfBar, Width,
};
use crate::irq::IrqEvent;
use crate::sriov::ConfigSriov;

/// Payload bytes of a region description without capabilities.
const REGION_INFO_LEN: u32 = 32;
const IRQ_INFO_LEN: u32 = 16;
/// Entries of an ioeventfd table that are asked for.
const MAX_IO_FDS: u32 = MAX_FDS as u32;

/// How to open a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Waits.
    pub deadlines: Deadlines,
    /// Wait for a socket that does not exist yet, too.
    pub wait_for_socket: bool,
    /// Bytes of DMA memory.
    pub dma_pool: usize,
    /// Where the device sees it.
    pub iova: u64,
    /// Ask the server for ioeventfds.
    pub io_fds: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadlines: Deadlines::default(),
            wait_for_socket: false,
            dma_pool: 256 * 1024,
            iova: 0x1000_0000,
            io_fds: true,
        }
    }
}

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
        let limits = Limits {
            max_io_fds: MAX_IO_FDS,
            ..Limits::default()
        };
        let mut c = Connection::connect(
            path,
            options.deadlines.connect,
            options.deadlines.request,
            options.wait_for_socket,
            limits,
        )?;
        let id = c.id().clone();
        let server = negotiate(&mut c)?;
        let max_transfer = u32::try_from(server.max_data_xfer_size)
            .unwrap_or(u32::MAX)
            .clamp(8, limits.max_transfer);
        c.set_max_transfer(max_transfer);
        let info = c.call(
            &Place::Function,
            &Request::GetInfo { argsz: 16 },
            &[],
            |reply, _| match reply {
                Reply::Info(info) => Ok(info),
                _ => Err(wrong_reply()),
            },
        )?;
        let err = |cause| Error::new(id.clone(), Place::Function, cause);
        if info.flags & device_flags::PCI == 0 {
            return Err(err(Cause::Misbehaved("not a PCI function".into())));
        }
        if info.num_regions <= REGION_CONFIG {
            let why = "no configuration space region".into();
            return Err(err(Cause::Misbehaved(why)));
        }
        let mut bars = [0; 6];
        for (i, bar) in bars.iter_mut().enumerate() {
            *bar = region_size(&mut c, REGION_BAR0 + i as u32)?;
        }
        let config = region_size(&mut c, REGION_CONFIG)?;
        let config_size = config.min(4096) as u16;
        if config_size < 256 {
            let why = format!("configuration space of {config} bytes");
            return Err(err(Cause::Misbehaved(why)));
        }
        let vectors = if info.num_irqs > IRQ_MSIX {
            msix_vectors(&mut c)?
        } else {
            0
        };
        let pool = DmaPool::new(id.clone(), options.dma_pool, options.iova)?;
        map_pool(&mut c, &pool)?;
        let socket = c.as_fd().try_clone_to_owned().map_err(|e| {
            let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::MFILE);
            err(Cause::Os { call: "dup", errno })
        })?;
        let mut function = VfioUserFunction {
            id,
            connection: RefCell::new(c),
            socket,
            pool,
            bars,
            config_size,
            vectors,
            msix: None,
            max_msg_fds: (server.max_msg_fds as usize).clamp(1, MAX_FDS),
            max_transfer,
            resettable: info.flags & device_flags::RESET != 0,
            io_fds: options.io_fds,
            sriov: ConfigSriov::new(),
        };
        function.find_msix()?;
        tracing::debug!(function = %function.id, ?function.bars, function.vectors, "connected");
        Ok(function)
    }

    /// The DMA pool, for those who keep it beyond this process.
    pub fn pool(&self) -> &DmaPool {
        &self.pool
    }

    /// The capability limits what the interrupt description says, and without it there is nothing
    /// to enable.
    fn find_msix(&mut self) -> Result<(), Error> {
        let image = ConfigImage::read(self)?;
        self.msix = image.capability(pci::CAP_ID_MSIX);
        let table = self
            .msix
            .and_then(|at| get_u16(image.tail(at), pci::msix::CONTROL))
            .map_or(0, |c| u32::from(c & pci::msix::CONTROL_SIZE_MASK) + 1);
        self.vectors = self.vectors.min(table);
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
        if usize::from(offset) + len > usize::from(self.config_size) {
            let size = u64::from(self.config_size);
            return Err(self.error(place, Cause::OutOfRange { size }));
        }
        Ok(place)
    }

    fn check_bar(&self, bar: u8, offset: u64, width: Width) -> Result<Place, Error> {
        let len = width.bytes();
        let place = Place::Bar { bar, offset, len };
        let size = self
            .bar_size(bar)
            .map_err(|c| self.error(place.clone(), c))?;
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= size);
        if !inside {
            return Err(self.error(place, Cause::OutOfRange { size }));
        }
        if offset % len as u64 != 0 {
            return Err(self.error(place, Cause::Unaligned));
        }
        Ok(place)
    }

    fn bar_size(&self, bar: u8) -> Result<u64, Cause> {
        match self.bars.get(usize::from(bar)) {
            Some(size) if *size != 0 => Ok(*size),
            _ => Err(Cause::NoSuchBar),
        }
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

fn wrong_reply() -> Cause {
    Cause::Protocol("the reply has another form than its command asks for".into())
}

fn negotiate(c: &mut Connection) -> Result<Capabilities, Error> {
    let ours = Version {
        major: MAJOR,
        minor: MINOR,
        capabilities: Capabilities {
            max_msg_fds: MAX_FDS as u32,
            max_data_xfer_size: u64::from(c.limits().max_transfer),
            ..Capabilities::default()
        },
    };
    c.call(
        &Place::Function,
        &Request::Version(ours),
        &[],
        |reply, _| match reply {
            Reply::Version(v) if v.major == MAJOR => Ok(v.capabilities),
            Reply::Version(v) => Err(Cause::NotSupported(if v.major > MAJOR {
                "the peer's newer protocol version is"
            } else {
                "the peer's protocol version is"
            })),
            _ => Err(wrong_reply()),
        },
    )
}

fn region_size(c: &mut Connection, index: u32) -> Result<u64, Error> {
    let place = match index {
        REGION_CONFIG => Place::Config { offset: 0, len: 0 },
        i => Place::Bar {
            bar: i as u8,
            offset: 0,
            len: 0,
        },
    };
    let argsz = REGION_INFO_LEN;
    c.call(
        &place,
        &Request::GetRegionInfo { argsz, index },
        &[],
        |reply, _| match reply {
            Reply::RegionInfo(info) if info.index == index => Ok(info.size),
            Reply::RegionInfo(_) => Err(Cause::Protocol("the reply names another region".into())),
            _ => Err(wrong_reply()),
        },
    )
}

fn msix_vectors(c: &mut Connection) -> Result<u32, Error> {
    let request = Request::GetIrqInfo {
        argsz: IRQ_INFO_LEN,
        index: IRQ_MSIX,
    };
    c.call(&Place::Interrupts, &request, &[], |reply, _| match reply {
        Reply::IrqInfo(info) if info.index != IRQ_MSIX => Err(Cause::Protocol(
            "the reply names another interrupt type".into(),
        )),
        Reply::IrqInfo(info) if info.flags & irq_flags::INFO_EVENTFD == 0 => Ok(0),
        Reply::IrqInfo(info) => Ok(info.count.min(2048)),
        _ => Err(wrong_reply()),
    })
}

fn map_pool(c: &mut Connection, pool: &DmaPool) -> Result<(), Error> {
    let map = DmaMap {
        flags: dma_flags::MAP_READ | dma_flags::MAP_WRITE,
        offset: 0,
        iova: pool.iova(),
        size: pool.size() as u64,
    };
    let place = Place::Dma {
        offset: 0,
        len: pool.size(),
    };
    c.call(
        &place,
        &Request::DmaMap(map),
        &[pool.fd()],
        |reply, _| match reply {
            Reply::Empty => Ok(()),
            _ => Err(wrong_reply()),
        },
    )
}

/// Whether an entry of the server's ioeventfd table stands for this very write.
fn stands_for(entry: &IoEventFd, offset: u64, width: Width, value: u32) -> bool {
    entry.kind == IO_FD_TYPE_IOEVENTFD
        && entry.offset == offset
        && (entry.size == 0 || entry.size == width.bytes() as u64)
        && (entry.flags & IoEventFd::DATAMATCH == 0 || entry.datamatch == u64::from(value))
}

/// Accepts a descriptor from the peer as a doorbell: not a file or socket that could make a write
/// wait, and non-blocking.
fn adopt_eventfd(id: &Arc<str>, fd: OwnedFd) -> Option<IrqEvent> {
    // Anonymous inodes, of which eventfds are, have no file type.
    let plain = fstat(&fd).ok()?.st_mode & 0o170_000 == 0;
    let flags = fcntl_getfl(&fd).ok()?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).ok()?;
    plain.then(|| IrqEvent::from_fd(id.clone(), fd))
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
        let place = Place::Bar {
            bar,
            offset: 0,
            len: 0,
        };
        match self.bar_size(bar) {
            Ok(size) => Ok(BarInfo { size }),
            Err(cause) => Err(self.error(place, cause)),
        }
    }

    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u32, Error> {
        let place = self.check_bar(bar, offset, width)?;
        let mut bytes = [0; 4];
        let (used, _rest) = bytes.split_at_mut(width.bytes());
        self.read(&place, REGION_BAR0 + u32::from(bar), offset, used)?;
        Ok(u32::from_le_bytes(bytes))
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
        if n == 0 || n > self.vectors {
            let size = u64::from(self.vectors);
            return Err(self.error(Place::Interrupts, Cause::OutOfRange { size }));
        }
        self.disable_irqs()?;
        let events = (0..n)
            .map(|_| IrqEvent::new(self.id.clone()))
            .collect::<Result<Vec<_>, _>>()?;
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

    fn dma_alloc(&mut self, len: usize) -> Result<DmaRegion, Error> {
        self.pool.alloc(len)
    }

    fn dma_stats(&self) -> PoolStats {
        self.pool.stats()
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
        let mut sriov = std::mem::take(&mut self.sriov);
        let bars = sriov.vf_bars(self);
        self.sriov = sriov;
        bars
    }

    fn enable_vfs(&mut self, n: u16) -> Result<(), Error> {
        let mut sriov = std::mem::take(&mut self.sriov);
        let done = sriov.enable(self, n);
        self.sriov = sriov;
        done
    }

    fn disable_vfs(&mut self) -> Result<(), Error> {
        self.sriov.disable(self)
    }

    fn event_fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }

    fn service(&mut self) -> Result<Vec<FunctionEvent>, Error> {
        self.connection.borrow_mut().service()?;
        Ok(Vec::new())
    }
}

impl std::fmt::Debug for VfioUserFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VfioUserFunction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
