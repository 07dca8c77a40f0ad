// SPDX-License-Identifier: GPL-2.0-or-later
//! Regions: description, sparse mapping, file descriptors for writes.

use crate::bytes::{Put, Reader};
use crate::{Command, Limits, WireError};

/// Region index of BAR 0; BAR n has index n.
pub const REGION_BAR0: u32 = 0;
/// Region index of the expansion ROM.
pub const REGION_ROM: u32 = 6;
/// Region index of PCI configuration space.
pub const REGION_CONFIG: u32 = 7;
/// Region index of legacy VGA.
pub const REGION_VGA: u32 = 8;

/// Flag bits of [`RegionInfo`], as in VFIO.
pub mod region_flags {
    /// Reads are possible.
    pub const READ: u32 = 1 << 0;
    /// Writes are possible.
    pub const WRITE: u32 = 1 << 1;
    /// The file descriptor beside the reply can be mapped.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;
}

const CAP_SPARSE_MMAP: u16 = 1;
/// Bytes of region info without capabilities.
const INFO_LEN: usize = 32;
/// Bytes of a sparse-mmap capability without its areas.
const SPARSE_LEN: usize = 16;
/// Bytes of one entry of the IO FD array.
const IO_FD_LEN: usize = 40;
/// Capabilities of a region that are followed; more is a loop or nonsense.
const MAX_CAPS: usize = 16;

/// One part of a region that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseArea {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// Reply payload of GET_REGION_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Bytes that the full reply needs. On encoding 0 means "compute it".
    pub argsz: u32,
    /// Bits of [`region_flags`].
    pub flags: u32,
    /// Region index asked for.
    pub index: u32,
    /// Length of the region in bytes, 0 where there is none.
    pub size: u64,
    /// Offset to use with `mmap` of the file descriptor beside the reply.
    pub offset: u64,
    /// Parts that can be mapped; empty means the whole region if the MMAP flag is set.
    pub sparse: Vec<SparseArea>,
}

impl RegionInfo {
    fn full_len(&self) -> usize {
        match self.sparse.len() {
            0 => INFO_LEN,
            n => INFO_LEN + SPARSE_LEN + n.saturating_mul(16),
        }
    }

    /// Appends the payload. When the requester's `argsz` is too small for the capabilities, only
    /// the fixed part is sent and its `argsz` tells how much room is needed.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, requester_argsz: u32) {
        let full = self.full_len();
        let fits = self.sparse.is_empty() || full <= requester_argsz as usize;
        let (mut flags, mut cap_offset) = (self.flags & !region_flags::CAPS, 0);
        if !self.sparse.is_empty() {
            flags |= region_flags::CAPS;
            if fits {
                cap_offset = INFO_LEN as u32;
            }
        }
        out.put_u32(u32::try_from(full).unwrap_or(u32::MAX));
        out.put_u32(flags);
        out.put_u32(self.index);
        out.put_u32(cap_offset);
        out.put_u64(self.size);
        out.put_u64(self.offset);
        if fits && !self.sparse.is_empty() {
            out.put_u16(CAP_SPARSE_MMAP);
            out.put_u16(1);
            out.put_u32(0);
            out.put_u32(u32::try_from(self.sparse.len()).unwrap_or(u32::MAX));
            out.put_u32(0);
            for area in &self.sparse {
                out.put_u64(area.offset);
                out.put_u64(area.size);
            }
        }
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let command = Command::DEVICE_GET_REGION_INFO;
        let mut r = Reader::new(command, payload, INFO_LEN)?;
        let argsz = r.u32()?;
        let flags = r.u32()?;
        let index = r.u32()?;
        let cap_offset = r.u32()?;
        let mut info = Self {
            argsz,
            flags,
            index,
            size: r.u64()?,
            offset: r.u64()?,
            sparse: Vec::new(),
        };
        if flags & region_flags::CAPS != 0 && cap_offset != 0 {
            info.sparse = decode_sparse(payload, cap_offset as usize)?;
        }
        Ok(info)
    }
}

