// SPDX-License-Identifier: GPL-2.0-or-later
//! The memory that one function reaches: what its client mapped, by I/O virtual address.
//!
//! A client behind an emulated IOMMU maps page by page, hundreds of thousands of times, each with
//! a file descriptor. So descriptors are closed at once, every file is mapped once as a whole
//! ([`files`]), and a mapping here is only a range with an offset.

pub mod files;

use files::{FileCache, MappedFile};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_user_wire::{dma_flags, errno, DmaMap};
use vm_memory::{Bytes, VolatileMemory};

/// Mappings one client may have. The protocol's own 65535 is too few for 4 KiB pages.
pub const MAX_MAPPINGS: usize = 1 << 20;

/// Why an access or a mapping failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// No mapping covers the address.
    #[error("DMA to unmapped address {0:#x}")]
    Unmapped(u64),
    /// A mapping without a file covers the address.
    #[error("DMA to address {0:#x}, which was mapped without a file descriptor (guest memory must be shared)")]
    Unreachable(u64),
    /// The mapping does not allow this direction.
    #[error("DMA to address {0:#x} in a direction that its mapping forbids")]
    Forbidden(u64),
    /// The range crosses the end of the address space.
    #[error("DMA range at {0:#x} crosses the end of the address space")]
    Overflow(u64),
}

#[derive(Debug)]
struct Mapping {
    /// Last address, inclusive.
    last: u64,
    /// Offset in the file of the first address.
    offset: u64,
    flags: u32,
    /// `None`: accepted, but the memory cannot be reached.
    file: Option<Arc<MappedFile>>,
}

/// Counters of a [`DmaSpace`].
#[derive(Debug, Default)]
pub struct DmaCounters {
    /// Mappings accepted.
    pub maps: AtomicU64,
    /// Unmap requests.
    pub unmaps: AtomicU64,
    /// Mappings accepted without memory behind them.
    pub unreachable: AtomicU64,
    /// Accesses that failed.
    pub faults: AtomicU64,
}

/// The address space of one function and one client.
#[derive(Debug, Default)]
pub struct DmaSpace {
    map: Mutex<BTreeMap<u64, Mapping>>,
    /// What happened.
    pub counters: DmaCounters,
}

impl DmaSpace {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Mapping>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a mapping. A map without a descriptor is accepted: QEMU sends such for ROM, and for
    /// all memory when guest memory is not shared.
    ///
    /// # Errors
    /// The error number for the reply and a text for the log.
    pub fn map(
        &self,
        request: &DmaMap,
        fd: Option<OwnedFd>,
        files: &mut FileCache,
    ) -> Result<(), (u32, String)> {
        let end = request
            .size
            .checked_sub(1)
            .and_then(|n| request.iova.checked_add(n));
        let Some(last) = end else {
            let text = format!(
                "range {:#x}+{:#x} is empty or overflows",
                request.iova, request.size
            );
            return Err((errno::EINVAL, text));
        };
        {
            let map = self.lock();
            if map.len() >= MAX_MAPPINGS {
                return Err((errno::ENOSPC, format!("more than {MAX_MAPPINGS} mappings")));
            }
            if let Some((start, old)) = map.range(..=last).next_back() {
                if old.last >= request.iova {
                    let text = format!(
                        "{:#x}..={last:#x} overlaps the mapping {start:#x}..={:#x}",
                        request.iova, old.last
                    );
                    return Err((errno::EEXIST, text));
                }
            }
        }
        let file = match fd {
            Some(fd) => {
                let writable = request.flags & dma_flags::MAP_WRITE != 0;
                let end = request.offset.checked_add(request.size);
                let end = end.ok_or((errno::EINVAL, "file offset overflows".to_owned()))?;
                files.get(fd, end, writable)?
            }
            None => None,
        };
        self.counters.maps.fetch_add(1, Ordering::Relaxed);
        if file.is_none() {
            self.counters.unreachable.fetch_add(1, Ordering::Relaxed);
        }
        let mapping = Mapping {
            last,
            offset: request.offset,
            flags: request.flags,
            file,
        };
        self.lock().insert(request.iova, mapping);
        Ok(())
    }

    /// Takes away everything in `iova .. iova + size`, the size saturating at the end of the
    /// address space. A mapping that reaches out of the range keeps what lies outside: after the
    /// reply no byte of the range may be touched, and no other byte may be lost.
    pub fn unmap(&self, iova: u64, size: u64) -> usize {
        self.counters.unmaps.fetch_add(1, Ordering::Relaxed);
        let Some(length) = size.checked_sub(1) else {
            return 0;
        };
        let last = iova.saturating_add(length);
        let mut map = self.lock();
        // Candidates: a mapping that begins before the range and reaches in, and all inside.
        let mut hit: Vec<u64> = Vec::new();
        if let Some((start, before)) = map.range(..iova).next_back() {
            if before.last >= iova {
                hit.push(*start);
            }
        }
        hit.extend(map.range(iova..=last).map(|(start, _)| *start));
        for start in &hit {
            let Some(old) = map.remove(start) else {
                continue;
            };
            if old.last > last {
                let after = last.saturating_add(1);
                let rest = Mapping {
                    last: old.last,
                    offset: old.offset.saturating_add(after - start),
                    flags: old.flags,
                    file: old.file.clone(),
                };
                map.insert(after, rest);
            }
            if *start < iova {
                let rest = Mapping {
                    last: iova - 1,
                    ..old
                };
                map.insert(*start, rest);
            }
        }
        hit.len()
    }

