// SPDX-License-Identifier: GPL-2.0-or-later
//! Accesses to configuration space and BARs, sent to whoever answers for them.

use virtio_modern_spec::bytes::le_value;
use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::bytes::get_u16;
use virtio_pci_spec::status::FEATURES_OK;

use crate::bars::{
    Structure, LEGACY_NOTIFY_BAR, MEMBER_NOTIFY_OFFSET, MODERN_BAR, MSIX_BAR, OWNER_NOTIFY_OFFSET,
    OWNER_NOTIFY_STRIDE,
};
use crate::config::SrIovCapability;
use crate::config_space::Window;
use crate::effect::FunctionId;
use crate::event::{ResetCause, Via};
use crate::function::Kick;
use crate::model::Model;
use crate::violation::Violation;

impl Model {
    // --- configuration space ---------------------------------------------------------------

    /// Reads configuration space. A function that does not exist answers with all-ones.
    pub fn config_read(&mut self, f: FunctionId, offset: u16, buf: &mut [u8]) {
        buf.fill(0xff);
        if !self.exists(f) {
            return;
        }
        let at = usize::from(offset);
        let Some(x) = self.function(f) else { return };
        x.core.config.read(at, buf);
        if !x.core.config.reads_window(at, buf.len()) {
            return;
        }
        let data_at = x.core.config.window_data_offset();
        if let Some(w) = self.usable_window(f) {
            let mut data = [0u8; 4];
            let part = data.split_at_mut(w.length as usize).0;
            self.bar_read(f, w.bar, w.offset.into(), part);
            for (to, from) in buf.iter_mut().skip(data_at - at).zip(part.iter()) {
                *to = *from;
            }
        }
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, f: FunctionId, offset: u16, data: &[u8]) {
        if !self.exists(f) {
            return;
        }
        let at = usize::from(offset);
        let Some((x, shared)) = self.split(f) else {
            return;
        };
        let sriov_before = x.core.config.sriov();
        let touched = x.core.config.write(at, data);
        if touched.command || touched.msix {
            x.core.apply_msix_control(shared);
        }
        if let Some(offset) = touched.virtio_capability {
            shared.violation(f, Violation::CapabilityWrite { offset });
        }
        if touched.function_reset {
            self.reset_function(f);
            return;
        }
        if touched.woken {
            if x.core.config.soft_reset() {
                x.reset_function(ResetCause::PowerState, shared);
            } else {
                x.core.flush_interrupts(shared);
            }
        }
        if touched.command || touched.woken {
            self.serve_waiting(f);
        }
        if let (true, Some(before)) = (touched.sriov, sriov_before) {
            self.sriov_written(before);
        }
        if touched.window_data {
            self.write_window(f, at, data);
        }
        self.settle();
    }

    /// The access window of a function, if it is set to something it may reach.
    fn usable_window(&mut self, f: FunctionId) -> Option<Window> {
        let x = self.function(f)?;
        let w = x.core.config.window();
        if w.length == 0 {
            return None;
        }
        let sized = matches!(w.length, 1 | 2 | 4);
        let inside = w.bar == MODERN_BAR
            && sized
            && x.core
                .bars
                .structure(w.offset.into(), w.length as usize)
                .is_some();
        if !inside || w.offset % w.length != 0 {
            let Window {
                bar,
                offset,
                length,
            } = w;
            self.shared.violation(
                f,
                Violation::WindowMisuse {
                    bar,
                    offset,
                    length,
                },
            );
            return None;
        }
        Some(w)
    }

    /// A write of `data` at configuration offset `at` reached pci_cfg_data.
    fn write_window(&mut self, f: FunctionId, at: usize, data: &[u8]) {
        let Some(data_at) = self.function(f).map(|x| x.core.config.window_data_offset()) else {
            return;
        };
        let Some(w) = self.usable_window(f) else {
            return;
        };
        let Some(skip) = data_at.checked_sub(at) else {
            return;
        };
        if let Some(part) = data.get(skip..skip + w.length as usize) {
            self.bar_write(f, w.bar, w.offset.into(), part);
        }
    }

    // --- BARs ------------------------------------------------------------------------------

    /// Size of a BAR; 0: the function has no such BAR.
    pub fn bar_size(&self, f: FunctionId, bar: u8) -> u64 {
        self.function(f).map_or(0, |x| x.core.bars.size(bar))
    }

