// SPDX-License-Identifier: GPL-2.0-or-later
//! The first messages of a connection: version, what the function is, its memory.

use std::path::Path;

use vfio_user_wire::{
    device_flags, dma_flags, irq_flags, Capabilities, DmaMap, Limits, Reply, Request, Version,
    IRQ_MSIX, MAJOR, MINOR, REGION_BAR0, REGION_CONFIG,
};

use super::connection::{Connection, MAX_FDS};
use super::Deadlines;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, Place};

/// Payload bytes of a region description without capabilities.
const REGION_INFO_LEN: u32 = 32;
const IRQ_INFO_LEN: u32 = 16;
/// Entries of an ioeventfd table that are asked for.
pub(super) const MAX_IO_FDS: u32 = MAX_FDS as u32;

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

/// A connection and what its server said of the function.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) pool: DmaPool,
    pub(super) bars: [u64; 6],
    pub(super) config_size: u16,
    /// MSI-X vectors, as the interrupt description has them.
    pub(super) vectors: u32,
    /// File descriptors that the server takes with one message.
    pub(super) max_msg_fds: usize,
    pub(super) max_transfer: u32,
    pub(super) resettable: bool,
}

impl Opened {
    pub(super) fn open(path: &Path, options: &Options) -> Result<Self, Error> {
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
        let misbehaved =
            |why: String| Error::new(id.clone(), Place::Function, Cause::Misbehaved(why));
        if info.flags & device_flags::PCI == 0 {
            return Err(misbehaved("not a PCI function".into()));
        }
        if info.num_regions <= REGION_CONFIG {
            return Err(misbehaved("no configuration space region".into()));
        }
        let mut bars = [0; 6];
        for (i, bar) in bars.iter_mut().enumerate() {
            *bar = region_size(&mut c, REGION_BAR0 + i as u32)?;
        }
        let config = region_size(&mut c, REGION_CONFIG)?;
        let config_size = config.min(4096) as u16;
        if config_size < 256 {
            return Err(misbehaved(format!("configuration space of {config} bytes")));
        }
        let vectors = if info.num_irqs > IRQ_MSIX {
            msix_vectors(&mut c)?
        } else {
            0
        };
        let pool = DmaPool::new(id.clone(), options.dma_pool, options.iova)?;
        map_pool(&mut c, &pool)?;
        Ok(Opened {
            connection: c,
            pool,
            bars,
            config_size,
            vectors,
            max_msg_fds: (server.max_msg_fds as usize).clamp(1, MAX_FDS),
            max_transfer,
            resettable: info.flags & device_flags::RESET != 0,
        })
    }
}

pub(super) fn wrong_reply() -> Cause {
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
        i => Place::whole_bar(i as u8),
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
