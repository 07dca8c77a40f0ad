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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vfio_user_wire::{dma_flags, errno, DmaMap};
use vm_memory::{Bytes, VolatileSlice};

/// Mappings one client may have. The protocol's own 65535 is too few for 4 KiB pages.
pub const MAX_MAPPINGS: usize = 1 << 20;

/// Files one address space may have used; then [`DmaSpace::compacted`] makes room.
pub const MAX_SLOTS: usize = 64;

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

#[derive(Clone, Copy, Debug)]
struct Mapping {
    /// Last address, inclusive.
    last: u64,
    /// Offset in the file of the first address.
    offset: u64,
    flags: u32,
    /// Slot of the file. `None`: accepted, but the memory cannot be reached.
    slot: Option<u8>,
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
///
/// Files are kept in slots that are filled once and live as long as the space, so that a piece of
/// memory can be handed out without holding the lock over its use.
#[derive(Debug)]
pub struct DmaSpace {
    map: Mutex<BTreeMap<u64, Mapping>>,
    slots: [OnceLock<Arc<MappedFile>>; MAX_SLOTS],
    /// What happened.
    pub counters: DmaCounters,
}

impl Default for DmaSpace {
    fn default() -> Self {
        Self {
            map: Mutex::default(),
            slots: [const { OnceLock::new() }; MAX_SLOTS],
            counters: DmaCounters::default(),
        }
    }
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
        let slot = match file {
            Some(file) => match self.slot_of(&file) {
                Some(slot) => Some(slot),
                None => {
                    let text = format!("more than {MAX_SLOTS} files in one address space");
                    return Err((errno::ENOSPC, text));
                }
            },
            None => None,
        };
        self.counters.maps.fetch_add(1, Ordering::Relaxed);
        if slot.is_none() {
            self.counters.unreachable.fetch_add(1, Ordering::Relaxed);
        }
        let mapping = Mapping {
            last,
            offset: request.offset,
            flags: request.flags,
            slot,
        };
        self.lock().insert(request.iova, mapping);
        Ok(())
    }

    /// The slot that holds this mapping of a file, or a free one filled with it.
    fn slot_of(&self, file: &Arc<MappedFile>) -> Option<u8> {
        let mut slots = self.slots.iter().zip(0u8..);
        slots.find_map(|(slot, n)| {
            let there = slot.get_or_init(|| Arc::clone(file));
            Arc::ptr_eq(there, file).then_some(n)
        })
    }

    /// Whether all slots are filled.
    pub fn is_crowded(&self) -> bool {
        self.slots.last().is_some_and(|slot| slot.get().is_some())
    }

