// SPDX-License-Identifier: GPL-2.0-or-later
//! The model of the PF as the front end's hardware.

pub mod config;
mod control;
pub mod types;

use crate::dma::DmaSpace;
use crate::hardware::{Doorbell, Effect, Function, Hardware};
use crate::server::doorbell::MAX_PER_CONNECTION;
use config::DeviceOptions;
use serde_json::Value;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use types::net::Captured;
use types::Built;
use vfio_user_wire::dma_flags;
use virtio_pf_model::{
    Access, ConfigError, DmaMemory, Effect as ModelEffect, FunctionId, Model, LEGACY_NOTIFY_BAR,
    MEMBER_NOTIFY_OFFSET, MODERN_BAR, NOTIFY_OFFSET, OWNER_NOTIFY_OFFSET, OWNER_NOTIFY_STRIDE,
};
use vm_memory::VolatileSlice;

/// The simulated PF with its VFs.
pub struct Device {
    model: Model,
    /// Frames that passed the switch, if they are captured.
    captured: Captured,
    /// Queues of the device type, the same for every function.
    device_queues: u16,
    /// Descriptors that are readable when a function's backend wants attention.
    wakers: Vec<(FunctionId, OwnedFd)>,
}

impl From<Function> for FunctionId {
    fn from(f: Function) -> Self {
        match f {
            Function::Pf => Self::Pf,
            Function::Vf(n) => Self::Vf(n),
        }
    }
}

impl From<FunctionId> for Function {
    fn from(f: FunctionId) -> Self {
        match f {
            FunctionId::Pf => Self::Pf,
            FunctionId::Vf(n) => Self::Vf(n),
        }
    }
}

impl DmaMemory for DmaSpace {
    fn slice(&self, iova: u64, len: usize, access: Access) -> Option<VolatileSlice<'_>> {
        let need = match access {
            Access::Read => dma_flags::MAP_READ,
            Access::Write => dma_flags::MAP_WRITE,
        };
        self.piece(iova, len.max(1), need).ok()
    }
}

impl Device {
    /// Builds the device.
    ///
    /// # Errors
    /// What is not possible, or which disk cannot be opened.
    pub fn new(options: &DeviceOptions) -> Result<Self, ConfigError> {
        let Built {
            mut model,
            captured,
            wakers,
        } = types::build(options.model.clone(), &options.device)?;
        for rule in &options.faults {
            let added = model.faults().add(rule.clone());
            added.map_err(|e| ConfigError::Device("fault rule", e.to_string()))?;
        }
        Ok(Self {
            device_queues: model.device_queues(),
            model,
            captured,
            wakers,
        })
    }

    /// The model, for tests.
    pub fn model(&mut self) -> &mut Model {
        &mut self.model
    }

    fn modern_doorbells(&self, function: Function) -> Vec<Doorbell> {
        let knobs = &self.model.config().knobs;
        // With these features the value of a notification is not known beforehand.
        if knobs.notification_data || knobs.notif_config_data.is_some() {
            return Vec::new();
        }
        let first_admin = self.device_queues.saturating_add(knobs.admin_queue_gap);
        let admin = match function {
            Function::Pf => first_admin..first_admin.saturating_add(knobs.admin_queues),
            Function::Vf(_) => 0..0,
        };
        let step = u64::from(knobs.notify_multiplier);
        // Admin queues first: a reply may have no room for all.
        admin
            .chain(0..self.device_queues)
            .map(|queue| Doorbell {
                offset: NOTIFY_OFFSET + u64::from(queue) * step,
                width: 2,
                value: queue.into(),
            })
            .collect()
    }

    fn legacy_doorbells(&self, function: Function) -> Vec<Doorbell> {
        let (first, slots) = match function {
            Function::Pf => (OWNER_NOTIFY_OFFSET, self.model.config().total_vfs),
            Function::Vf(_) => (MEMBER_NOTIFY_OFFSET, 1),
        };
        let queues = 0..self.device_queues;
        (0..u64::from(slots))
            .map(|n| first + n * OWNER_NOTIFY_STRIDE)
            .flat_map(|offset| {
                queues.clone().map(move |queue| Doorbell {
                    offset,
                    width: 2,
                    value: queue.into(),
                })
            })
            // No connection gets more; a PF with many VFs has many times as many.
            .take(MAX_PER_CONNECTION)
            .collect()
    }
}

