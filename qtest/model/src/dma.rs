// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that a function reaches by DMA.
//!
//! Every function has an address space of its own: what its front end mapped for it, and nothing
//! else. Addresses are I/O virtual addresses; a piece that is contiguous there may lie in several
//! places of the host.

use std::collections::BTreeMap;
use std::iter::FusedIterator;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, MmapRegion, Permissions, VolatileMemory,
    VolatileSlice,
};

/// What a device wants to do with a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads.
    Read,
    /// The device writes.
    Write,
}

/// A function's DMA address space.
pub trait DmaMemory: Send + Sync {
    /// The longest piece of host memory that starts at `iova`, is at most `len` (at least 1) bytes
    /// long and allows `access`; `None` if the first byte is not reachable that way.
    fn slice(&self, iova: u64, len: usize, access: Access) -> Option<VolatileSlice<'_>>;

    /// Copies from memory; `false` if any byte is unreachable (the buffer is then unspecified).
    fn read(&self, iova: u64, buf: &mut [u8]) -> bool
    where
        Self: Sized,
    {
        DmaView(self).read_slice(buf, GuestAddress(iova)).is_ok()
    }

    /// Copies to memory; `false` if any byte is unreachable (a prefix may have been written).
    fn write(&self, iova: u64, data: &[u8]) -> bool
    where
        Self: Sized,
    {
        DmaView(self).write_slice(data, GuestAddress(iova)).is_ok()
    }
}

/// An address space with nothing in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

impl DmaMemory for NoMemory {
    fn slice(&self, _iova: u64, _len: usize, _access: Access) -> Option<VolatileSlice<'_>> {
        None
    }
}

/// A [`DmaMemory`] as the ring code of `virtio-queue` wants it.
#[derive(Clone, Copy)]
pub struct DmaView<'m>(pub &'m dyn DmaMemory);

impl std::fmt::Debug for DmaView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DmaView")
    }
}

/// The host pieces of a range; ends after the first piece that is not reachable.
struct Pieces<'m> {
    memory: &'m dyn DmaMemory,
    iova: u64,
    left: usize,
    access: Access,
}

impl<'m> Iterator for Pieces<'m> {
    type Item = vm_memory::guest_memory::Result<VolatileSlice<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let at = self.iova;
        let piece = self
            .memory
            .slice(at, self.left, self.access)
            .filter(|s| !s.is_empty() && s.len() <= self.left);
        let Some(piece) = piece else {
            self.left = 0;
            return Some(Err(vm_memory::GuestMemoryError::InvalidGuestAddress(
                GuestAddress(at),
            )));
        };
        self.left -= piece.len();
        match at.checked_add(piece.len() as u64) {
            Some(next) => self.iova = next,
            // Only the very last byte of the address space may be the end of a range.
            None if self.left == 0 => {}
            None => {
                self.left = 0;
                return Some(Err(vm_memory::GuestMemoryError::GuestAddressOverflow));
            }
        }
        Some(Ok(piece))
    }
}

impl FusedIterator for Pieces<'_> {}
impl<'m> GuestMemorySliceIterator<'m, ()> for Pieces<'m> {}

fn wanted(access: Permissions) -> Access {
    if access.has_write() {
        Access::Write
    } else {
        Access::Read
    }
}

impl GuestMemory for DmaView<'_> {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        self.pieces(addr.0, count, wanted(access))
            .all(|p| p.is_ok())
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> vm_memory::guest_memory::Result<impl GuestMemorySliceIterator<'a, ()>> {
        Ok(self.pieces(addr.0, count, wanted(access)))
    }
}

impl<'m> DmaView<'m> {
    fn pieces(&self, iova: u64, len: usize, access: Access) -> Pieces<'m> {
        Pieces {
            memory: self.0,
            iova,
            left: len,
            access,
        }
    }
}

/// Why a mapping was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// Nothing to map.
    #[error("a mapping of no bytes")]
    Empty,
    /// The range leaves the 64-bit address space or the region.
    #[error("mapping {len:#x} bytes at {iova:#x} leaves the address space or its memory")]
    OutOfRange {
        /// First address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Something is mapped there.
    #[error("mapping at {iova:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// First address of the new mapping.
        iova: u64,
        /// First address of the mapping that is in the way.
        other: u64,
    },
}

/// What the driver allowed on a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Allowed {
    /// Both.
    pub const ALL: Allowed = Allowed {
        read: true,
        write: true,
    };
}

#[derive(Clone, Debug)]
struct Mapping {
    len: u64,
    region: Arc<MmapRegion>,
    offset: u64,
    allowed: Allowed,
}

/// A DMA address space made of pieces of mapped host memory: what a vfio-user front end builds from
/// DMA_MAP and DMA_UNMAP.
#[derive(Clone, Debug, Default)]
pub struct IovaMap {
    by_start: BTreeMap<u64, Mapping>,
}

