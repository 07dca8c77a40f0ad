// SPDX-License-Identifier: GPL-2.0-or-later
//! What lies behind the switch's external port: the built-in peer, or a tap of the host.

pub mod pcap;
pub mod peer;
pub mod tap;

/// Frames that may wait to go out; more are dropped, as on a full wire.
pub const MAX_QUEUE: usize = 4096;
