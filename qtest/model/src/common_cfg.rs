// SPDX-License-Identifier: GPL-2.0-or-later
//! The modern common configuration ("Common configuration structure layout").

use virtio_modern_spec::bytes::le_value;
use virtio_modern_spec::common as reg;
use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::bytes::le_bytes;
use virtio_pci_spec::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK, SUSPEND,
};

use crate::effect::Interface;
use crate::event::ResetCause;
use crate::function::Function;
use crate::queue::Mode;
use crate::shared::Shared;
use crate::violation::Violation;

const NAME: &str = "common";

/// The field at `offset` and its width, if an access of `width` bytes there is a proper one.
fn field(offset: u64, width: usize) -> Option<(u64, usize)> {
    let (start, size) = containing(offset)?;
    let size = usize::from(size);
    let proper = match size {
        8 => width == 4 && (offset - start) % 4 == 0,
        _ => width == size && offset == start,
    };
    proper.then_some((start, size))
}

fn containing(offset: u64) -> Option<(u64, u8)> {
    reg::FIELDS
        .iter()
        .copied()
        .find(|(start, size)| offset >= *start && offset < start + u64::from(*size))
}

impl Function {
    /// The driver reads `buf.len()` bytes at `offset`, which lie inside the structure.
    pub(crate) fn common_read(&mut self, offset: u64, buf: &mut [u8], shared: &mut Shared) {
        if let Some((start, _)) = field(offset, buf.len()) {
            let value = self.common_value(start) >> (8 * (offset - start));
            buf.copy_from_slice(le_bytes(value, 8).split_at(buf.len()).0);
            return;
        }
        self.wrong_width(offset, buf.len(), false, shared);
        if !shared.leniency.width {
            buf.fill(0xff);
            return;
        }
        for (i, b) in buf.iter_mut().enumerate() {
            let at = offset + i as u64;
            *b = match containing(at) {
                Some((start, _)) => (self.common_value(start) >> (8 * (at - start))) as u8,
                None => 0xff,
            };
        }
    }

    /// The driver writes at `offset`.
    pub(crate) fn common_write(&mut self, offset: u64, data: &[u8], shared: &mut Shared) {
        if field(offset, data.len()).is_some() {
            self.common_store(offset, le_value(data), shared);
            return;
        }
        self.wrong_width(offset, data.len(), true, shared);
        if !shared.leniency.width {
            return;
        }
        // Field by field, what was not written keeps its value.
        let mut at = offset;
        let end = offset + data.len() as u64;
        while at < end {
            let Some((start, size)) = containing(at) else {
                return;
            };
            let stop = (start + u64::from(size)).min(end);
            let mut bytes = self.common_value(start).to_le_bytes();
            for p in at..stop {
                let from = data.get((p - offset) as usize);
                if let (Some(to), Some(from)) = (bytes.get_mut((p - start) as usize), from) {
                    *to = *from;
                }
            }
            let value = u64::from_le_bytes(bytes);
            if size == 8 {
                self.common_store(start, value & 0xffff_ffff, shared);
                self.common_store(start + 4, value >> 32, shared);
            } else {
                self.common_store(start, value, shared);
            }
            at = stop;
        }
    }

    fn wrong_width(&mut self, offset: u64, width: usize, write: bool, shared: &mut Shared) {
        shared.violation(
            self.core.id,
            Violation::AccessWidth {
                structure: NAME,
                offset,
                width,
                write,
            },
        );
    }

    /// The whole field that starts at `start`.
    fn common_value(&mut self, start: u64) -> u64 {
        let resetting = self.core.virtio.resetting_until.is_some();
        let in_reset = self.core.status_in_reset;
        let v = &mut self.core.virtio;
        let window = |low: u64, high: u64, select: u32| match select {
            0 => low & 0xffff_ffff,
            1 => low >> 32,
            2 => high & 0xffff_ffff,
            3 => high >> 32,
            _ => 0,
        };
        match start {
            reg::DEVICE_FEATURE_SELECT => v.device_feature_select.into(),
            reg::DEVICE_FEATURE => window(v.offered, v.offered_high, v.device_feature_select),
            reg::DRIVER_FEATURE_SELECT => v.driver_feature_select.into(),
            reg::DRIVER_FEATURE => window(
                v.driver_features,
                v.driver_features_high,
                v.driver_feature_select,
            ),
            reg::CONFIG_MSIX_VECTOR => v.config_vector.into(),
            reg::NUM_QUEUES => v.numbers.device.into(),
            reg::DEVICE_STATUS if resetting => in_reset.into(),
            reg::DEVICE_STATUS => v.status.into(),
            reg::CONFIG_GENERATION => v.read_generation().into(),
            reg::QUEUE_SELECT => v.queue_select.into(),
            reg::ADMIN_QUEUE_INDEX if v.has(features::ADMIN_VQ) => v.numbers.admin_index.into(),
            reg::ADMIN_QUEUE_NUM if v.has(features::ADMIN_VQ) => v.numbers.admin_num.into(),
            reg::ADMIN_QUEUE_INDEX | reg::ADMIN_QUEUE_NUM => 0,
            _ => self.queue_value(start),
        }
    }

