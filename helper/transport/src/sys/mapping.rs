// SPDX-License-Identifier: GPL-2.0-or-later
//! A shared mapping of a memfd, seen only through atomics.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8};

use rustix::io::Errno;

use super::mapped::Mapped;

/// `len` bytes of a file, mapped shared and writable for the life of this value.
///
/// A device (another process or hardware) reads and writes the same bytes at any time, so no
/// reference to plain memory is ever made: all access goes through the atomic types.
pub(crate) struct SharedMapping(Mapped);

// SAFETY: the mapping is plain memory that is not tied to a thread and never moves, and the
// only access offered is by shared references to atomics.
unsafe impl Send for SharedMapping {}
// SAFETY: as above; atomics may be used from several threads at once.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps the first `len` bytes of `fd`.
    ///
    /// The caller made the file at least that long and sealed it against shrinking, otherwise an
    /// access could end in SIGBUS (not undefined behaviour, but the end of the process).
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> Result<Self, Errno> {
        Mapped::new(fd, 0, len).map(SharedMapping)
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Where it is in this process, for calls that hand it to a device.
    pub(crate) fn address(&self) -> u64 {
        self.0.base().as_ptr() as u64
    }

    /// The byte at `offset`.
    pub(crate) fn u8(&self, offset: usize) -> Option<&AtomicU8> {
        let at = self.0.at(offset, 1)?;
        // SAFETY: `at` is inside the live mapping, which lives as long as `self`; every access to
        // these bytes in this process is atomic.
        Some(unsafe { AtomicU8::from_ptr(at.as_ptr()) })
    }

    /// The aligned 16-bit word at `offset`.
    pub(crate) fn u16(&self, offset: usize) -> Option<&AtomicU16> {
        let at = self.0.at(offset, 2)?;
        // SAFETY: as in `u8`; `at` checked that the word is inside and aligned.
        Some(unsafe { AtomicU16::from_ptr(at.as_ptr().cast()) })
    }

    /// The aligned 32-bit word at `offset`.
    pub(crate) fn u32(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.0.at(offset, 4)?;
        // SAFETY: as in `u8`; `at` checked that the word is inside and aligned.
        Some(unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) })
    }

    /// The aligned 64-bit word at `offset`.
    pub(crate) fn u64(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.0.at(offset, 8)?;
        // SAFETY: as in `u8`; `at` checked that the word is inside and aligned.
        Some(unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) })
    }
}
