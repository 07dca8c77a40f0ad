// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory that a device reads and writes: one memfd, mapped shared, cut into regions.
//!
//! A device may use a region until it was seen to be reset. A [`DmaRegion`] therefore goes back to
//! its pool only by [`DmaRegion::release_after_reset`]; one that is merely dropped stays allocated
//! for the life of the pool and is counted ([`PoolStats::leaked`]).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create, MemfdFlags, SealFlags,
};

use crate::error::{Cause, Error, Place};
use crate::sys::SharedMapping;

/// Granularity of regions, in bytes.
pub const PAGE: usize = 4096;

/// Largest memory that is taken over from another process.
const MAX_ADOPTED: usize = 64 << 20;

/// How an access to DMA memory is ordered against the others of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not at all.
    Relaxed,
    /// A load before everything that follows (acquire), a store after everything that precedes
    /// (release).
    Ordered,
}

/// Bytes of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Size of the pool.
    pub size: usize,
    /// Bytes in live regions.
    pub live: usize,
    /// Bytes of regions that were dropped without a reset; they stay with the device.
    pub leaked: usize,
}

#[derive(Default)]
struct PoolState {
    /// Free ranges, offset to length; neighbours are merged.
    free: BTreeMap<usize, usize>,
    live: usize,
    leaked: usize,
}

struct PoolInner {
    function: Arc<str>,
    fd: OwnedFd,
    mapping: SharedMapping,
    iova: u64,
    state: Mutex<PoolState>,
}

impl PoolInner {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        // Every update leaves the books consistent, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One memfd that the device sees at a fixed IOVA.
#[derive(Clone)]
pub struct DmaPool {
    inner: Arc<PoolInner>,
}

impl std::fmt::Debug for DmaPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DmaPool")
            .field("iova", &self.iova())
            .field("stats", &self.stats())
            .finish()
    }
}

impl DmaPool {
    /// Makes a pool of `size` bytes (rounded up to pages) that the device will see at `iova`
    /// (a multiple of the page size). `function` names the owner in errors.
    pub fn new(function: Arc<str>, size: usize, iova: u64) -> Result<Self, Error> {
        let place = Place::Dma {
            offset: 0,
            len: size,
        };
        let err = |cause| Error::new(function.clone(), place.clone(), cause);
        let os = |call| move |errno| Cause::Os { call, errno };
        let size = size
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(|| err(Cause::OutOfRange { size: u64::MAX }))?;
        if iova % PAGE as u64 != 0 || iova.checked_add(size as u64).is_none() {
            return Err(err(Cause::Unaligned));
        }
        let fd = memfd_create(
            "virtio-pf-dma",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )
        .map_err(os("memfd_create"))
        .map_err(err)?;
        ftruncate(&fd, size as u64)
            .map_err(os("ftruncate"))
            .map_err(err)?;
        Self::seal(&fd).map_err(os("F_ADD_SEALS")).map_err(err)?;
        Self::over(function, fd, size, iova)
    }

    /// Takes over the memory of a pool that another process had made, with all of it free. The
    /// device may write to what it was given before until it was reset.
    pub fn adopt(function: Arc<str>, fd: OwnedFd, iova: u64) -> Result<Self, Error> {
        let err = |cause| {
            let place = Place::Dma { offset: 0, len: 0 };
            Error::new(function.clone(), place, cause)
        };
        let os = |call| move |errno| Cause::Os { call, errno };
        let seals = fcntl_get_seals(&fd)
            .map_err(os("F_GET_SEALS"))
            .map_err(err)?;
        let size = fstat(&fd).map_err(os("fstat")).map_err(err)?.st_size;
        let size = usize::try_from(size).unwrap_or(0);
        if !seals.contains(SealFlags::SHRINK) || size == 0 || size % PAGE != 0 || size > MAX_ADOPTED
        {
            let why = format!("a file of {size} bytes is not the memory of a function");
            return Err(err(Cause::Misbehaved(why)));
        }
        if iova % PAGE as u64 != 0 || iova.checked_add(size as u64).is_none() {
            return Err(err(Cause::Unaligned));
        }
        Self::over(function.clone(), fd, size, iova)
    }

    fn seal(fd: &OwnedFd) -> Result<(), rustix::io::Errno> {
        // The peer gets this file too; it must not be able to shrink it under the mapping.
        fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    }

