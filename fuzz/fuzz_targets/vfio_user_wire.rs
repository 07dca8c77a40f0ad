// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as messages of the vfio-user protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::vfio_user_wire::run(data));
