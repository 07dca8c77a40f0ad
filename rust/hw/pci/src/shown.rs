// SPDX-License-Identifier: GPL-2.0-or-later

//! Fields of a device that QEMU shows as text wherever it lists properties (`info qtree`, `qom-get`)
//! and that nobody can set.

use std::{
    ffi::{c_char, c_void},
    ptr,
};

use hwcore::bindings::{Object, Property, PropertyInfo};

use crate::{
    bindings::{self, Visitor},
    report::c_string,
};

/// A field that has a text.
pub trait Shown: Sync {
    /// The text, now. Runs under the big QEMU lock, at any time in the life of the device, so it
    /// must not block.
    fn text(&self) -> String;
}

/// What `hwcore::QDevProp::BASE_INFO` must point to for a field of this type.
pub const fn info<T: Shown>() -> PropertyInfo {
    PropertyInfo {
        type_: c"str".as_ptr(),
        description: ptr::null(),
        enum_table: ptr::null(),
        realized_set_allowed: false,
        print: None,
        set_default_value: None,
        create: None,
        get: Some(get::<T>),
        set: None,
        release: None,
    }
}

/// # Safety
///
/// Called by QOM for an object with a field of type `T` that `opaque`, its [`Property`], locates,
/// and with a valid output visitor.
unsafe extern "C" fn get<T: Shown>(
    obj: *mut Object,
    visitor: *mut hwcore::bindings::Visitor,
    name: *const c_char,
    opaque: *mut c_void,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above; the field was initialized with the object.
    let field = unsafe {
        let offset = (*opaque.cast::<Property>()).offset;
        &*obj.cast::<u8>().offset(offset).cast::<T>()
    };
    let text = c_string(&field.text());
    let mut value = text.as_ptr().cast_mut();
    // SAFETY: see above; an output visitor copies the string and leaves it alone.
    unsafe {
        bindings::visit_type_str(visitor.cast::<Visitor>(), name, &mut value, errp);
    }
}