impl Hardware for Device {
    fn total_vfs(&self) -> u16 {
        self.model.config().total_vfs
    }

    fn config_read(&mut self, function: Function, offset: u16, buf: &mut [u8]) {
        self.model.config_read(function.into(), offset, buf);
    }

    fn config_write(&mut self, function: Function, offset: u16, data: &[u8]) {
        self.model.config_write(function.into(), offset, data);
    }

    fn bar_size(&self, function: Function, bar: u8) -> u64 {
        self.model.bar_size(function.into(), bar)
    }

    fn bar_read(&mut self, function: Function, bar: u8, offset: u64, buf: &mut [u8]) {
        self.model.bar_read(function.into(), bar, offset, buf);
    }

    fn bar_write(&mut self, function: Function, bar: u8, offset: u64, data: &[u8]) {
        self.model.bar_write(function.into(), bar, offset, data);
    }

    fn doorbells(&self, function: Function, bar: u8) -> Vec<Doorbell> {
        match bar {
            MODERN_BAR => self.modern_doorbells(function),
            LEGACY_NOTIFY_BAR => self.legacy_doorbells(function),
            _ => Vec::new(),
        }
    }

    fn vectors(&self, function: Function) -> u32 {
        self.model.msix_vectors(function.into()).into()
    }

    fn vectors_attached(&mut self, function: Function, first: u16, attached: &[bool]) {
        let f = function.into();
        self.model.set_irq_triggers(f, first, attached);
    }

    fn vectors_disabled(&mut self, function: Function) {
        self.model.disable_irqs(function.into());
    }

    fn set_memory(&mut self, function: Function, memory: Arc<DmaSpace>) {
        self.model.set_memory(function.into(), memory);
    }

    fn can_reset(&self, function: Function) -> bool {
        function == Function::Pf || !self.model.config().knobs.vf_no_reset
    }

    fn reset_function(&mut self, function: Function) {
        self.model.reset_function(function.into());
    }

    fn disconnected(&mut self, function: Function) {
        self.model.disconnected(function.into());
    }

    fn rx_frame(&mut self, frame: &[u8]) {
        self.model.rx_frame(frame);
    }

    fn wakers(&self) -> Vec<(Function, BorrowedFd<'_>)> {
        let all = self.wakers.iter();
        all.map(|(f, fd)| ((*f).into(), fd.as_fd())).collect()
    }

    fn wake(&mut self, function: Function) {
        self.model.wake(function.into());
    }

    fn tick(&mut self, now_ns: u64) {
        self.model.tick(now_ns);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        self.model.next_deadline()
    }

    fn take_effects(&mut self, out: &mut Vec<Effect>) {
        for effect in self.model.drain_effects() {
            match effect {
                ModelEffect::Interrupt { function, vector } => out.push(Effect::Interrupt {
                    function: function.into(),
                    vector,
                }),
                ModelEffect::FrameOut(frame) => out.push(Effect::FrameOut(frame)),
                // INTx is not offered to clients (its interrupt type has no vectors); VFs never have
                // a pin.
                ModelEffect::IntxLevel { .. } => {}
                ModelEffect::VfsChanged { enabled: 0 } => tracing::info!("no VF is enabled now"),
                ModelEffect::VfsChanged { enabled } => {
                    tracing::info!("VFs 1 to {enabled} are enabled now");
                }
            }
        }
        if let Some(captured) = &self.captured {
            let mut frames = captured.lock().unwrap_or_else(PoisonError::into_inner);
            out.extend(frames.drain(..).map(Effect::Capture));
        }
        for record in self.model.drain_events() {
            if let Ok(value) = serde_json::to_value(&record) {
                out.push(Effect::Event(value));
            }
        }
    }

    fn control(&mut self, command: &str, args: &Value) -> Result<Value, String> {
        control::carry_out(&mut self.model, command, args)
    }
}
