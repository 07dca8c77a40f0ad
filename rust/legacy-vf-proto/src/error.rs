// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Error codes on the wire and decode failures.

use core::fmt;

/// The `error` field of a reply. Open: a newer peer may send numbers that are not listed here;
/// they are to be treated like [`ErrorCode::DEVICE`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: ErrorCode = ErrorCode($value);)*

            /// Every code of this version, ascending.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            /// The name in the protocol description; "UNKNOWN" for others.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

codes! {
    /// Success.
    OK = 0;
    /// Not a message of this protocol; the helper closes the connection after this reply.
    BAD_MESSAGE = 1;
    /// A message type that the helper does not know.
    UNKNOWN_TYPE = 2;
    /// No common protocol version.
    UNSUPPORTED_VERSION = 3;
    /// HELLO or OPEN is missing or was repeated.
    BAD_STATE = 4;
    /// The peer may not do this.
    ACCESS_DENIED = 5;
    /// The PF has no VF with this number.
    NO_SUCH_VF = 6;
    /// Another connection owns the VF.
    BUSY = 7;
    /// The VF belongs to another PF.
    WRONG_OWNER = 8;
    /// The VF is of another virtio device type than the client expects.
    WRONG_TYPE = 9;
    /// The device refused the admin command; status and qualifier are valid.
    DEVICE = 10;
    /// The device did not answer in time.
    TIMED_OUT = 11;
    /// The helper or the device cannot do this.
    NOT_SUPPORTED = 12;
    /// A field has a value outside its range.
    OUT_OF_RANGE = 13;
    /// The helper is going away.
    SHUTTING_DOWN = 14;
    /// The PF has failed; no command can be sent.
    PF_FAILED = 15;
    /// A limit on connections or requests was reached.
    TOO_MANY = 16;
    /// The proof that the client holds the VF is missing or wrong.
    BAD_PROOF = 17;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "UNKNOWN" => write!(f, "UNKNOWN({})", self.0),
            name => f.write_str(name),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a message could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Shorter than a header.
    TooShort {
        /// Bytes received.
        len: usize,
    },
    /// Longer than any message may be (or truncated by the socket).
    TooLong {
        /// Bytes received.
        len: usize,
    },
    /// A request with reply or event bits, a reply without its bit, or a flag that this message
    /// type cannot carry.
    BadFlags {
        /// The flags field.
        flags: u16,
    },
    /// A message type this version does not have.
    UnknownType {
        /// The type field.
        kind: u16,
    },
    /// The payload does not have the length its type demands.
    BadLength {
        /// Payload bytes received.
        got: usize,
        /// Payload bytes of this type (the most, for texts).
        want: usize,
    },
    /// A field has a value outside its range.
    BadField {
        /// The field's name in the protocol description.
        field: &'static str,
        /// The value received.
        value: u64,
    },
    /// A text is not UTF-8.
    BadText,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::TooShort { len } => {
                write!(
                    f,
                    "message of {len} bytes is shorter than its 16-byte header"
                )
            }
            Reason::TooLong { len } => {
                write!(f, "message of {len} bytes is longer than the limit of 4096")
            }
            Reason::BadFlags { flags } => write!(f, "flags {flags:#x} do not fit this message"),
            Reason::UnknownType { kind } => write!(f, "unknown message type {kind}"),
            Reason::BadLength { got, want } => {
                write!(f, "payload of {got} bytes where {want} are expected")
            }
            Reason::BadField { field, value } => {
                write!(
                    f,
                    "field {field} has the value {value}, which is out of range"
                )
            }
            Reason::BadText => f.write_str("a text is not UTF-8"),
        }
    }
}
