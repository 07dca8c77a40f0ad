// SPDX-License-Identifier: GPL-2.0-or-later
//! The PF driver against a device that answers with any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::hostile_pf::run(data));
