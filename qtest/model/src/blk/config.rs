// SPDX-License-Identifier: GPL-2.0-or-later
//! Settings, features and device configuration of a block function.

use virtio_modern_spec::bytes::{put_u16, put_u32, put_u64};
use virtio_modern_spec::features::{bit, blk};

use crate::disk::SECTOR;
use crate::settings::{check_block_size, check_queue_count, check_queue_size};

/// Bytes of the device configuration, up to and without the zoned block.
pub const CONFIG_LEN: usize = 72;
/// Byte of the configuration that holds `writeback`, the only one a driver may write.
pub const WRITEBACK_OFFSET: usize = 32;

/// Longest serial number that GET_ID returns.
pub const SERIAL_LEN: usize = 20;
/// Largest number of sectors of one discard or write-zeroes segment.
pub const MAX_ERASE_SECTORS: u32 = 1 << 15;
/// Largest number of segments of a discard or write-zeroes request.
pub const MAX_ERASE_SEGMENTS: u32 = 16;

/// What the front end chooses for each block function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkSettings {
    /// Number of request queues; MQ is offered when there is more than one.
    pub num_queues: u16,
    /// Entries of each queue.
    pub queue_size: u16,
    /// Logical block size in bytes: a power of two from 512 to 65536.
    pub block_size: u32,
    /// Refuse writes and offer RO.
    pub read_only: bool,
    /// What GET_ID answers; longer texts are cut at 20 bytes.
    pub serial: String,
}

impl Default for BlkSettings {
    fn default() -> Self {
        Self {
            num_queues: 1,
            queue_size: 256,
            block_size: 512,
            read_only: false,
            serial: "vlvf-blk".into(),
        }
    }
}

impl BlkSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        check_queue_count("blk", "queues", self.num_queues)?;
        check_queue_size("blk", self.queue_size)?;
        check_block_size("blk", self.block_size, 65536)
    }

    /// Data segments a driver may put in one request: header and status take two descriptors.
    pub fn seg_max(&self) -> u32 {
        u32::from(self.queue_size).saturating_sub(2).max(1)
    }

    /// Features of the type through the modern (`legacy` false) or the legacy interface.
    pub fn features(&self, legacy: bool) -> u64 {
        let mut features = bit(blk::SEG_MAX)
            | bit(blk::GEOMETRY)
            | bit(blk::BLK_SIZE)
            | bit(blk::FLUSH)
            | bit(blk::TOPOLOGY)
            | bit(blk::CONFIG_WCE)
            | bit(blk::DISCARD)
            | bit(blk::WRITE_ZEROES);
        if self.num_queues > 1 {
            features |= bit(blk::MQ);
        }
        if self.read_only {
            features |= bit(blk::RO);
            features &= !(bit(blk::DISCARD) | bit(blk::WRITE_ZEROES));
        }
        if legacy {
            // Honoured without effort: requests are carried out one by one, in order.
            features |= bit(blk::BARRIER);
        }
        features
    }

    /// The whole configuration for a disk of `sectors` sectors.
    pub fn encode(&self, sectors: u64, writeback: bool) -> [u8; CONFIG_LEN] {
        let mut c = [0; CONFIG_LEN];
        let geometry = Geometry::of(sectors);
        let erase = if self.read_only { 0 } else { MAX_ERASE_SECTORS };
        let erase_segments = if self.read_only {
            0
        } else {
            MAX_ERASE_SEGMENTS
        };
        let alignment = (self.block_size / SECTOR as u32).max(1);
        // Every offset is inside of the array, see the layout test.
        let _ = put_u64(&mut c, 0, sectors)
            && put_u32(&mut c, 12, self.seg_max())
            && put_u16(&mut c, 16, geometry.cylinders)
            && put_u32(&mut c, 20, self.block_size)
            // Physical blocks of 4096 bytes, unless the logical ones are larger.
            && put_u16(&mut c, 26, 1)
            && put_u16(&mut c, 34, self.num_queues)
            && put_u32(&mut c, 36, erase)
            && put_u32(&mut c, 40, erase_segments)
            && put_u32(&mut c, 44, alignment)
            && put_u32(&mut c, 48, erase)
            && put_u32(&mut c, 52, erase_segments);
        for (offset, value) in [
            (18, geometry.heads),
            (19, geometry.sectors),
            (24, physical_block_exp(self.block_size)),
            (WRITEBACK_OFFSET, u8::from(writeback)),
            (56, u8::from(!self.read_only)),
        ] {
            if let Some(byte) = c.get_mut(offset) {
                *byte = value;
            }
        }
        c
    }
}

