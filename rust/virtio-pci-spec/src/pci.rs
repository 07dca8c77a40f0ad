// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The few PCI and PCI Express facts that this project needs.

#![allow(missing_docs)]

/// Offsets in the type 0 configuration header.
pub mod header {
    pub const VENDOR_ID: usize = 0x00;
    pub const DEVICE_ID: usize = 0x02;
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION_ID: usize = 0x08;
    pub const CLASS_DEVICE: usize = 0x0a;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub const SUBSYSTEM_ID: usize = 0x2e;
    pub const ROM_ADDRESS: usize = 0x30;
    pub const CAPABILITY_LIST: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
}

pub const COMMAND_IO: u16 = 1;
pub const COMMAND_MEMORY: u16 = 2;
pub const COMMAND_MASTER: u16 = 4;
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
pub const STATUS_INTERRUPT: u16 = 1 << 3;
pub const STATUS_CAP_LIST: u16 = 1 << 4;

pub const CAP_ID_POWER: u8 = 0x01;
pub const CAP_ID_VENDOR: u8 = 0x09;
pub const CAP_ID_EXPRESS: u8 = 0x10;
pub const CAP_ID_MSIX: u8 = 0x11;
pub const CAP_ID_AF: u8 = 0x13;

/// MSI-X capability, relative to its start.
pub mod msix {
    pub const CONTROL: usize = 2;
    pub const TABLE: usize = 4;
    pub const PBA: usize = 8;
    pub const LEN: usize = 12;
    pub const CONTROL_ENABLE: u16 = 1 << 15;
    pub const CONTROL_MASK_ALL: u16 = 1 << 14;
    pub const CONTROL_SIZE_MASK: u16 = 0x7ff;
    /// Bytes of a table entry.
    pub const ENTRY_LEN: usize = 16;
}

/// Power management capability, relative to its start.
pub mod power {
    pub const CAPABILITIES: usize = 2;
    pub const CONTROL: usize = 4;
    pub const LEN: usize = 8;
    /// The power state: 0 is D0, 3 is D3hot.
    pub const CONTROL_STATE_MASK: u16 = 3;
    /// The function keeps its state when it leaves D3hot.
    pub const CONTROL_NO_SOFT_RESET: u16 = 1 << 3;
}

/// PCI Express capability, relative to its start.
pub mod express {
    pub const FLAGS: usize = 2;
    pub const DEVCAP: usize = 4;
    pub const DEVCTL: usize = 8;
    pub const DEVCAP_FLR: u32 = 1 << 28;
    pub const DEVCTL_FLR: u16 = 1 << 15;
}

/// Advanced Features capability, relative to its start.
pub mod af {
    pub const CAPABILITIES: usize = 3;
    pub const CONTROL: usize = 4;
    pub const CAPABILITIES_FLR: u8 = 1 << 1;
    pub const CONTROL_FLR: u8 = 1;
}

/// PCI Express extended capabilities start here.
pub const EXT_CAP_START: usize = 0x100;
pub const EXT_CAP_ID_DSN: u16 = 0x0003;
pub const EXT_CAP_ID_SRIOV: u16 = 0x0010;
