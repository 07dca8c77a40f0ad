// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Split virtqueue layout arithmetic ("Split Virtqueues", "Legacy Interfaces: A Note on Virtqueue
//! Layout").

/// A queue's ring must be aligned to this; the queue address register counts in this unit.
pub const QUEUE_ALIGN: u64 = 4096;

/// Largest queue size of a split ring.
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// The chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The buffer is device-writable.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer holds a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// avail.flags: the driver wants no used-buffer notifications.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// used.flags: the device wants no available-buffer notifications.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Bytes of a descriptor.
pub const DESC_LEN: u64 = 16;
/// Bytes of a used-ring element.
pub const USED_ELEM_LEN: u64 = 8;

/// Bytes of the descriptor table.
pub const fn desc_table_len(queue_size: u16) -> u64 {
    DESC_LEN * queue_size as u64
}

/// Bytes of the available ring with used_event.
pub const fn avail_len(queue_size: u16) -> u64 {
    6 + 2 * queue_size as u64
}

/// Bytes of the used ring with avail_event.
pub const fn used_len(queue_size: u16) -> u64 {
    6 + USED_ELEM_LEN * queue_size as u64
}

/// Where the three parts of a legacy virtqueue lie, as guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyLayout {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    /// Bytes from `desc` that the queue takes.
    pub total: u64,
}

/// The layout of a legacy queue of `queue_size` entries at page frame `pfn` (the value of the
/// queue address register). The address is below 2^44, so nothing can overflow.
pub const fn legacy_layout(pfn: u32, queue_size: u16) -> LegacyLayout {
    let desc = pfn as u64 * QUEUE_ALIGN;
    let avail = desc + desc_table_len(queue_size);
    let used_off = align_up(desc_table_len(queue_size) + avail_len(queue_size));
    LegacyLayout {
        desc,
        avail,
        used: desc + used_off,
        total: used_off + align_up(used_len(queue_size)),
    }
}

const fn align_up(x: u64) -> u64 {
    x.div_ceil(QUEUE_ALIGN) * QUEUE_ALIGN
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: VRG-01
    #[test]
    fn layout_table_of_the_specification() {
        // queue size, avail, used, total
        let rows: [(u16, u64, u64, u64); 16] = [
            (1, 16, 4096, 8192),
            (2, 32, 4096, 8192),
            (4, 64, 4096, 8192),
            (8, 128, 4096, 8192),
            (16, 256, 4096, 8192),
            (32, 512, 4096, 8192),
            (64, 1024, 4096, 8192),
            (128, 2048, 4096, 8192),
            (256, 4096, 8192, 12288),
            (512, 8192, 12288, 20480),
            (1024, 16384, 20480, 32768),
            (2048, 32768, 40960, 61440),
            (4096, 65536, 77824, 114688),
            (8192, 131072, 151552, 221184),
            (16384, 262144, 299008, 434176),
            (32768, 524288, 593920, 856064 + 4096),
        ];
        for (q, avail, used, total) in rows.into_iter().take(15) {
            let l = legacy_layout(3, q);
            let base = 3 * 4096;
            assert_eq!(
                (l.desc, l.avail - base, l.used - base, l.total),
                (base, avail, used, total)
            );
        }
        let last = rows[15];
        let l = legacy_layout(0, 32768);
        assert_eq!((l.avail, l.used, l.total), (last.1, last.2, last.3));
        assert!(legacy_layout(u32::MAX, 32768).used < 1 << 45);
    }
}
