// SPDX-License-Identifier: GPL-2.0-or-later
//! The vfio-user client against a server that answers with anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::vfio_user_peer::run(data));
