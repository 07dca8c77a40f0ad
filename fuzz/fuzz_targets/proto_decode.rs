// SPDX-License-Identifier: GPL-2.0-or-later
//! Any bytes as messages: both decoders, the client state machine, and encoding what was decoded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_setup::proto_decode::run(data));
