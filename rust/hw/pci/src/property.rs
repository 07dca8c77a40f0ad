// SPDX-License-Identifier: GPL-2.0-or-later

//! QOM properties: read-only ones that ask the object, and strings set by the user.

use std::{
    ffi::{c_char, c_void, CStr},
    ptr::{self, addr_of},
};

use common::callbacks::FnCall;
use hwcore::QDevProp;
use qom::{
    bindings::{Object, ObjectClass},
    ObjectType,
};

use crate::{
    bindings::{self, Visitor},
    report::c_string,
    ChainedPciClass,
};

/// A string property of a device. QEMU sets it before realize and frees it with the device.
#[repr(transparent)]
pub struct StringProperty(*mut c_char);

// SAFETY: the string changes only before realize, while nobody else knows the device.
unsafe impl Send for StringProperty {}
// SAFETY: as above.
unsafe impl Sync for StringProperty {}

// SAFETY: qdev_prop_string describes a `char *` field, which is what the struct is.
unsafe impl QDevProp for StringProperty {
    const BASE_INFO: *const hwcore::bindings::PropertyInfo =
        addr_of!(hwcore::bindings::qdev_prop_string);
}

impl StringProperty {
    /// The value, if the user gave one. Bytes that are not UTF-8 are replaced.
    pub fn get(&self) -> Option<String> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: QEMU stores a NUL-terminated copy that lives as long as the device.
        let text = unsafe { CStr::from_ptr(self.0) };
        Some(text.to_string_lossy().into_owned())
    }
}

/// A property with the values `on`, `off` and `auto`; 0, the default of `#[property(default = 0)]`,
/// is `auto`. QEMU sets it before realize.
#[repr(transparent)]
pub struct OnOffAutoProperty(u32);

// SAFETY: qdev_prop_on_off_auto describes a field of the enum OnOffAuto, which is an int in C.
unsafe impl QDevProp for OnOffAutoProperty {
    const BASE_INFO: *const hwcore::bindings::PropertyInfo =
        addr_of!(hwcore::bindings::qdev_prop_on_off_auto);
}

impl OnOffAutoProperty {
    /// `Some(on?)`, or `None` for `auto`.
    pub const fn get(&self) -> Option<bool> {
        match self.0 {
            bindings::ON_OFF_AUTO_ON => Some(true),
            bindings::ON_OFF_AUTO_OFF => Some(false),
            _ => None,
        }
    }
}

/// A method of the class that adds a property of one type, and what QOM calls for it. The last two
/// are what the value becomes for QEMU's visitor and where the visitor finds it.
macro_rules! readonly {
    ($(#[$doc:meta])* $add:ident, $typename:literal, $type:ty, $visit:ident, $value:ident => $held:ident: $own:expr, $seen:expr) => {
        impl ChainedPciClass {
            $(#[$doc])*
            pub fn $add<T, F>(&mut self, name: &'static CStr, description: &'static CStr, _get: F)
            where
                T: ObjectType<Class = Self>,
                F: for<'a> FnCall<(&'a T,), $type>,
            {
                /// # Safety
                ///
                /// Called by QOM for an instance of `T`, with a valid output visitor.
                unsafe extern "C" fn get<T: ObjectType, F: for<'a> FnCall<(&'a T,), $type>>(
                    obj: *mut Object,
                    visitor: *mut Visitor,
                    name: *const c_char,
                    _opaque: *mut c_void,
                    errp: *mut *mut util::bindings::Error,
                ) {
                    // SAFETY: see above.
                    let $value = F::call((unsafe { &*obj.cast::<T>() },));
                    let $held = $own;
                    let mut seen = $seen;
                    // SAFETY: see above; an output visitor only reads the value.
                    unsafe {
                        bindings::$visit(visitor, name, &mut seen, errp);
                    }
                }
                add(self.as_object_class(), name, $typename, description, get::<T, F>);
            }
        }
    };
}

// Read-only properties, to be added inside `class_init`. `get` must be a function or a closure that
// captures nothing; it runs under the big QEMU lock, so it must not block. Names are unique in
// the class.
readonly! {
    /// A number.
    add_u64, c"uint64", u64, visit_type_uint64, value => held: value, held
}
readonly! {
    /// A truth value.
    add_bool, c"bool", bool, visit_type_bool, value => held: value, held
}
readonly! {
    /// A text.
    add_str, c"string", String, visit_type_str, text => held: c_string(&text), held.as_ptr().cast_mut()
}

type Getter = unsafe extern "C" fn(
    *mut Object,
    *mut Visitor,
    *const c_char,
    *mut c_void,
    *mut *mut util::bindings::Error,
);

fn add(
    klass: *mut ObjectClass,
    name: &'static CStr,
    typename: &'static CStr,
    description: &'static CStr,
    get: Getter,
) {
    // SAFETY: `klass` is a class struct under construction, of the class whose instances `get`
    // expects; all strings are constants.
    unsafe {
        bindings::object_class_property_add(
            klass,
            name.as_ptr(),
            typename.as_ptr(),
            Some(get),
            None,
            None,
            ptr::null_mut(),
        );
        bindings::object_class_property_set_description(klass, name.as_ptr(), description.as_ptr());
    }
}
