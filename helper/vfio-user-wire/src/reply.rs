// SPDX-License-Identifier: GPL-2.0-or-later
//! Answers of the server.

use crate::bytes::{Put, Reader};
use crate::header::frame;
use crate::{
    Command, DmaUnmap, Header, IoFdsReply, IrqInfo, Limits, RegionAccess, RegionInfo, Version,
    WireError,
};

/// Flag bits of [`DeviceInfo`], as in VFIO.
pub mod device_flags {
    /// DEVICE_RESET works.
    pub const RESET: u32 = 1 << 0;
    /// The device is a PCI function.
    pub const PCI: u32 = 1 << 1;
}

/// Reply payload of DEVICE_GET_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Bits of [`device_flags`].
    pub flags: u32,
    /// Regions; PCI clients expect 9, with configuration space at index 7.
    pub num_regions: u32,
    /// Interrupt types; PCI clients expect 5 (INTx, MSI, MSI-X, ERR, REQ).
    pub num_irqs: u32,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The command failed with this Linux error number (0: no number was given).
    Error(u32),
    /// Success without payload (DMA_MAP, SET_IRQS, DEVICE_RESET, REGION_WRITE_MULTI).
    Empty,
    /// Version and capabilities of the server.
    Version(Version),
    /// The entry that was unmapped; some servers send none.
    DmaUnmap(Option<DmaUnmap>),
    /// Device description.
    Info(DeviceInfo),
    /// Region description.
    RegionInfo(RegionInfo),
    /// File descriptors for writes.
    IoFds(IoFdsReply),
    /// Interrupt type description.
    IrqInfo(IrqInfo),
    /// Data read; `data.len() == access.count`, which may be less than was asked for.
    Read {
        /// Echo of the request, `count` as read.
        access: RegionAccess,
        /// What was read.
        data: &'a [u8],
    },
    /// Write done; `count` says how much.
    Written(RegionAccess),
}

impl<'a> Reply<'a> {
    /// Writes the whole message, the answer to `to`, into `out`, which is cleared first.
    ///
    /// `argsz` is the room that the request named for the reply payload (region info and IO FDs
    /// leave out what does not fit).
    pub fn encode(&self, to: &Header, argsz: u32, out: &mut Vec<u8>) {
        let (flags, errno) = match self {
            Self::Error(errno) => (Header::TYPE_REPLY | Header::ERROR, *errno),
            _ => (Header::TYPE_REPLY, 0),
        };
        frame(out, to.id, to.command, flags, errno, |out| match self {
            Self::Error(_) | Self::Empty | Self::DmaUnmap(None) => {}
            Self::Version(v) => v.encode(out),
            Self::DmaUnmap(Some(u)) => u.encode(out),
            Self::Info(i) => {
                out.put_u32(16);
                out.put_u32(i.flags);
                out.put_u32(i.num_regions);
                out.put_u32(i.num_irqs);
            }
            Self::RegionInfo(i) => i.encode(out, argsz),
            Self::IoFds(f) => f.encode(out, argsz),
            Self::IrqInfo(i) => {
                out.put_u32(16);
                out.put_u32(i.flags);
                out.put_u32(i.index);
                out.put_u32(i.count);
            }
            Self::Read { access, data } => {
                access.encode(out);
                out.extend_from_slice(data);
            }
            Self::Written(access) => access.encode(out),
        });
    }

    /// Decodes the reply to a command; the header's command says which.
    ///
    /// The caller has already matched `header.id` with what it sent, and must compare echoed
    /// fields (region, offset, count) with what it asked.
    pub fn decode(header: &Header, payload: &'a [u8], limits: &Limits) -> Result<Self, WireError> {
        let command = header.command;
        if !header.is_reply() {
            return Err(WireError::WrongDirection {
                command,
                flags: header.flags,
            });
        }
        if header.is_error() {
            return Ok(Self::Error(header.errno));
        }
        match command {
            Command::VERSION => Version::decode(payload).map(Self::Version),
            Command::DMA_MAP
            | Command::DEVICE_SET_IRQS
            | Command::DEVICE_RESET
            | Command::REGION_WRITE_MULTI => Ok(Self::Empty),
            Command::DMA_UNMAP if payload.is_empty() => Ok(Self::DmaUnmap(None)),
            Command::DMA_UNMAP => Ok(Self::DmaUnmap(Some(DmaUnmap::decode(payload)?))),
            Command::DEVICE_GET_INFO => {
                let mut r = Reader::new(command, payload, 16)?;
                let _argsz = r.u32()?;
                Ok(Self::Info(DeviceInfo {
                    flags: r.u32()?,
                    num_regions: r.u32()?,
                    num_irqs: r.u32()?,
                }))
            }
            Command::DEVICE_GET_REGION_INFO => RegionInfo::decode(payload).map(Self::RegionInfo),
            Command::DEVICE_GET_REGION_IO_FDS => {
                IoFdsReply::decode(payload, limits).map(Self::IoFds)
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let mut r = Reader::new(command, payload, 16)?;
                let _argsz = r.u32()?;
                Ok(Self::IrqInfo(IrqInfo {
                    flags: r.u32()?,
                    index: r.u32()?,
                    count: r.u32()?,
                }))
            }
            Command::REGION_READ => {
                let mut r = Reader::new(command, payload, RegionAccess::LEN)?;
                let access = RegionAccess::decode(&mut r)?;
                let data = r.rest();
                if data.len() != access.count as usize {
                    return Err(WireError::CountMismatch {
                        command,
                        count: u64::from(access.count),
                        got: data.len() as u64,
                    });
                }
                Ok(Self::Read { access, data })
            }
            Command::REGION_WRITE => {
                let mut r = Reader::new(command, payload, RegionAccess::LEN)?;
                RegionAccess::decode(&mut r).map(Self::Written)
            }
            other => Err(WireError::UnknownCommand(other)),
        }
    }
}
