// SPDX-License-Identifier: GPL-2.0-or-later

//! Guest memory, as far as a device whose other half is another process must know it.

use std::ffi::{c_int, c_void, CStr};

use qom::bindings::Object;

use crate::bindings::{self, HostMemoryBackend};

/// Ids of the memory backends that are guest RAM but that another process cannot map: those
/// without a file descriptor or with private mappings. Empty means that all RAM can be shared.
///
/// Needs the big QEMU lock. Memory plugged in later is not looked at.
pub fn unshared_guest_memory() -> Vec<String> {
    assert!(bql::is_locked());
    let mut found: Vec<String> = Vec::new();
    // SAFETY: the root object always exists; the callback gets `found` back as its opaque pointer
    // and runs before this returns.
    unsafe {
        bindings::object_child_foreach_recursive(
            bindings::object_get_objects_root(),
            Some(visit),
            (&mut found as *mut Vec<String>).cast(),
        );
    }
    found
}

/// # Safety
///
/// `opaque` is the vector of [`unshared_guest_memory`].
unsafe extern "C" fn visit(obj: *mut Object, opaque: *mut c_void) -> c_int {
    // SAFETY: see above; `obj` is alive, and the cast to the backend is made only if QOM agrees.
    unsafe {
        let backend = bindings::object_dynamic_cast(obj, c"memory-backend".as_ptr())
            .cast::<HostMemoryBackend>();
        if !backend.is_null() && bindings::host_memory_backend_is_mapped(backend) {
            let region = bindings::host_memory_backend_get_memory(backend);
            let shared = (*backend).share
                && !region.is_null()
                && bindings::memory_region_get_fd(region) >= 0;
            if !shared {
                let name = bindings::object_get_canonical_path_component(obj);
                let name = if name.is_null() {
                    "unnamed".to_owned()
                } else {
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                };
                (*opaque.cast::<Vec<String>>()).push(name);
            }
        }
    }
    0
}
