// SPDX-License-Identifier: GPL-2.0-or-later
//! What the front end needs of the simulated hardware.
//!
//! The server, the event loop and the control socket know only this trait; the model of the PF is
//! one implementation, the server tests have a small one of their own. No method may block.

use crate::dma::DmaSpace;
use serde_json::Value;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A PCI function of the simulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Function {
    /// The owner.
    Pf,
    /// A member, numbered from 1.
    Vf(u16),
}

impl Function {
    /// The function behind an index: 0 is the PF, n is VF n.
    pub fn from_index(index: usize) -> Self {
        match u16::try_from(index) {
            Ok(0) => Self::Pf,
            Ok(n) => Self::Vf(n),
            Err(_) => Self::Vf(u16::MAX),
        }
    }

    /// 0 for the PF, n for VF n.
    pub fn index(self) -> usize {
        match self {
            Self::Pf => 0,
            Self::Vf(n) => usize::from(n),
        }
    }

    /// Name of the socket file.
    pub fn socket_name(self) -> String {
        format!("{self}.sock")
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pf => f.write_str("pf"),
            Self::Vf(n) => write!(f, "vf{n}"),
        }
    }
}

/// What the hardware wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Signal an MSI-X vector.
    Interrupt {
        /// Function that interrupts.
        function: Function,
        /// Vector number.
        vector: u16,
    },
    /// A frame leaves by the uplink.
    FrameOut(Vec<u8>),
    /// A frame passed the switch; for captures only.
    Capture(Vec<u8>),
    /// Something for the event log.
    Event(Value),
}

/// A register write that an eventfd may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Offset in the BAR.
    pub offset: u64,
    /// Width of the write in bytes (1, 2, 4).
    pub width: u8,
    /// Value that is written.
    pub value: u32,
}

/// The simulated hardware. Offsets are inside what [`Hardware::bar_size`] and the 4096 bytes of
/// configuration space allow; the caller has checked.
pub trait Hardware {
    /// Number of VFs that have a socket.
    fn total_vfs(&self) -> u16;
    /// Reads configuration space; fills all of `buf`.
    fn config_read(&mut self, function: Function, offset: u16, buf: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&mut self, function: Function, offset: u16, data: &[u8]);
    /// Bytes of a BAR, 0 if there is none.
    fn bar_size(&self, function: Function, bar: u8) -> u64;
    /// Reads a BAR; fills all of `buf`.
    fn bar_read(&mut self, function: Function, bar: u8, offset: u64, buf: &mut [u8]);
    /// Writes a BAR.
    fn bar_write(&mut self, function: Function, bar: u8, offset: u64, data: &[u8]);
    /// Writes for which eventfds may be offered.
    fn doorbells(&self, function: Function, bar: u8) -> Vec<Doorbell>;
    /// MSI-X vectors of a function.
    fn vectors(&self, function: Function) -> u32;
    /// The client attached (or took away) eventfds of the vectors from `first`.
    fn vectors_attached(&mut self, function: Function, first: u16, attached: &[bool]);
    /// The client took all vectors away: MSI-X is off.
    fn vectors_disabled(&mut self, function: Function);
    /// The memory that a function reaches by DMA from now on.
    fn set_memory(&mut self, function: Function, memory: Arc<DmaSpace>);
    /// Whether the client can have a function reset; constant.
    fn can_reset(&self, _function: Function) -> bool {
        true
    }
    /// Function level reset.
    fn reset_function(&mut self, function: Function);
    /// The client of a function went away (or a new one came): its configuration is as after
    /// power-on.
    fn disconnected(&mut self, function: Function);
    /// A frame comes in by the uplink.
    fn rx_frame(&mut self, frame: &[u8]);
    /// Descriptors of the outside that backends use, with the function that wants attention when
    /// its descriptor is readable. Constant.
    fn wakers(&self) -> Vec<(Function, BorrowedFd<'_>)> {
        Vec::new()
    }
    /// A descriptor of [`Hardware::wakers`] is readable.
    fn wake(&mut self, _function: Function) {}
    /// Time passes; `now_ns` counts from the start of the process.
    fn tick(&mut self, now_ns: u64);
    /// When [`Hardware::tick`] is needed next.
    fn next_deadline_ns(&self) -> Option<u64>;
    /// Moves the pending effects to the end of `out`, in order.
    fn take_effects(&mut self, out: &mut Vec<Effect>);
    /// A command of the control socket that concerns the hardware.
    ///
    /// # Errors
    /// Text that says what is wrong with the command.
    fn control(&mut self, command: &str, args: &Value) -> Result<Value, String>;
}
