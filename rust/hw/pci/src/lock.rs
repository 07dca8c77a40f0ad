// SPDX-License-Identifier: GPL-2.0-or-later

//! The big QEMU lock, for callbacks that may run with or without it.

use std::ffi::c_int;

use crate::bindings;

struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: a value exists only between bql_lock_impl() and here, on one thread (it is
        // neither stored nor sent anywhere).
        unsafe { bindings::bql_unlock() }
    }
}

/// Runs `f` with the big QEMU lock held, taking it if this thread does not have it yet.
///
/// Never call it while holding a lock that a holder of the big lock may wait for.
pub fn with_bql<R>(f: impl FnOnce() -> R) -> R {
    if bql::is_locked() {
        return f();
    }
    // SAFETY: this thread does not hold the lock, so this cannot deadlock on itself; the file name
    // is a NUL-terminated constant.
    unsafe {
        bindings::bql_lock_impl(c"rust/hw/pci/src/lock.rs".as_ptr(), line!() as c_int);
    }
    let _held = Held;
    f()
}
