// SPDX-License-Identifier: GPL-2.0-or-later
//! The entropy device type ("Entropy Device").
//!
//! It has one queue, no features and no configuration. Every buffer gets at least one byte; how
//! many more depends on how fast the source is allowed to be. A buffer that nothing can be put into
//! yet stays in the ring, and the device comes back to it by itself.

#[cfg(test)]
mod tests;

use std::io;

use virtio_pci_spec::DeviceType;

use crate::config::{ConfigError, ModelConfig};
use crate::device::{ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::effect::{FunctionId, Interface};
use crate::model::Model;
use crate::queue::{Chain, RingFault};

/// Where the bytes come from.
pub trait Source: Send {
    /// Fills all of `buf` with bytes nobody can predict.
    ///
    /// # Errors
    /// There are none now; the device tries again later.
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()>;
}

/// What the front end chooses for each entropy function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RngSettings {
    /// Entries of the queue.
    pub queue_size: u16,
    /// Bytes given in a second at most; 0: as many as the driver asks for.
    pub bytes_per_second: u64,
}

impl Default for RngSettings {
    fn default() -> Self {
        Self {
            queue_size: 8,
            bytes_per_second: 0,
        }
    }
}

impl RngSettings {
    /// Says what is wrong with the settings, if anything.
    ///
    /// # Errors
    /// The setting and the values it may have.
    pub fn check(&self) -> Result<(), String> {
        if self.queue_size.is_power_of_two() && self.queue_size <= 32768 {
            return Ok(());
        }
        Err(format!(
            "rng: queue size {} is not a power of two up to 32768",
            self.queue_size
        ))
    }
}

/// A device whose functions are entropy sources; `source` opens each one's.
///
/// # Errors
/// The configuration or the settings are not possible, or a source cannot be opened.
pub fn model(
    config: ModelConfig,
    settings: &RngSettings,
    source: &mut dyn FnMut(FunctionId) -> io::Result<Box<dyn Source>>,
) -> Result<Model, ConfigError> {
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, String> {
        let source = source(function).map_err(|e| format!("source of {function}: {e}"))?;
        Ok(Box::new(RngDevice::new(settings, source)?))
    };
    Model::without_switch(config, "rng", &mut make)
}

/// Bytes given for one buffer at most: the driver asks again if it wants more.
const MAX_AT_ONCE: u64 = 64 << 10;
/// Bytes given in one call; the rest follows in the next tick, so that a driver does not keep
/// everybody else waiting.
const SHARE: u64 = 1 << 20;
/// A limited source saves up what it may give in this part of a second.
const BURST: u64 = 10;
/// How long to wait for a source that failed.
const RETRY_NS: u64 = 100_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// How much may be given, and when.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes_per_second: u64,
    /// Bytes that may be given now, as of `since_ns`.
    bytes: u64,
    since_ns: u64,
}

impl Allowance {
    fn new(bytes_per_second: u64, now_ns: u64) -> Self {
        Self {
            bytes_per_second,
            bytes: Self::most(bytes_per_second),
            since_ns: now_ns,
        }
    }

    fn most(bytes_per_second: u64) -> u64 {
        (bytes_per_second / BURST).clamp(1, MAX_AT_ONCE)
    }

    /// Bytes that may be given for a buffer of `room` bytes, or the time at which there are enough
    /// to be worth it.
    fn take(&mut self, room: u64, now_ns: u64) -> Result<u64, u64> {
        let room = room.min(MAX_AT_ONCE);
        let rate = self.bytes_per_second;
        if rate == 0 {
            return Ok(room);
        }
        let most = Self::most(rate);
        let passed = u128::from(now_ns.saturating_sub(self.since_ns));
        let earned = passed * u128::from(rate) / u128::from(SECOND_NS);
        if earned > 0 {
            let all = u128::from(self.bytes) + earned;
            self.bytes = u64::try_from(all).unwrap_or(most).min(most);
            // What is left of the time counts for the next byte, unless nothing more can be saved.
            let used = earned * u128::from(SECOND_NS) / u128::from(rate);
            let used = u64::try_from(used).unwrap_or(u64::MAX);
            self.since_ns = match self.bytes == most {
                true => now_ns,
                false => self.since_ns.saturating_add(used).min(now_ns),
            };
        }
        let want = room.min(most);
        if self.bytes < want {
            let missing = u128::from(want - self.bytes) * u128::from(SECOND_NS);
            let wait = u64::try_from(missing.div_ceil(u128::from(rate))).unwrap_or(u64::MAX);
            return Err(self
                .since_ns
                .saturating_add(wait)
                .max(now_ns.saturating_add(1)));
        }
        self.bytes -= want;
        Ok(want)
    }
}

