// SPDX-License-Identifier: GPL-2.0-or-later
//! Driver side of a split virtqueue in DMA memory ("Split Virtqueues").
//!
//! The device is not trusted: everything it writes is checked before it is believed, and what it
//! cannot be allowed to have done breaks the queue with an error that says so. No state that the
//! driver relies on lives where the device can write.

#![forbid(unsafe_code)]

mod error;
mod layout;
mod queue;
mod suppress;
#[cfg(test)]
mod tests;

pub use error::{AddError, QueueError};
pub use layout::{Layout, QueueAddresses};
pub use queue::{Barriers, Buffer, QueueConfig, SplitQueue, Used};
