// SPDX-License-Identifier: GPL-2.0-or-later

//! What QEMU's own `MemoryRegion` wrapper lacks.

use system::MemoryRegion;

use crate::bindings;

/// Changes the size of a region in bytes; only before it is mapped. Needs the big QEMU lock.
pub fn set_size(region: &MemoryRegion, size: u64) {
    assert!(bql::is_locked());
    // SAFETY: the region was initialized when its owner was, and the lock is held.
    unsafe { bindings::memory_region_set_size(region.as_mut_ptr(), size) }
}

/// Lets the region's callbacks run without the big QEMU lock, and without the re-entrancy guard
/// of its device: they must bring their own locking. Only before the region is mapped.
pub fn enable_lockless_io(region: &MemoryRegion) {
    assert!(bql::is_locked());
    // SAFETY: the region was initialized when its owner was, and the lock is held.
    unsafe { bindings::memory_region_enable_lockless_io(region.as_mut_ptr()) }
}
