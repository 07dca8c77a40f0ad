// SPDX-License-Identifier: GPL-2.0-or-later
//! The block device type ("Block Device").
//!
//! [`config`] has settings, features and configuration; [`request`] the request headers;
//! [`crate::disk`] is where the sectors are kept. This file joins them to a [`VirtioDevice`]. Requests
//! are carried out one by one in the order of their queue, each before the next begins.

pub mod config;
pub mod request;
#[cfg(test)]
mod tests;

use virtio_modern_spec::features::blk;
use virtio_pci_spec::{status, DeviceType};

use self::config::{
    BlkSettings, CONFIG_LEN, MAX_ERASE_SECTORS, MAX_ERASE_SEGMENTS, SERIAL_LEN, WRITEBACK_OFFSET,
};
use self::request::{Failure, Operation, HEADER_LEN, SEGMENT_LEN};
use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::disk::{self, chunk, Backend, SECTOR};
use crate::effect::{FunctionId, Interface};
use crate::model::Model;
use crate::queue::{Chain, RingFault};

/// A device whose functions are disks; `disk` opens each one's store.
///
/// # Errors
/// The configuration or the settings are not possible, or a store cannot be opened.
pub fn model(
    config: ModelConfig,
    settings: &BlkSettings,
    disk: &mut dyn FnMut(FunctionId) -> std::io::Result<Box<dyn Backend>>,
) -> Result<Model, ConfigError> {
    let mut make = |function| -> Result<Box<dyn VirtioDevice>, String> {
        let store = disk(function).map_err(|e| format!("disk of {function}: {e}"))?;
        Ok(Box::new(BlkDevice::new(settings.clone(), store)?))
    };
    Model::without_switch(config, "blk", &mut make)
}

/// A block function.
pub struct BlkDevice {
    settings: BlkSettings,
    backend: Box<dyn Backend>,
    queue_sizes: Vec<u16>,
    /// The cache is write-back: a write is permanent only after a flush.
    writeback: bool,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for BlkDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlkDevice")
            .field("settings", &self.settings)
            .field("len", &self.backend.len())
            .field("writeback", &self.writeback)
            .finish_non_exhaustive()
    }
}

/// A request that did not end well, and how many bytes of the writable part were filled before.
#[derive(Clone, Copy, Debug)]
struct Failed {
    why: Failure,
    filled: u64,
}

impl From<Failure> for Failed {
    fn from(why: Failure) -> Self {
        Self { why, filled: 0 }
    }
}

/// What ends a request early: a broken ring ends the device, everything else only the request.
enum Stop {
    Ring(RingFault),
    Request(Failed),
}

impl From<RingFault> for Stop {
    fn from(fault: RingFault) -> Self {
        Self::Ring(fault)
    }
}

impl From<Failure> for Stop {
    fn from(why: Failure) -> Self {
        Self::Request(why.into())
    }
}

