// SPDX-License-Identifier: GPL-2.0-or-later

//! Guest memory, as far as a device whose other half is another process must know it.

use std::{
    ffi::{c_int, c_void, CStr},
    ptr,
};

use qom::bindings::Object;

use crate::bindings::{self, HostMemoryBackend, MemoryListener, MemoryRegionSection};

/// Ids of the memory backends that are guest RAM but that another process cannot map: those
/// without a file descriptor or with private mappings. Empty means that all RAM can be shared.
///
/// Needs the big QEMU lock. For memory plugged in later see [`MemoryWatch`].
pub fn unshared_guest_memory() -> Vec<String> {
    assert!(bql::is_locked());
    let mut found = objects();
    found.retain(|obj| {
        // SAFETY: the object is alive, and the cast to the backend is made only if QOM agrees.
        unsafe {
            backend(*obj).is_some_and(|backend| {
                bindings::host_memory_backend_is_mapped(backend) && !is_shared(backend)
            })
        }
    });
    // SAFETY: as above.
    found.into_iter().map(|obj| unsafe { name(obj) }).collect()
}

/// Tells of guest memory that is plugged in later and that another process cannot map; until it is
/// dropped, which needs the big QEMU lock.
pub struct MemoryWatch(*mut Watch);

/// A listener with what it calls; QEMU keeps its address.
#[repr(C)]
struct Watch {
    listener: MemoryListener,
    report: Box<dyn Fn(&str)>,
}

// SAFETY: it is made, called and dropped with the big QEMU lock held.
unsafe impl Send for MemoryWatch {}

impl MemoryWatch {
    /// Calls `report` with the names of each such memory. Needs the big QEMU lock, with which
    /// `report` is called as well.
    pub fn new(report: impl Fn(&str) + 'static) -> Self {
        assert!(bql::is_locked());
        let watch = Box::into_raw(Box::new(Watch {
            listener: MemoryListener {
                region_add: Some(region_added),
                name: c"virtio-legacy-vf".as_ptr(),
                ..Default::default()
            },
            report: Box::new(report),
        }));
        // SAFETY: the listener stays where it is until it is unregistered, and the address space
        // exists for ever.
        unsafe {
            bindings::memory_listener_register(
                ptr::addr_of_mut!((*watch).listener),
                ptr::addr_of_mut!(bindings::address_space_memory),
            );
        }
        Self(watch)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        assert!(bql::is_locked());
        // SAFETY: registered in new() and not unregistered since; after this nobody calls it, so
        // the box has no other user.
        unsafe {
            bindings::memory_listener_unregister(ptr::addr_of_mut!((*self.0).listener));
            drop(Box::from_raw(self.0));
        }
    }
}

/// # Safety
///
/// Called by QEMU with the listener of a [`Watch`] and a valid section, under the big QEMU lock.
unsafe extern "C" fn region_added(
    listener: *mut MemoryListener,
    section: *mut MemoryRegionSection,
) {
    // SAFETY: see above; the listener is the first field of the struct, and a region's owner lives
    // as long as the region.
    unsafe {
        let owner = bindings::memory_region_owner((*section).mr);
        if owner.is_null() {
            return;
        }
        let Some(backend) = backend(owner) else {
            return;
        };
        if !is_shared(backend) {
            let text = match device_of(owner) {
                Some(device) => format!("{device} (memory backend {})", name(owner)),
                None => format!("memory backend {}", name(owner)),
            };
            ((*listener.cast::<Watch>()).report)(&text);
        }
    }
}

/// The device that has this backend as its memory: a DIMM or the like.
fn device_of(backend: *mut Object) -> Option<String> {
    let of_backend = |obj: &*mut Object| {
        // SAFETY: the object is alive; it has the property if QOM says that it is of a type that
        // does.
        unsafe {
            let is = |t: &CStr| !bindings::object_dynamic_cast(*obj, t.as_ptr()).is_null();
            let memory =
                || bindings::object_property_get_link(*obj, c"memdev".as_ptr(), ptr::null_mut());
            (is(c"pc-dimm") || is(c"virtio-mem")) && memory() == backend
        }
    };
    // SAFETY: as above.
    objects()
        .into_iter()
        .find(of_backend)
        .map(|obj| unsafe { name(obj) })
}

/// # Safety
///
/// The object is alive.
unsafe fn backend(obj: *mut Object) -> Option<*mut HostMemoryBackend> {
    // SAFETY: see above.
    let backend = unsafe { bindings::object_dynamic_cast(obj, c"memory-backend".as_ptr()) };
    (!backend.is_null()).then_some(backend.cast())
}

/// # Safety
///
/// The backend is alive and has its memory.
unsafe fn is_shared(backend: *mut HostMemoryBackend) -> bool {
    // SAFETY: see above.
    unsafe {
        let region = bindings::host_memory_backend_get_memory(backend);
        (*backend).share && !region.is_null() && bindings::memory_region_get_fd(region) >= 0
    }
}

/// # Safety
///
/// The object is alive.
unsafe fn name(obj: *mut Object) -> String {
    // SAFETY: see above; the component is NULL or NUL-terminated and lives with the object.
    unsafe {
        let name = bindings::object_get_canonical_path_component(obj);
        if name.is_null() {
            "unnamed".to_owned()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Every object of the program. Needs the big QEMU lock, with which they stay alive.
fn objects() -> Vec<*mut Object> {
    let mut found: Vec<*mut Object> = Vec::new();
    let opaque = ptr::addr_of_mut!(found).cast();
    // SAFETY: the root object and the machine always exist; the callback gets the list as its opaque
    // pointer and runs before this returns.
    unsafe {
        for root in [
            bindings::object_get_objects_root(),
            bindings::qdev_get_machine(),
        ] {
            bindings::object_child_foreach_recursive(root, Some(visit), opaque);
        }
    }
    found
}

/// # Safety
///
/// `opaque` is what [`objects`] passes.
unsafe extern "C" fn visit(obj: *mut Object, opaque: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe { (*opaque.cast::<Vec<*mut Object>>()).push(obj) }
    0
}
