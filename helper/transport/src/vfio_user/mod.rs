// SPDX-License-Identifier: GPL-2.0-or-later
//! A PCI function behind a vfio-user socket.

mod connection;
mod doorbell;
mod function;
mod later;
mod opening;

pub use function::VfioUserFunction;
pub use opening::Options;

use std::time::Duration;

/// How long to wait for a vfio-user peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the socket to appear and accept.
    pub connect: Duration,
    /// For the reply to one message.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(2),
        }
    }
}
