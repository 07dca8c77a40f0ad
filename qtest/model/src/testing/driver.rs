// SPDX-License-Identifier: GPL-2.0-or-later
//! Register accesses of a driver: modern structures and configuration space.

use std::sync::Arc;

use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_modern_spec::sriov;
use virtio_pci_spec::pci::{self, header};
use virtio_pci_spec::status;

use super::memory::TestMemory;
use super::ring::DriverRing;
use crate::bars::{COMMON_OFFSET, MODERN_BAR, NOTIFY_OFFSET};
use crate::effect::FunctionId;
use crate::model::Model;

/// What [`Driver::negotiate`] accepts of what is offered, besides the device's bits.
pub const MODERN_FEATURES: u64 = bit(features::VERSION_1)
    | bit(features::ACCESS_PLATFORM)
    | bit(features::ORDER_PLATFORM)
    | bit(features::INDIRECT_DESC)
    | bit(features::SR_IOV)
    | bit(features::ADMIN_VQ)
    | bit(features::RING_RESET)
    | bit(features::NOTIF_CONFIG_DATA);

/// Where the SR-IOV capability of the PF is.
const SRIOV_CAP: u16 = 0x140;

/// A driver of one function.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The function.
    pub function: FunctionId,
    /// Its memory.
    pub memory: Arc<TestMemory>,
}

impl Driver {
    /// A driver with its memory given to the device, and memory decoding and bus mastering on.
    pub fn new(model: &mut Model, function: FunctionId, memory: &Arc<TestMemory>) -> Self {
        model.set_memory(function, Arc::clone(memory) as _);
        let d = Driver {
            function,
            memory: Arc::clone(memory),
        };
        d.set_command(model, pci::COMMAND_MEMORY | pci::COMMAND_MASTER);
        d
    }

    /// Writes the command register.
    pub fn set_command(&self, model: &mut Model, value: u16) {
        model.config_write(self.function, header::COMMAND as u16, &value.to_le_bytes());
    }

    /// Reads `len` (1 to 8) bytes of configuration space.
    pub fn config(&self, model: &mut Model, offset: u16, len: usize) -> u64 {
        let mut b = [0; 8];
        model.config_read(self.function, offset, b.split_at_mut(len).0);
        u64::from_le_bytes(b)
    }

    /// Reads `len` bytes of a BAR.
    pub fn read(&self, model: &mut Model, bar: u8, offset: u64, len: usize) -> u64 {
        let mut b = [0; 8];
        model.bar_read(self.function, bar, offset, b.split_at_mut(len).0);
        u64::from_le_bytes(b)
    }

    /// Writes `len` bytes to a BAR.
    pub fn write(&self, model: &mut Model, bar: u8, offset: u64, len: usize, value: u64) {
        let b = value.to_le_bytes();
        model.bar_write(self.function, bar, offset, b.split_at(len).0);
    }

    fn width(offset: u64) -> usize {
        reg::FIELDS
            .iter()
            .find(|(o, _)| *o == offset)
            .map_or(4, |(_, n)| usize::from(*n))
    }

    /// Reads a field of the common configuration.
    pub fn get(&self, model: &mut Model, field: u64) -> u64 {
        match Self::width(field) {
            8 => {
                let low = self.read(model, MODERN_BAR, COMMON_OFFSET + field, 4);
                low | self.read(model, MODERN_BAR, COMMON_OFFSET + field + 4, 4) << 32
            }
            n => self.read(model, MODERN_BAR, COMMON_OFFSET + field, n),
        }
    }

    /// Writes a field of the common configuration.
    pub fn set(&self, model: &mut Model, field: u64, value: u64) {
        match Self::width(field) {
            8 => {
                let at = COMMON_OFFSET + field;
                self.write(model, MODERN_BAR, at, 4, value & 0xffff_ffff);
                self.write(model, MODERN_BAR, at + 4, 4, value >> 32);
            }
            n => self.write(model, MODERN_BAR, COMMON_OFFSET + field, n, value),
        }
    }

    /// Device features, bits 0 to 63.
    pub fn offered(&self, model: &mut Model) -> u64 {
        self.set(model, reg::DEVICE_FEATURE_SELECT, 0);
        let low = self.get(model, reg::DEVICE_FEATURE);
        self.set(model, reg::DEVICE_FEATURE_SELECT, 1);
        low | self.get(model, reg::DEVICE_FEATURE) << 32
    }

    /// Writes accepted features.
    pub fn accept(&self, model: &mut Model, bits: u64) {
        self.set(model, reg::DRIVER_FEATURE_SELECT, 0);
        self.set(model, reg::DRIVER_FEATURE, bits & 0xffff_ffff);
        self.set(model, reg::DRIVER_FEATURE_SELECT, 1);
        self.set(model, reg::DRIVER_FEATURE, bits >> 32);
    }

    /// Reset up to FEATURES_OK with `bits` accepted; `false` if the device refuses them.
    pub fn negotiate(&self, model: &mut Model, bits: u64) -> bool {
        self.set(model, reg::DEVICE_STATUS, 0);
        let mut s = u64::from(status::ACKNOWLEDGE);
        self.set(model, reg::DEVICE_STATUS, s);
        s |= u64::from(status::DRIVER);
        self.set(model, reg::DEVICE_STATUS, s);
        let offered = self.offered(model);
        self.accept(model, bits & offered);
        s |= u64::from(status::FEATURES_OK);
        self.set(model, reg::DEVICE_STATUS, s);
        self.get(model, reg::DEVICE_STATUS) == s
    }

