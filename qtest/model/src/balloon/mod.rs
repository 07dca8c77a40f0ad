// SPDX-License-Identifier: GPL-2.0-or-later
//! The traditional memory balloon device type ("Traditional Memory Balloon Device").
//!
//! It asks the driver for pages and counts what it is given: which page is in the balloon is known
//! one by one, so that a driver that gives a page twice or takes one that it never gave is found
//! out. [`config`] has settings and configuration, [`pages`] the set of pages, [`stats`] what the
//! driver tells about its memory.

pub mod config;
pub mod pages;
pub mod stats;
#[cfg(test)]
mod tests;

use virtio_modern_spec::bytes::le_value;
use virtio_pci_spec::DeviceType;

use self::config::{BalloonSettings, ACTUAL_LEN, ACTUAL_OFFSET, CONFIG_LEN};
use self::pages::{Insert, PageSet};
use self::stats::{Stats, ENTRY_LEN, MAX_ENTRIES};
use crate::config::{ConfigError, ModelConfig};
use crate::device::{copy_config, ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::effect::Interface;
use crate::model::Model;
use crate::queue::{Chain, RingFault};

/// A device whose functions are memory balloons.
///
/// # Errors
/// The configuration or the settings are not possible.
pub fn model(config: ModelConfig, settings: &BalloonSettings) -> Result<Model, ConfigError> {
    let mut make = |_| -> Result<Box<dyn VirtioDevice>, String> {
        Ok(Box::new(BalloonDevice::new(settings.clone())?))
    };
    Model::without_switch(config, "balloon", &mut make)
}

/// Bytes of a page, whatever the driver's pages are.
pub const PAGE: u64 = 4096;
/// The queue of pages that go into the balloon.
pub const INFLATE: u16 = 0;
/// The queue of pages that come out.
pub const DEFLATE: u16 = 1;
/// The queue of the statistics.
pub const STATS: u16 = 2;

/// Bytes of a page number in a buffer.
const NUMBER_LEN: u64 = 4;
/// Bytes of page numbers read at once.
const CHUNK: usize = 4096;
/// Bytes of page numbers in one buffer at most. Linux puts 256 numbers into one.
const MAX_BUFFER: u64 = 256 << 10;
/// Bytes of page numbers looked at in one call; the rest follows in the next tick, so that a driver
/// does not keep everybody else waiting.
const SHARE: u64 = MAX_BUFFER;
/// Mistakes noted of one buffer at most.
const MAX_NOTES: u32 = 8;

/// A memory balloon.
#[derive(Debug)]
pub struct BalloonDevice {
    settings: BalloonSettings,
    queue_sizes: [u16; 3],
    /// Pages the driver is asked for.
    num_pages: u32,
    /// Bytes of `actual` as the driver wrote them.
    shown_actual: [u8; ACTUAL_LEN],
    /// What they mean, once the last of them is written.
    actual: u32,
    pages: PageSet,
    /// The driver's buffer for the statistics, kept until new ones are wanted.
    stats_buffer: Option<Chain>,
    /// The driver's first buffer has nothing in it yet.
    stats_primed: bool,
    stats: Stats,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    inflated: u64,
    deflated: u64,
    stats_updates: u64,
}

impl BalloonDevice {
    /// A balloon without a page in it.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: BalloonSettings) -> Result<Self, String> {
        settings.check()?;
        let size = settings.queue_size;
        Ok(Self {
            queue_sizes: [size, size, if settings.stats { size } else { 0 }],
            num_pages: settings.pages,
            settings,
            shown_actual: [0; ACTUAL_LEN],
            actual: 0,
            pages: PageSet::default(),
            stats_buffer: None,
            stats_primed: false,
            stats: Stats::default(),
            counts: Counts::default(),
        })
    }

    /// Takes the page numbers of one buffer; gives how many bytes they were.
    fn move_pages(
        &mut self,
        queue: u16,
        chain: Chain,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<u64, RingFault> {
        let len = chain.readable_len();
        if chain.writable_len() > 0 {
            ctx.violation("balloon_writable_buffer", chain.writable_len());
        }
        if len == 0 || len % NUMBER_LEN != 0 || len > MAX_BUFFER {
            ctx.violation("balloon_buffer_length", len);
        }
        let len = len.min(MAX_BUFFER);
        let mut bytes = [0; CHUNK];
        let mut notes = 0;
        let mut at = 0;
        while at < len {
            let got = ctx.read(&chain, at, &mut bytes)?;
            let part = bytes.get(..got).unwrap_or_default();
            for number in part.chunks_exact(NUMBER_LEN as usize) {
                let page = le_value(number) as u32;
                let moved = match queue {
                    INFLATE => self.inflate(page, ctx),
                    _ => self.deflate(page),
                };
                if let (Err(rule), true) = (moved, notes < MAX_NOTES) {
                    notes += 1;
                    ctx.violation(rule, page.into());
                }
            }
            at += CHUNK as u64;
        }
        ctx.complete(chain, 0)?;
        Ok(len)
    }

    /// Puts a page into the balloon, or tells which rule forbids it.
    fn inflate(&mut self, page: u32, ctx: &DeviceCtx<'_>) -> Result<(), &'static str> {
        // A page that is no memory of the driver's is none that it could give away.
        if !ctx.reachable(u64::from(page) * PAGE, PAGE as usize) {
            return Err("balloon_page_unreachable");
        }
        match self.pages.insert(page) {
            Insert::New => {
                self.counts.inflated += 1;
                Ok(())
            }
            Insert::Present => Err("balloon_page_given_twice"),
            Insert::NoRoom => Err("balloon_pages_too_scattered"),
        }
    }

    fn deflate(&mut self, page: u32) -> Result<(), &'static str> {
        if !self.pages.remove(page) {
            return Err("balloon_page_never_given");
        }
        self.counts.deflated += 1;
        Ok(())
    }

    /// Takes a buffer of the statistics queue and keeps it.
    fn take_stats(&mut self, chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        if chain.writable_len() > 0 {
            ctx.violation("balloon_writable_buffer", chain.writable_len());
        }
        if let Some(old) = self.stats_buffer.take() {
            // Only one buffer at a time; the older one goes back so that none is lost.
            ctx.violation("balloon_stats_buffers", 2);
            ctx.complete(old, 0)?;
        }
        // The first buffer after the start only comes to be given back: what is in it is old.
        if self.stats_primed {
            let len = chain.readable_len();
            if len % ENTRY_LEN as u64 != 0 {
                ctx.violation("balloon_stats_length", len);
            }
            let mut bytes = [0; ENTRY_LEN * MAX_ENTRIES];
            let got = ctx.read(&chain, 0, &mut bytes)?;
            self.stats.replace(bytes.get(..got).unwrap_or_default());
            self.counts.stats_updates += 1;
        }
        self.stats_primed = true;
        self.stats_buffer = Some(chain);
        Ok(())
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        self.settings.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u16 {
        CONFIG_LEN as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        copy_config(
            &config::encode(self.num_pages, self.shown_actual),
            offset,
            out,
        );
    }

    /// `actual` may come byte by byte, the most significant one last: only then it means something.
    /// `poison_val` is writable but belongs to a feature that is not offered.
    fn write_config(&mut self, offset: u16, data: &[u8], _: Interface, ctx: &mut DeviceCtx<'_>) {
        let offset = usize::from(offset);
        let Some(at) = offset.checked_sub(ACTUAL_OFFSET) else {
            return;
        };
        let end = at + data.len();
        let Some(bytes) = self.shown_actual.get_mut(at..end) else {
            ctx.violation("balloon_poison_not_offered", offset as u64);
            return;
        };
        bytes.copy_from_slice(data);
        if end == ACTUAL_LEN {
            self.actual = u32::from_le_bytes(self.shown_actual);
        }
    }

    /// A driver takes back its pages with a reset: whoever comes next starts with an empty balloon.
    fn reset(&mut self) {
        self.shown_actual = [0; ACTUAL_LEN];
        self.actual = 0;
        self.pages.clear();
        self.stats_buffer = None;
        self.stats_primed = false;
        self.stats = Stats::default();
    }

    fn queue_reset(&mut self, queue: u16) {
        if queue == STATS {
            self.stats_buffer = None;
            self.stats_primed = false;
        }
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let mut moved = 0;
        while moved < SHARE {
            let Some(chain) = ctx.pop(queue)? else {
                return Ok(());
            };
            match queue {
                STATS => self.take_stats(chain, ctx)?,
                _ => moved += self.move_pages(queue, chain, ctx)?,
            }
        }
        ctx.wake_at(ctx.now_ns());
        Ok(())
    }

    fn wake(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        for queue in [INFLATE, DEFLATE] {
            self.process_queue(queue, ctx)?;
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("num_pages", self.num_pages.into()),
            ("actual", self.actual.into()),
            ("pages", self.pages.len().into()),
            ("inflated", self.counts.inflated),
            ("deflated", self.counts.deflated),
            ("stats_updates", self.counts.stats_updates),
        ];
        all.extend(self.stats.numbers());
        all
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        match control {
            DeviceControl::Balloon { pages } => {
                self.num_pages = *pages;
                ctx.config_changed();
                Ok(())
            }
            DeviceControl::BalloonStats => {
                let buffer = self.stats_buffer.take();
                let buffer = buffer.ok_or_else(|| {
                    ControlError::Refused(
                        "the driver has given no buffer for statistics; without STATS_VQ it never \
                         does, otherwise the last question is still unanswered"
                            .to_owned(),
                    )
                })?;
                ctx.complete(buffer, 0)
                    .map_err(|e| ControlError::Refused(e.to_string()))
            }
            _ => Err(ControlError::NotSupported("balloon")),
        }
    }
}