/// Follows the capability chain from `at` and collects the sparse areas.
fn decode_sparse(payload: &[u8], mut at: usize) -> Result<Vec<SparseArea>, WireError> {
    let command = Command::DEVICE_GET_REGION_INFO;
    let mut areas = Vec::new();
    for _ in 0..MAX_CAPS {
        if at < INFO_LEN {
            let what = "capability offset points into the fixed part";
            return Err(WireError::Invalid { command, what });
        }
        let cap = payload.get(at..).unwrap_or(&[]);
        let mut r = Reader::new(command, cap, 8)?;
        let id = r.u16()?;
        let _version = r.u16()?;
        let next = r.u32()? as usize;
        if id == CAP_SPARSE_MMAP {
            let count = r.u32()?;
            let _reserved = r.u32()?;
            let there = (r.rest().len() / 16) as u64;
            if u64::from(count) > there {
                return Err(WireError::CountMismatch {
                    command,
                    count: u64::from(count),
                    got: there,
                });
            }
            for _ in 0..count {
                areas.push(SparseArea {
                    offset: r.u64()?,
                    size: r.u64()?,
                });
            }
        }
        if next == 0 {
            return Ok(areas);
        }
        at = next;
    }
    let what = "capability chain does not end";
    Err(WireError::Invalid { command, what })
}

/// Type of an IO FD entry that is an ioeventfd.
pub const IO_FD_TYPE_IOEVENTFD: u32 = 0;

/// One ioeventfd: a write of `size` bytes at `offset` may be replaced by a write to the eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEventFd {
    /// Offset in the region.
    pub offset: u64,
    /// Width of the access, 0 for any.
    pub size: u64,
    /// Index in the file descriptors beside the reply.
    pub fd_index: u32,
    /// [`IO_FD_TYPE_IOEVENTFD`]; other types are kept as they are, for the receiver to skip.
    pub kind: u32,
    /// Bit 0: only when the value written equals `datamatch`.
    pub flags: u32,
    /// Value to match.
    pub datamatch: u64,
}

impl IoEventFd {
    /// `flags`: the eventfd stands for one value only.
    pub const DATAMATCH: u32 = 1 << 0;
}

/// Reply payload of GET_REGION_IO_FDS. The file descriptors travel beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoFdsReply {
    /// Bytes that the full reply needs. On encoding 0 means "compute it".
    pub argsz: u32,
    /// Region index asked for.
    pub index: u32,
    /// The entries; when decoded from a reply that did not fit, shorter than `count`.
    pub entries: Vec<IoEventFd>,
}

impl IoFdsReply {
    /// Bytes of a reply payload with `n` entries.
    pub fn payload_len(n: usize) -> usize {
        16 + n.saturating_mul(IO_FD_LEN)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>, requester_argsz: u32) {
        let full = Self::payload_len(self.entries.len());
        out.put_u32(u32::try_from(full).unwrap_or(u32::MAX));
        out.put_u32(0);
        out.put_u32(self.index);
        out.put_u32(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        if full > requester_argsz as usize {
            return;
        }
        for e in &self.entries {
            out.put_u64(e.offset);
            out.put_u64(e.size);
            out.put_u32(e.fd_index);
            out.put_u32(e.kind);
            out.put_u32(e.flags);
            out.put_u32(0);
            out.put_u64(e.datamatch);
        }
    }

    pub(crate) fn decode(payload: &[u8], limits: &Limits) -> Result<Self, WireError> {
        let command = Command::DEVICE_GET_REGION_IO_FDS;
        let mut r = Reader::new(command, payload, 16)?;
        let argsz = r.u32()?;
        let _flags = r.u32()?;
        let index = r.u32()?;
        let count = r.u32()?;
        if count > limits.max_io_fds {
            return Err(WireError::CountTooLarge {
                command,
                count: u64::from(count),
                limit: u64::from(limits.max_io_fds),
            });
        }
        let mut reply = Self {
            argsz,
            index,
            entries: Vec::new(),
        };
        // Entries may grow in later versions: the stride follows from argsz, as the protocol says.
        let room = r.rest();
        if count == 0 || room.is_empty() {
            return Ok(reply);
        }
        let stride = (argsz.saturating_sub(16) / count) as usize;
        if stride < IO_FD_LEN {
            let what = "argsz is too small for its entries";
            return Err(WireError::Invalid { command, what });
        }
        for i in 0..count as usize {
            let entry = room.get(i.saturating_mul(stride)..).unwrap_or(&[]);
            let mut e = Reader::new(command, entry, IO_FD_LEN)?;
            let offset = e.u64()?;
            let size = e.u64()?;
            let fd_index = e.u32()?;
            let kind = e.u32()?;
            let flags = e.u32()?;
            let _padding = e.u32()?;
            let datamatch = e.u64()?;
            reply.entries.push(IoEventFd {
                offset,
                size,
                fd_index,
                kind,
                flags,
                datamatch,
            });
        }
        Ok(reply)
    }
}