    /// Sets a queue up with a new ring of its current size.
    pub fn queue(&self, model: &mut Model, queue: u16, vector: u16) -> DriverRing {
        self.set(model, reg::QUEUE_SELECT, queue.into());
        let size = self.get(model, reg::QUEUE_SIZE) as u16;
        let ring = DriverRing::modern(&self.memory, size);
        self.set(model, reg::QUEUE_MSIX_VECTOR, vector.into());
        self.set(model, reg::QUEUE_DESC, ring.place.desc);
        self.set(model, reg::QUEUE_DRIVER, ring.place.avail);
        self.set(model, reg::QUEUE_DEVICE, ring.place.used);
        self.set(model, reg::QUEUE_ENABLE, 1);
        ring
    }

    /// DRIVER_OK.
    pub fn driver_ok(&self, model: &mut Model) {
        let s = self.get(model, reg::DEVICE_STATUS);
        let ok = s | u64::from(status::DRIVER_OK);
        self.set(model, reg::DEVICE_STATUS, ok);
    }

    /// Notifies a queue through the modern structure.
    pub fn kick(&self, model: &mut Model, queue: u16) {
        self.set(model, reg::QUEUE_SELECT, queue.into());
        let off = self.get(model, reg::QUEUE_NOTIFY_OFF);
        let multiplier = u64::from(model.config().knobs.notify_multiplier);
        let negotiated = self.negotiated(model);
        let value = if negotiated & bit(features::NOTIF_CONFIG_DATA) != 0 {
            self.get(model, reg::QUEUE_NOTIF_CONFIG_DATA)
        } else {
            queue.into()
        };
        let width = if negotiated & bit(features::NOTIFICATION_DATA) != 0 {
            4
        } else {
            2
        };
        let at = NOTIFY_OFFSET + off * multiplier;
        self.write(model, MODERN_BAR, at, width, value);
    }

    fn negotiated(&self, model: &mut Model) -> u64 {
        self.set(model, reg::DRIVER_FEATURE_SELECT, 1);
        let high = self.get(model, reg::DRIVER_FEATURE);
        self.set(model, reg::DRIVER_FEATURE_SELECT, 0);
        high << 32 | self.get(model, reg::DRIVER_FEATURE)
    }

    /// Sets MSI-X Enable and Function Mask.
    pub fn set_msix(&self, model: &mut Model, enable: bool, mask_all: bool) {
        let at = self.capability(model, pci::CAP_ID_MSIX, None);
        let mut c = 0;
        if enable {
            c |= pci::msix::CONTROL_ENABLE;
        }
        if mask_all {
            c |= pci::msix::CONTROL_MASK_ALL;
        }
        let at = at + pci::msix::CONTROL as u16;
        model.config_write(self.function, at, &c.to_le_bytes());
    }

    /// Masks or unmasks one entry of the MSI-X table.
    pub fn mask_vector(&self, model: &mut Model, vector: u16, masked: bool) {
        let at = u64::from(vector) * 16 + 12;
        self.write(model, crate::MSIX_BAR, at, 4, masked.into());
    }

    /// Offset of the first capability with this id (and virtio cfg_type); 0 if there is none.
    pub fn capability(&self, model: &mut Model, id: u8, cfg_type: Option<u8>) -> u16 {
        let mut at = self.config(model, header::CAPABILITY_LIST as u16, 1) as u16;
        for _ in 0..64 {
            if at == 0 {
                break;
            }
            let kind = self.config(model, at + 3, 1) as u8;
            if self.config(model, at, 1) as u8 == id && cfg_type.is_none_or(|t| t == kind) {
                return at;
            }
            at = self.config(model, at + 1, 1) as u16;
        }
        0
    }

    /// Reads a 16-bit field of the PF's SR-IOV capability.
    pub fn sriov(&self, model: &mut Model, field: usize) -> u16 {
        self.config(model, SRIOV_CAP + field as u16, 2) as u16
    }

    /// Writes a 16-bit field of the PF's SR-IOV capability.
    pub fn set_sriov(&self, model: &mut Model, field: usize, value: u16) {
        let at = SRIOV_CAP + field as u16;
        model.config_write(self.function, at, &value.to_le_bytes());
    }

    /// Enables VFs 1 to `n`; 0 disables all.
    pub fn enable_vfs(&self, model: &mut Model, n: u16) {
        self.set_sriov(model, sriov::CONTROL, 0);
        if n > 0 {
            self.set_sriov(model, sriov::NUM_VFS, n);
            let on = sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE;
            self.set_sriov(model, sriov::CONTROL, on);
        }
    }

    /// Function level reset through Device Control.
    pub fn function_level_reset(&self, model: &mut Model) {
        let at = self.capability(model, pci::CAP_ID_EXPRESS, None) + pci::express::DEVCTL as u16;
        let value = pci::express::DEVCTL_FLR.to_le_bytes();
        model.config_write(self.function, at, &value);
    }
}
