// SPDX-License-Identifier: GPL-2.0-or-later
//! What a driver tells about its memory ("Memory Statistics").

/// Bytes of one statistic: a 16-bit tag and a 64-bit value.
pub const ENTRY_LEN: usize = 10;
/// Entries read of one buffer at most; the specification knows fewer tags.
pub const MAX_ENTRIES: usize = 64;

/// Names of the tags, by number, as they are shown among the device's numbers.
const NAMES: [&str; 16] = [
    "stat_swap_in",
    "stat_swap_out",
    "stat_major_faults",
    "stat_minor_faults",
    "stat_free_memory",
    "stat_total_memory",
    "stat_available_memory",
    "stat_disk_caches",
    "stat_hugetlb_allocations",
    "stat_hugetlb_failures",
    "stat_oom_kills",
    "stat_allocation_stalls",
    "stat_async_scans",
    "stat_direct_scans",
    "stat_async_reclaims",
    "stat_direct_reclaims",
];

/// The last values a driver gave.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    values: [Option<u64>; NAMES.len()],
}

impl Stats {
    /// Takes the entries of a buffer in place of the old ones. Tags nobody knows are left out, an
    /// incomplete entry at the end too.
    pub fn replace(&mut self, bytes: &[u8]) {
        *self = Self::default();
        for entry in bytes.chunks_exact(ENTRY_LEN) {
            let (tag, value) = entry.split_at(2);
            // Through the legacy interface they are in the guest's byte order, here little-endian.
            let tag = virtio_modern_spec::bytes::le_value(tag) as usize;
            if let Some(slot) = self.values.get_mut(tag) {
                *slot = Some(virtio_modern_spec::bytes::le_value(value));
            }
        }
    }

    /// The values that are known, with their names.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let all = NAMES.iter().zip(self.values);
        all.filter_map(|(name, value)| Some((*name, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: BAL-05
    #[test]
    fn entries_are_ten_bytes_and_unknown_tags_are_left_out() {
        let mut bytes = Vec::new();
        for (tag, value) in [(4u16, 0x0102_0304_0506_0708u64), (5, 7), (999, 1), (4, 9)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([6, 0, 1]);
        let mut stats = Stats::default();
        stats.replace(&bytes);
        let all: Vec<_> = stats.numbers().collect();
        assert_eq!(all, [("stat_free_memory", 9), ("stat_total_memory", 7)]);
        stats.replace(&[]);
        assert_eq!(stats.numbers().count(), 0);
    }
}
