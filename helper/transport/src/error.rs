// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong below the virtio driver.

mod host;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

pub use host::HostError;

/// Which part of a function an operation touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The function as a whole: connection, reset, information.
    Function,
    /// Configuration space.
    Config {
        /// Byte offset.
        offset: u16,
        /// Bytes.
        len: usize,
    },
    /// A BAR.
    Bar {
        /// BAR number, 0 to 5.
        bar: u8,
        /// Byte offset in the BAR.
        offset: u64,
        /// Bytes; 0 if the BAR as a whole is meant.
        len: usize,
    },
    /// MSI-X vectors.
    Interrupts,
    /// Memory shared with the device.
    Dma {
        /// Byte offset in the region (0 for an allocation).
        offset: usize,
        /// Bytes.
        len: usize,
    },
    /// The SR-IOV capability.
    Sriov,
}

impl Place {
    /// A BAR as a whole.
    pub(crate) fn whole_bar(bar: u8) -> Self {
        Place::Bar {
            bar,
            offset: 0,
            len: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Function => write!(f, "function"),
            Place::Config { offset, len } => write!(f, "config space {offset:#x}+{len}"),
            Place::Bar { bar, len: 0, .. } => write!(f, "BAR{bar}"),
            Place::Bar { bar, offset, len } => write!(f, "BAR{bar} {offset:#x}+{len}"),
            Place::Interrupts => write!(f, "MSI-X"),
            Place::Dma { offset, len } => write!(f, "DMA memory {offset:#x}+{len}"),
            Place::Sriov => write!(f, "SR-IOV"),
        }
    }
}

/// Why it failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The socket could not be reached.
    #[error("cannot connect: {0}")]
    Connect(Errno),
    /// Nothing came in time.
    #[error("no {what} within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The peer went away.
    #[error("the peer closed the connection")]
    PeerClosed,
    /// The peer sent something that the protocol does not allow.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer or the kernel refused.
    #[error("refused: {0}")]
    Refused(Errno),
    /// Fewer bytes than asked for.
    #[error("{got} bytes instead of {want}")]
    Short {
        /// Bytes that came.
        got: usize,
        /// Bytes that were asked for.
        want: usize,
    },
    /// The BAR is not implemented.
    #[error("the function has no such BAR")]
    NoSuchBar,
    /// Outside of what there is.
    #[error("out of range (size {size:#x})")]
    OutOfRange {
        /// Bytes that exist.
        size: u64,
    },
    /// Not aligned to its width.
    #[error("not aligned to its width")]
    Unaligned,
    /// The function or this transport cannot do it.
    #[error("{0} not supported")]
    NotSupported(&'static str),
    /// The function lacks a PCI capability.
    #[error("no {0} capability")]
    NoCapability(&'static str),
    /// The function said or did something a PCI function must not.
    #[error("{0}")]
    Misbehaved(String),
    /// Not in the present state.
    #[error("{0}")]
    State(String),
    /// The DMA pool is used up.
    #[error("DMA pool exhausted: {want} bytes wanted, {free} of {size} free")]
    PoolExhausted {
        /// Bytes wanted.
        want: usize,
        /// Bytes free in the largest hole.
        free: usize,
        /// Bytes of the pool.
        size: usize,
    },
    /// A system call failed.
    #[error("{call}: {errno}")]
    Os {
        /// Its name.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
    /// The device does not answer any more: every bit reads as one.
    #[error("the device is gone, all its bits read as ones")]
    Gone,
    /// The host lacks something.
    #[error("{0}")]
    Host(Box<HostError>),
    /// An earlier error ended the use of this function for ever.
    #[error("unusable since an earlier error: {0}")]
    Dead(Box<Cause>),
}

impl Cause {
    /// A refusal by a server. One that gives no number still refused.
    pub(crate) fn refused(number: u32) -> Self {
        let number = i32::try_from(number).ok().filter(|n| (1..4096).contains(n));
        Cause::Refused(number.map_or(Errno::IO, Errno::from_raw_os_error))
    }
}

/// An error of a transport: function, place and cause.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{function}: {place}: {cause}")]
pub struct Error {
    function: Arc<str>,
    place: Place,
    #[source]
    cause: Cause,
}

impl Error {
    /// An error of `function` at `place`.
    pub fn new(function: impl Into<Arc<str>>, place: Place, cause: Cause) -> Self {
        Error {
            function: function.into(),
            place,
            cause,
        }
    }

    /// The function: a PCI address or a socket path.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Where it failed.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Why it failed.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whether the function cannot be used any more through this object.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self.cause,
            Cause::PeerClosed
                | Cause::Gone
                | Cause::Protocol(_)
                | Cause::TimedOut { .. }
                | Cause::Dead(_)
        )
    }
}
