// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Error codes on the wire and decode failures.

use core::fmt;

use crate::numbers::numbers;

numbers! {
    /// The `error` field of a reply. Open: a newer peer may send numbers that are not listed here;
    /// they are to be treated like [`ErrorCode::DEVICE`].
    pub struct ErrorCode {
        /// Success.
        OK = 0,
        /// Not a message of this protocol; the helper closes the connection after this reply.
        BAD_MESSAGE = 1,
        /// A message type that the helper does not know.
        UNKNOWN_TYPE = 2,
        /// No common protocol version.
        UNSUPPORTED_VERSION = 3,
        /// HELLO or OPEN is missing or was repeated.
        BAD_STATE = 4,
        /// The peer may not do this.
        ACCESS_DENIED = 5,
        /// The PF has no VF with this number.
        NO_SUCH_VF = 6,
        /// Another connection owns the VF.
        BUSY = 7,
        /// The VF belongs to another PF.
        WRONG_OWNER = 8,
        /// The VF is of another virtio device type than the client expects.
        WRONG_TYPE = 9,
        /// The device refused the admin command; status and qualifier are valid.
        DEVICE = 10,
        /// The device did not answer in time.
        TIMED_OUT = 11,
        /// The helper or the device cannot do this.
        NOT_SUPPORTED = 12,
        /// A field has a value outside its range.
        OUT_OF_RANGE = 13,
        /// The helper is going away.
        SHUTTING_DOWN = 14,
        /// The PF has failed; no command can be sent.
        PF_FAILED = 15,
        /// A limit on connections or requests was reached.
        TOO_MANY = 16,
        /// The proof that the client holds the VF is missing or wrong.
        BAD_PROOF = 17,
        /// The VF has not answered its last commands; no command is sent for now.
        NOT_RESPONDING = 18,
    }
}

/// Why a message could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Shorter than a header: bytes received.
    TooShort(usize),
    /// Longer than any message may be (or truncated by the socket): bytes received.
    TooLong(usize),
    /// A request with reply or event bits, a reply without its bit, or a flag that this message
    /// type cannot carry: the flags field.
    BadFlags(u16),
    /// A message type this version does not have: the type field.
    UnknownType(u16),
    /// The payload does not have the length its type demands.
    BadLength {
        /// Payload bytes received.
        got: usize,
        /// Payload bytes of this type (the most, for texts).
        want: usize,
    },
    /// A field has a value outside its range: its name in the protocol description, and the value.
    BadField(&'static str, u8),
    /// A text is not UTF-8.
    BadText,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort(len) => write!(f, "message of {len} bytes is shorter than a header"),
            Self::TooLong(len) => write!(f, "message of {len} bytes is longer than the limit"),
            Self::BadFlags(flags) => write!(f, "flags {flags:#x} do not fit this message"),
            Self::UnknownType(kind) => write!(f, "unknown message type {kind}"),
            Self::BadLength { got, want } => write!(f, "payload of {got} bytes instead of {want}"),
            Self::BadField(name, value) => write!(f, "field {name} is {value}: out of range"),
            Self::BadText => f.write_str("a text is not UTF-8"),
        }
    }
}

impl core::error::Error for Reason {}
