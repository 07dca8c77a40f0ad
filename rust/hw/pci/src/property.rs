// SPDX-License-Identifier: GPL-2.0-or-later

//! QOM properties: read-only ones that ask the object, and strings set by the user.

use std::{
    ffi::{c_char, c_void, CStr, CString},
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

/// Read-only properties, to be added inside `class_init`. `get` must be a function or a closure that
/// captures nothing; it runs under the big QEMU lock, so it must not block. Names are unique in
/// the class.
impl ChainedPciClass {
    /// A number.
    pub fn add_u64<T, F>(&mut self, name: &'static CStr, description: &'static CStr, _get: F)
    where
        T: ObjectType<Class = Self>,
        F: for<'a> FnCall<(&'a T,), u64>,
    {
        add(
            self.as_object_class(),
            name,
            c"uint64",
            description,
            get_u64::<T, F>,
        );
    }

    /// A truth value.
    pub fn add_bool<T, F>(&mut self, name: &'static CStr, description: &'static CStr, _get: F)
    where
        T: ObjectType<Class = Self>,
        F: for<'a> FnCall<(&'a T,), bool>,
    {
        add(
            self.as_object_class(),
            name,
            c"bool",
            description,
            get_bool::<T, F>,
        );
    }

    /// A text.
    pub fn add_str<T, F>(&mut self, name: &'static CStr, description: &'static CStr, _get: F)
    where
        T: ObjectType<Class = Self>,
        F: for<'a> FnCall<(&'a T,), String>,
    {
        add(
            self.as_object_class(),
            name,
            c"string",
            description,
            get_str::<T, F>,
        );
    }
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

/// # Safety
///
/// Called by QOM for an instance of `T`, with a valid output visitor.
unsafe extern "C" fn get_u64<T: ObjectType, F: for<'a> FnCall<(&'a T,), u64>>(
    obj: *mut Object,
    visitor: *mut Visitor,
    name: *const c_char,
    _opaque: *mut c_void,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above.
    let mut value = F::call((unsafe { &*obj.cast::<T>() },));
    // SAFETY: see above; the visitor only reads `value`.
    unsafe {
        bindings::visit_type_uint64(visitor, name, &mut value, errp);
    }
}

/// # Safety
///
/// As for `get_u64`.
unsafe extern "C" fn get_bool<T: ObjectType, F: for<'a> FnCall<(&'a T,), bool>>(
    obj: *mut Object,
    visitor: *mut Visitor,
    name: *const c_char,
    _opaque: *mut c_void,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above.
    let mut value = F::call((unsafe { &*obj.cast::<T>() },));
    // SAFETY: see above.
    unsafe {
        bindings::visit_type_bool(visitor, name, &mut value, errp);
    }
}

/// # Safety
///
/// As for `get_u64`.
unsafe extern "C" fn get_str<T: ObjectType, F: for<'a> FnCall<(&'a T,), String>>(
    obj: *mut Object,
    visitor: *mut Visitor,
    name: *const c_char,
    _opaque: *mut c_void,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above.
    let text = F::call((unsafe { &*obj.cast::<T>() },));
    let text = CString::new(text).unwrap_or_default();
    let mut value = text.as_ptr().cast_mut();
    // SAFETY: see above; an output visitor copies the string and leaves it alone.
    unsafe {
        bindings::visit_type_str(visitor, name, &mut value, errp);
    }
}
