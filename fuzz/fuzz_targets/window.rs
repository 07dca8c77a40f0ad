// SPDX-License-Identifier: GPL-2.0-or-later
//! Any guest accesses and outcomes for the legacy register window.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::window::run(data));
