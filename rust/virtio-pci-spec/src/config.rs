// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Device-specific configuration of every transitional type, field by field (sections "Device
//! configuration layout" of each type; 9P from Linux, which the specification does not describe).
//!
//! A transitional device must serve accesses of any width, while an admin command must stay inside
//! one field: these tables say where to split.

use crate::ids::DeviceType;

/// A run of equal elements in the device configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigField {
    /// Name in the specification.
    pub name: &'static str,
    /// Byte offset in the device configuration.
    pub offset: u16,
    /// Bytes of one element.
    pub elem: u8,
    /// Number of elements; more than one for byte arrays.
    pub count: u16,
    /// The driver may write it through the legacy interface.
    pub writable: bool,
}

// A field has at least one byte.
#[allow(clippy::len_without_is_empty)]
impl ConfigField {
    /// Bytes of the whole field.
    pub const fn len(&self) -> u16 {
        self.elem as u16 * self.count
    }
}

const fn ro(name: &'static str, offset: u16, elem: u8, count: u16) -> ConfigField {
    ConfigField {
        name,
        offset,
        elem,
        count,
        writable: false,
    }
}

const fn rw(name: &'static str, offset: u16, elem: u8, count: u16) -> ConfigField {
    let mut field = ro(name, offset, elem, count);
    field.writable = true;
    field
}

const NET: &[ConfigField] = &[
    rw("mac", 0, 1, 6),
    ro("status", 6, 2, 1),
    ro("max_virtqueue_pairs", 8, 2, 1),
    ro("mtu", 10, 2, 1),
    ro("speed", 12, 4, 1),
    ro("duplex", 16, 1, 1),
    ro("rss_max_key_size", 17, 1, 1),
    ro("rss_max_indirection_table_length", 18, 2, 1),
    ro("supported_hash_types", 20, 4, 1),
    ro("supported_tunnel_types", 24, 4, 1),
];

const BLOCK: &[ConfigField] = &[
    ro("capacity", 0, 8, 1),
    ro("size_max", 8, 4, 1),
    ro("seg_max", 12, 4, 1),
    ro("cylinders", 16, 2, 1),
    ro("heads", 18, 1, 1),
    ro("sectors", 19, 1, 1),
    ro("blk_size", 20, 4, 1),
    ro("physical_block_exp", 24, 1, 1),
    ro("alignment_offset", 25, 1, 1),
    ro("min_io_size", 26, 2, 1),
    ro("opt_io_size", 28, 4, 1),
    rw("writeback", 32, 1, 1),
    ro("unused0", 33, 1, 1),
    ro("num_queues", 34, 2, 1),
    ro("max_discard_sectors", 36, 4, 1),
    ro("max_discard_seg", 40, 4, 1),
    ro("discard_sector_alignment", 44, 4, 1),
    ro("max_write_zeroes_sectors", 48, 4, 1),
    ro("max_write_zeroes_seg", 52, 4, 1),
    ro("write_zeroes_may_unmap", 56, 1, 1),
    ro("unused1", 57, 1, 3),
    ro("max_secure_erase_sectors", 60, 4, 1),
    ro("max_secure_erase_seg", 64, 4, 1),
    ro("secure_erase_sector_alignment", 68, 4, 1),
    ro("zone_sectors", 72, 4, 1),
    ro("max_open_zones", 76, 4, 1),
    ro("max_active_zones", 80, 4, 1),
    ro("max_append_sectors", 84, 4, 1),
    ro("write_granularity", 88, 4, 1),
    ro("model", 92, 1, 1),
    ro("unused2", 93, 1, 3),
];

const CONSOLE: &[ConfigField] = &[
    ro("cols", 0, 2, 1),
    ro("rows", 2, 2, 1),
    ro("max_nr_ports", 4, 4, 1),
    rw("emerg_wr", 8, 4, 1),
];

const BALLOON: &[ConfigField] = &[
    ro("num_pages", 0, 4, 1),
    rw("actual", 4, 4, 1),
    ro("free_page_hint_cmd_id", 8, 4, 1),
    rw("poison_val", 12, 4, 1),
];

const SCSI: &[ConfigField] = &[
    ro("num_queues", 0, 4, 1),
    ro("seg_max", 4, 4, 1),
    ro("max_sectors", 8, 4, 1),
    ro("cmd_per_lun", 12, 4, 1),
    ro("event_info_size", 16, 4, 1),
    rw("sense_size", 20, 4, 1),
    rw("cdb_size", 24, 4, 1),
    ro("max_channel", 28, 2, 1),
    ro("max_target", 30, 2, 1),
    ro("max_lun", 32, 4, 1),
];

/// Longest 9P tag whose bytes an admin command can address (its offset field is one byte).
pub const P9_MAX_TAG: u16 = 254;

const P9: &[ConfigField] = &[ro("tag_len", 0, 2, 1), ro("tag", 2, 1, P9_MAX_TAG)];

/// The fields of a type's device configuration, ascending and without gaps.
pub const fn fields(device: DeviceType) -> &'static [ConfigField] {
    match device {
        DeviceType::Net => NET,
        DeviceType::Block => BLOCK,
        DeviceType::Console => CONSOLE,
        DeviceType::Entropy => &[],
        DeviceType::Balloon => BALLOON,
        DeviceType::Scsi => SCSI,
        DeviceType::P9 => P9,
    }
}

/// Bytes of a type's full device configuration; for 9P with the longest tag.
pub fn full_len(device: DeviceType) -> u16 {
    fields(device).last().map_or(0, |f| f.offset + f.len())
}

/// The field that contains byte `offset` of the device configuration.
pub fn field_at(device: DeviceType, offset: u16) -> Option<ConfigField> {
    fields(device)
        .iter()
        .copied()
        .find(|f| offset >= f.offset && offset < f.offset + f.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: LIO-03
    #[test]
    fn tables_have_no_gaps_and_the_right_length() {
        for t in DeviceType::ALL {
            let mut next = 0;
            for f in fields(t) {
                assert_eq!(f.offset, next, "{} of {}", f.name, t.name());
                assert!(f.len() > 0);
                next += f.len();
            }
            assert_eq!(next, full_len(t));
        }
        assert_eq!(full_len(DeviceType::Net), 28);
        assert_eq!(full_len(DeviceType::Block), 96);
        assert_eq!(full_len(DeviceType::Console), 12);
        assert_eq!(full_len(DeviceType::Entropy), 0);
        assert_eq!(full_len(DeviceType::Balloon), 16);
        assert_eq!(full_len(DeviceType::Scsi), 36);
        assert_eq!(field_at(DeviceType::Net, 5).map(|f| f.name), Some("mac"));
        assert_eq!(field_at(DeviceType::Net, 28), None);
    }
}
