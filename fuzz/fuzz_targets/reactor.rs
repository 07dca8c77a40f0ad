// SPDX-License-Identifier: GPL-2.0-or-later
//! The helper's loop over real sockets, with any messages and files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::reactor::run(data));