    /// A copy that holds only the files that are still mapped, for a client that maps and unmaps
    /// many different ones.
    pub fn compacted(&self) -> Self {
        let copy = Self::default();
        for (start, mapping) in self.lock().iter() {
            let file = mapping
                .slot
                .and_then(|n| self.slots.get(usize::from(n))?.get());
            let slot = file.and_then(|file| copy.slot_of(file));
            copy.lock().insert(*start, Mapping { slot, ..*mapping });
        }
        let pairs = [
            (&self.counters.maps, &copy.counters.maps),
            (&self.counters.unmaps, &copy.counters.unmaps),
            (&self.counters.unreachable, &copy.counters.unreachable),
            (&self.counters.faults, &copy.counters.faults),
        ];
        for (from, to) in pairs {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        copy
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
                    offset: old.offset.saturating_add(after - start),
                    ..old
                };
                map.insert(after, rest);
            }
            if *start < iova {
                let last = iova - 1;
                map.insert(*start, Mapping { last, ..old });
            }
        }
        hit.len()
    }

    /// Takes everything away.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The longest piece of host memory that begins at `iova`, has at most `len` (at least 1)
    /// bytes and may be accessed as `need` says ([`dma_flags`]).
    ///
    /// # Errors
    /// Why the first byte cannot be reached.
    pub fn piece(&self, iova: u64, len: usize, need: u32) -> Result<VolatileSlice<'_>, DmaError> {
        let result = self.find(iova, len, need);
        if result.is_err() {
            self.counters.faults.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn find(&self, iova: u64, len: usize, need: u32) -> Result<VolatileSlice<'_>, DmaError> {
        let (slot, offset, len) = {
            let map = self.lock();
            let mapping = map.range(..=iova).next_back();
            let Some((start, m)) = mapping.filter(|(_, m)| m.last >= iova) else {
                return Err(DmaError::Unmapped(iova));
            };
            if m.flags & need != need {
                return Err(DmaError::Forbidden(iova));
            }
            let room = (m.last - iova).saturating_add(1);
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(len);
            (m.slot, m.offset.saturating_add(iova - start), len)
        };
        let file = slot.and_then(|n| self.slots.get(usize::from(n))?.get());
        let file = file.ok_or(DmaError::Unreachable(iova))?;
        let writes = need & dma_flags::MAP_WRITE != 0;
        if writes && !file.writable() {
            return Err(DmaError::Forbidden(iova));
        }
        file.slice(offset, len).ok_or(DmaError::Unreachable(iova))
    }

    /// Reads memory. Aligned accesses of 2, 4 and 8 bytes are single loads, so ring indices are
    /// never seen half written.
    ///
    /// # Errors
    /// [`DmaError`]; `buf` may then be partly filled and must not be used.
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let (mut at, mut rest) = (iova, buf);
        while !rest.is_empty() {
            let piece = self.piece(at, rest.len(), dma_flags::MAP_READ)?;
            let (dst, tail) = rest.split_at_mut(piece.len().min(rest.len()));
            let order = Ordering::Acquire;
            // `load` refuses unaligned addresses; then a copy has to do.
            let loaded = match dst.len() {
                2 => piece
                    .load::<u16>(0, order)
                    .map(|v| dst.copy_from_slice(&v.to_ne_bytes())),
                4 => piece
                    .load::<u32>(0, order)
                    .map(|v| dst.copy_from_slice(&v.to_ne_bytes())),
                8 => piece
                    .load::<u64>(0, order)
                    .map(|v| dst.copy_from_slice(&v.to_ne_bytes())),
                _ => {
                    piece.copy_to(dst);
                    Ok(())
                }
            };
            if loaded.is_err() {
                piece.copy_to(dst);
            }
            at = next(iova, at, dst.len(), tail.is_empty())?;
            rest = tail;
        }
        Ok(())
    }

    /// Writes memory. Aligned accesses of 2, 4 and 8 bytes are single stores with release order,
    /// so whoever sees a ring index sees what was written before it.
    ///
    /// # Errors
    /// [`DmaError`]; pieces in front of the failing address may have been written.
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let (mut at, mut rest) = (iova, data);
        while !rest.is_empty() {
            let piece = self.piece(at, rest.len(), dma_flags::MAP_WRITE)?;
            let (src, tail) = rest.split_at(piece.len().min(rest.len()));
            let order = Ordering::Release;
            let stored = match *src {
                [a, b] => piece.store(u16::from_ne_bytes([a, b]), 0, order),
                [a, b, c, d] => piece.store(u32::from_ne_bytes([a, b, c, d]), 0, order),
                [a, b, c, d, e, f, g, h] => {
                    piece.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), 0, order)
                }
                _ => {
                    piece.copy_from(src);
                    Ok(())
                }
            };
            if stored.is_err() {
                piece.copy_from(src);
            }
            at = next(iova, at, src.len(), tail.is_empty())?;
            rest = tail;
        }
        Ok(())
    }
}

/// The address behind a piece; only the last piece may end with the address space.
fn next(start: u64, at: u64, done: usize, is_last: bool) -> Result<u64, DmaError> {
    match at.checked_add(done as u64) {
        Some(next) => Ok(next),
        None if is_last => Ok(0),
        None => Err(DmaError::Overflow(start)),
    }
}

#[cfg(test)]
mod tests;
