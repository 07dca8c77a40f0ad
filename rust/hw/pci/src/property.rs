// SPDX-License-Identifier: GPL-2.0-or-later

//! QOM properties: read-only ones that ask the object, fields with a text, and strings set by the
//! user.

use std::{
    ffi::{c_char, c_void, CStr},
    ptr::{self, addr_of},
};

use hwcore::{
    bindings::{Property, PropertyInfo},
    QDevProp,
};
use qom::{bindings::Object, ObjectType};

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

/// What a read-only property asks an object. Runs under the big QEMU lock, so it must not block.
pub enum Getter<T> {
    /// A number.
    Number(Box<dyn Fn(&T) -> u64>),
    /// A truth value.
    Truth(Box<dyn Fn(&T) -> bool>),
    /// A text.
    Text(Box<dyn Fn(&T) -> String>),
}

impl ChainedPciClass {
    /// Adds a read-only property, inside `class_init`. Names are unique in the class.
    pub fn add_read_only<T: ObjectType<Class = Self>>(
        &mut self,
        name: &'static CStr,
        description: &str,
        getter: Getter<T>,
    ) {
        let typename = match getter {
            Getter::Number(_) => c"uint64",
            Getter::Truth(_) => c"bool",
            Getter::Text(_) => c"string",
        };
        // Classes live as long as the program.
        let getter: *mut Getter<T> = Box::into_raw(Box::new(getter));
        // SAFETY: the class struct is under construction, of the class whose instances `get`
        // expects, and `get` finds the getter behind the opaque pointer.
        unsafe {
            bindings::object_class_property_add(
                self.as_object_class(),
                name.as_ptr(),
                typename.as_ptr(),
                Some(get::<T>),
                None,
                None,
                getter.cast(),
            );
        }
        self.describe_property(name, description);
    }
}

/// # Safety
///
/// Called by QOM for an instance of `T`, with a valid output visitor, and a [`Getter`] as `opaque`.
unsafe extern "C" fn get<T: ObjectType>(
    obj: *mut Object,
    visitor: *mut Visitor,
    name: *const c_char,
    opaque: *mut c_void,
    errp: *mut *mut util::bindings::Error,
) {
    // SAFETY: see above; an output visitor only reads the value.
    unsafe {
        let obj = &*obj.cast::<T>();
        match &*opaque.cast::<Getter<T>>() {
            Getter::Number(get) => {
                bindings::visit_type_uint64(visitor, name, &mut get(obj), errp);
            }
            Getter::Truth(get) => {
                bindings::visit_type_bool(visitor, name, &mut get(obj), errp);
            }
            Getter::Text(get) => visit_text(&get(obj), visitor, name, errp),
        }
    }
}

/// # Safety
///
/// An output visitor and what else QOM gave with it.
unsafe fn visit_text(
    text: &str,
    visitor: *mut Visitor,
    name: *const c_char,
    errp: *mut *mut util::bindings::Error,
) {
    let text = c_string(text);
    // SAFETY: see above; an output visitor copies the string and leaves it alone.
    unsafe {
        bindings::visit_type_str(visitor, name, &mut text.as_ptr().cast_mut(), errp);
    }
}

/// A field of a device that QEMU shows as text wherever it lists properties (`info qtree`,
/// `qom-get`) and that nobody can set.
pub trait Shown: Sync {
    /// The text, now. Runs under the big QEMU lock, at any time in the life of the device, so it
    /// must not block.
    fn text(&self) -> String;
}

/// What `hwcore::QDevProp::BASE_INFO` must point to for a field of this type.
pub const fn shown<T: Shown>() -> PropertyInfo {
    PropertyInfo {
        type_: c"str".as_ptr(),
        description: ptr::null(),
        enum_table: ptr::null(),
        realized_set_allowed: false,
        print: None,
        set_default_value: None,
        create: None,
        get: Some(get_shown::<T>),
        set: None,
        release: None,
    }
}

/// # Safety
///
/// Called by QOM for an object with a field of type `T` that `opaque`, its [`Property`], locates,
/// and with a valid output visitor.
unsafe extern "C" fn get_shown<T: Shown>(
    obj: *mut hwcore::bindings::Object,
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
    // SAFETY: see above.
    unsafe { visit_text(&field.text(), visitor.cast(), name, errp) }
}
