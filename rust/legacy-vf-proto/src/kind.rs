// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The types of messages.

use MessageType::{Hello, Notify, Open, Query, Read, Token, Write};

/// Message types of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum MessageType {
    /// Versions, limits, names; first on every connection.
    Hello = 1,
    /// Binds the connection to one VF.
    Open = 2,
    /// The VF token that QEMU needs to open the VF.
    Token = 3,
    /// Reads legacy registers.
    Read = 4,
    /// Writes legacy registers.
    Write = 5,
    /// Notifies a queue.
    Notify = 6,
    /// Information for people and tools, as JSON.
    Query = 7,
    /// From the helper, unasked.
    Event = 8,
}

impl MessageType {
    /// Every type, ascending.
    pub const ALL: [Self; 8] = [Hello, Open, Token, Read, Write, Notify, Query, Self::Event];

    /// The type with this number.
    pub fn from_u16(kind: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u16 == kind)
    }

    /// The name in the protocol description.
    pub const fn name(self) -> &'static str {
        match self {
            Hello => "HELLO",
            Open => "OPEN",
            Token => "TOKEN",
            Read => "READ",
            Write => "WRITE",
            Notify => "NOTIFY",
            Query => "QUERY",
            Self::Event => "EVENT",
        }
    }
}
