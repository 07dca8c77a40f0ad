// SPDX-License-Identifier: GPL-2.0-or-later
//! The legacy registers of a VF, as admin commands reach them ("Legacy Interfaces: A Note on PCI
//! Device Layout"). It is a second view of the state behind the modern interface; only the queue
//! selector is its own.

use virtio_modern_spec::bytes::le_value;
use virtio_modern_spec::features::{self, LEGACY_MASK};
use virtio_pci_spec::bytes::le_bytes;
use virtio_pci_spec::config;
use virtio_pci_spec::legacy::{self, Field, Register};
use virtio_pci_spec::status::{DEVICE_NEEDS_RESET, NO_VECTOR};

use crate::effect::Interface;
use crate::event::{ResetCause, Via};
use crate::function::Function;
use crate::shared::Shared;
use crate::violation::Violation;

/// An access that does not lie in one field, or not in the registers at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOneField;

impl Function {
    /// The header field that `len` bytes at `offset` lie in.
    fn legacy_field(&self, offset: u8, len: usize) -> Result<Field, NotOneField> {
        let f = legacy::field_at(offset, self.core.msix.enabled()).ok_or(NotOneField)?;
        let end = usize::from(offset) + len;
        if len == 0 || end > usize::from(f.offset) + usize::from(f.size) {
            return Err(NotOneField);
        }
        Ok(f)
    }

    /// Reads part of one header field.
    pub(crate) fn legacy_read(
        &mut self,
        offset: u8,
        buf: &mut [u8],
        shared: &mut Shared,
    ) -> Result<(), NotOneField> {
        let f = self.legacy_field(offset, buf.len())?;
        let value = match f.register {
            Register::IsrStatus => {
                let isr = self.core.virtio.take_isr();
                self.core.update_intx(shared);
                isr.into()
            }
            r => self.legacy_value(r),
        };
        let bytes = le_bytes(value >> (8 * (offset - f.offset)), 8);
        buf.copy_from_slice(bytes.split_at(buf.len()).0);
        Ok(())
    }

    /// What a register reads, without the side effect that reading the ISR has.
    fn legacy_value(&self, register: Register) -> u64 {
        let v = &self.core.virtio;
        let q = v.queue(v.legacy_select);
        match register {
            Register::DeviceFeatures => v.legacy_offered.into(),
            Register::DriverFeatures => v.driver_features & LEGACY_MASK,
            Register::QueueAddress => q.map_or(0, |q| q.pfn).into(),
            Register::QueueSize => q.map_or(0, |q| q.size()).into(),
            Register::QueueSelect => v.legacy_select.into(),
            Register::QueueNotify => v.legacy_notify.into(),
            Register::DeviceStatus => v.status.into(),
            Register::IsrStatus => v.isr.into(),
            Register::ConfigVector => v.config_vector.into(),
            Register::QueueVector => q.map_or(NO_VECTOR, |q| q.vector).into(),
        }
    }

    /// Writes part of one header field; the rest of the field keeps its value.
    pub(crate) fn legacy_write(
        &mut self,
        offset: u8,
        data: &[u8],
        shared: &mut Shared,
    ) -> Result<(), NotOneField> {
        let f = self.legacy_field(offset, data.len())?;
        let mut bytes = self.legacy_value(f.register).to_le_bytes();
        let at = usize::from(offset - f.offset);
        for (to, from) in bytes.iter_mut().skip(at).zip(data) {
            *to = *from;
        }
        let value = le_value(&bytes) as u32;
        let value16 = value as u16;
        match f.register {
            Register::DriverFeatures => self.legacy_features(value),
            Register::QueueAddress => self.legacy_queue_address(value),
            Register::QueueSelect => self.core.virtio.legacy_select = value16,
            Register::QueueNotify => {
                self.core.virtio.legacy_notify = value16;
                // VFs have no admin queues, so nothing is left to do for the caller.
                self.kick(value16, Via::LegacyRegister, shared);
            }
            Register::DeviceStatus => self.legacy_status(value as u8, shared),
            Register::ConfigVector => {
                self.core.virtio.config_vector = self.core.map_vector(value16, shared);
            }
            Register::QueueVector => {
                let vector = self.core.map_vector(value16, shared);
                let select = self.core.virtio.legacy_select;
                if let Some(q) = self.core.virtio.queue_mut(select) {
                    q.vector = vector;
                }
            }
            // Read-only: accepted without effect.
            Register::DeviceFeatures | Register::QueueSize | Register::IsrStatus => {}
        }
        Ok(())
    }