    /// Whether an access reaches the function's BAR.
    fn decodes(&mut self, f: FunctionId, bar: u8, offset: u64, len: usize) -> bool {
        if !self.exists(f) || len == 0 {
            return false;
        }
        let size = self.bar_size(f, bar);
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|e| e > size) {
            self.shared
                .violation(f, Violation::OutsideStructures { bar, offset });
            return false;
        }
        let memory_on = match f {
            FunctionId::Pf => self.pf.core.config.memory_space(),
            FunctionId::Vf(_) => self.vf_memory || self.config.sriov == SrIovCapability::FrontEnd,
        };
        if !memory_on {
            self.shared.violation(f, Violation::MemorySpaceOff { bar });
        }
        let awake = self.function(f).is_some_and(|x| x.core.config.is_awake());
        if !awake {
            self.shared.violation(f, Violation::Asleep { bar });
        }
        memory_on && awake
    }

    /// Reads from a BAR. What does not exist answers with all-ones.
    pub fn bar_read(&mut self, f: FunctionId, bar: u8, offset: u64, buf: &mut [u8]) {
        if !self.decodes(f, bar, offset, buf.len()) {
            buf.fill(0xff);
            return;
        }
        let Some((x, shared)) = self.split(f) else {
            return;
        };
        match bar {
            MSIX_BAR => x.core.msix.read(offset, buf),
            MODERN_BAR => match x.core.bars.structure(offset, buf.len()) {
                Some((Structure::Common, at)) => x.common_read(at, buf, shared),
                Some((Structure::Isr, _)) => {
                    buf.fill(x.core.virtio.take_isr());
                    x.core.update_intx(shared);
                }
                Some((Structure::Device, at)) => x.modern_config_read(at, buf, shared),
                Some((Structure::Notify, _)) => buf.fill(0),
                None => {
                    shared.violation(f, Violation::OutsideStructures { bar, offset });
                    buf.fill(0);
                }
            },
            _ => buf.fill(0),
        }
    }

    /// Writes to a BAR. What does not exist is ignored.
    pub fn bar_write(&mut self, f: FunctionId, bar: u8, offset: u64, data: &[u8]) {
        if !self.decodes(f, bar, offset, data.len()) {
            return;
        }
        let Some((x, shared)) = self.split(f) else {
            return;
        };
        match bar {
            MSIX_BAR => {
                x.core.msix.write(offset, data);
                x.core.flush_interrupts(shared);
            }
            MODERN_BAR => match x.core.bars.structure(offset, data.len()) {
                Some((Structure::Common, at)) => {
                    x.common_write(at, data, shared);
                    self.note_sriov(f);
                }
                Some((Structure::Device, at)) => x.modern_config_write(at, data, shared),
                Some((Structure::Notify, at)) => self.notify(f, at, data),
                Some((Structure::Isr, at)) => shared.violation(
                    f,
                    Violation::ReadOnlyField {
                        structure: "isr",
                        offset: at,
                    },
                ),
                None => shared.violation(f, Violation::OutsideStructures { bar, offset }),
            },
            LEGACY_NOTIFY_BAR => self.legacy_notify(f, offset, data),
            _ => {}
        }
        self.settle();
    }

    /// Remembers that SR_IOV was negotiated.
    fn note_sriov(&mut self, f: FunctionId) {
        let v = &self.pf.core.virtio;
        let bits = v.driver_features & bit(features::SR_IOV);
        if f == FunctionId::Pf && v.status & FEATURES_OK != 0 && bits != 0 {
            self.sriov_negotiated = true;
        }
    }

    /// A write to the modern notification structure.
    fn notify(&mut self, f: FunctionId, at: u64, data: &[u8]) {
        let multiplier = u64::from(self.config.knobs.notify_multiplier);
        let Some((x, shared)) = self.split(f) else {
            return;
        };
        let v = &x.core.virtio;
        let width = if v.has(features::NOTIFICATION_DATA) {
            4
        } else {
            2
        };
        if data.len() != width {
            shared.violation(
                f,
                Violation::AccessWidth {
                    structure: "notify",
                    offset: at,
                    width: data.len(),
                    write: true,
                },
            );
            return;
        }
        let value = le_value(data) as u32;
        let queue = if v.has(features::NOTIF_CONFIG_DATA) {
            v.queue_of_config_data(value as u16)
        } else {
            value as u16
        };
        if u64::from(v.notify_off(queue)) * multiplier != at {
            shared.violation(f, Violation::NotifyValue { offset: at, value });
            return;
        }
        if x.kick(queue, Via::Modern, shared) == Kick::Admin {
            self.run_admin(queue);
        }
    }

    /// A write to a legacy notification area: 16 bits at an address that LEGACY_NOTIFY_INFO gives
    /// out are a notification, everything else is ignored.
    fn legacy_notify(&mut self, f: FunctionId, offset: u64, data: &[u8]) {
        let layout = self.config.layout;
        let (target, via) = match f {
            FunctionId::Vf(_) if layout.has_member() && offset == MEMBER_NOTIFY_OFFSET => {
                (f, Via::MemberArea)
            }
            FunctionId::Pf
                if layout.has_owner() && offset % OWNER_NOTIFY_STRIDE == OWNER_NOTIFY_OFFSET =>
            {
                let slot = (offset / OWNER_NOTIFY_STRIDE) as u16;
                (FunctionId::Vf(slot + 1), Via::OwnerArea)
            }
            _ => return,
        };
        let queue = match get_u16(data, 0) {
            Some(q) if data.len() == 2 => q,
            _ => return,
        };
        match self.split(target) {
            Some((x, shared)) if x.core.live => {
                // VFs have no admin queues.
                x.kick(queue, via, shared);
            }
            _ => {}
        }
    }
}