    /// Takes everything away.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Calls `access(file, offset, range of the buffer)` for each piece of `iova .. iova + len`.
    fn each(
        &self,
        iova: u64,
        len: usize,
        need: u32,
        mut access: impl FnMut(&MappedFile, u64, std::ops::Range<usize>) -> bool,
    ) -> Result<(), DmaError> {
        let map = self.lock();
        let mut done = 0usize;
        while done < len {
            let at = iova
                .checked_add(done as u64)
                .ok_or(DmaError::Overflow(iova))?;
            let Some((start, m)) = map.range(..=at).next_back().filter(|(_, m)| m.last >= at)
            else {
                return Err(DmaError::Unmapped(at));
            };
            if m.flags & need != need {
                return Err(DmaError::Forbidden(at));
            }
            let Some(file) = &m.file else {
                return Err(DmaError::Unreachable(at));
            };
            let room = (m.last - at).saturating_add(1);
            let n = usize::try_from(room).unwrap_or(usize::MAX).min(len - done);
            let offset = m.offset.saturating_add(at - start);
            if !access(file, offset, done..done + n) {
                return Err(DmaError::Unreachable(at));
            }
            done += n;
        }
        Ok(())
    }

    fn note<T>(&self, result: Result<T, DmaError>) -> Result<T, DmaError> {
        if result.is_err() {
            self.counters.faults.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Reads memory. Aligned accesses of 2, 4 and 8 bytes are single loads, so ring indices are
    /// never seen half written.
    ///
    /// # Errors
    /// [`DmaError`]; `buf` may then be partly filled and must not be used.
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let result = self.each(
            iova,
            buf.len(),
            dma_flags::MAP_READ,
            |file, offset, range| {
                let Some(dst) = buf.get_mut(range) else {
                    return false;
                };
                let Some(slice) = file.slice(offset, dst.len()) else {
                    return false;
                };
                let order = Ordering::Acquire;
                match dst.len() {
                    2 if offset % 2 == 0 => match slice.load::<u16>(0, order) {
                        Ok(v) => dst.copy_from_slice(&v.to_ne_bytes()),
                        Err(_) => return false,
                    },
                    4 if offset % 4 == 0 => match slice.load::<u32>(0, order) {
                        Ok(v) => dst.copy_from_slice(&v.to_ne_bytes()),
                        Err(_) => return false,
                    },
                    8 if offset % 8 == 0 => match slice.load::<u64>(0, order) {
                        Ok(v) => dst.copy_from_slice(&v.to_ne_bytes()),
                        Err(_) => return false,
                    },
                    n => return slice.copy_to(dst) == n,
                }
                true
            },
        );
        self.note(result)
    }

    /// Writes memory. Aligned accesses of 2, 4 and 8 bytes are single stores with release order,
    /// so whoever sees a ring index sees what was written before it.
    ///
    /// # Errors
    /// [`DmaError`]; pieces in front of the failing address may have been written.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let result = self.each(
            iova,
            data.len(),
            dma_flags::MAP_WRITE,
            |file, offset, range| {
                let Some(src) = data.get(range) else {
                    return false;
                };
                if !file.writable() {
                    return false;
                }
                let Some(slice) = file.slice(offset, src.len()) else {
                    return false;
                };
                let order = Ordering::Release;
                match *src {
                    [a, b] if offset % 2 == 0 => {
                        slice.store(u16::from_ne_bytes([a, b]), 0, order).is_ok()
                    }
                    [a, b, c, d] if offset % 4 == 0 => slice
                        .store(u32::from_ne_bytes([a, b, c, d]), 0, order)
                        .is_ok(),
                    [a, b, c, d, e, f, g, h] if offset % 8 == 0 => {
                        let v = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                        slice.store(v, 0, order).is_ok()
                    }
                    _ => {
                        slice.copy_from(src);
                        true
                    }
                }
            },
        );
        self.note(result)
    }
}

impl MappedFile {
    fn slice(&self, offset: u64, len: usize) -> Option<vm_memory::VolatileSlice<'_, ()>> {
        let offset = usize::try_from(offset).ok()?;
        self.region().get_slice(offset, len).ok()
    }
}

#[cfg(test)]
mod tests;