    /// Legacy drivers may write features at any time; the last write counts, and nothing above bit
    /// 31 stays accepted.
    fn legacy_features(&mut self, value: u32) {
        let v = &mut self.core.virtio;
        v.driver_features = u64::from(value & v.legacy_offered);
        v.driver_features_high = 0;
        v.refresh_rings();
    }

    fn legacy_queue_address(&mut self, pfn: u32) {
        let v = &mut self.core.virtio;
        let event_idx = v.has(features::EVENT_IDX);
        let select = v.legacy_select;
        if let Some(q) = v.queue_mut(select) {
            q.set_pfn(pfn, event_idx);
        }
    }

    fn legacy_status(&mut self, value: u8, shared: &mut Shared) {
        if value == 0 {
            self.reset_virtio(ResetCause::LegacyStatus, shared);
            return;
        }
        // Stored as written; only the device's own bit is not the driver's to change.
        let kept = self.core.virtio.status & DEVICE_NEEDS_RESET;
        let new = (value & !DEVICE_NEEDS_RESET) | kept;
        self.write_status(new, Interface::Legacy, shared);
    }

    /// The configuration field that `len` bytes at `offset` lie in.
    fn config_field(&self, offset: u16, len: usize) -> Result<config::ConfigField, NotOneField> {
        let f = config::field_at(self.device.device_type(), offset).ok_or(NotOneField)?;
        let end = usize::from(offset) + len;
        let whole = usize::from(self.device.config_len());
        if len == 0 || end > usize::from(f.offset + f.len()) || end > whole {
            return Err(NotOneField);
        }
        Ok(f)
    }

    /// Reads part of one device configuration field.
    pub(crate) fn legacy_config_read(
        &mut self,
        offset: u8,
        buf: &mut [u8],
    ) -> Result<(), NotOneField> {
        self.config_field(offset.into(), buf.len())?;
        self.device.read_config(offset.into(), buf);
        Ok(())
    }

    /// Writes part of one device configuration field; read-only fields stay as they are.
    pub(crate) fn legacy_config_write(
        &mut self,
        offset: u8,
        data: &[u8],
        shared: &mut Shared,
    ) -> Result<(), NotOneField> {
        let f = self.config_field(offset.into(), data.len())?;
        if !f.writable {
            shared.violation(
                self.core.id,
                Violation::ReadOnlyField {
                    structure: "device",
                    offset: offset.into(),
                },
            );
            return Ok(());
        }
        self.with_device(shared, |d, ctx| {
            d.write_config(offset.into(), data, Interface::Legacy, ctx);
        });
        Ok(())
    }

    /// Reads the device configuration through the modern structure; bytes that only pad the
    /// structure read as 0. The range lies inside the structure.
    pub(crate) fn modern_config_read(&mut self, offset: u64, buf: &mut [u8], shared: &mut Shared) {
        buf.fill(0);
        let Ok(at) = u16::try_from(offset) else {
            return;
        };
        self.check_config_width(at, buf.len(), false, shared);
        let n = usize::from(self.device.config_len().saturating_sub(at)).min(buf.len());
        if n > 0 {
            self.device.read_config(at, buf.split_at_mut(n).0);
        }
    }

    /// Writes the device configuration through the modern structure.
    pub(crate) fn modern_config_write(&mut self, offset: u64, data: &[u8], shared: &mut Shared) {
        let id = self.core.id;
        let Ok(at) = u16::try_from(offset) else {
            return;
        };
        self.check_config_width(at, data.len(), true, shared);
        let negotiated = self.core.virtio.status & virtio_pci_spec::status::FEATURES_OK != 0;
        if !negotiated && !self.device.always_writable(at) {
            shared.violation(id, Violation::ConfigBeforeFeatures { offset: at });
            return;
        }
        match self.config_field(at, data.len()) {
            Ok(f) if f.writable => self.with_device(shared, |d, ctx| {
                d.write_config(at, data, Interface::Modern, ctx);
            }),
            _ => shared.violation(
                id,
                Violation::ReadOnlyField {
                    structure: "device",
                    offset,
                },
            ),
        }
    }

    /// The modern interface wants accesses of the fields' own widths; others are served all the
    /// same, but noted.
    fn check_config_width(&self, offset: u16, width: usize, write: bool, shared: &mut Shared) {
        let proper = config::field_at(self.device.device_type(), offset).is_some_and(|f| {
            let natural = usize::from(f.elem.min(4));
            width == natural && usize::from(offset - f.offset) % natural == 0
        });
        if !proper {
            shared.violation(
                self.core.id,
                Violation::AccessWidth {
                    structure: "device",
                    offset: offset.into(),
                    width,
                    write,
                },
            );
        }
    }
}