impl IovaMap {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps `len` bytes of `region` from `offset` at `iova`.
    ///
    /// # Errors
    /// See [`MapError`]; nothing is mapped then.
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        region: Arc<MmapRegion>,
        offset: u64,
        allowed: Allowed,
    ) -> Result<(), MapError> {
        if len == 0 {
            return Err(MapError::Empty);
        }
        let bad = MapError::OutOfRange { iova, len };
        let last = iova.checked_add(len - 1).ok_or(bad)?;
        let end = offset.checked_add(len).ok_or(bad)?;
        if end > region.size() as u64 {
            return Err(bad);
        }
        if let Some((start, m)) = self.by_start.range(..=last).next_back() {
            if start.saturating_add(m.len - 1) >= iova {
                return Err(MapError::Overlap {
                    iova,
                    other: *start,
                });
            }
        }
        self.by_start.insert(
            iova,
            Mapping {
                len,
                region,
                offset,
                allowed,
            },
        );
        Ok(())
    }

    /// Removes whatever is mapped in `len` bytes from `iova`; ranges that reach past the end of the
    /// address space and ranges without a mapping are fine. Gives the number of bytes removed.
    pub fn unmap(&mut self, iova: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let last = iova.saturating_add(len - 1);
        let mut removed = 0;
        // The mapping that starts before the range may reach into it.
        if let Some((&start, m)) = self.by_start.range_mut(..iova).next_back() {
            let m_last = start.saturating_add(m.len - 1);
            if m_last >= iova {
                let tail = m.clone();
                m.len = iova - start;
                removed += m_last.min(last) - iova + 1;
                self.keep_tail(start, m_last, &tail, last);
            }
        }
        while let Some((&start, _)) = self.by_start.range(iova..=last).next() {
            let Some(m) = self.by_start.remove(&start) else {
                break;
            };
            let m_last = start.saturating_add(m.len - 1);
            removed += m_last.min(last) - start + 1;
            self.keep_tail(start, m_last, &m, last);
        }
        removed
    }

    /// Puts back the part of `m` (from `start` to `m_last`) that lies behind `last`.
    fn keep_tail(&mut self, start: u64, m_last: u64, m: &Mapping, last: u64) {
        if m_last > last {
            let cut = last + 1 - start;
            self.by_start.insert(
                last + 1,
                Mapping {
                    len: m.len - cut,
                    offset: m.offset + cut,
                    ..m.clone()
                },
            );
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.by_start.clear();
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }
}

impl DmaMemory for IovaMap {
    fn slice(&self, iova: u64, len: usize, access: Access) -> Option<VolatileSlice<'_>> {
        let (start, m) = self.by_start.range(..=iova).next_back()?;
        let inside = iova - start;
        if inside >= m.len {
            return None;
        }
        let allowed = match access {
            Access::Read => m.allowed.read,
            Access::Write => m.allowed.write,
        };
        if !allowed {
            return None;
        }
        let n = (m.len - inside).min(len as u64);
        let at = usize::try_from(m.offset + inside).ok()?;
        m.region.get_slice(at, usize::try_from(n).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(len: usize) -> Arc<MmapRegion> {
        Arc::new(MmapRegion::new(len).unwrap())
    }

    #[test]
    fn a_range_over_two_mappings_reads_both() {
        let mut map = IovaMap::new();
        let (a, b) = (region(0x1000), region(0x1000));
        map.map(0x5000, 0x1000, b, 0, Allowed::ALL).unwrap();
        map.map(0x4000, 0x1000, a, 0, Allowed::ALL).unwrap();
        assert!(map.write(0x4ffe, &[1, 2, 3, 4]));
        let mut out = [0; 4];
        assert!(map.read(0x4ffe, &mut out));
        assert_eq!(out, [1, 2, 3, 4]);
        assert!(!map.read(0x5ffe, &mut out), "past the end");
        assert!(!map.write(u64::MAX - 1, &[0; 4]), "past the address space");
    }

    #[test]
    fn refusals_change_nothing() {
        let mut map = IovaMap::new();
        let r = region(0x2000);
        map.map(0x1000, 0x1000, r.clone(), 0, Allowed::ALL).unwrap();
        for (iova, len, off) in [
            (0x1000, 0, 0),
            (0x1fff, 1, 0),
            (0x0, 0x1001, 0),
            (0x800, 0x2000, 0),
            (u64::MAX, 2, 0),
            (0x8000, 0x1000, 0x1001),
            (0x8000, 1, u64::MAX),
        ] {
            assert!(map.map(iova, len, r.clone(), off, Allowed::ALL).is_err());
        }
        assert_eq!(map.len(), 1);
        map.map(u64::MAX, 1, r, 0, Allowed::ALL).unwrap();
        assert!(map.write(u64::MAX, &[9]));
    }

    #[test]
    fn unmap_trims_and_tolerates_anything() {
        let mut map = IovaMap::new();
        let r = region(0x4000);
        map.map(0x1000, 0x4000, r.clone(), 0, Allowed::ALL).unwrap();
        assert!(map.write(0x4000, &[7]));
        assert_eq!(map.unmap(0x2000, 0x1000), 0x1000);
        assert!(map.write(0x1fff, &[1]) && !map.write(0x2000, &[1]));
        let mut b = [0];
        assert!(
            map.read(0x4000, &mut b) && b == [7],
            "the tail keeps its place"
        );
        assert_eq!(map.unmap(0x100_0000, u64::MAX), 0);
        assert_eq!(map.unmap(0, 0), 0);
        assert_eq!(map.unmap(0, u64::MAX), 0x3000);
        assert!(map.is_empty());
    }

    #[test]
    fn permissions_are_kept() {
        let mut map = IovaMap::new();
        let read_only = Allowed {
            read: true,
            write: false,
        };
        map.map(0, 0x1000, region(0x1000), 0, read_only).unwrap();
        assert!(map.read(0, &mut [0]) && !map.write(0, &[0]));
    }
}
