// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! How messages lie on the wire: a header and the fields behind it, written down once for both
//! directions.

use crate::error::{ErrorCode, Reason};
use crate::limits::MAX_MESSAGE;

/// Something of a fixed length on the wire.
pub trait Field: Sized {
    /// Bytes that it has there.
    const LEN: usize;
    /// Stores it at the start of `out` and gives the rest.
    fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8];
    /// Takes it from the start of `from`.
    fn get(from: &mut &[u8]) -> Result<Self, Reason>;
}

impl<const N: usize> Field for [u8; N] {
    const LEN: usize = N;

    fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        let Some((used, rest)) = out.split_first_chunk_mut() else {
            return &mut [];
        };
        *used = *self;
        rest
    }

    fn get(from: &mut &[u8]) -> Result<Self, Reason> {
        let (got, want) = (from.len(), N);
        let Some((first, rest)) = from.split_first_chunk() else {
            return Err(Reason::BadLength { got, want });
        };
        *from = rest;
        Ok(*first)
    }
}

/// A type that lies on the wire as another one: its name, that one, and the way there and back.
macro_rules! field {
    ($type:ty as $raw:ty, $to:expr, $from:expr) => {
        impl Field for $type {
            const LEN: usize = <$raw>::LEN;

            fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
                let to: fn(&$type) -> $raw = $to;
                to(self).put(out)
            }

            fn get(from: &mut &[u8]) -> Result<Self, Reason> {
                let back: fn($raw) -> Result<$type, Reason> = $from;
                back(<$raw>::get(from)?)
            }
        }
    };
}
pub(crate) use field;

field! { u8 as [u8; 1], |v| v.to_le_bytes(), |b| Ok(u8::from_le_bytes(b)) }
field! { u16 as [u8; 2], |v| v.to_le_bytes(), |b| Ok(u16::from_le_bytes(b)) }
field! { u32 as [u8; 4], |v| v.to_le_bytes(), |b| Ok(u32::from_le_bytes(b)) }
field! { u64 as [u8; 8], |v| v.to_le_bytes(), |b| Ok(u64::from_le_bytes(b)) }

/// A struct whose fields lie on the wire one after the other. A number in brackets after a field
/// is that of the reserved bytes behind it, which are sent as zero and ignored.
macro_rules! layout {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $([$reserved:literal])?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$doc])* $vis $field: $type,)*
        }

        impl Field for $name {
            const LEN: usize = 0 $(+ <$type>::LEN $(+ $reserved)?)*;

            fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
                $(let out = self.$field.put(out); $(let out = [0; $reserved].put(out);)?)*
                out
            }

            fn get(from: &mut &[u8]) -> Result<Self, Reason> {
                $(let $field = Field::get(from)?; $(<[u8; $reserved]>::get(from)?;)?)*
                Ok($name { $($field),* })
            }
        }
    };

    // One variant for each type of message: a struct from elsewhere, or fields.
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $variant:ident $(($inner:ident: $struct:ty))? $({
            $($(#[$field_doc:meta])* $field:ident: $type:ty $([$reserved:literal])?,)*
        })?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant $(($struct))? $({ $($(#[$field_doc])* $field: $type,)* })?,)*
        }

        mod payload {
            use super::*;
            $($(layout! {
                pub(crate) struct $variant { $($field: $type $([$reserved])?,)* }
            })?)*
        }

        impl $name {
            /// The type of this message.
            pub const fn kind(&self) -> MessageType {
                match self { $($name::$variant { .. } => MessageType::$variant,)* }
            }

            /// Stores the payload at the start of `out` and gives the rest.
            pub fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
                match *self {
                    $($name::$variant $(($inner))? $({ $($field),* })? =>
                        $($inner.put(out))? $(payload::$variant { $($field),* }.put(out))?,)*
                }
            }

            /// The message of this type with this payload.
            ///
            /// # Errors
            /// A [`Reason`] for anything else.
            pub fn get(kind: MessageType, from: &[u8]) -> Result<Self, Reason> {
                match kind {
                    $(MessageType::$variant =>
                        $(exact(from).map(|$inner| $name::$variant($inner)))?
                        $(exact(from).map(|payload::$variant { $($field),* }| {
                            $name::$variant { $($field),* }
                        }))?,)*
                    _ => Err(Reason::UnknownType(kind as u16)),
                }
            }
        }
    };
}
pub(crate) use layout;

/// What a payload of exactly this length holds.
///
/// # Errors
/// A [`Reason`] for another length, or a field out of range.
pub fn exact<T: Field>(payload: &[u8]) -> Result<T, Reason> {
    let (got, want) = (payload.len(), T::LEN);
    if got != want {
        return Err(Reason::BadLength { got, want });
    }
    T::get(&mut { payload })
}

/// Bits of the flags field; others are sent as zero and ignored.
pub mod flags {
    /// The message is a reply.
    pub const REPLY: u16 = 1;
    /// The message is an event: neither request nor reply.
    pub const EVENT: u16 = 2;
    /// The client wants no reply, neither for success nor for failure (NOTIFY only).
    pub const NO_REPLY: u16 = 4;
}

field! { ErrorCode as u16, |v| v.0, |b| Ok(ErrorCode(b)) }

layout! {
    /// The header, as it lies on the wire.
    pub struct Header {
        /// Message type; see `MessageType`.
        kind: u16,
        /// Flags; see [`flags`].
        flags: u16,
        /// Number of the request, chosen by the client and repeated in its reply; 0 in events.
        seq: u32,
        /// Result; 0 in requests and events.
        error: ErrorCode,
        /// Status of the failed admin command; valid with [`ErrorCode::DEVICE`].
        admin_status: u16,
        /// Its status qualifier.
        admin_qualifier: u16 [2],
    }
}

impl Header {
    /// Header of a message that tells of no error.
    pub const fn new(kind: u16, flags: u16, seq: u32) -> Self {
        Header {
            kind,
            flags,
            seq,
            error: ErrorCode::OK,
            admin_status: 0,
            admin_qualifier: 0,
        }
    }

    /// Header and payload of a whole message; the content is not judged here.
    ///
    /// # Errors
    /// A [`Reason`] if no message has this length.
    pub fn split(message: &[u8]) -> Result<(Self, &[u8]), Reason> {
        let len = message.len();
        if len > MAX_MESSAGE {
            return Err(Reason::TooLong(len));
        }
        let mut rest = message;
        let header = Header::get(&mut rest).map_err(|_| Reason::TooShort(len))?;
        Ok((header, rest))
    }
}