/// An entropy function.
pub struct RngDevice {
    queue_sizes: [u16; 1],
    source: Box<dyn Source>,
    allowance: Allowance,
    /// The device asked to be woken at this time.
    wakes_at: Option<u64>,
    scratch: Vec<u8>,
    bytes: u64,
    buffers: u64,
    waits: u64,
    source_errors: u64,
}

impl std::fmt::Debug for RngDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RngDevice")
            .field("allowance", &self.allowance)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl RngDevice {
    /// A function with this source.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &RngSettings, source: Box<dyn Source>) -> Result<Self, String> {
        settings.check()?;
        Ok(Self {
            queue_sizes: [settings.queue_size],
            source,
            allowance: Allowance::new(settings.bytes_per_second, 0),
            wakes_at: None,
            scratch: Vec::new(),
            bytes: 0,
            buffers: 0,
            waits: 0,
            source_errors: 0,
        })
    }

    /// Asks to be woken, once: a driver's notifications do not pile up requests.
    fn wait_until(&mut self, due_ns: u64, ctx: &mut DeviceCtx<'_>) {
        if self.wakes_at.is_none_or(|at| due_ns < at) {
            self.wakes_at = Some(due_ns);
            self.waits += 1;
            ctx.wake_at(due_ns);
        }
    }

    /// Serves one buffer; `false` if it has to wait.
    fn serve(&mut self, chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<bool, RingFault> {
        if chain.readable_len() > 0 {
            ctx.violation("rng_readable_buffer", chain.readable_len());
        }
        let room = chain.writable_len();
        if room == 0 {
            ctx.violation("rng_empty_buffer", chain.readable_len());
            ctx.complete(chain, 0)?;
            return Ok(true);
        }
        let len = match self.allowance.take(room, ctx.now_ns()) {
            Ok(len) => usize::try_from(len).unwrap_or(1),
            Err(due) => {
                ctx.unpop(chain);
                self.wait_until(due, ctx);
                return Ok(false);
            }
        };
        self.scratch.resize(len, 0);
        if self.source.fill(&mut self.scratch).is_err() {
            self.source_errors += 1;
            ctx.unpop(chain);
            self.wait_until(ctx.now_ns().saturating_add(RETRY_NS), ctx);
            return Ok(false);
        }
        let written = ctx.write(&chain, 0, &self.scratch);
        // Nobody else may come to know what a driver got.
        self.scratch.fill(0);
        let written = written?;
        self.bytes += written as u64;
        self.buffers += 1;
        ctx.complete(chain, u32::try_from(written).unwrap_or(u32::MAX))?;
        Ok(true)
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        0
    }

    fn read_config(&self, _offset: u16, _out: &mut [u8]) {}

    fn write_config(&mut self, _: u16, _: &[u8], _: Interface, _: &mut DeviceCtx<'_>) {}

    fn reset(&mut self) {}

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let before = self.bytes;
        while let Some(chain) = ctx.pop(queue)? {
            if !self.serve(chain, ctx)? {
                break;
            }
            if self.bytes - before >= SHARE {
                ctx.wake_at(ctx.now_ns());
                break;
            }
        }
        Ok(())
    }

    fn wake(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        if self.wakes_at.is_some_and(|at| at <= ctx.now_ns()) {
            self.wakes_at = None;
        }
        self.process_queue(0, ctx)
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("bytes", self.bytes),
            ("buffers", self.buffers),
            ("waits", self.waits),
            ("source_errors", self.source_errors),
            ("bytes_per_second", self.allowance.bytes_per_second),
        ]
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        let DeviceControl::Rate { bytes_per_second } = control else {
            return Err(ControlError::NotSupported("rng"));
        };
        self.allowance = Allowance::new(*bytes_per_second, ctx.now_ns());
        // Buffers that waited under the old limit are looked at under the new one.
        ctx.wake_at(ctx.now_ns());
        Ok(())
    }
}
