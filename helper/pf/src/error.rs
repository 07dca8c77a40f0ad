// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong between an operation and its completion.

use std::sync::Arc;
use std::time::Duration;

use driver_virtqueue::QueueError;
use thiserror::Error;
use virtio_modern_spec::admin::{opcode, qualifier, status};

/// Why a PF cannot be driven, or cannot be driven any more.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PfError {
    /// The function or the way to it failed.
    #[error(transparent)]
    Transport(#[from] pci_transport::Error),
    /// The admin queue broke.
    #[error("{function}: admin queue: {source}")]
    Queue {
        /// The PF.
        function: Arc<str>,
        /// What broke it.
        source: QueueError,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// Not a virtio device that this driver can use.
    #[error("{function}: not usable as a virtio PF: {why}")]
    Unsuitable {
        /// The PF.
        function: Arc<str>,
        /// What it lacks and what can be done.
        why: String,
    },
    /// A capability or register holds something that the specification does not allow.
    #[error("{function}: {register}: {why}")]
    Misbehaved {
        /// The PF.
        function: Arc<str>,
        /// Which register.
        register: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Something did not happen in time.
    #[error("{function}: {what} not done within {after:?}")]
    TimedOut {
        /// The PF.
        function: Arc<str>,
        /// What.
        what: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// VFs exist, but not as many as asked for.
    #[error(
        "{function}: {existing} VFs are enabled already and {wanted} are wanted; start with \
         {existing} VFs, or disable them first (guests that use them lose their device)"
    )]
    VfCount {
        /// The PF.
        function: Arc<str>,
        /// How many are enabled.
        existing: u16,
        /// How many are wanted.
        wanted: u16,
    },
    /// A command that the driver needs was refused.
    #[error("{function}: {} for the SR-IOV group failed: {error}", opcode::name(*opcode))]
    Command {
        /// The PF.
        function: Arc<str>,
        /// Its opcode.
        opcode: u16,
        /// How it ended.
        error: OpError,
    },
    /// Every attempt at recovery failed.
    #[error("{function}: given up after {attempts} resets in a row; last cause: {cause}")]
    GivenUp {
        /// The PF.
        function: Arc<str>,
        /// Attempts made.
        attempts: u32,
        /// Why the last one was made.
        cause: String,
    },
}

/// Why an operation did not give a result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpError {
    /// The device refused the command.
    #[error(
        "status {status} ({}), qualifier {qualifier} ({})",
        status::name(*status),
        qualifier::name(*qualifier)
    )]
    Device {
        /// As the device gave it; unknown values are to be treated like EINVAL.
        status: u16,
        /// As the device gave it; unknown values are to be treated like Q_INVALID_COMMAND.
        qualifier: u16,
    },
    /// No completion before the deadline. The device may still perform the command.
    #[error("timed out")]
    TimedOut,
    /// Earlier commands of this VF were not answered, and it is not time to try again.
    #[error("the VF does not answer")]
    NotResponding,
    /// The device wrote less than was asked for.
    #[error("{got} bytes instead of {want}")]
    ShortReply {
        /// Bytes that the device wrote.
        got: u32,
        /// Bytes that the command defines.
        want: u32,
    },
    /// The PF failed or was reset while the command was in flight.
    #[error("PF failed: {0}")]
    PfFailed(Arc<str>),
    /// The driver was shut down.
    #[error("shutting down")]
    Shutdown,
}

impl OpError {
    /// The status to report: that of the device if the specification knows it, EINVAL for an
    /// unknown one ("Group administration commands").
    pub fn effective_status(&self) -> u16 {
        match self {
            OpError::Device { status, .. } => effective_status(*status),
            _ => status::EINVAL,
        }
    }
}

/// Maps an unknown status to EINVAL.
pub(crate) fn effective_status(value: u16) -> u16 {
    match value {
        status::OK
        | status::ENXIO
        | status::EAGAIN
        | status::ENOMEM
        | status::EBUSY
        | status::EINVAL
        | status::ENOSPC => value,
        _ => status::EINVAL,
    }
}

/// Why an operation was not accepted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The VF's queue is full: keep the operation and try again after a completion.
    #[error("VF {member} has {waiting} operations waiting")]
    QueueFull {
        /// The VF.
        member: u16,
        /// How many wait.
        waiting: usize,
    },
    /// The device does not answer this VF's commands, and it is not time to try again.
    #[error("VF {member} has not answered its commands for {} s", since.as_secs())]
    NotResponding {
        /// The VF.
        member: u16,
        /// For how long.
        since: Duration,
    },
    /// There is no such VF.
    #[error("there is no VF {member}; the PF has VFs 1 to {num_vfs}")]
    NoSuchVf {
        /// The number asked for.
        member: u16,
        /// How many there are.
        num_vfs: u16,
    },
    /// Offset and length do not lie inside one field.
    #[error("{len} bytes at {space} offset {offset} are not inside one register")]
    NotOneField {
        /// "common" or "device".
        space: &'static str,
        /// Byte offset.
        offset: u8,
        /// Bytes.
        len: u8,
    },
    /// The device does not offer the command.
    #[error("the PF does not offer {}", opcode::name(*opcode))]
    NotOffered {
        /// The command's opcode.
        opcode: u16,
    },
    /// The PF has failed for good.
    #[error("PF failed: {0}")]
    PfFailed(Arc<str>),
    /// The driver was shut down.
    #[error("shutting down")]
    Shutdown,
}
