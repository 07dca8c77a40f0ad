// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands from the client.

use crate::bytes::{Put, Reader};
use crate::header::frame;
use crate::irq::irq_flags;
use crate::{Capabilities, Command, Header, Limits, SetIrqs, Version, WireError};

/// Flag bits of [`DmaMap`] and [`DmaUnmap`].
pub mod dma_flags {
    /// The device may read the range.
    pub const MAP_READ: u32 = 1 << 0;
    /// The device may write the range.
    pub const MAP_WRITE: u32 = 1 << 1;
    /// Unmap everything, as QEMU sends it (bit 1 of VFIO's own flag word).
    pub const UNMAP_ALL: u32 = 1 << 1;
}

/// Payload of DMA_MAP. The file descriptor, if any, travels beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaMap {
    /// Bits `MAP_*` of [`dma_flags`].
    pub flags: u32,
    /// Offset of the range in the file.
    pub offset: u64,
    /// First address the device uses.
    pub iova: u64,
    /// Length in bytes.
    pub size: u64,
}

/// Payload of DMA_UNMAP and of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaUnmap {
    /// Bits `UNMAP_*` of [`dma_flags`].
    pub flags: u32,
    /// First address to take away.
    pub iova: u64,
    /// Length in bytes; QEMU sends ranges that reach up to 2^64.
    pub size: u64,
}

/// Which bytes of which region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionAccess {
    /// Offset in the region.
    pub offset: u64,
    /// Region index.
    pub region: u32,
    /// Bytes.
    pub count: u32,
}

impl RegionAccess {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.region);
        out.put_u32(self.count);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            offset: r.u64()?,
            region: r.u32()?,
            count: r.u32()?,
        })
    }

    fn check(&self, command: Command, limits: &Limits) -> Result<(), WireError> {
        if self.count > limits.max_transfer {
            return Err(WireError::CountTooLarge {
                command,
                count: u64::from(self.count),
                limit: u64::from(limits.max_transfer),
            });
        }
        if self.offset.checked_add(u64::from(self.count)).is_none() {
            let what = "offset plus count overflows";
            return Err(WireError::Invalid { command, what });
        }
        Ok(())
    }
}

/// One write of a REGION_WRITE_MULTI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOne {
    /// Target; `count` is at most 8.
    pub access: RegionAccess,
    /// The first `count` bytes are written.
    pub data: [u8; 8],
}

/// Payload of REGION_WRITE_MULTI: writes to do in order, checked on decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteMulti<'a> {
    entries: &'a [u8],
}

impl<'a> WriteMulti<'a> {
    const ENTRY: usize = 24;
    /// Most writes in one message.
    pub const MAX: usize = 200;

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = WriteOne> + 'a {
        self.entries.chunks_exact(Self::ENTRY).filter_map(|e| {
            let mut r = Reader::new(Command::REGION_WRITE_MULTI, e, Self::ENTRY).ok()?;
            Some(WriteOne {
                access: RegionAccess::decode(&mut r).ok()?,
                data: r.array().ok()?,
            })
        })
    }

    fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let command = Command::REGION_WRITE_MULTI;
        let mut r = Reader::new(command, payload, 8)?;
        let count = r.u64()?;
        if count > Self::MAX as u64 {
            return Err(WireError::CountTooLarge {
                command,
                count,
                limit: Self::MAX as u64,
            });
        }
        let rest = r.rest();
        let want = count as usize * Self::ENTRY;
        let Some(entries) = rest.get(..want) else {
            return Err(WireError::CountMismatch {
                command,
                count,
                got: (rest.len() / Self::ENTRY) as u64,
            });
        };
        let multi = Self { entries };
        for one in multi.iter() {
            if one.access.count > 8 {
                let what = "one write is longer than 8 bytes";
                return Err(WireError::Invalid { command, what });
            }
        }
        Ok(multi)
    }
}

