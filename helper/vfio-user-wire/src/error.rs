// SPDX-License-Identifier: GPL-2.0-or-later
//! What can be wrong with a message.

use crate::{errno, Command};

/// A message that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The size field is smaller than the header itself. The stream cannot be followed further.
    #[error("message size {0} is smaller than its own 16-byte header")]
    SizeTooSmall(u32),
    /// The size field exceeds what the receiver accepts. The stream cannot be followed further.
    #[error("message size {size} exceeds the limit of {limit} bytes")]
    SizeTooLarge {
        /// Size field of the header.
        size: u32,
        /// Largest size the receiver accepts.
        limit: u32,
    },
    /// The type bits of the flags say neither command nor reply. The stream cannot be trusted.
    #[error("flags {0:#x} name neither a command nor a reply")]
    BadType(u32),
    /// A request was expected and a reply came, or the other way round.
    #[error("{command} message has the wrong direction (flags {flags:#x})")]
    WrongDirection {
        /// Command of the header.
        command: Command,
        /// Flags of the header.
        flags: u32,
    },
    /// The payload is too short for its command.
    #[error("{command} payload has {got} bytes, at least {want} are needed")]
    Truncated {
        /// Command of the header.
        command: Command,
        /// Bytes there.
        got: usize,
        /// Bytes needed.
        want: usize,
    },
    /// The payload length contradicts a count inside it.
    #[error("{command} says {count} bytes or entries, the payload holds {got}")]
    CountMismatch {
        /// Command of the header.
        command: Command,
        /// What the count field says.
        count: u64,
        /// What the payload holds.
        got: u64,
    },
    /// A count exceeds the negotiated or configured limit.
    #[error("{command} count {count} exceeds the limit of {limit}")]
    CountTooLarge {
        /// Command of the header.
        command: Command,
        /// Count asked for.
        count: u64,
        /// Limit in force.
        limit: u64,
    },
    /// A field has a value that the protocol does not allow.
    #[error("{command}: {what}")]
    Invalid {
        /// Command of the header.
        command: Command,
        /// Which field and why.
        what: &'static str,
    },
    /// The version data is not the JSON object the protocol asks for.
    #[error("version data: {0}")]
    BadCapabilities(&'static str),
    /// The command is not one this crate knows.
    #[error("{0} is not a known command")]
    UnknownCommand(Command),
}

impl WireError {
    /// The error number that a server replies with.
    pub fn errno(&self) -> u32 {
        match self {
            Self::UnknownCommand(_) => errno::ENOSYS,
            Self::CountTooLarge { .. } | Self::SizeTooLarge { .. } => errno::E2BIG,
            _ => errno::EINVAL,
        }
    }

    /// Whether the byte stream cannot be followed after this error, so that the connection must
    /// be closed.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::SizeTooSmall(_) | Self::SizeTooLarge { .. } | Self::BadType(_)
        )
    }
}