    fn queue_value(&self, start: u64) -> u64 {
        let v = &self.core.virtio;
        let index = v.queue_select;
        let Some(q) = v.queue(index) else {
            return match start {
                reg::QUEUE_MSIX_VECTOR => 0xffff,
                _ => 0,
            };
        };
        match start {
            reg::QUEUE_SIZE => q.size().into(),
            reg::QUEUE_MSIX_VECTOR => q.vector.into(),
            reg::QUEUE_ENABLE => q.enabled().into(),
            reg::QUEUE_NOTIFY_OFF => v.notify_off(index).into(),
            reg::QUEUE_DESC => q.addresses.desc,
            reg::QUEUE_DRIVER => q.addresses.driver,
            reg::QUEUE_DEVICE => q.addresses.device,
            reg::QUEUE_NOTIF_CONFIG_DATA if v.has(features::NOTIF_CONFIG_DATA) => {
                v.notif_config_data(index).into()
            }
            reg::QUEUE_RESET => u64::from(q.resetting_until.is_some()),
            _ => 0,
        }
    }

    /// A proper write; `offset` is a field's start, or the upper half of a 64-bit field.
    fn common_store(&mut self, offset: u64, value: u64, shared: &mut Shared) {
        let id = self.core.id;
        if self.core.virtio.resetting_until.is_some() {
            shared.violation(id, Violation::AccessDuringReset { offset });
            return;
        }
        match offset {
            reg::DEVICE_FEATURE_SELECT => self.core.virtio.device_feature_select = value as u32,
            reg::DRIVER_FEATURE_SELECT => self.core.virtio.driver_feature_select = value as u32,
            reg::DRIVER_FEATURE => self.store_features(value as u32, shared),
            reg::CONFIG_MSIX_VECTOR => {
                let vector = self.core.map_vector(value as u16, shared);
                self.core.virtio.config_vector = vector;
            }
            reg::DEVICE_STATUS => self.store_status(value as u8, shared),
            reg::QUEUE_SELECT => self.core.virtio.queue_select = value as u16,
            reg::DEVICE_FEATURE
            | reg::NUM_QUEUES
            | reg::CONFIG_GENERATION
            | reg::QUEUE_NOTIFY_OFF
            | reg::QUEUE_NOTIF_CONFIG_DATA
            | reg::ADMIN_QUEUE_INDEX
            | reg::ADMIN_QUEUE_NUM => shared.violation(
                id,
                Violation::ReadOnlyField {
                    structure: NAME,
                    offset,
                },
            ),
            _ => self.store_queue(offset, value, shared),
        }
    }

    fn store_features(&mut self, value: u32, shared: &mut Shared) {
        let id = self.core.id;
        let v = &mut self.core.virtio;
        if v.status & FEATURES_OK != 0 {
            shared.violation(id, Violation::FeaturesLate);
            return;
        }
        let merge = |word: u64, upper: bool| {
            let value = u64::from(value);
            if upper {
                (word & 0xffff_ffff) | value << 32
            } else {
                (word & !0xffff_ffff) | value
            }
        };
        match v.driver_feature_select {
            0 => v.driver_features = merge(v.driver_features, false),
            1 => v.driver_features = merge(v.driver_features, true),
            2 => v.driver_features_high = merge(v.driver_features_high, false),
            3 => v.driver_features_high = merge(v.driver_features_high, true),
            _ => {}
        }
    }

    /// Whether the device can work with what the driver accepted.
    fn features_workable(&mut self, shared: &mut Shared) -> bool {
        let id = self.core.id;
        let v = &self.core.virtio;
        let surplus = v.driver_features & !v.offered;
        let surplus_high = v.driver_features_high & !v.offered_high;
        if surplus != 0 || surplus_high != 0 {
            shared.violation(id, Violation::FeaturesNotOffered { bits: surplus });
            return false;
        }
        let accepted = v.driver_features;
        if accepted & bit(features::VERSION_1) == 0 || !self.device.accepts_features(accepted) {
            shared.violation(id, Violation::FeaturesRefused { bits: accepted });
            return false;
        }
        true
    }

