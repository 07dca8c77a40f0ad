// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes in sysfs and proc.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::host_texts::run(data));