/// A decoded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Version and capabilities of the client.
    Version(Version),
    /// Range of memory for DMA.
    DmaMap(DmaMap),
    /// Ranges to take away.
    DmaUnmap(DmaUnmap),
    /// Numbers of regions and interrupt types.
    GetInfo {
        /// Room for the reply payload.
        argsz: u32,
    },
    /// One region's description.
    GetRegionInfo {
        /// Room for the reply payload.
        argsz: u32,
        /// Region index.
        index: u32,
    },
    /// File descriptors for writes to one region.
    GetRegionIoFds {
        /// Room for the reply payload.
        argsz: u32,
        /// Region index.
        index: u32,
    },
    /// One interrupt type's description.
    GetIrqInfo {
        /// Room for the reply payload.
        argsz: u32,
        /// Interrupt index.
        index: u32,
    },
    /// Attach, mask or trigger vectors.
    SetIrqs(SetIrqs<'a>),
    /// Read.
    RegionRead(RegionAccess),
    /// Write; `data.len() == access.count`.
    RegionWrite {
        /// Where.
        access: RegionAccess,
        /// What.
        data: &'a [u8],
    },
    /// Several small writes.
    RegionWriteMulti(WriteMulti<'a>),
    /// Device reset.
    DeviceReset,
}

impl<'a> Request<'a> {
    /// Decodes the payload of a command whose header was checked.
    ///
    /// Errors concern this message only: answer with [`WireError::errno`] and go on. Trailing
    /// bytes are ignored, except where a count inside says how many there must be.
    pub fn decode(header: &Header, payload: &'a [u8], limits: &Limits) -> Result<Self, WireError> {
        let command = header.command;
        if header.is_reply() {
            return Err(WireError::WrongDirection {
                command,
                flags: header.flags,
            });
        }
        match command {
            Command::VERSION => {
                if payload.len() > (limits.max_version_data as usize).saturating_add(4) {
                    return Err(WireError::CountTooLarge {
                        command,
                        count: payload.len() as u64,
                        limit: u64::from(limits.max_version_data),
                    });
                }
                Version::decode(payload).map(Self::Version)
            }
            Command::DMA_MAP => {
                let mut r = Reader::new(command, payload, 32)?;
                let _argsz = r.u32()?;
                Ok(Self::DmaMap(DmaMap {
                    flags: r.u32()?,
                    offset: r.u64()?,
                    iova: r.u64()?,
                    size: r.u64()?,
                }))
            }
            Command::DMA_UNMAP => DmaUnmap::decode(payload).map(Self::DmaUnmap),
            Command::DEVICE_GET_INFO => {
                let mut r = Reader::new(command, payload, 4)?;
                Ok(Self::GetInfo { argsz: r.u32()? })
            }
            Command::DEVICE_GET_REGION_INFO => {
                let (argsz, index) = argsz_index(command, payload)?;
                Ok(Self::GetRegionInfo { argsz, index })
            }
            Command::DEVICE_GET_REGION_IO_FDS => {
                let (argsz, index) = argsz_index(command, payload)?;
                Ok(Self::GetRegionIoFds { argsz, index })
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let (argsz, index) = argsz_index(command, payload)?;
                Ok(Self::GetIrqInfo { argsz, index })
            }
            Command::DEVICE_SET_IRQS => decode_set_irqs(payload, limits).map(Self::SetIrqs),
            Command::REGION_READ => {
                let mut r = Reader::new(command, payload, RegionAccess::LEN)?;
                let access = RegionAccess::decode(&mut r)?;
                access.check(command, limits)?;
                Ok(Self::RegionRead(access))
            }
            Command::REGION_WRITE => {
                let mut r = Reader::new(command, payload, RegionAccess::LEN)?;
                let access = RegionAccess::decode(&mut r)?;
                access.check(command, limits)?;
                let data = r.rest();
                if data.len() != access.count as usize {
                    return Err(WireError::CountMismatch {
                        command,
                        count: u64::from(access.count),
                        got: data.len() as u64,
                    });
                }
                Ok(Self::RegionWrite { access, data })
            }
            Command::REGION_WRITE_MULTI => WriteMulti::decode(payload).map(Self::RegionWriteMulti),
            Command::DEVICE_RESET => Ok(Self::DeviceReset),
            other => Err(WireError::UnknownCommand(other)),
        }
    }

    /// The command number of this request.
    pub fn command(&self) -> Command {
        match self {
            Self::Version(_) => Command::VERSION,
            Self::DmaMap(_) => Command::DMA_MAP,
            Self::DmaUnmap(_) => Command::DMA_UNMAP,
            Self::GetInfo { .. } => Command::DEVICE_GET_INFO,
            Self::GetRegionInfo { .. } => Command::DEVICE_GET_REGION_INFO,
            Self::GetRegionIoFds { .. } => Command::DEVICE_GET_REGION_IO_FDS,
            Self::GetIrqInfo { .. } => Command::DEVICE_GET_IRQ_INFO,
            Self::SetIrqs(_) => Command::DEVICE_SET_IRQS,
            Self::RegionRead(_) => Command::REGION_READ,
            Self::RegionWrite { .. } => Command::REGION_WRITE,
            Self::RegionWriteMulti(_) => Command::REGION_WRITE_MULTI,
            Self::DeviceReset => Command::DEVICE_RESET,
        }
    }

    /// Writes the whole message to `out`, which is cleared first.
    pub fn encode(&self, id: u16, no_reply: bool, out: &mut Vec<u8>) {
        let flags = if no_reply { Header::NO_REPLY } else { 0 };
        frame(out, id, self.command(), flags, 0, |out| self.body(out));
    }

    fn body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Version(v) => v.encode(out),
            Self::DmaMap(m) => {
                out.put_u32(32);
                out.put_u32(m.flags);
                out.put_u64(m.offset);
                out.put_u64(m.iova);
                out.put_u64(m.size);
            }
            Self::DmaUnmap(u) => u.encode(out),
            Self::GetInfo { argsz } => {
                out.put_u32(*argsz);
                out.extend_from_slice(&[0; 12]);
            }
            Self::GetRegionInfo { argsz, index } => {
                out.put_u32(*argsz);
                out.put_u32(0);
                out.put_u32(*index);
                out.extend_from_slice(&[0; 20]);
            }
            Self::GetRegionIoFds { argsz, index } | Self::GetIrqInfo { argsz, index } => {
                out.put_u32(*argsz);
                out.put_u32(0);
                out.put_u32(*index);
                out.put_u32(0);
            }
            Self::SetIrqs(s) => {
                let argsz = 20usize.saturating_add(s.data.len());
                out.put_u32(u32::try_from(argsz).unwrap_or(u32::MAX));
                out.put_u32(s.flags);
                out.put_u32(s.index);
                out.put_u32(s.start);
                out.put_u32(s.count);
                out.extend_from_slice(s.data);
            }
            Self::RegionRead(access) => access.encode(out),
            Self::RegionWrite { access, data } => {
                access.encode(out);
                out.extend_from_slice(data);
            }
            Self::RegionWriteMulti(m) => {
                out.put_u64((m.entries.len() / WriteMulti::ENTRY) as u64);
                out.extend_from_slice(m.entries);
            }
            Self::DeviceReset => {}
        }
    }
}