    fn store_status(&mut self, written: u8, shared: &mut Shared) {
        if written == 0 {
            self.reset_virtio(ResetCause::ModernStatus, shared);
            return;
        }
        let id = self.core.id;
        let old = self.core.virtio.status;
        if old & !written & !DEVICE_NEEDS_RESET != 0 {
            shared.violation(id, Violation::StatusBitCleared { old, new: written });
        }
        // Bits that belong to the device, or to a feature that does not exist here.
        let mut new = (written & !(DEVICE_NEEDS_RESET | SUSPEND)) | (old & DEVICE_NEEDS_RESET);
        let needs = |b: u8, first: u8| new & b == 0 || new & first != 0;
        if !needs(DRIVER, ACKNOWLEDGE) || !needs(FEATURES_OK, DRIVER) {
            shared.violation(id, Violation::StatusOrder { old, new: written });
        }
        if new & FEATURES_OK != 0 && old & FEATURES_OK == 0 && !self.features_workable(shared) {
            new &= !FEATURES_OK;
        }
        if new & DRIVER_OK != 0 && new & FEATURES_OK == 0 {
            shared.violation(id, Violation::StatusOrder { old, new: written });
            new &= !DRIVER_OK;
        }
        self.write_status(new, Interface::Modern, shared);
    }

    fn store_queue(&mut self, offset: u64, value: u64, shared: &mut Shared) {
        let id = self.core.id;
        let queue = self.core.virtio.queue_select;
        let event_idx = self.core.virtio.has(features::EVENT_IDX);
        let ring_reset = self.core.virtio.has(features::RING_RESET);
        let vector = match offset {
            reg::QUEUE_MSIX_VECTOR => self.core.map_vector(value as u16, shared),
            _ => 0,
        };
        let Some(q) = self.core.virtio.queue_mut(queue) else {
            shared.violation(id, Violation::NoSuchQueue { queue });
            return;
        };
        if q.resetting_until.is_some() {
            shared.violation(id, Violation::AccessDuringReset { offset });
            return;
        }
        let value16 = value as u16;
        match offset {
            // Vectors may be moved while the queue runs; nothing in the text forbids it.
            reg::QUEUE_MSIX_VECTOR => q.vector = vector,
            reg::QUEUE_RESET => {
                if value16 != 1 || !ring_reset {
                    let value = value16;
                    shared.violation(id, Violation::QueueEnableValue { queue, value });
                    return;
                }
                self.reset_queue(queue, shared);
            }
            reg::QUEUE_ENABLE => {
                if value16 != 1 {
                    let value = value16;
                    shared.violation(id, Violation::QueueEnableValue { queue, value });
                } else if q.mode == Mode::Off && !q.enable_modern(event_idx) {
                    shared.violation(id, Violation::QueueAlignment { queue });
                }
            }
            _ if q.enabled() => shared.violation(id, Violation::QueueLive { queue, offset }),
            reg::QUEUE_SIZE => {
                if !q.set_size(value16) {
                    let value = value16;
                    shared.violation(id, Violation::QueueSize { queue, value });
                }
            }
            _ => {
                let (field, upper) = match offset {
                    reg::QUEUE_DESC => (&mut q.addresses.desc, false),
                    reg::QUEUE_DRIVER => (&mut q.addresses.driver, false),
                    reg::QUEUE_DEVICE => (&mut q.addresses.device, false),
                    o if o == reg::QUEUE_DESC + 4 => (&mut q.addresses.desc, true),
                    o if o == reg::QUEUE_DRIVER + 4 => (&mut q.addresses.driver, true),
                    o if o == reg::QUEUE_DEVICE + 4 => (&mut q.addresses.device, true),
                    _ => return,
                };
                *field = if upper {
                    (*field & 0xffff_ffff) | (value & 0xffff_ffff) << 32
                } else {
                    (*field & !0xffff_ffff) | (value & 0xffff_ffff)
                };
            }
        }
    }

    /// Resets one queue ("Virtqueue Reset").
    fn reset_queue(&mut self, queue: u16, shared: &mut Shared) {
        let delay = shared.knobs.reset_delay_ns;
        let due = shared.now_ns.saturating_add(delay);
        if let Some(q) = self.core.virtio.queue_mut(queue) {
            q.reset();
            if delay > 0 {
                q.resetting_until = Some(due);
                shared.timer(due, self.core.id);
            }
        }
        if self.core.virtio.numbers.is_admin(queue) {
            shared.admin_reset.push(queue);
        } else {
            self.device.queue_reset(queue);
        }
    }
}
