// SPDX-License-Identifier: GPL-2.0-or-later
//! Errors of a queue.

use thiserror::Error;

/// The device broke the rules of the used ring, or the ring memory cannot be accessed. The queue
/// is unusable until the device was reset.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// used.idx moved further than there are buffers to use.
    #[error("used.idx went from {from} to {to} with {in_flight} buffers in flight")]
    UsedIndex {
        /// Where the driver is.
        from: u16,
        /// What the device wrote.
        to: u16,
        /// Buffers that the device could have used.
        in_flight: u16,
    },
    /// A used element names a descriptor that does not exist.
    #[error("used element {slot}: id {id} is not below the queue size {size}")]
    IdOutOfRange {
        /// Place in the used ring.
        slot: u16,
        /// What the device wrote.
        id: u32,
        /// Queue size.
        size: u16,
    },
    /// A used element names a descriptor that does not start a buffer in flight: never made
    /// available, inside a chain, or used already.
    #[error("used element {slot}: id {id} is not in flight")]
    NotInFlight {
        /// Place in the used ring.
        slot: u16,
        /// What the device wrote.
        id: u16,
    },
    /// More bytes written than the buffer has device-writable.
    #[error("used element {slot}: id {id} has length {len}, but {writable} writable bytes")]
    UsedLength {
        /// Place in the used ring.
        slot: u16,
        /// The buffer.
        id: u16,
        /// What the device wrote.
        len: u32,
        /// Device-writable bytes of the buffer.
        writable: u32,
    },
    /// The ring memory is too small or cannot be reached: a fault of this program.
    #[error("ring memory: {0}")]
    Memory(#[from] pci_transport::Error),
    /// The driver's own books are inconsistent: a fault of this program.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// A buffer that was not made available.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddError {
    /// Not enough free descriptors now.
    #[error("{want} descriptors wanted, {free} free")]
    Full {
        /// Descriptors wanted.
        want: usize,
        /// Descriptors free.
        free: u16,
    },
    /// The buffer can never be made available.
    #[error("buffer refused: {0}")]
    Invalid(&'static str),
    /// The queue is broken.
    #[error("queue broken: {0}")]
    Broken(#[from] QueueError),
}