    /// A pool over a file of `size` bytes that cannot shrink.
    fn over(function: Arc<str>, fd: OwnedFd, size: usize, iova: u64) -> Result<Self, Error> {
        let err = |cause| {
            let place = Place::Dma {
                offset: 0,
                len: size,
            };
            Error::new(function.clone(), place, cause)
        };
        let os = |call| move |errno| Cause::Os { call, errno };
        let mapping = SharedMapping::new(fd.as_fd(), size)
            .map_err(os("mmap"))
            .map_err(err)?;
        let state = PoolState {
            free: BTreeMap::from([(0, size)]),
            ..PoolState::default()
        };
        Ok(DmaPool {
            inner: Arc::new(PoolInner {
                function,
                fd,
                mapping,
                iova,
                state: Mutex::new(state),
            }),
        })
    }

    /// The memory file, to hand to whoever performs the device's DMA.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    /// The memory as this process has it.
    pub(crate) fn mapping(&self) -> &SharedMapping {
        &self.inner.mapping
    }

    /// Where the device sees byte 0.
    pub fn iova(&self) -> u64 {
        self.inner.iova
    }

    /// Bytes of the pool.
    pub fn size(&self) -> usize {
        self.inner.mapping.len()
    }

    /// What is in use.
    pub fn stats(&self) -> PoolStats {
        let state = self.inner.state();
        PoolStats {
            size: self.size(),
            live: state.live,
            leaked: state.leaked,
        }
    }

    /// Takes a zeroed region of `len` bytes, rounded up to pages.
    pub fn alloc(&self, len: usize) -> Result<DmaRegion, Error> {
        let exhausted = |free| {
            Error::new(
                self.inner.function.clone(),
                Place::Dma { offset: 0, len },
                Cause::PoolExhausted {
                    want: len,
                    free,
                    size: self.size(),
                },
            )
        };
        let want = len
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(|| exhausted(0))?;
        let start = {
            let mut state = self.inner.state();
            let largest = state.free.values().copied().max().unwrap_or(0);
            let (start, have) = state
                .free
                .iter()
                .find(|(_, have)| **have >= want)
                .map(|(start, have)| (*start, *have))
                .ok_or_else(|| exhausted(largest))?;
            state.free.remove(&start);
            if have > want {
                state.free.insert(start + want, have - want);
            }
            state.live += want;
            start
        };
        let region = DmaRegion {
            pool: Some(self.inner.clone()),
            start,
            len: want,
        };
        region.zero(0, want)?;
        Ok(region)
    }

    /// A view of the whole pool as a device has it: for devices in the same process, in tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn device_view(&self) -> DeviceView {
        DeviceView { pool: self.clone() }
    }
}

/// Part of a pool. Multi-byte values are little-endian in memory, as everything virtio is.
pub struct DmaRegion {
    /// `None` only while being released.
    pool: Option<Arc<PoolInner>>,
    start: usize,
    len: usize,
}

impl std::fmt::Debug for DmaRegion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DmaRegion")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

macro_rules! accessors {
    ($load:ident, $store:ident, $ty:ty, $map:ident) => {
        /// Reads the aligned little-endian value at byte `offset`.
        pub fn $load(&self, offset: usize, order: Order) -> Result<$ty, Error> {
            let size = size_of::<$ty>();
            let cell = self
                .place(offset, size)
                .and_then(|(pool, at)| pool.mapping.$map(at))
                .ok_or_else(|| self.bad(offset, size))?;
            Ok(<$ty>::from_le(cell.load(match order {
                Order::Relaxed => Relaxed,
                Order::Ordered => Acquire,
            })))
        }

        /// Stores a little-endian value at the aligned byte `offset`.
        pub fn $store(&self, offset: usize, value: $ty, order: Order) -> Result<(), Error> {
            let size = size_of::<$ty>();
            let cell = self
                .place(offset, size)
                .and_then(|(pool, at)| pool.mapping.$map(at))
                .ok_or_else(|| self.bad(offset, size))?;
            cell.store(
                value.to_le(),
                match order {
                    Order::Relaxed => Relaxed,
                    Order::Ordered => Release,
                },
            );
            Ok(())
        }
    };
}

impl DmaRegion {
    /// Bytes of the region.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a region has at least a page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the device sees byte 0 of the region.
    pub fn iova(&self) -> u64 {
        self.pool
            .as_ref()
            .map_or(0, |pool| pool.iova + self.start as u64)
    }

    /// The address of byte `offset` in the device's eyes, if `len` bytes are there.
    pub fn iova_at(&self, offset: usize, len: usize) -> Result<u64, Error> {
        let (pool, at) = self
            .place(offset, len)
            .ok_or_else(|| self.bad(offset, len))?;
        Ok(pool.iova + at as u64)
    }

