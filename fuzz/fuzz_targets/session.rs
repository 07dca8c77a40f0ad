// SPDX-License-Identifier: GPL-2.0-or-later
//! Any sequence of messages, time and PF behaviour for several clients of one helper.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::session::run(data));
