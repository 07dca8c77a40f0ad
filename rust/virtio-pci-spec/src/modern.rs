// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The modern PCI structures ("Virtio Structure PCI Capabilities" and following).

/// Values of cfg_type in a virtio vendor capability.
pub mod cfg_type {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications.
    pub const NOTIFY: u8 = 2;
    /// ISR status.
    pub const ISR: u8 = 3;
    /// Device configuration.
    pub const DEVICE: u8 = 4;
    /// PCI configuration access.
    pub const PCI: u8 = 5;
}

/// Byte offsets inside `struct virtio_pci_cap`.
pub mod cap {
    /// Length of the basic capability.
    pub const LEN: u8 = 16;
    /// Length with notify_off_multiplier or pci_cfg_data behind it.
    pub const LEN_EXTENDED: u8 = 20;
    /// cap_len (1 byte).
    pub const CAP_LEN: usize = 2;
    /// cfg_type (1 byte).
    pub const CFG_TYPE: usize = 3;
    /// bar (1 byte, 0 to 5).
    pub const BAR: usize = 4;
    /// offset in the BAR (le32).
    pub const OFFSET: usize = 8;
    /// length in the BAR (le32).
    pub const LENGTH: usize = 12;
    /// notify_off_multiplier (le32, notify capability only).
    pub const NOTIFY_MULTIPLIER: usize = 16;
    /// pci_cfg_data (4 bytes, PCI configuration access only).
    pub const PCI_CFG_DATA: usize = 16;
}

/// Offset of the device status (u8, read-write) in the common configuration structure.
pub const COMMON_DEVICE_STATUS: u64 = 20;
