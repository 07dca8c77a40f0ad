// SPDX-License-Identifier: GPL-2.0-or-later

//! What QEMU's own `MemoryRegion` wrapper lacks.

use system::MemoryRegion;

use crate::bindings;

/// Changes the size of a region in bytes. Needs the big QEMU lock.
///
/// # Safety
///
/// The region is not mapped yet.
pub unsafe fn set_size(region: &MemoryRegion, size: u64) {
    assert!(bql::is_locked());
    // SAFETY: see above; the region was initialized when its owner was, and the lock is held.
    unsafe { bindings::memory_region_set_size(region.as_mut_ptr(), size) }
}

/// Lets the region's callbacks run without the big QEMU lock, and without the re-entrancy guard
/// of its device.
///
/// # Safety
///
/// The region is not mapped yet, and its callbacks bring their own locking.
pub unsafe fn enable_lockless_io(region: &MemoryRegion) {
    assert!(bql::is_locked());
    // SAFETY: see above; the region was initialized when its owner was, and the lock is held.
    unsafe { bindings::memory_region_enable_lockless_io(region.as_mut_ptr()) }
}

/// Makes the changes of `f` to regions visible at once, at its end. Needs the big QEMU lock.
pub fn transaction<R>(f: impl FnOnce() -> R) -> R {
    assert!(bql::is_locked());
    // SAFETY: the lock is held.
    unsafe { bindings::memory_region_transaction_begin() }
    let result = f();
    // SAFETY: begun above, by this thread, which holds the lock.
    unsafe { bindings::memory_region_transaction_commit() }
    result
}
