// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Payloads as structs: the fields as they lie on the wire, written down once for both directions.

use crate::error::Reason;

/// Something of a fixed length on the wire.
pub(crate) trait Field: Sized {
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
        put_bytes(self, out)
    }

    fn get(from: &mut &[u8]) -> Result<Self, Reason> {
        let (got, want) = (from.len(), N);
        let (first, rest) = from
            .split_first_chunk()
            .ok_or(Reason::BadLength { got, want })?;
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
            pub(crate) fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
                match *self {
                    $($name::$variant $(($inner))? $({ $($field),* })? =>
                        $($inner.put(out))? $(payload::$variant { $($field),* }.put(out))?,)*
                }
            }

            /// The message of this type with this payload.
            pub(crate) fn get(kind: MessageType, from: &[u8]) -> Result<Self, Reason> {
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

/// Stores bytes at the start of `out` and gives the rest. No message is longer than the buffers.
pub(crate) fn put_bytes<'a>(bytes: &[u8], out: &'a mut [u8]) -> &'a mut [u8] {
    let (used, rest) = out.split_at_mut(bytes.len().min(out.len()));
    for (dst, src) in used.iter_mut().zip(bytes) {
        *dst = *src;
    }
    rest
}

/// What a payload of exactly this length holds.
pub(crate) fn exact<T: Field>(payload: &[u8]) -> Result<T, Reason> {
    let (got, want) = (payload.len(), T::LEN);
    if got != want {
        return Err(Reason::BadLength { got, want });
    }
    T::get(&mut { payload })
}