    fn place(&self, offset: usize, len: usize) -> Option<(&PoolInner, usize)> {
        let end = offset.checked_add(len)?;
        let pool = self.pool.as_deref()?;
        (end <= self.len).then_some((pool, self.start + offset))
    }

    fn bad(&self, offset: usize, len: usize) -> Error {
        let function = self
            .pool
            .as_ref()
            .map_or_else(|| Arc::from("released"), |pool| pool.function.clone());
        let cause = if offset.checked_add(len).is_some_and(|end| end <= self.len) {
            Cause::Unaligned
        } else {
            Cause::OutOfRange {
                size: self.len as u64,
            }
        };
        Error::new(function, Place::Dma { offset, len }, cause)
    }

    accessors!(load_u8, store_u8, u8, u8);
    accessors!(load_u16, store_u16, u16, u16);
    accessors!(load_u32, store_u32, u32, u32);
    accessors!(load_u64, store_u64, u64, u64);

    /// Copies bytes out of the region, each read once, in no particular order.
    pub fn read_bytes(&self, offset: usize, buf: &mut [u8]) -> Result<(), Error> {
        let (pool, at) = self
            .place(offset, buf.len())
            .ok_or_else(|| self.bad(offset, buf.len()))?;
        for (i, byte) in buf.iter_mut().enumerate() {
            if let Some(cell) = pool.mapping.u8(at + i) {
                *byte = cell.load(Relaxed);
            }
        }
        Ok(())
    }

    /// Copies bytes into the region, each written once, in no particular order.
    pub fn write_bytes(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        let (pool, at) = self
            .place(offset, data.len())
            .ok_or_else(|| self.bad(offset, data.len()))?;
        for (i, byte) in data.iter().enumerate() {
            if let Some(cell) = pool.mapping.u8(at + i) {
                cell.store(*byte, Relaxed);
            }
        }
        Ok(())
    }

    /// Fills `len` bytes with zero.
    pub fn zero(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.fill(offset, len, 0)
    }

    /// Fills `len` bytes with `value`.
    pub fn fill(&self, offset: usize, len: usize, value: u8) -> Result<(), Error> {
        let (pool, at) = self
            .place(offset, len)
            .ok_or_else(|| self.bad(offset, len))?;
        for i in 0..len {
            if let Some(cell) = pool.mapping.u8(at + i) {
                cell.store(value, Relaxed);
            }
        }
        Ok(())
    }

    /// Gives the memory back. Only for a region that no device can reach any more: the device was
    /// reset and the reset was seen to finish, or its address was never given to it.
    pub fn release_after_reset(mut self) {
        let Some(pool) = self.pool.take() else { return };
        let mut state = pool.state();
        state.live = state.live.saturating_sub(self.len);
        let (mut start, mut len) = (self.start, self.len);
        if let Some(next) = state.free.remove(&(start + len)) {
            len += next;
        }
        let before = state.free.range(..start).next_back();
        if let Some((prev, have)) = before.map(|(p, h)| (*p, *h)) {
            if prev + have == start {
                start = prev;
                len += have;
            }
        }
        state.free.insert(start, len);
    }
}

impl Drop for DmaRegion {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut state = pool.state();
            state.live = state.live.saturating_sub(self.len);
            state.leaked += self.len;
        }
    }
}

/// What a device in the same process sees of a pool.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Debug)]
pub struct DeviceView {
    pool: DmaPool,
}

#[cfg(any(test, feature = "testing"))]
impl DeviceView {
    fn at(&self, iova: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(iova.checked_sub(self.pool.iova())?).ok()?;
        (at.checked_add(len)? <= self.pool.size()).then_some(at)
    }

    /// Reads device memory; `false` if the range is not mapped.
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> bool {
        let Some(at) = self.at(iova, buf.len()) else {
            return false;
        };
        for (i, byte) in buf.iter_mut().enumerate() {
            if let Some(cell) = self.pool.inner.mapping.u8(at + i) {
                *byte = cell.load(Acquire);
            }
        }
        true
    }

    /// Writes device memory; `false` if the range is not mapped.
    pub fn write(&self, iova: u64, data: &[u8]) -> bool {
        let Some(at) = self.at(iova, data.len()) else {
            return false;
        };
        for (i, byte) in data.iter().enumerate() {
            if let Some(cell) = self.pool.inner.mapping.u8(at + i) {
                cell.store(*byte, Release);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
