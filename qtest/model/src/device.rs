// SPDX-License-Identifier: GPL-2.0-or-later
//! What a device type (net, blk, ...) implements, and what it may use while it does.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_modern_spec::features::{bit, LEGACY_MASK, VERSION_1};
use virtio_pci_spec::DeviceType;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use crate::counters::FunctionCounters;
use crate::effect::{FunctionId, Interface};
use crate::event::Event;
use crate::function_core::Core;
use crate::queue::{Chain, RingFault};
use crate::shared::Shared;
use crate::violation::Violation;

/// A change from outside: what a user does to the simulated hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "control")]
pub enum DeviceControl {
    /// The network link goes up or down.
    Link {
        /// Up.
        up: bool,
    },
    /// The disk changes its size.
    Resize {
        /// New capacity in 512-byte sectors.
        sectors: u64,
    },
    /// A SCSI disk stops answering, or goes on.
    Stall {
        /// It does not answer.
        on: bool,
    },
    /// A SCSI disk is taken away or put back.
    Plug {
        /// It is there.
        present: bool,
    },
    /// The console's screen changes its size.
    Screen {
        /// Characters in a line.
        cols: u16,
        /// Lines.
        rows: u16,
    },
    /// The entropy source gives this much.
    Rate {
        /// Bytes in a second; 0: as many as the driver asks for.
        bytes_per_second: u64,
    },
    /// The balloon should have this size.
    Balloon {
        /// Pages of 4096 bytes.
        pages: u32,
    },
    /// The memory balloon's driver is asked for new statistics.
    BalloonStats,
}

/// Why a [`DeviceControl`] was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The device type has nothing to do with it.
    #[error("a {0} device has no such control")]
    NotSupported(&'static str),
    /// The type knows the control but cannot do this.
    #[error("{0}")]
    Refused(String),
    /// There is no such VF.
    #[error("{0} does not exist")]
    NoFunction(FunctionId),
}

/// A device type behind one function.
///
/// The model calls it; it never keeps references. Between calls it may keep [`Chain`]s that it
/// took: after a reset (`reset` was called) completing an old one does nothing.
pub trait VirtioDevice: Send {
    /// The type, which decides IDs, class and the layout of the device configuration.
    fn device_type(&self) -> DeviceType;

    /// Device-type feature bits of the modern interface (bits 0 to 23 and 50 to 63; ring and
    /// transport bits are the model's).
    fn features(&self) -> u64;

    /// Device-type feature bits of the legacy interface; modern-only bits left out, legacy-only
    /// ones added.
    fn legacy_features(&self) -> u64 {
        self.features() & 0xff_ffff
    }

    /// Whether this accepted set is workable; decides whether FEATURES_OK sticks.
    fn accepts_features(&self, _accepted: u64) -> bool {
        true
    }

    /// Maximum size of each queue, a power of two up to 32768; 0 for a queue that does not exist.
    /// Constant.
    fn queue_sizes(&self) -> &[u16];

    /// Bytes of device configuration. Constant, at most 256.
    fn config_len(&self) -> u16;

    /// Copies configuration bytes from `offset`; the range lies inside `config_len`.
    fn read_config(&self, offset: u16, out: &mut [u8]);

    /// A driver write inside one writable field. Fields that the interface does not let the driver
    /// write do not come here, except the ones that are writable only in legacy mode: check `via`.
    fn write_config(&mut self, offset: u16, data: &[u8], via: Interface, ctx: &mut DeviceCtx<'_>);

    /// Whether this byte of the configuration may be written before the features are negotiated,
    /// which the modern interface otherwise does not allow.
    fn always_writable(&self, _offset: u16) -> bool {
        false
    }

    /// The driver wrote device status (not 0, that is `reset`).
    fn status_changed(&mut self, _old: u8, _new: u8, _via: Interface, _ctx: &mut DeviceCtx<'_>) {}

    /// Back to the state after power-on.
    fn reset(&mut self);

    /// Queue `queue` may have buffers: take what can be served. Called after a kick, and again when
    /// something that kept the queue from being served went away.
    ///
    /// # Errors
    /// A fault of the ring; the model then stops the device (DEVICE_NEEDS_RESET).
    fn process_queue(&mut self, queue: u16, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault>;

    /// A queue was reset alone ("Virtqueue Reset"); buffers taken from it are gone.
    fn queue_reset(&mut self, _queue: u16) {}

    /// A frame arrived from the switch.
    ///
    /// # Errors
    /// As [`process_queue`](Self::process_queue).
    fn receive_frame(&mut self, _frame: &[u8], _ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        Ok(())
    }

    /// The time that was asked for with [`DeviceCtx::wake_at`] has come, or some other time of the
    /// function's, or the front end says that something outside (a socket of the device's backend)
    /// wants attention: do what can be done now.
    ///
    /// # Errors
    /// As [`process_queue`](Self::process_queue).
    fn wake(&mut self, _ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        Ok(())
    }

    /// What the type itself counts, by name, for tests and for the control socket. Resets do not
    /// set it back unless the name says so.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// A change from outside.
    ///
    /// # Errors
    /// The change is not possible; nothing happened.
    fn control(
        &mut self,
        _control: &DeviceControl,
        _ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), ControlError> {
        Err(ControlError::NotSupported(self.device_type().name()))
    }
}

/// What a device sees of its function while it is called.
pub struct DeviceCtx<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) shared: &'a mut Shared,
}

impl DeviceCtx<'_> {
    /// The function the device sits in.
    pub fn function(&self) -> FunctionId {
        self.core.id
    }