impl Version {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.major);
        out.put_u16(self.minor);
        out.extend_from_slice(&self.capabilities.to_bytes());
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(Command::VERSION, payload, 4)?;
        Ok(Self {
            major: r.u16()?,
            minor: r.u16()?,
            capabilities: Capabilities::from_bytes(r.rest())?,
        })
    }
}

impl DmaUnmap {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(24);
        out.put_u32(self.flags);
        out.put_u64(self.iova);
        out.put_u64(self.size);
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(Command::DMA_UNMAP, payload, 24)?;
        let _argsz = r.u32()?;
        Ok(Self {
            flags: r.u32()?,
            iova: r.u64()?,
            size: r.u64()?,
        })
    }
}

/// The common start of the "describe index n" requests. QEMU sends more bytes than are needed.
fn argsz_index(command: Command, payload: &[u8]) -> Result<(u32, u32), WireError> {
    let mut r = Reader::new(command, payload, 12)?;
    let argsz = r.u32()?;
    let _flags = r.u32()?;
    Ok((argsz, r.u32()?))
}

fn decode_set_irqs<'a>(payload: &'a [u8], limits: &Limits) -> Result<SetIrqs<'a>, WireError> {
    let command = Command::DEVICE_SET_IRQS;
    let mut r = Reader::new(command, payload, 20)?;
    let _argsz = r.u32()?;
    let mut set = SetIrqs {
        flags: r.u32()?,
        index: r.u32()?,
        start: r.u32()?,
        count: r.u32()?,
        data: &[],
    };
    if set.count > limits.max_vectors || set.start > limits.max_vectors {
        return Err(WireError::CountTooLarge {
            command,
            count: u64::from(set.count.max(set.start)),
            limit: u64::from(limits.max_vectors),
        });
    }
    if (set.flags & irq_flags::SET_DATA_MASK).count_ones() != 1 {
        let what = "flags must name exactly one kind of data";
        return Err(WireError::Invalid { command, what });
    }
    if (set.flags & irq_flags::SET_ACTION_BITS).count_ones() != 1 {
        let what = "flags must name exactly one action";
        return Err(WireError::Invalid { command, what });
    }
    if set.flags & irq_flags::SET_DATA_BOOL != 0 {
        let Some(data) = r.rest().get(..set.count as usize) else {
            return Err(WireError::CountMismatch {
                command,
                count: u64::from(set.count),
                got: r.rest().len() as u64,
            });
        };
        set.data = data;
    }
    Ok(set)
}
