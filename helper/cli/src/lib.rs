// SPDX-License-Identifier: GPL-2.0-or-later
//! What the helper and the program that asks it say alike on the command line: exit codes, how a
//! failure is told, times, and where the sockets are by custom.

#![forbid(unsafe_code)]

mod failure;
mod time;

pub use failure::Failure;
pub use time::parse_time;

/// Directory of the sockets, where QEMU's devices look for them.
pub const RUN_DIR: &str = "/run/qemu-virtio-admin";

/// Exit codes that both programs have.
pub mod exit {
    /// Ended as asked.
    pub const OK: u8 = 0;
    /// Something failed while running.
    pub const RUNTIME: u8 = 1;
    /// The command line makes no sense.
    pub const USAGE: u8 = 2;
    /// The helper's socket cannot be made, or nobody answers on it.
    pub const SOCKET: u8 = 4;
}
