// SPDX-License-Identifier: GPL-2.0-or-later
//! Settings, features and device configuration of a SCSI host.

use virtio_modern_spec::bytes::{put_u16, put_u32};
use virtio_pci_spec::bytes::get_u32;

use crate::effect::FunctionId;
use crate::settings::{check_block_size, check_queue_count, check_queue_size};

/// Bytes of the device configuration.
pub const CONFIG_LEN: usize = 36;
/// Byte of the configuration that holds `sense_size`.
pub const SENSE_SIZE_OFFSET: usize = 20;
/// Byte of the configuration that holds `cdb_size`.
pub const CDB_SIZE_OFFSET: usize = 24;
/// `sense_size` after a reset.
pub const SENSE_SIZE: u32 = 96;
/// `cdb_size` after a reset.
pub const CDB_SIZE: u32 = 32;
/// Largest `sense_size` that is obeyed: what fits a request's length fields.
pub const MAX_SENSE_SIZE: u32 = 0xffff;
/// Largest `cdb_size` that is obeyed: no command is longer.
pub const MAX_CDB_SIZE: u32 = 260;
/// Bytes of an event.
pub const EVENT_LEN: usize = 16;

/// Features of the type ("SCSI Host Device", "Feature bits").
pub mod feature {
    /// LUNs come and go, and the driver is told.
    pub const HOTPLUG: u32 = 1;
    /// Parameters of a LUN change, and the driver is told.
    pub const CHANGE: u32 = 2;
}

/// What the front end chooses for each SCSI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiSettings {
    /// Number of request queues, 1 to 256.
    pub num_queues: u16,
    /// Entries of each queue.
    pub queue_size: u16,
    /// Logical block size in bytes: a power of two from 512 to 4096.
    pub block_size: u32,
    /// The disk is write protected.
    pub read_only: bool,
    /// How serial numbers begin: 1 to 24 printable characters.
    pub serial: String,
}

impl Default for ScsiSettings {
    fn default() -> Self {
        Self {
            num_queues: 1,
            queue_size: 256,
            block_size: 512,
            read_only: false,
            serial: "vlvf-scsi".into(),
        }
    }
}

impl ScsiSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        check_queue_count("scsi", "request queues", self.num_queues)?;
        check_queue_size("scsi", self.queue_size)?;
        check_block_size("scsi", self.block_size, 4096)?;
        let printable = self.serial.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !(1..=24).contains(&self.serial.len()) || !printable {
            return Err(format!(
                "scsi: serial number {:?} is not 1 to 24 printable characters",
                self.serial
            ));
        }
        Ok(())
    }

    /// Serial number of the disk in a function: they all differ.
    pub fn serial_of(&self, function: FunctionId) -> String {
        match function {
            FunctionId::Pf => format!("{}-pf", self.serial),
            FunctionId::Vf(n) => format!("{}-vf{n}", self.serial),
        }
    }

    /// The whole configuration with what the driver wrote.
    pub fn encode(&self, written: &Written) -> [u8; CONFIG_LEN] {
        let mut c = [0; CONFIG_LEN];
        // Every offset is inside of the array, see the layout test.
        let _ = put_u32(&mut c, 0, self.num_queues.into())
            // Request and response header take two descriptors.
            && put_u32(&mut c, 4, u32::from(self.queue_size).saturating_sub(2).max(1))
            && put_u32(&mut c, 8, 0xffff)
            && put_u32(&mut c, 12, u32::from(self.queue_size).min(128))
            && put_u32(&mut c, 16, EVENT_LEN as u32)
            && put_u32(&mut c, SENSE_SIZE_OFFSET, written.sense_size())
            && put_u32(&mut c, CDB_SIZE_OFFSET, written.cdb_size())
            && put_u16(&mut c, 28, 0)
            && put_u16(&mut c, 30, MAX_TARGET)
            && put_u32(&mut c, 32, MAX_LUN);
        c
    }
}

/// Largest target number a driver looks for.
pub const MAX_TARGET: u16 = 7;
/// Largest LUN a driver looks for.
pub const MAX_LUN: u32 = 255;

/// The two fields that a driver may write, byte by byte if it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    bytes: [u8; 8],
}

