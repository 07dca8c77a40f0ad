// SPDX-License-Identifier: GPL-2.0-or-later
//! The SCSI host device type ("SCSI Host Device"): one target with one logical unit, a disk.
//!
//! [`config`] has settings, features and configuration; [`request`] what goes over the queues;
//! [`cdb`], [`sense`] and [`pages`] the SCSI commands; `unit` the disk; `task` carries requests out,
//! `control` task management, `event` what the driver is told unasked. This file joins them to a
//! [`VirtioDevice`]. Commands are carried out one by one in the order of their queue, each before
//! the next begins, unless the disk was made to stall.

pub mod cdb;
pub mod config;
mod control;
mod event;
pub mod pages;
pub mod request;
pub mod sense;
mod task;
#[cfg(test)]
mod tests;
mod unit;

use virtio_pci_spec::DeviceType;

use self::config::{ScsiSettings, Written, CONFIG_LEN, EVENT_LEN};
use self::event::Events;
use self::request::Event;
pub use self::request::{CONTROL_QUEUE, EVENT_QUEUE, REQUEST_QUEUE};
use self::sense::Sense;
use self::task::Tasks;
use self::unit::Unit;
use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::disk::Backend;
use crate::effect::{FunctionId, Interface};
use crate::model::Model;
use crate::queue::RingFault;

/// A device whose functions are SCSI hosts; `disk` opens each one's store.
///
/// # Errors
/// The configuration or the settings are not possible, or a store cannot be opened.
pub fn model(
    config: ModelConfig,
    settings: &ScsiSettings,
    disk: &mut dyn FnMut(FunctionId) -> std::io::Result<Box<dyn Backend>>,
) -> Result<Model, ConfigError> {
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, String> {
        let store = disk(function).map_err(|e| format!("disk of {function}: {e}"))?;
        let device = ScsiDevice::new(settings.clone(), function, store)?;
        Ok(Box::new(device))
    };
    Model::without_switch(config, "scsi", &mut make)
}

/// A SCSI function.
pub struct ScsiDevice {
    settings: ScsiSettings,
    written: Written,
    queue_sizes: Vec<u16>,
    tasks: Tasks,
    events: Events,
}

impl std::fmt::Debug for ScsiDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScsiDevice")
            .field("settings", &self.settings)
            .field("written", &self.written)
            .field("len", &self.tasks.unit.len())
            .field("counts", &self.tasks.counts)
            .finish_non_exhaustive()
    }
}

impl ScsiDevice {
    /// The host in `function` with this disk.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(
        settings: ScsiSettings,
        function: FunctionId,
        store: Box<dyn Backend>,
    ) -> Result<Self, String> {
        settings.check()?;
        let queues = usize::from(REQUEST_QUEUE + settings.num_queues);
        let serial = settings.serial_of(function);
        let unit = Unit::new(store, settings.block_size, settings.read_only, serial);
        Ok(Self {
            tasks: Tasks::new(unit),
            queue_sizes: vec![settings.queue_size; queues],
            settings,
            written: Written::default(),
            events: Events::default(),
        })
    }

    fn request_queues(&self) -> std::ops::Range<u16> {
        REQUEST_QUEUE..REQUEST_QUEUE + self.settings.num_queues
    }
}

impl VirtioDevice for ScsiDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Scsi
    }

    fn features(&self) -> u64 {
        1 << config::feature::HOTPLUG | 1 << config::feature::CHANGE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        CONFIG_LEN as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(&self.settings.encode(&self.written), offset, out);
    }

    /// Sense and command size can be written through both interfaces, at any time; requests that
    /// are under way are not concerned.
    fn write_config(&mut self, offset: u16, data: &[u8], _: Interface, _: &mut DeviceCtx<'_>) {
        self.written.write(offset.into(), data);
    }

    fn reset(&mut self) {
        self.written = Written::default();
        self.tasks.reset();
        self.events.reset();
    }

    fn queue_reset(&mut self, queue: u16) {
        self.tasks.queue_reset(queue);
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        match queue {
            CONTROL_QUEUE => {
                while let Some(chain) = ctx.pop(queue)? {
                    self.tasks.control_request(chain, ctx)?;
                }
                Ok(())
            }
            EVENT_QUEUE => self.events.send_waiting(ctx),
            _ => self.tasks.serve(queue, &self.written, ctx),
        }
    }

    fn wake(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        self.events.send_waiting(ctx)?;
        if !self.tasks.stalled && self.tasks.unanswered() != 0 {
            self.tasks.catch_up(ctx)?;
            for queue in self.request_queues() {
                self.tasks.serve(queue, &self.written, ctx)?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let c = &self.tasks.counts;
        vec![
            ("check_conditions", c.check_conditions),
            ("bad_targets", c.bad_targets),
            ("overruns", c.overruns),
            ("aborted", c.aborted),
            ("task_management", c.task_management),
            ("events", self.events.sent),
            ("events_missed", self.events.lost),
            ("held", self.tasks.unanswered() as u64),
        ]
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        match control {
            DeviceControl::Resize { sectors } => {
                let resized = self.tasks.unit.resize(*sectors);
                resized.map_err(ControlError::Refused)?;
                let Sense { asc, ascq, .. } = Sense::CAPACITY_CHANGED;
                self.tasks.unit.attend(Sense::CAPACITY_CHANGED);
                self.events.push(Event::Parameter { asc, ascq });
            }
            DeviceControl::Plug { present } => {
                let unit = &mut self.tasks.unit;
                if unit.present == *present {
                    let state = if *present { "there" } else { "not there" };
                    return Err(ControlError::Refused(format!("the unit is {state}")));
                }
                unit.present = *present;
                if *present {
                    unit.power_on();
                    unit.attend(Sense::LUNS_CHANGED);
                }
                self.events.push(Event::Transport { present: *present });
            }
            DeviceControl::Stall { on } => self.tasks.stalled = *on,
            _ => return Err(ControlError::NotSupported("scsi")),
        }
        // What there is to do may find a broken ring, which only `wake` can tell.
        let now = ctx.now_ns();
        ctx.wake_at(now);
        Ok(())
    }
}

const _: () = assert!(EVENT_LEN == 16);
