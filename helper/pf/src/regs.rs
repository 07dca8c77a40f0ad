// SPDX-License-Identifier: GPL-2.0-or-later
//! Accesses to the common configuration structure, each field in its own width ("PCI Device
//! Layout"), each one traced.

use pci_transport::{PciFunction, Posted, Width};
use virtio_modern_spec::common as c;

use crate::error::PfError;

/// Where a structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Structure {
    pub(crate) bar: u8,
    pub(crate) offset: u64,
    /// Bytes that exist: no more than the BAR has.
    pub(crate) len: u64,
}

/// The specification's name of a field.
pub(crate) const fn name(field: u64) -> &'static str {
    match field {
        c::DEVICE_FEATURE_SELECT => "device_feature_select",
        c::DEVICE_FEATURE => "device_feature",
        c::DRIVER_FEATURE_SELECT => "driver_feature_select",
        c::DRIVER_FEATURE => "driver_feature",
        c::CONFIG_MSIX_VECTOR => "config_msix_vector",
        c::NUM_QUEUES => "num_queues",
        c::DEVICE_STATUS => "device_status",
        c::CONFIG_GENERATION => "config_generation",
        c::QUEUE_SELECT => "queue_select",
        c::QUEUE_SIZE => "queue_size",
        c::QUEUE_MSIX_VECTOR => "queue_msix_vector",
        c::QUEUE_ENABLE => "queue_enable",
        c::QUEUE_NOTIFY_OFF => "queue_notify_off",
        c::QUEUE_DESC => "queue_desc",
        c::QUEUE_DRIVER => "queue_driver",
        c::QUEUE_DEVICE => "queue_device",
        c::QUEUE_NOTIF_CONFIG_DATA => "queue_notif_config_data",
        c::QUEUE_RESET => "queue_reset",
        c::ADMIN_QUEUE_INDEX => "admin_queue_index",
        c::ADMIN_QUEUE_NUM => "admin_queue_num",
        _ => "common configuration",
    }
}

/// The common configuration structure of a function.
#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    function: &'a dyn PciFunction,
    at: Structure,
}

impl<'a> Common<'a> {
    pub(crate) fn new(function: &'a dyn PciFunction, at: Structure) -> Self {
        Common { function, at }
    }

    fn misbehaved(&self, field: u64, why: String) -> PfError {
        PfError::Misbehaved {
            function: self.function.id().into(),
            register: name(field),
            why,
        }
    }

    /// Width of a field, if the device's structure is long enough to hold it.
    fn width(&self, field: u64) -> Result<Width, PfError> {
        let bytes = c::FIELDS
            .iter()
            .find(|(offset, _)| *offset == field)
            .map(|(_, bytes)| *bytes)
            .unwrap_or(0);
        if field + u64::from(bytes) > self.at.len {
            let why = format!("the structure has only {} bytes", self.at.len);
            return Err(self.misbehaved(field, why));
        }
        match bytes {
            1 => Ok(Width::B1),
            2 => Ok(Width::B2),
            4 | 8 => Ok(Width::B4),
            _ => Err(self.misbehaved(field, "no such field".into())),
        }
    }

    /// Reads a field of up to 32 bits.
    pub(crate) fn read(&self, field: u64) -> Result<u32, PfError> {
        let width = self.width(field)?;
        let value = self
            .function
            .bar_read(self.at.bar, self.at.offset + field, width)?;
        tracing::trace!(
            function = self.function.id(),
            register = name(field),
            value,
            "read"
        );
        Ok(value)
    }

    /// Reads a 16-bit field.
    pub(crate) fn read16(&self, field: u64) -> Result<u16, PfError> {
        Ok((self.read(field)? & 0xffff) as u16)
    }

    /// Writes a field of up to 32 bits.
    pub(crate) fn write(&self, field: u64, value: u32) -> Result<(), PfError> {
        let width = self.width(field)?;
        tracing::trace!(
            function = self.function.id(),
            register = name(field),
            value,
            "write"
        );
        self.function.bar_write(
            self.at.bar,
            self.at.offset + field,
            width,
            value,
            Posted::No,
        )?;
        Ok(())
    }

    /// Writes a 64-bit field as two halves.
    pub(crate) fn write64(&self, field: u64, value: u64) -> Result<(), PfError> {
        let width = self.width(field)?;
        tracing::trace!(
            function = self.function.id(),
            register = name(field),
            value,
            "write"
        );
        for (offset, half) in [(0, value), (4, value >> 32)] {
            self.function.bar_write(
                self.at.bar,
                self.at.offset + field + offset,
                width,
                (half & 0xffff_ffff) as u32,
                Posted::No,
            )?;
        }
        Ok(())
    }

    /// Reads device_status.
    pub(crate) fn status(&self) -> Result<u8, PfError> {
        Ok((self.read(c::DEVICE_STATUS)? & 0xff) as u8)
    }

    /// Reads device_status without waiting for it; see [`PciFunction::bar_read_later`].
    pub(crate) fn status_later(&self) -> Result<Option<u8>, PfError> {
        let width = self.width(c::DEVICE_STATUS)?;
        let offset = self.at.offset + c::DEVICE_STATUS;
        let value = self.function.bar_read_later(self.at.bar, offset, width)?;
        Ok(value.map(|value| (value & 0xff) as u8))
    }

    /// Writes device_status.
    pub(crate) fn set_status(&self, status: u8) -> Result<(), PfError> {
        self.write(c::DEVICE_STATUS, status.into())
    }
}
