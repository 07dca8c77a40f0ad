// SPDX-License-Identifier: GPL-2.0-or-later
//! The commands of the protocol.

use std::fmt;

/// A command number. Open: every value can be held, so that an unknown command can be answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

impl Command {
    /// Version and capability exchange; the first message of a connection.
    pub const VERSION: Self = Self(1);
    /// Makes a range of client memory reachable for DMA.
    pub const DMA_MAP: Self = Self(2);
    /// Takes ranges of client memory away.
    pub const DMA_UNMAP: Self = Self(3);
    /// Number of regions and interrupt types.
    pub const DEVICE_GET_INFO: Self = Self(4);
    /// Size and flags of one region.
    pub const DEVICE_GET_REGION_INFO: Self = Self(5);
    /// File descriptors through which parts of a region can be written.
    pub const DEVICE_GET_REGION_IO_FDS: Self = Self(6);
    /// Vectors and flags of one interrupt type.
    pub const DEVICE_GET_IRQ_INFO: Self = Self(7);
    /// Attaches, masks or triggers interrupt vectors.
    pub const DEVICE_SET_IRQS: Self = Self(8);
    /// Reads a region.
    pub const REGION_READ: Self = Self(9);
    /// Writes a region.
    pub const REGION_WRITE: Self = Self(10);
    /// Server reads client memory (server to client).
    pub const DMA_READ: Self = Self(11);
    /// Server writes client memory (server to client).
    pub const DMA_WRITE: Self = Self(12);
    /// Resets the device.
    pub const DEVICE_RESET: Self = Self(13);
    /// Dirty page logging of the first protocol drafts.
    pub const DIRTY_PAGES: Self = Self(14);
    /// Several small writes in one message; only after the `write_multiple` capability.
    pub const REGION_WRITE_MULTI: Self = Self(15);
    /// Feature query and control (migration).
    pub const DEVICE_FEATURE: Self = Self(16);
    /// Migration data out.
    pub const MIG_DATA_READ: Self = Self(17);
    /// Migration data in.
    pub const MIG_DATA_WRITE: Self = Self(18);

    /// The protocol's name, `None` for a number it does not define.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "VERSION",
            2 => "DMA_MAP",
            3 => "DMA_UNMAP",
            4 => "DEVICE_GET_INFO",
            5 => "DEVICE_GET_REGION_INFO",
            6 => "DEVICE_GET_REGION_IO_FDS",
            7 => "DEVICE_GET_IRQ_INFO",
            8 => "DEVICE_SET_IRQS",
            9 => "REGION_READ",
            10 => "REGION_WRITE",
            11 => "DMA_READ",
            12 => "DMA_WRITE",
            13 => "DEVICE_RESET",
            14 => "DIRTY_PAGES",
            15 => "REGION_WRITE_MULTI",
            16 => "DEVICE_FEATURE",
            17 => "MIG_DATA_READ",
            18 => "MIG_DATA_WRITE",
            _ => return None,
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "command {}", self.0),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
