// SPDX-License-Identifier: GPL-2.0-or-later
//! The device's configuration space and registers.

use pci_transport::testing::ScriptedDevice;
use pci_transport::{DeviceView, IrqEvent, Width};
use virtio_modern_spec::sriov;

use super::device::*;

impl ScriptedDevice for TestPf {
    fn config_read(&mut self, offset: u16, buf: &mut [u8]) {
        let at = usize::from(offset);
        buf.copy_from_slice(&self.config[at..at + buf.len()]);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        let was = self.vfs_enabled();
        for (i, byte) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            let mask = self.mask[at];
            if (0x60..MSIX_CAP).contains(&at) {
                self.breach(format!("write to a virtio capability at {at:#x}"));
            }
            self.config[at] = (self.config[at] & !mask) | (byte & mask);
        }
        let now = self.vfs_enabled();
        if was == 0 && now > 0 && (self.status & 12 != 12 || !self.has(37)) {
            self.breach("VFs enabled before SR_IOV was negotiated");
        }
        if was > 0 && was != now && !self.held.is_empty() {
            self.breach("VF Enable changed with commands in flight");
        }
    }

    fn bar_size(&self, bar: u8) -> u64 {
        match bar {
            COMMON_BAR => 0x4000,
            OWNER_NOTIFY_BAR => 0x1000,
            _ => 0,
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, width: Width) -> u32 {
        if bar != COMMON_BAR || offset >= 64 {
            self.breach(format!("read of BAR{bar} {offset:#x}"));
            return u32::MAX;
        }
        self.check_width(offset, width);
        let q = self.queue_selected();
        match offset {
            0 => self.feature_select[0],
            4 => *self
                .offered
                .get(self.feature_select[0] as usize)
                .unwrap_or(&0),
            8 => self.feature_select[1],
            12 => *self
                .accepted
                .get(self.feature_select[1] as usize)
                .unwrap_or(&0),
            16 => self.config_vector.into(),
            18 => self.num_queues.into(),
            20 => {
                if self.resetting > 0 {
                    self.resetting -= 1;
                    if self.resetting == 0 {
                        self.status = 0;
                    }
                    return 1;
                }
                self.status.into()
            }
            22 => self.select.into(),
            24 if q && self.selected().size == 0 => self.queue_max.into(),
            24 if q => self.selected().size.into(),
            26 if q => self.selected().vector.into(),
            28 if q => self.selected().enabled.into(),
            30 if q => self.notify_off.into(),
            56 if q => self.notif_data.into(),
            60 | 62 => {
                if !self.has(41) || self.status & 8 == 0 {
                    self.breach("admin queue fields read before ADMIN_VQ was negotiated");
                }
                let v = [self.admin_index, self.admin_num];
                v[usize::from(offset == 62)].into()
            }
            _ => 0,
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, width: Width, value: u32) {
        if bar == OWNER_NOTIFY_BAR {
            self.owner_notifies.push((offset, width, value));
            return;
        }
        if (NOTIFY_AT..NOTIFY_AT + 0x1000).contains(&offset) {
            if self.status & 4 == 0 {
                self.breach("notification before DRIVER_OK");
            }
            self.kicks.push((offset - NOTIFY_AT, width, value));
            self.process();
            return;
        }
        self.check_width(offset, width);
        if self.ignored.contains(&offset) {
            return;
        }
        let v16 = (value & 0xffff) as u16;
        let q = self.queue_selected();
        match offset {
            0 => self.feature_select[0] = value,
            8 => self.feature_select[1] = value,
            12 => {
                if self.status & 8 != 0 {
                    self.breach("features written after FEATURES_OK");
                }
                if let Some(word) = self.accepted.get_mut(self.feature_select[1] as usize) {
                    *word = value;
                }
            }
            16 => self.config_vector = self.vector(v16),
            20 => self.status_written((value & 0xff) as u8),
            22 => self.select = v16,
            24 | 26 | 28 | 32..56 if !q => {
                self.breach(format!("queue {} set up", self.select));
            }
            24 | 26 | 32..56 if self.selected().enabled != 0 => {
                self.breach(format!("write to {offset} of an enabled queue"));
            }
            24 => {
                if !v16.is_power_of_two() || v16 > self.queue_max {
                    self.breach(format!("queue size {v16}"));
                }
                self.selected().size = v16;
            }
            26 => self.selected().vector = self.vector(v16),
            28 => {
                if v16 != 1 {
                    self.breach(format!("queue_enable {v16}"));
                }
                if let Some(what) = self.selected().misaligned() {
                    self.breach(what);
                }
                self.selected().enabled = v16;
            }
            32 => self.selected().desc |= u64::from(value),
            36 => self.selected().desc |= u64::from(value) << 32,
            40 => self.selected().driver |= u64::from(value),
            44 => self.selected().driver |= u64::from(value) << 32,
            48 => self.selected().device |= u64::from(value),
            52 => self.selected().device |= u64::from(value) << 32,
            _ => self.breach(format!("write to read-only offset {offset}")),
        }
    }

    fn irq_count(&self) -> u32 {
        self.vectors
    }

    fn attach(&mut self, memory: DeviceView) {
        self.memory = Some(memory);
    }

    fn set_irqs(&mut self, irqs: Vec<IrqEvent>) {
        self.irqs = irqs;
    }

    fn reset(&mut self) {
        self.breach("function reset: it takes the VFs down");
    }
}

impl TestPf {
    pub(crate) fn vector(&self, value: u16) -> u16 {
        let known = u32::from(value) < self.vectors;
        if known && !self.refused_vectors.contains(&value) {
            value
        } else {
            NO_VECTOR
        }
    }

    /// 8-bit access for 8-bit fields and so on, 64-bit ones as two halves.
    pub(crate) fn check_width(&mut self, offset: u64, width: Width) {
        let good = match offset {
            0 | 4 | 8 | 12 => Width::B4,
            20 | 21 => Width::B1,
            32..56 if offset % 4 == 0 => Width::B4,
            _ if offset < 64 && offset % 2 == 0 => Width::B2,
            _ => {
                self.breach(format!("access at {offset:#x} with {width:?}"));
                return;
            }
        };
        if width != good {
            self.breach(format!("{width:?} access to the field at {offset}"));
        }
    }
}
