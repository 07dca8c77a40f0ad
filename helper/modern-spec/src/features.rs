// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Feature bit numbers ("Reserved Feature Bits" and the types' "Feature bits").
//!
//! Values are bit *numbers*; use [`bit`] for a mask.

/// The 64-bit mask of feature bit `n` (0 to 63).
pub const fn bit(n: u32) -> u64 {
    1 << n
}

/// Legacy: notify when a queue runs out of available buffers, even if suppressed.
pub const NOTIFY_ON_EMPTY: u32 = 24;
/// Legacy: any descriptor layout is accepted.
pub const ANY_LAYOUT: u32 = 27;
/// Indirect descriptors.
pub const INDIRECT_DESC: u32 = 28;
/// used_event and avail_event.
pub const EVENT_IDX: u32 = 29;
/// Legacy: probe for broken early drivers.
pub const UNUSED: u32 = 30;
/// Compliance with version 1 of the specification.
pub const VERSION_1: u32 = 32;
/// DMA through platform-translated addresses.
pub const ACCESS_PLATFORM: u32 = 33;
/// Packed ring.
pub const RING_PACKED: u32 = 34;
/// Buffers are used in order.
pub const IN_ORDER: u32 = 35;
/// Memory accesses are ordered as the platform demands.
pub const ORDER_PLATFORM: u32 = 36;
/// The owner has SR-IOV.
pub const SR_IOV: u32 = 37;
/// Notifications carry extra data.
pub const NOTIFICATION_DATA: u32 = 38;
/// Notifications use queue_notif_config_data.
pub const NOTIF_CONFIG_DATA: u32 = 39;
/// Queues can be reset one by one.
pub const RING_RESET: u32 = 40;
/// Administration virtqueues exist.
pub const ADMIN_VQ: u32 = 41;
/// Device suspend.
pub const SUSPEND: u32 = 43;

/// The mask of features that the legacy interface can show (bits 0 to 31).
pub const LEGACY_MASK: u64 = 0xffff_ffff;

/// Network device features.
pub mod net {
    #![allow(missing_docs)]
    pub const CSUM: u32 = 0;
    pub const GUEST_CSUM: u32 = 1;
    pub const CTRL_GUEST_OFFLOADS: u32 = 2;
    pub const MTU: u32 = 3;
    pub const MAC: u32 = 5;
    /// Legacy only: the device takes packets of any GSO type.
    pub const GSO: u32 = 6;
    pub const GUEST_TSO4: u32 = 7;
    pub const GUEST_TSO6: u32 = 8;
    pub const GUEST_ECN: u32 = 9;
    pub const GUEST_UFO: u32 = 10;
    pub const HOST_TSO4: u32 = 11;
    pub const HOST_TSO6: u32 = 12;
    pub const HOST_ECN: u32 = 13;
    pub const HOST_UFO: u32 = 14;
    pub const MRG_RXBUF: u32 = 15;
    pub const STATUS: u32 = 16;
    pub const CTRL_VQ: u32 = 17;
    pub const CTRL_RX: u32 = 18;
    pub const CTRL_VLAN: u32 = 19;
    pub const CTRL_RX_EXTRA: u32 = 20;
    pub const GUEST_ANNOUNCE: u32 = 21;
    pub const MQ: u32 = 22;
    pub const CTRL_MAC_ADDR: u32 = 23;
    pub const SPEED_DUPLEX: u32 = 63;
}

/// Console features.
pub mod console {
    #![allow(missing_docs)]
    pub const SIZE: u32 = 0;
    pub const MULTIPORT: u32 = 1;
    pub const EMERG_WRITE: u32 = 2;
}

/// Memory balloon features.
pub mod balloon {
    #![allow(missing_docs)]
    pub const MUST_TELL_HOST: u32 = 0;
    pub const STATS_VQ: u32 = 1;
    pub const DEFLATE_ON_OOM: u32 = 2;
    pub const FREE_PAGE_HINT: u32 = 3;
    pub const PAGE_POISON: u32 = 4;
    pub const PAGE_REPORTING: u32 = 5;
}

/// Block device features.
pub mod blk {
    #![allow(missing_docs)]
    /// Legacy only: request barriers.
    pub const BARRIER: u32 = 0;
    pub const SIZE_MAX: u32 = 1;
    pub const SEG_MAX: u32 = 2;
    pub const GEOMETRY: u32 = 4;
    pub const RO: u32 = 5;
    pub const BLK_SIZE: u32 = 6;
    /// Legacy only: SCSI packet commands.
    pub const SCSI: u32 = 7;
    pub const FLUSH: u32 = 9;
    pub const TOPOLOGY: u32 = 10;
    pub const CONFIG_WCE: u32 = 11;
    pub const MQ: u32 = 12;
    pub const DISCARD: u32 = 13;
    pub const WRITE_ZEROES: u32 = 14;
    pub const LIFETIME: u32 = 15;
    pub const SECURE_ERASE: u32 = 16;
    pub const ZONED: u32 = 17;
}
