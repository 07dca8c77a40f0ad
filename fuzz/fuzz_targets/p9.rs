// SPDX-License-Identifier: GPL-2.0-or-later
//! Any messages for the 9P server of one directory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::p9::run(data));