impl Default for Written {
    fn default() -> Self {
        let mut bytes = [0; 8];
        let _ = put_u32(&mut bytes, 0, SENSE_SIZE) && put_u32(&mut bytes, 4, CDB_SIZE);
        Self { bytes }
    }
}

impl Written {
    /// Bytes of sense data in a response, as written.
    pub fn sense_size(&self) -> u32 {
        get_u32(&self.bytes, 0).unwrap_or(SENSE_SIZE)
    }

    /// Bytes of the command in a request, as written.
    pub fn cdb_size(&self) -> u32 {
        get_u32(&self.bytes, 4).unwrap_or(CDB_SIZE)
    }

    /// Both as lengths (command, sense data), if they are within bounds.
    pub fn lengths(&self) -> Option<(usize, usize)> {
        let (cdb, sense) = (self.cdb_size(), self.sense_size());
        if cdb > MAX_CDB_SIZE || sense > MAX_SENSE_SIZE {
            return None;
        }
        Some((cdb as usize, sense as usize))
    }

    /// A driver's write at `offset` of the configuration; `false` if that is not writable.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let slot = offset
            .checked_sub(SENSE_SIZE_OFFSET)
            .and_then(|at| self.bytes.get_mut(at..at.checked_add(data.len())?));
        match slot {
            Some(slot) => {
                slot.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_pci_spec::config::{fields, full_len};
    use virtio_pci_spec::DeviceType;

    fn field(config: &[u8], name: &str) -> u64 {
        let f = fields(DeviceType::Scsi)
            .iter()
            .find(|f| f.name == name)
            .unwrap();
        let at = usize::from(f.offset);
        virtio_modern_spec::bytes::le_value(&config[at..at + usize::from(f.len())])
    }

    // Covers: SCS-01, SCS-02
    #[test]
    fn every_field_is_where_the_specification_has_it() {
        assert_eq!(CONFIG_LEN, usize::from(full_len(DeviceType::Scsi)));
        let settings = ScsiSettings {
            num_queues: 3,
            queue_size: 64,
            ..ScsiSettings::default()
        };
        let c = settings.encode(&Written::default());
        for (name, value) in [
            ("num_queues", 3),
            ("seg_max", 62),
            ("max_sectors", 0xffff),
            ("cmd_per_lun", 64),
            ("event_info_size", 16),
            ("sense_size", 96),
            ("cdb_size", 32),
            ("max_channel", 0),
            ("max_target", 7),
            ("max_lun", 255),
        ] {
            assert_eq!(field(&c, name), value, "{name}");
        }
        let writable: Vec<_> = fields(DeviceType::Scsi)
            .iter()
            .filter(|f| f.writable)
            .map(|f| usize::from(f.offset))
            .collect();
        assert_eq!(writable, [SENSE_SIZE_OFFSET, CDB_SIZE_OFFSET]);
    }

    // Covers: SCS-02
    #[test]
    fn sizes_are_written_whole_or_in_parts() {
        let mut w = Written::default();
        assert!(w.write(20, &18u32.to_le_bytes()) && w.write(24, &[16]));
        assert_eq!((w.sense_size(), w.cdb_size()), (18, 16));
        assert_eq!(w.lengths(), Some((16, 18)));
        assert!(w.write(22, &[1, 0]));
        assert_eq!((w.sense_size(), w.lengths()), (0x1_0012, None));
        for (offset, len) in [(0, 4), (19, 2), (27, 2), (28, 1), (usize::MAX, 1)] {
            assert!(!w.write(offset, &vec![0xff; len]), "{len} at {offset}");
        }
        assert_eq!((w.sense_size(), w.cdb_size()), (0x1_0012, 16));
    }

    #[test]
    fn wrong_settings_are_named() {
        let good = ScsiSettings::default();
        assert_eq!(good.check(), Ok(()));
        let bad = |change: fn(&mut ScsiSettings)| {
            let mut s = good.clone();
            change(&mut s);
            s.check().unwrap_err()
        };
        assert!(bad(|s| s.num_queues = 0).contains("queues"));
        assert!(bad(|s| s.queue_size = 100).contains("queue size"));
        assert!(bad(|s| s.block_size = 8192).contains("block size"));
        assert!(bad(|s| s.block_size = 513).contains("block size"));
        assert!(bad(|s| s.serial = "é".into()).contains("serial"));
        assert!(bad(|s| s.serial.clear()).contains("serial"));
    }
}
