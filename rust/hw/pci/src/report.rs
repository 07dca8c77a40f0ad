// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages to the user, through QEMU's own reporting.

use std::ffi::CString;

use crate::bindings;

/// A C string of `text`; NUL bytes, which would cut it, are left out.
pub(crate) fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|b| *b != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

macro_rules! reports {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        pub fn $name(text: &str) {
            let text = c_string(text);
            // SAFETY: the format takes exactly one string, and both are NUL-terminated.
            unsafe { bindings::$name(c"%s".as_ptr(), text.as_ptr()) }
        }
    )*};
}

reports! {
    /// Reports a warning; any thread may call it.
    warn_report
    /// Reports something good to know; any thread may call it.
    info_report
}