    /// Features the driver accepted so far; only bits 0 to 31 if it is a legacy driver.
    pub fn features(&self) -> u64 {
        let f = self.core.virtio.driver_features;
        if self.is_legacy() {
            f & LEGACY_MASK
        } else {
            f
        }
    }

    /// Whether feature bit `n` was accepted.
    pub fn has(&self, n: u32) -> bool {
        n < 64 && self.features() & bit(n) != 0
    }

    /// The driver did not accept VERSION_1, so the "Legacy Interface" sections rule.
    pub fn is_legacy(&self) -> bool {
        self.core.virtio.driver_features & bit(VERSION_1) == 0
    }

    /// Device status as the driver sees it.
    pub fn status(&self) -> u8 {
        self.core.virtio.status
    }

    /// The time the front end gave last, in nanoseconds of its own clock.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns
    }

    /// Counters of this function.
    pub fn counters(&mut self) -> &mut FunctionCounters {
        &mut self.core.counters
    }

    /// Whether the queue may be served now: it exists, is set up, and the device runs.
    pub fn queue_ready(&self, queue: u16) -> bool {
        self.core.queue_ready(queue)
    }

    /// Buffers waiting in a queue; 0 if it may not be served.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn pending(&mut self, queue: u16) -> Result<u16, RingFault> {
        self.core.pending(queue)
    }

    /// Takes the next buffer; `None` if there is none or the queue may not be served.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn pop(&mut self, queue: u16) -> Result<Option<Chain>, RingFault> {
        self.core.pop(queue)
    }

    /// Gives back the buffer that was taken last from its queue, untouched. Several must be given
    /// back in reverse order.
    pub fn unpop(&mut self, chain: Chain) {
        self.core.unpop(chain);
    }

    /// Copies bytes `offset..` of the readable part; gives how many there were.
    ///
    /// # Errors
    /// A piece is not reachable by DMA.
    pub fn read(&mut self, chain: &Chain, offset: u64, buf: &mut [u8]) -> Result<usize, RingFault> {
        self.core.read_chain(chain, offset, buf)
    }

    /// Copies to bytes `offset..` of the writable part; gives how many fitted.
    ///
    /// # Errors
    /// A piece is not reachable by DMA.
    pub fn write(&mut self, chain: &Chain, offset: u64, data: &[u8]) -> Result<usize, RingFault> {
        self.core.write_chain(chain, offset, data)
    }

    /// Whether all of this memory is reachable by DMA for writing.
    pub fn reachable(&self, addr: u64, len: usize) -> bool {
        self.core
            .view()
            .check_range(GuestAddress(addr), len, Permissions::Write)
    }

    /// Puts a buffer into the used ring, saying that `written` bytes of its writable part hold
    /// data. The driver is notified when the current call into the device returns.
    ///
    /// # Errors
    /// The used ring is not reachable by DMA.
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), RingFault> {
        self.core.complete(chain, written)
    }

    /// As [`complete`](Self::complete) for several buffers of one queue that belong together: the
    /// driver sees all of them at once.
    ///
    /// # Errors
    /// The used ring is not reachable by DMA.
    pub fn complete_together(&mut self, buffers: Vec<(Chain, u32)>) -> Result<(), RingFault> {
        self.core.complete_together(buffers)
    }

    /// The device configuration changed: the driver is told.
    pub fn config_changed(&mut self) {
        self.core.virtio.config_changed();
        self.core.signal_config(self.shared);
    }

    /// Sends an Ethernet frame into the switch; it is delivered when the current call returns.
    pub fn transmit(&mut self, frame: &[u8]) {
        self.shared.transmit(self.core.id, frame);
    }

    /// Asks for a call of [`VirtioDevice::wake`] at this time, or in the next tick if it is past.
    pub fn wake_at(&mut self, due_ns: u64) {
        // Never in the tick that is running: a device that always has more to do would keep it.
        let soonest = self.shared.now_ns.saturating_add(1);
        self.shared.timer(due_ns.max(soonest), self.core.id);
    }

    /// The driver broke a rule of the device type; `value` is what shows it.
    pub fn violation(&mut self, rule: &'static str, value: u64) {
        self.shared
            .violation(self.core.id, Violation::DeviceRule { rule, value });
    }

    /// Adds a line to the event log.
    pub fn log(&mut self, event: Event) {
        self.shared.log(self.core.id, event);
    }
}

/// What [`VirtioDevice::read_config`] does for a type that has its whole configuration as bytes.
pub(crate) fn copy_config(config: &[u8], offset: u16, out: &mut [u8]) {
    let offset = usize::from(offset);
    if let Some(bytes) = config.get(offset..offset + out.len()) {
        out.copy_from_slice(bytes);
    }
}
