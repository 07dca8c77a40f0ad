// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages to the user, through QEMU's own reporting.

use std::ffi::CString;

use crate::bindings;

/// A C string of `text`; NUL bytes, which would cut it, are left out.
fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|b| *b != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// Reports an error; any thread may call it.
pub fn error_report(text: &str) {
    let text = c_string(text);
    // SAFETY: the format takes exactly one string, and both are NUL-terminated.
    unsafe { bindings::error_report(c"%s".as_ptr(), text.as_ptr()) }
}

/// Reports a warning; any thread may call it.
pub fn warn_report(text: &str) {
    let text = c_string(text);
    // SAFETY: as in error_report().
    unsafe { bindings::warn_report(c"%s".as_ptr(), text.as_ptr()) }
}

/// Reports something good to know; any thread may call it.
pub fn info_report(text: &str) {
    let text = c_string(text);
    // SAFETY: as in error_report().
    unsafe { bindings::info_report(c"%s".as_ptr(), text.as_ptr()) }
}