impl BlkDevice {
    /// A function with this disk.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: BlkSettings, backend: Box<dyn Backend>) -> Result<Self, String> {
        settings.check()?;
        Ok(Self {
            queue_sizes: vec![settings.queue_size; usize::from(settings.num_queues)],
            settings,
            backend,
            writeback: true,
            scratch: Vec::new(),
        })
    }

    /// Whether a write is permanent only after a flush.
    pub fn writeback(&self) -> bool {
        self.writeback
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        self.settings
            .encode(self.backend.len() / SECTOR, self.writeback)
    }

    /// Changes the cache mode; write-through begins with everything permanent.
    fn set_writeback(&mut self, on: bool, ctx: &mut DeviceCtx<'_>) {
        if self.writeback && !on {
            ctx.counters().flushes += 1;
            if self.backend.flush().is_err() {
                ctx.counters().request_errors += 1;
            }
        }
        self.writeback = on;
    }

    fn serve(&mut self, chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        ctx.counters().requests += 1;
        // The last writable byte is the status, everything before it is data.
        let Some(room) = chain.writable_len().checked_sub(1) else {
            ctx.counters().request_errors += 1;
            return ctx.complete(chain, 0);
        };
        let (status, filled) = match self.carry_out(&chain, room, ctx) {
            Ok(filled) => (request::STATUS_OK, filled),
            Err(Stop::Request(failed)) => {
                ctx.counters().request_errors += 1;
                (failed.why.status(), failed.filled)
            }
            Err(Stop::Ring(fault)) => return Err(fault),
        };
        ctx.write(&chain, room, &[status])?;
        // Only bytes that were written may be counted, from the first one on without a gap.
        let used = if filled == room { room + 1 } else { filled };
        ctx.complete(chain, u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Carries out one request; gives the number of data bytes written to the driver.
    fn carry_out(
        &mut self,
        chain: &Chain,
        room: u64,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<u64, Stop> {
        let mut header = [0; HEADER_LEN];
        let got = ctx.read(chain, 0, &mut header)?;
        let header = header.get(..got).unwrap_or_default();
        let operation = request::decode(header, ctx.features())?;
        let data = chain.readable_len().saturating_sub(HEADER_LEN as u64);
        match operation {
            Operation::In(sector) => self.read(chain, sector, room, ctx),
            Operation::Out(sector) => {
                self.write(chain, sector, data, ctx)?;
                Ok(0)
            }
            Operation::Flush => {
                ctx.counters().flushes += 1;
                self.backend.flush().map_err(|_| Failure::Io)?;
                Ok(0)
            }
            Operation::GetId => {
                let mut id = [0; SERIAL_LEN];
                for (to, from) in id.iter_mut().zip(self.settings.serial.bytes()) {
                    *to = from;
                }
                let len = SERIAL_LEN.min(usize::try_from(room).unwrap_or(SERIAL_LEN));
                Ok(ctx.write(chain, 0, id.get(..len).unwrap_or_default())? as u64)
            }
            Operation::Discard | Operation::WriteZeroes => {
                self.erase(operation, chain, data, ctx)?;
                Ok(0)
            }
        }
    }

    fn read(
        &mut self,
        chain: &Chain,
        sector: u64,
        len: u64,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<u64, Stop> {
        let start = request::check_range(sector, len, self.backend.len())?;
        let mut done = 0;
        while done < len {
            let part = chunk(&mut self.scratch, len - done);
            if self.backend.read(start + done, part).is_err() {
                return Err(Stop::Request(Failed {
                    why: Failure::Io,
                    filled: done,
                }));
            }
            ctx.write(chain, done, part)?;
            done += part.len() as u64;
        }
        ctx.counters().sectors_read += len / SECTOR;
        Ok(len)
    }

    fn write(
        &mut self,
        chain: &Chain,
        sector: u64,
        len: u64,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), Stop> {
        let start = request::check_range(sector, len, self.backend.len())?;
        if self.settings.read_only {
            return Err(Failure::Io.into());
        }
        let mut done = 0;
        while done < len {
            let part = chunk(&mut self.scratch, len - done);
            if ctx.read(chain, HEADER_LEN as u64 + done, part)? != part.len() {
                return Err(Failure::Io.into());
            }
            self.backend
                .write(start + done, part)
                .map_err(|_| Failure::Io)?;
            done += part.len() as u64;
        }
        if !self.writeback {
            ctx.counters().flushes += 1;
            self.backend.flush().map_err(|_| Failure::Io)?;
        }
        ctx.counters().sectors_written += len / SECTOR;
        Ok(())
    }

    fn erase(
        &mut self,
        operation: Operation,
        chain: &Chain,
        len: u64,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), Stop> {
        let segment_len = SEGMENT_LEN as u64;
        if len == 0 || len % segment_len != 0 || len > u64::from(MAX_ERASE_SEGMENTS) * segment_len {
            return Err(Failure::Io.into());
        }
        if self.settings.read_only {
            return Err(Failure::Io.into());
        }
        // All segments are checked before the first one takes effect.
        let mut ranges = Vec::with_capacity(MAX_ERASE_SEGMENTS as usize);
        for at in (0..len).step_by(SEGMENT_LEN) {
            let mut bytes = [0; SEGMENT_LEN];
            ctx.read(chain, HEADER_LEN as u64 + at, &mut bytes)?;
            let segment = request::decode_segment(&bytes, operation)?;
            if segment.sectors > MAX_ERASE_SECTORS {
                return Err(Failure::Io.into());
            }
            let bytes = u64::from(segment.sectors) * SECTOR;
            let start = request::check_range(segment.sector, bytes, self.backend.len())?;
            ranges.push((start, bytes));
        }
        for (start, len) in ranges {
            match operation {
                Operation::Discard => self.backend.discard(start, len),
                _ => self.backend.zero(start, len),
            }
            .map_err(|_| Failure::Io)?;
        }
        if !self.writeback {
            ctx.counters().flushes += 1;
            self.backend.flush().map_err(|_| Failure::Io)?;
        }
        Ok(())
    }
}

impl VirtioDevice for BlkDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.settings.features(false)
    }

    fn legacy_features(&self) -> u64 {
        self.settings.features(true)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        CONFIG_LEN as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(&self.config(), offset, out);
    }

    /// Only the cache mode can be written: by a legacy driver at any time, by a modern one that
    /// accepted CONFIG_WCE.
    fn write_config(&mut self, offset: u16, data: &[u8], via: Interface, ctx: &mut DeviceCtx<'_>) {
        if let (WRITEBACK_OFFSET, [value]) = (usize::from(offset), data) {
            if via == Interface::Legacy || ctx.has(blk::CONFIG_WCE) {
                self.set_writeback(*value != 0, ctx);
            }
        }
    }

    /// What the accepted features say about the cache takes effect when the driver is ready: a
    /// driver without CONFIG_WCE gets a write-back cache only if it knows how to flush it. Through
    /// the legacy interface nothing else may change the mode.
    fn status_changed(&mut self, old: u8, new: u8, via: Interface, ctx: &mut DeviceCtx<'_>) {
        let set = new & !old;
        let flush = ctx.has(blk::FLUSH);
        if via == Interface::Modern
            && set & status::FEATURES_OK != 0
            && ctx.has(blk::CONFIG_WCE)
            && !flush
        {
            self.set_writeback(false, ctx);
        }
        if set & status::DRIVER_OK != 0 && !ctx.has(blk::CONFIG_WCE) {
            self.set_writeback(flush, ctx);
        }
    }

    fn reset(&mut self) {
        self.writeback = true;
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(chain) = ctx.pop(queue)? {
            self.serve(chain, ctx)?;
        }
        Ok(())
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        match control {
            DeviceControl::Resize { sectors } => {
                disk::resize(self.backend.as_mut(), *sectors).map_err(ControlError::Refused)?;
                ctx.config_changed();
                Ok(())
            }
            _ => Err(ControlError::NotSupported("blk")),
        }
    }
}
