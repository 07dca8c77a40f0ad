// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Byte offsets inside `struct virtio_pci_common_cfg` ("Common configuration structure layout").

/// le32, read-write.
pub const DEVICE_FEATURE_SELECT: u64 = 0;
/// le32, read-only.
pub const DEVICE_FEATURE: u64 = 4;
/// le32, read-write.
pub const DRIVER_FEATURE_SELECT: u64 = 8;
/// le32, read-write.
pub const DRIVER_FEATURE: u64 = 12;
/// le16, read-write.
pub const CONFIG_MSIX_VECTOR: u64 = 16;
/// le16, read-only.
pub const NUM_QUEUES: u64 = 18;
pub use virtio_pci_spec::modern::COMMON_DEVICE_STATUS as DEVICE_STATUS;
/// u8, read-only.
pub const CONFIG_GENERATION: u64 = 21;
/// le16, read-write.
pub const QUEUE_SELECT: u64 = 22;
/// le16, read-write.
pub const QUEUE_SIZE: u64 = 24;
/// le16, read-write.
pub const QUEUE_MSIX_VECTOR: u64 = 26;
/// le16, read-write (only 1 may be written).
pub const QUEUE_ENABLE: u64 = 28;
/// le16, read-only.
pub const QUEUE_NOTIFY_OFF: u64 = 30;
/// le64, read-write.
pub const QUEUE_DESC: u64 = 32;
/// le64, read-write.
pub const QUEUE_DRIVER: u64 = 40;
/// le64, read-write.
pub const QUEUE_DEVICE: u64 = 48;
/// le16, read-only, with NOTIF_CONFIG_DATA.
pub const QUEUE_NOTIF_CONFIG_DATA: u64 = 56;
/// le16, read-write, with RING_RESET.
pub const QUEUE_RESET: u64 = 58;
/// le16, read-only, with ADMIN_VQ.
pub const ADMIN_QUEUE_INDEX: u64 = 60;
/// le16, read-only, with ADMIN_VQ.
pub const ADMIN_QUEUE_NUM: u64 = 62;
/// Length of the structure with every field.
pub const LEN: u64 = 64;

/// Offset and width in bytes of every field, ascending; 64-bit fields are accessed as two
/// 32-bit halves.
pub const FIELDS: [(u64, u8); 20] = [
    (DEVICE_FEATURE_SELECT, 4),
    (DEVICE_FEATURE, 4),
    (DRIVER_FEATURE_SELECT, 4),
    (DRIVER_FEATURE, 4),
    (CONFIG_MSIX_VECTOR, 2),
    (NUM_QUEUES, 2),
    (DEVICE_STATUS, 1),
    (CONFIG_GENERATION, 1),
    (QUEUE_SELECT, 2),
    (QUEUE_SIZE, 2),
    (QUEUE_MSIX_VECTOR, 2),
    (QUEUE_ENABLE, 2),
    (QUEUE_NOTIFY_OFF, 2),
    (QUEUE_DESC, 8),
    (QUEUE_DRIVER, 8),
    (QUEUE_DEVICE, 8),
    (QUEUE_NOTIF_CONFIG_DATA, 2),
    (QUEUE_RESET, 2),
    (ADMIN_QUEUE_INDEX, 2),
    (ADMIN_QUEUE_NUM, 2),
];

const _: () = {
    let mut next = 0;
    let mut i = 0;
    while i < FIELDS.len() {
        assert!(FIELDS[i].0 == next, "the structure has no gaps");
        next += FIELDS[i].1 as u64;
        i += 1;
    }
    assert!(next == LEN);
};
