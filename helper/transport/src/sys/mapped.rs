// SPDX-License-Identifier: GPL-2.0-or-later
//! A piece of a file in this process's memory, of which others make something that can be accessed.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

/// `len` bytes of a file, mapped shared and writable for the life of this value.
///
/// It gives out pointers only; what may be done with them is for the caller to know.
pub(super) struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

impl Mapped {
    /// Maps `len` bytes of `fd` from `offset` (a multiple of the page size) on.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        // SAFETY: a null hint lets the kernel pick an unused range, so no existing mapping is
        // replaced; the result is owned by this value and unmapped once, in `drop`.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Mapped { base, len })
    }

    /// Bytes mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins; page aligned.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The pointer to `size` bytes at `offset`, if they lie inside and `offset` is a multiple of
    /// `size` (1, 2, 4 or 8, so that the pointer is aligned to it).
    pub(super) fn at(&self, offset: usize, size: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(size)?;
        if end > self.len || offset % size != 0 {
            return None;
        }
        // SAFETY: offset < len, so the result stays inside the mapping that `base` starts; a
        // mapping is never larger than isize::MAX.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what mmap gave in `new`; what was made of the pointers
        // borrows the owner of this value, so nothing is left of it.
        let _unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
