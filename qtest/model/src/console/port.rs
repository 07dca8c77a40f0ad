// SPDX-License-Identifier: GPL-2.0-or-later
//! One port of a console function.

use super::backend::Backend;
use crate::device::DeviceCtx;
use crate::queue::{Chain, RingFault};

/// Bytes moved between the driver's memory and the backend at once.
const CHUNK: usize = 16 << 10;
/// Bytes moved for one port in one call; the rest follows in the next tick, so that a port does not
/// keep everything else waiting.
const SHARE: usize = 1 << 20;

/// The state of a port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    /// The driver has set the port up (MULTIPORT).
    pub(super) ready: bool,
    /// Somebody on the driver's side has the port open (MULTIPORT).
    pub(super) open: bool,
    /// What the driver was told last about the other end.
    pub(super) told_connected: bool,
    /// Bytes given to the driver.
    pub(super) received: u64,
    /// Bytes taken from the driver.
    pub(super) transmitted: u64,
    /// A buffer of the driver of which only some bytes could be passed on yet.
    partly: Option<(Chain, u64)>,
}

impl Port {
    pub(super) fn new(number: u16) -> Self {
        Self {
            number,
            ready: false,
            open: false,
            told_connected: false,
            received: 0,
            transmitted: 0,
            partly: None,
        }
    }

    /// Everything but the counts as after power-on.
    pub(super) fn reset(&mut self) {
        *self = Self {
            received: self.received,
            transmitted: self.transmitted,
            ..Self::new(self.number)
        };
    }

    /// The queue of the buffer in hand was reset.
    pub(super) fn forget_buffer(&mut self) {
        self.partly = None;
    }

    /// Receive queue of the port; behind those of port 0 come the control queues.
    fn receive_queue(&self) -> u16 {
        match self.number {
            0 => 0,
            n => 2 * n + 2,
        }
    }

    /// Gives the driver what the backend has.
    pub(super) fn receive(
        &mut self,
        backend: &mut dyn Backend,
        multiport: bool,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        // With several ports nothing is given to one that nobody has open.
        if multiport && !self.open {
            return Ok(());
        }
        let queue = self.receive_queue();
        let mut moved = 0;
        let mut bytes = Vec::new();
        while backend.has_input(self.number) {
            if moved >= SHARE {
                ctx.wake_at(ctx.now_ns());
                break;
            }
            let Some(chain) = ctx.pop(queue)? else {
                break;
            };
            if chain.readable_len() > 0 {
                ctx.violation("console_readable_buffer", chain.readable_len());
            }
            let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
            if room == 0 {
                ctx.violation("console_empty_buffer", chain.readable_len());
                ctx.complete(chain, 0)?;
                continue;
            }
            let room = room.min(CHUNK);
            bytes.resize(CHUNK, 0);
            let got = backend.read(self.number, bytes.get_mut(..room).unwrap_or_default());
            let written = ctx.write(&chain, 0, bytes.get(..got).unwrap_or_default())?;
            self.received += written as u64;
            moved += written;
            ctx.complete(chain, u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }

    /// Takes what the driver sends.
    pub(super) fn transmit(
        &mut self,
        backend: &mut dyn Backend,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        let queue = self.receive_queue() + 1;
        if !ctx.queue_ready(queue) {
            // A buffer in hand waits with the queue.
            return Ok(());
        }
        let mut moved = 0;
        let mut bytes = Vec::new();
        loop {
            let (chain, mut at) = match self.partly.take() {
                Some(partly) => partly,
                None => match ctx.pop(queue)? {
                    Some(chain) => {
                        if chain.writable_len() > 0 {
                            ctx.violation("console_writable_buffer", chain.writable_len());
                        }
                        (chain, 0)
                    }
                    None => return Ok(()),
                },
            };
            while at < chain.readable_len() {
                if moved >= SHARE {
                    ctx.wake_at(ctx.now_ns());
                    self.partly = Some((chain, at));
                    return Ok(());
                }
                bytes.resize(CHUNK, 0);
                let got = ctx.read(&chain, at, &mut bytes)?;
                let taken = backend.write(self.number, bytes.get(..got).unwrap_or_default());
                at += taken as u64;
                moved += taken;
                self.transmitted += taken as u64;
                if taken < got {
                    // The front end wakes the device when the other end takes more.
                    self.partly = Some((chain, at));
                    return Ok(());
                }
            }
            ctx.complete(chain, 0)?;
        }
    }
}
