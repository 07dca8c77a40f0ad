// SPDX-License-Identifier: GPL-2.0-or-later
//! Settings, features and device configuration of a memory balloon.

use virtio_modern_spec::features::{balloon, bit};

/// Bytes of the device configuration, with the fields of features that are not offered.
pub const CONFIG_LEN: usize = 16;
/// Where the driver writes how large the balloon is.
pub const ACTUAL_OFFSET: usize = 4;
/// Bytes of that field.
pub const ACTUAL_LEN: usize = 4;

/// What the front end chooses for each balloon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalloonSettings {
    /// Entries of each queue.
    pub queue_size: u16,
    /// Pages of 4096 bytes that the driver is asked for from the start.
    pub pages: u32,
    /// Offer STATS_VQ.
    pub stats: bool,
    /// Offer MUST_TELL_HOST.
    pub must_tell_host: bool,
    /// Offer DEFLATE_ON_OOM.
    pub deflate_on_oom: bool,
}

impl Default for BalloonSettings {
    fn default() -> Self {
        Self {
            queue_size: 128,
            pages: 0,
            stats: true,
            must_tell_host: true,
            deflate_on_oom: false,
        }
    }
}

impl BalloonSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        if self.queue_size.is_power_of_two() && self.queue_size <= 32768 {
            return Ok(());
        }
        Err(format!(
            "balloon: queue size {} is not a power of two up to 32768",
            self.queue_size
        ))
    }

    /// Features of the type; the same through both interfaces.
    pub fn features(&self) -> u64 {
        [
            (self.must_tell_host, balloon::MUST_TELL_HOST),
            (self.stats, balloon::STATS_VQ),
            (self.deflate_on_oom, balloon::DEFLATE_ON_OOM),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(0, |all, (_, n)| all | bit(n))
    }
}

/// The whole configuration. All fields are little-endian through both interfaces, other than those
/// of the other types.
pub fn encode(num_pages: u32, actual: [u8; ACTUAL_LEN]) -> [u8; CONFIG_LEN] {
    let mut c = [0; CONFIG_LEN];
    let bytes = num_pages.to_le_bytes().into_iter().chain(actual);
    for (to, from) in c.iter_mut().zip(bytes) {
        *to = from;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_pci_spec::config::{field_at, full_len};
    use virtio_pci_spec::DeviceType;

    // Covers: BAL-02
    #[test]
    fn fields_are_where_the_specification_has_them_and_little_endian() {
        let c = encode(0x0102_0304, [0x15, 0x16, 0x17, 0x18]);
        assert_eq!(c[..8], [4, 3, 2, 1, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(c[8..], [0; 8]);
        assert_eq!(full_len(DeviceType::Balloon), CONFIG_LEN as u16);
        let field = field_at(DeviceType::Balloon, ACTUAL_OFFSET as u16).unwrap();
        assert_eq!((field.name, field.len()), ("actual", ACTUAL_LEN as u16));
    }

    // Covers: BAL-01
    #[test]
    fn optional_queues_are_offered_without_gaps() {
        let all = BalloonSettings {
            deflate_on_oom: true,
            ..BalloonSettings::default()
        };
        assert_eq!(all.features(), 0b111);
        let none = BalloonSettings {
            stats: false,
            must_tell_host: false,
            ..BalloonSettings::default()
        };
        assert_eq!(none.features(), 0);
        // Free page hinting and reporting have queues behind those of the statistics.
        assert_eq!(all.features() >> balloon::FREE_PAGE_HINT, 0);
        let bad = BalloonSettings {
            queue_size: 3,
            ..none
        };
        assert!(bad.check().unwrap_err().contains("queue size"));
    }
}
