// SPDX-License-Identifier: GPL-2.0-or-later
//! A simulated virtio PF with an administration virtqueue and SR-IOV, and its VFs, as a model
//! without I/O: register accesses and DMA go in, [`Effect`]s come out. No threads, no clock, no
//! sockets; time is told to it.
//!
//! It stands in for hardware, so it is strict: what the specification makes a driver's mistake
//! fails here and is recorded as a [`Violation`]. [`Leniency`] lists where it can be made softer,
//! [`Knobs`] how else it can differ.
//!
//! A front end makes a [`Model`], gives every function its memory, passes on accesses to
//! configuration space and BARs, calls [`Model::tick`] with the time and after each call carries
//! out what [`Model::drain_effects`] gives. What drivers wrote is never trusted: a broken ring
//! stops the function it belongs to (DEVICE_NEEDS_RESET, [`RingFault`]), nothing else.
//!
//! Where the specification is silent:
//! - The legacy and the modern interface are views of one state; a reset through either resets
//!   both. Only the queue selector is each interface's own. A queue address of 0 stops that queue.
//! - ISR bits are set with and without MSI-X; vectors are kept while MSI-X is switched off and on.
//! - A legacy write of 0 to status completes when the reset is done; while a VF resets, other
//!   commands for it end with EAGAIN.
//! - LIST_USE of the SR-IOV group survives VF Enable; only a reset of the owner unsets it.
//! - A status reset of the PF leaves VFs alone, a function level reset ends them. When the PF's
//!   client goes ([`Model::disconnected`]) VFs stay enabled and go on.
//! - A delayed admin command does not hold up the ones behind it; a stuck one does.
//! - BARs need memory decoding (COMMAND of the PF, VF MSE for VFs), DMA and messages need Bus
//!   Master Enable; notifications of before are served when it is set.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod assemble;
pub mod balloon;
mod bars;
pub mod blk;
mod capabilities;
mod common_cfg;
mod config;
mod config_space;
pub mod console;
mod counters;
mod device;
pub mod disk;
mod dma;
mod effect;
mod event;
mod fault;
mod function;
mod function_core;
mod legacy;
mod model;
mod msix;
pub mod net;
pub mod p9;
mod queue;
pub mod rng;
pub mod scsi;
mod settings;
mod shared;
mod signal;
mod sriov;
pub mod switch;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod violation;
mod virtio;

pub use bars::{
    COMMON_OFFSET, ISR_LEN, ISR_OFFSET, LEGACY_NOTIFY_BAR, MEMBER_NOTIFY_OFFSET, MODERN_BAR,
    MSIX_BAR, NOTIFY_OFFSET, OWNER_NOTIFY_OFFSET, OWNER_NOTIFY_STRIDE, VF_BAR0_SIZE,
};
pub use capabilities::CONFIG_SPACE_LEN;
pub use config::{
    BadEntry, ConfigError, Knobs, Leniency, ModelConfig, NotifyLayout, SrIovCapability,
    FRONT_END_SRIOV, MAX_VECTORS, MAX_VFS,
};
pub use config_space::REVISION;
pub use counters::{Counters, FunctionCounters, COUNTED_OPCODES};
pub use device::{ControlError, DeviceControl, DeviceCtx, VirtioDevice};
pub use dma::{Access, Allowed, DmaMemory, DmaView, IovaMap, MapError, NoMemory};
pub use effect::{Effect, FrameSwitch, FunctionId, Interface, NoSwitch, Port};
pub use event::{CommandRecord, Event, EventMask, Record, ResetCause, Via};
pub use fault::{Action, FaultError, FaultRule, FaultSet, FaultState, OpcodeName};
pub use model::Model;
pub use queue::{Chain, RingFault, Segment};
pub use violation::Violation;
