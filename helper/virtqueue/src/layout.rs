// SPDX-License-Identifier: GPL-2.0-or-later
//! Where the three parts of a queue lie in its memory.

use virtio_modern_spec::ring;

use crate::error::QueueError;

/// Byte offsets of the parts in the ring memory. Starts are aligned to 64 bytes, more than the
/// 16, 2 and 4 that the specification asks for, so that the parts share no cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Queue size.
    pub size: u16,
    /// Descriptor table.
    pub desc: usize,
    /// Available ring.
    pub avail: usize,
    /// Used ring.
    pub used: usize,
    /// Bytes of the whole.
    pub total: usize,
}

/// Addresses of the parts for queue_desc, queue_driver and queue_device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Descriptor area.
    pub desc: u64,
    /// Driver area.
    pub driver: u64,
    /// Device area.
    pub device: u64,
}

const ALIGN: usize = 64;

impl Layout {
    /// The layout of a queue of `size` entries, a power of two up to 32768.
    pub fn new(size: u16) -> Result<Self, QueueError> {
        if !size.is_power_of_two() || size > ring::MAX_QUEUE_SIZE {
            return Err(QueueError::Internal("queue size is not a power of two"));
        }
        let avail = (ring::desc_table_len(size) as usize).next_multiple_of(ALIGN);
        let used = (avail + ring::avail_len(size) as usize).next_multiple_of(ALIGN);
        Ok(Layout {
            size,
            desc: 0,
            avail,
            used,
            total: used + ring::used_len(size) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: VRG-04
    #[test]
    fn parts_are_aligned_and_do_not_overlap() {
        for shift in 0..=15 {
            let size = 1 << shift;
            let l = Layout::new(size).unwrap();
            assert_eq!((l.desc % 16, l.avail % 2, l.used % 4), (0, 0, 0));
            assert!(l.avail >= 16 * usize::from(size));
            assert!(l.used >= l.avail + 6 + 2 * usize::from(size));
            assert_eq!(l.total, l.used + 6 + 8 * usize::from(size));
        }
        assert!(Layout::new(0).is_err());
        assert!(Layout::new(6).is_err());
        assert!(Layout::new(0xffff).is_err());
    }
}
