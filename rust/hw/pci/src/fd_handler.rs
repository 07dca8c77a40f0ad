// SPDX-License-Identifier: GPL-2.0-or-later

//! File descriptors watched by QEMU's main loop.

use std::{
    ffi::c_void,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use crate::bindings;

type Callback = Box<dyn Fn() + Send + Sync>;

/// Calls a function in the main loop, with the big QEMU lock held, whenever a descriptor is
/// readable; until it is dropped, which needs the lock too.
///
/// The function must take what makes the descriptor readable, or it is called again at once.
pub struct FdHandler {
    fd: Arc<OwnedFd>,
    /// From `Arc::into_raw`: the handler's own reference.
    callback: *const Callback,
}

// SAFETY: the pointer is only followed by the main loop and freed under the lock that the main loop
// holds while it does; the function itself is Send and Sync.
unsafe impl Send for FdHandler {}
// SAFETY: as above.
unsafe impl Sync for FdHandler {}

impl FdHandler {
    /// Starts watching. Needs the big QEMU lock.
    pub fn new(fd: Arc<OwnedFd>, readable: impl Fn() + Send + Sync + 'static) -> Self {
        assert!(bql::is_locked());
        let callback: *const Callback = Arc::into_raw(Arc::new(Box::new(readable)));
        // SAFETY: the descriptor is open as long as the handler exists, and so is the callback.
        unsafe {
            bindings::qemu_set_fd_handler(
                fd.as_raw_fd(),
                Some(call),
                None,
                callback.cast_mut().cast::<c_void>(),
            );
        }
        Self { fd, callback }
    }
}

impl Drop for FdHandler {
    fn drop(&mut self) {
        assert!(bql::is_locked());
        // SAFETY: the descriptor is still open. After this the main loop does not begin another
        // call; one that is under way, which can only be one of this thread, has its own reference.
        unsafe {
            bindings::qemu_set_fd_handler(self.fd.as_raw_fd(), None, None, ptr::null_mut());
            drop(Arc::from_raw(self.callback));
        }
    }
}

/// # Safety
///
/// Called by the main loop with the pointer that [`FdHandler::new`] gave it.
unsafe extern "C" fn call(opaque: *mut c_void) {
    // SAFETY: see above; the handler exists when the call begins, and the call keeps what it needs.
    let callback = unsafe {
        let callback = opaque.cast_const().cast::<Callback>();
        Arc::increment_strong_count(callback);
        Arc::from_raw(callback)
    };
    callback();
}
