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
mod tests {
    use super::*;

    fn pool(pages: usize) -> DmaPool {
        DmaPool::new("test".into(), pages * PAGE, 0x10_0000).unwrap()
    }

    #[test]
    fn accesses_outside_or_unaligned_are_refused() {
        let r = pool(2).alloc(PAGE).unwrap();
        assert_eq!(r.iova(), 0x10_0000);
        r.store_u32(PAGE - 4, 0x0403_0201, Order::Ordered).unwrap();
        let mut b = [0; 4];
        r.read_bytes(PAGE - 4, &mut b).unwrap();
        assert_eq!(b, [1, 2, 3, 4]);
        let e = r.load_u32(PAGE - 2, Order::Relaxed).unwrap_err();
        assert_eq!(e.cause(), &Cause::OutOfRange { size: PAGE as u64 });
        assert_eq!(
            r.load_u32(2, Order::Relaxed).unwrap_err().cause(),
            &Cause::Unaligned
        );
        assert!(r.store_u64(usize::MAX, 0, Order::Relaxed).is_err());
        assert!(r.write_bytes(PAGE, &[0]).is_err());
        assert!(r.read_bytes(PAGE - 1, &mut b).is_err());
        assert!(r.iova_at(PAGE - 8, 9).is_err());
        assert_eq!(r.iova_at(8, 8).unwrap(), 0x10_0008);
        r.release_after_reset();
    }

    // Covers: VRG-11
    #[test]
    fn memory_comes_back_only_after_a_reset_and_then_zeroed() {
        let p = pool(3);
        let a = p.alloc(1).unwrap();
        let b = p.alloc(PAGE).unwrap();
        let c = p.alloc(PAGE).unwrap();
        assert!(matches!(
            p.alloc(1).unwrap_err().cause(),
            Cause::PoolExhausted { free: 0, .. }
        ));
        b.store_u8(7, 0xaa, Order::Relaxed).unwrap();
        a.release_after_reset();
        c.release_after_reset();
        assert!(p.alloc(2 * PAGE).is_err(), "not adjacent");
        b.release_after_reset();
        let all = p.alloc(3 * PAGE).unwrap();
        assert_eq!(all.load_u8(PAGE + 7, Order::Relaxed).unwrap(), 0);
        drop(all);
        assert_eq!(p.stats().leaked, 3 * PAGE);
        assert_eq!(p.stats().live, 0);
        assert!(p.alloc(1).is_err(), "leaked memory stays with the device");
    }

    #[test]
    fn memory_of_an_ended_process_is_taken_over_whole() {
        let p = pool(2);
        let r = p.alloc(PAGE).unwrap();
        r.store_u32(8, 77, Order::Relaxed).unwrap();
        let fd = p.fd().try_clone_to_owned().unwrap();
        drop((r, p));
        let q = DmaPool::adopt("test".into(), fd, 0x10_0000).unwrap();
        assert_eq!(
            (q.size(), q.stats().live, q.stats().leaked),
            (2 * PAGE, 0, 0)
        );
        let mut old = [0; 4];
        assert!(q.device_view().read(0x10_0008, &mut old));
        assert_eq!(u32::from_le_bytes(old), 77, "the device may still use it");
        let all = q.alloc(2 * PAGE).unwrap();
        assert_eq!(all.load_u32(8, Order::Relaxed).unwrap(), 0);

        // One that could shrink would be a trap.
        let open = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, PAGE as u64).unwrap();
        assert!(DmaPool::adopt("test".into(), open, 0).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(DmaPool::adopt("test".into(), null.into(), 0).is_err());
    }

    #[test]
    fn the_peer_cannot_shrink_the_file_or_make_it_grow() {
        let p = pool(1);
        assert!(ftruncate(p.fd(), 0).is_err());
        assert!(ftruncate(p.fd(), 1 << 20).is_err());
    }
}