/// log2 of logical blocks per physical block of 4096 bytes.
fn physical_block_exp(block_size: u32) -> u8 {
    // At most 3: block_size is at least 512.
    (4096 / block_size.clamp(512, 4096)).trailing_zeros() as u8
}

/// The disk in cylinders, heads and sectors, for firmware that asks.
struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

impl Geometry {
    fn of(sectors: u64) -> Self {
        const HEADS: u8 = 16;
        const SECTORS: u8 = 63;
        let per_cylinder = u64::from(HEADS) * u64::from(SECTORS);
        Self {
            // 16383 is the largest number of cylinders that ATA knows.
            cylinders: u16::try_from((sectors / per_cylinder).min(16383)).unwrap_or(16383),
            heads: HEADS,
            sectors: SECTORS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_pci_spec::config::{field_at, fields};
    use virtio_pci_spec::DeviceType;

    fn field(config: &[u8], name: &str) -> u64 {
        let field = fields(DeviceType::Block)
            .iter()
            .find(|f| f.name == name)
            .unwrap();
        let at = usize::from(field.offset);
        virtio_modern_spec::bytes::le_value(&config[at..at + usize::from(field.len())])
    }

    // Covers: BLK-01, BLK-07
    #[test]
    fn fields_are_where_the_specification_has_them() {
        let settings = BlkSettings {
            num_queues: 3,
            block_size: 1024,
            ..BlkSettings::default()
        };
        let c = settings.encode(0x1_2345_6789, true);
        // Both halves of the capacity, as a legacy driver reads them.
        assert_eq!(c[..4], 0x2345_6789u32.to_le_bytes());
        assert_eq!(c[4..8], 1u32.to_le_bytes());
        for (name, value) in [
            ("capacity", 0x1_2345_6789),
            ("size_max", 0),
            ("seg_max", 254),
            ("cylinders", 16383),
            ("heads", 16),
            ("sectors", 63),
            ("blk_size", 1024),
            ("physical_block_exp", 2),
            ("alignment_offset", 0),
            ("min_io_size", 1),
            ("opt_io_size", 0),
            ("writeback", 1),
            ("unused0", 0),
            ("num_queues", 3),
            ("max_discard_sectors", 1 << 15),
            ("max_discard_seg", 16),
            ("discard_sector_alignment", 2),
            ("max_write_zeroes_sectors", 1 << 15),
            ("max_write_zeroes_seg", 16),
            ("write_zeroes_may_unmap", 1),
            ("unused1", 0),
            ("max_secure_erase_sectors", 0),
        ] {
            assert_eq!(field(&c, name), value, "{name}");
        }
        assert_eq!(
            field_at(DeviceType::Block, CONFIG_LEN as u16).unwrap().name,
            "zone_sectors"
        );
    }

    // Covers: BLK-02, BLK-06, BLK-07
    #[test]
    fn offered_features() {
        for (num_queues, read_only) in [(1, false), (4, false), (1, true)] {
            let settings = BlkSettings {
                num_queues,
                read_only,
                ..BlkSettings::default()
            };
            let (legacy, modern) = (settings.features(true), settings.features(false));
            // BARRIER is legacy only and SCSI is not served at all.
            assert_eq!(legacy & !modern, bit(blk::BARRIER));
            assert_eq!(modern & !legacy, 0);
            for absent in [blk::SCSI, blk::ZONED, blk::LIFETIME, blk::SECURE_ERASE] {
                assert_eq!((legacy | modern) & bit(absent), 0, "bit {absent}");
            }
            // CONFIG_WCE needs FLUSH.
            assert_ne!(legacy & bit(blk::CONFIG_WCE), 0);
            assert_ne!(legacy & bit(blk::FLUSH), 0);
            assert_eq!(legacy & bit(blk::MQ) != 0, num_queues > 1);
            assert_eq!(legacy & bit(blk::RO) != 0, read_only);
            assert_eq!(legacy & bit(blk::DISCARD) == 0, read_only);
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let good = BlkSettings::default();
        assert_eq!(good.check(), Ok(()));
        for (bad, word) in [
            (
                BlkSettings {
                    num_queues: 0,
                    ..good.clone()
                },
                "queues",
            ),
            (
                BlkSettings {
                    queue_size: 100,
                    ..good.clone()
                },
                "queue size",
            ),
            (
                BlkSettings {
                    block_size: 513,
                    ..good.clone()
                },
                "block size",
            ),
            (
                BlkSettings {
                    block_size: 256,
                    ..good.clone()
                },
                "block size",
            ),
        ] {
            assert!(bad.check().unwrap_err().contains(word));
        }
    }
}
