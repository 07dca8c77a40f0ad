// SPDX-License-Identifier: GPL-2.0-or-later
//! A mapping of device registers, seen only through volatile accesses.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::barrier::dma_mb;
use super::mapped::Mapped;
use crate::function::Width;

/// Registers of a device, mapped for the life of this value.
///
/// The kernel delivers SIGBUS for an access while the function's memory space is off. The owner of
/// this value must not access it then; that would end the process, but break nothing else.
pub(crate) struct RegisterMapping(Mapped);

// SAFETY: the mapping is not tied to a thread and never moves; accesses are single volatile
// loads and stores of device registers, which have no Rust object behind them.
unsafe impl Send for RegisterMapping {}

impl RegisterMapping {
    /// Maps `len` bytes of a device file from `offset` (a multiple of the page size) on.
    pub(crate) fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        Mapped::new(fd, offset, len).map(RegisterMapping)
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Reads a little-endian register in one access; `None` if it does not lie inside.
    pub(crate) fn read(&self, offset: usize, width: Width) -> Option<u32> {
        let at = self.0.at(offset, width.bytes())?.as_ptr();
        // SAFETY: `at` is inside the live mapping and aligned to the width (the base is page
        // aligned); device registers may be read at any time, hence volatile.
        Some(unsafe {
            match width {
                Width::B1 => u32::from(at.read_volatile()),
                Width::B2 => u32::from(u16::from_le(at.cast::<u16>().read_volatile())),
                Width::B4 => u32::from_le(at.cast::<u32>().read_volatile()),
            }
        })
    }

    /// Writes a little-endian register in one access; `None` if it does not lie inside.
    pub(crate) fn write(&self, offset: usize, width: Width, value: u32) -> Option<()> {
        let at = self.0.at(offset, width.bytes())?.as_ptr();
        // What was stored to memory before must be there before the device is told.
        dma_mb();
        // SAFETY: as in `read`.
        unsafe {
            match width {
                Width::B1 => at.write_volatile(value as u8),
                Width::B2 => at.cast::<u16>().write_volatile((value as u16).to_le()),
                Width::B4 => at.cast::<u32>().write_volatile(value.to_le()),
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
    use std::os::fd::AsFd;

    #[test]
    fn accesses_have_their_width_and_stay_inside() {
        let fd = memfd_create("registers", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 8192).unwrap();
        let m = RegisterMapping::new(fd.as_fd(), 4096, 4096).unwrap();
        m.write(8, Width::B4, 0x0403_0201).unwrap();
        assert_eq!(m.read(8, Width::B2), Some(0x0201));
        assert_eq!(m.read(11, Width::B1), Some(4));
        m.write(10, Width::B2, 0xffff_aaaa).unwrap();
        assert_eq!(m.read(8, Width::B4), Some(0xaaaa_0201));
        assert_eq!(m.read(4092, Width::B4), Some(0));
        assert_eq!(m.read(4094, Width::B4), None);
        assert_eq!(m.read(4096, Width::B1), None);
        assert_eq!(m.read(1, Width::B2), None);
        assert_eq!(m.write(usize::MAX, Width::B1, 0), None);
        let mut b = [0; 4];
        rustix::io::pread(&fd, &mut b, 4096 + 8).unwrap();
        assert_eq!(b, [1, 2, 0xaa, 0xaa]);
    }
}
