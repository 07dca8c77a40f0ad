// SPDX-License-Identifier: GPL-2.0-or-later
//! The 9P transport device type. The specification only gives it its number; queue, feature and
//! configuration are those of Linux's driver.
//!
//! Each buffer of its one queue is a T-message to read and room for the R-message. What the messages
//! mean is the [`Responder`]'s business. This file carries them there and back.

#[cfg(test)]
mod tests;

use virtio_pci_spec::config::P9_MAX_TAG;
use virtio_pci_spec::DeviceType;

use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, DeviceCtx, VirtioDevice};
use crate::effect::{FunctionId, Interface};
use crate::model::Model;
use crate::queue::{Chain, RingFault};
use crate::settings::check_queue_size;

/// Feature bit: the configuration has the mount tag.
const MOUNT_TAG: u64 = 1;
/// Bytes of the configuration before the tag.
const TAG_OFFSET: usize = 2;

/// What answers the messages. Nothing of it may block.
pub trait Responder: Send {
    /// Longest message it takes now, in bytes.
    fn max_message(&self) -> usize;

    /// Answers a T-message; `reply` (empty before) becomes at most `room` bytes long.
    ///
    /// # Errors
    /// The driver broke the protocol, with the name of the rule. `reply` may tell it so.
    fn answer(
        &mut self,
        message: &[u8],
        room: usize,
        reply: &mut Vec<u8>,
    ) -> Result<(), &'static str>;

    /// The driver is gone: its session ends.
    fn reset(&mut self);

    /// What it counts, by name.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// What the front end chooses for each function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P9Settings {
    /// Mount tag: 1 to 254 bytes without NUL.
    pub tag: String,
    /// Entries of the queue.
    pub queue_size: u16,
}

impl Default for P9Settings {
    fn default() -> Self {
        Self {
            tag: "share".into(),
            queue_size: 128,
        }
    }
}

impl P9Settings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        let len = self.tag.len();
        if len == 0 || len > usize::from(P9_MAX_TAG) || self.tag.contains('\0') {
            // An admin command's offset is one byte: the end of a longer tag is out of its reach.
            return Err(format!(
                "9p: a mount tag of {len} bytes; 1 to {P9_MAX_TAG} without NUL are possible"
            ));
        }
        check_queue_size("9p", self.queue_size)?;
        Ok(())
    }

    /// The device configuration: length of the tag, tag.
    fn encode(&self) -> Vec<u8> {
        let len = u16::try_from(self.tag.len()).unwrap_or(P9_MAX_TAG);
        let mut config = Vec::with_capacity(TAG_OFFSET + usize::from(len));
        config.extend(len.to_le_bytes());
        config.extend(self.tag.bytes().take(len.into()));
        config
    }
}

/// A device whose functions are 9P transports; `responder` makes what is behind each.
///
/// # Errors
/// The configuration or the settings are not possible, or there is no responder.
pub fn model(
    config: ModelConfig,
    settings: &P9Settings,
    responder: &mut dyn FnMut(FunctionId) -> std::io::Result<Box<dyn Responder>>,
) -> Result<Model, ConfigError> {
    let checked = settings.check();
    checked.map_err(|why| ConfigError::Device("9p", why))?;
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, String> {
        let behind = responder(function).map_err(|e| format!("share of {function}: {e}"))?;
        Ok(Box::new(P9Device::new(settings, behind)?))
    };
    Model::without_switch(config, "9p", &mut make)
}

/// A 9P function.
pub struct P9Device {
    config: Vec<u8>,
    queue_sizes: [u16; 1],
    responder: Box<dyn Responder>,
    message: Vec<u8>,
    reply: Vec<u8>,
}

impl std::fmt::Debug for P9Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("P9Device")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl P9Device {
    /// A function with this behind it.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &P9Settings, responder: Box<dyn Responder>) -> Result<Self, String> {
        settings.check()?;
        Ok(Self {
            config: settings.encode(),
            queue_sizes: [settings.queue_size],
            responder,
            message: Vec::new(),
            reply: Vec::new(),
        })
    }

    fn serve(&mut self, chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        ctx.counters().requests += 1;
        // The first four bytes are the size of the message; the buffer may be longer.
        let mut size = [0; 4];
        let got = ctx.read(&chain, 0, &mut size)?;
        let size = u64::from(u32::from_le_bytes(size));
        let max = self.responder.max_message();
        let len = usize::try_from(size).ok().filter(|len| *len <= max);
        let len = match len {
            Some(len) if got == 4 && size <= chain.readable_len() => len,
            _ => {
                // Without a message there is no tag to answer to.
                ctx.counters().request_errors += 1;
                ctx.violation("p9_message_size", size);
                return ctx.complete(chain, 0);
            }
        };
        self.message.resize(len, 0);
        ctx.read(&chain, 0, &mut self.message)?;
        let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
        self.reply.clear();
        if let Err(rule) = self.responder.answer(&self.message, room, &mut self.reply) {
            ctx.counters().request_errors += 1;
            ctx.violation(rule, size);
        }
        let used = ctx.write(&chain, 0, &self.reply)?;
        ctx.complete(chain, u32::try_from(used).unwrap_or(u32::MAX))
    }
}

impl VirtioDevice for P9Device {
    fn device_type(&self) -> DeviceType {
        DeviceType::P9
    }

    fn features(&self) -> u64 {
        MOUNT_TAG
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        u16::try_from(self.config.len()).unwrap_or(u16::MAX)
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(&self.config, offset, out);
    }

    /// There is nothing to write.
    fn write_config(&mut self, _offset: u16, _: &[u8], _: Interface, _: &mut DeviceCtx<'_>) {}

    fn reset(&mut self) {
        self.responder.reset();
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(chain) = ctx.pop(queue)? {
            self.serve(chain, ctx)?;
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        self.responder.numbers()
    }
}
