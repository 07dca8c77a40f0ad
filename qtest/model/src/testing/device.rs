// SPDX-License-Identifier: GPL-2.0-or-later
//! A device of any type that copies each buffer's readable part to its writable part.

use virtio_pci_spec::config;
use virtio_pci_spec::DeviceType;

use crate::device::{ControlError, DeviceControl, DeviceCtx, VirtioDevice};
use crate::effect::Interface;
use crate::queue::{Chain, RingFault};

/// Entries of each of its queues.
const QUEUE_SIZE: u16 = 16;

/// See the module. The configuration holds 1, 2, 3, ...; writable fields store what is written. A
/// [`DeviceControl::Resize`] changes the first eight bytes; [`DeviceControl::Link`] with `up: false`
/// makes it keep the buffers it takes, with `up: true` it completes them.
#[derive(Debug)]
pub struct EchoDevice {
    kind: DeviceType,
    config: Vec<u8>,
    initial: Vec<u8>,
    queues: Vec<u16>,
    hold: bool,
    held: Vec<Chain>,
}

impl EchoDevice {
    /// Two queues and the full configuration of the type.
    pub fn new(kind: DeviceType) -> Self {
        let len = match kind {
            DeviceType::P9 => 2 + 8,
            t => config::full_len(t),
        };
        let bytes: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
        EchoDevice {
            kind,
            initial: bytes.clone(),
            config: bytes,
            queues: vec![QUEUE_SIZE; 2],
            hold: false,
            held: Vec::new(),
        }
    }

    /// Another set of queues; 0 is a queue that does not exist.
    #[must_use]
    pub fn with_queues(mut self, sizes: &[u16]) -> Self {
        self.queues = sizes.to_vec();
        self
    }

    fn finish(chain: Chain, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let n = chain.readable_len().min(chain.writable_len()).min(65536) as usize;
        let mut data = vec![0; n];
        ctx.read(&chain, 0, &mut data)?;
        let written = ctx.write(&chain, 0, &data)?;
        ctx.complete(chain, written as u32)
    }
}

impl VirtioDevice for EchoDevice {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn features(&self) -> u64 {
        0x2f | 1 << 63
    }

    fn legacy_features(&self) -> u64 {
        0x6f
    }

    fn accepts_features(&self, accepted: u64) -> bool {
        // Bit 1 needs bit 0.
        accepted & 2 == 0 || accepted & 1 != 0
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queues
    }

    fn config_len(&self) -> u16 {
        self.config.len() as u16
    }

    fn read_config(&self, offset: u16, out: &mut [u8]) {
        for (to, from) in out.iter_mut().zip(self.config.iter().skip(offset.into())) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u16, data: &[u8], _via: Interface, _: &mut DeviceCtx<'_>) {
        let slots = self.config.iter_mut().skip(offset.into());
        for (to, from) in slots.zip(data) {
            *to = *from;
        }
    }

    fn reset(&mut self) {
        self.config.copy_from_slice(&self.initial);
        // Buffers of before are kept on purpose: completing them later must do nothing.
    }

    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        while let Some(chain) = ctx.pop(queue)? {
            if self.hold {
                self.held.push(chain);
            } else {
                Self::finish(chain, ctx)?;
            }
        }
        Ok(())
    }

    fn control(
        &mut self,
        control: &DeviceControl,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        match control {
            DeviceControl::Link { up: false } => self.hold = true,
            DeviceControl::Link { up: true } => {
                self.hold = false;
                for chain in std::mem::take(&mut self.held) {
                    // A buffer from before a reset is refused, which is what tests look at.
                    let _stale_or_done = Self::finish(chain, ctx);
                }
            }
            DeviceControl::Resize { sectors } => {
                for (to, from) in self.config.iter_mut().zip(sectors.to_le_bytes()) {
                    *to = from;
                }
                ctx.config_changed();
            }
            _ => return Err(ControlError::NotSupported("echo")),
        }
        Ok(())
    }
}
