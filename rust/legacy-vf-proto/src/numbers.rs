// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Numbers with names that a newer peer may have more of.

/// A 16-bit number: its named values, all of them as a list, and their names as text.
macro_rules! numbers {
    ($(#[$meta:meta])* pub struct $type:ident {
        $($(#[$doc:meta])* $name:ident = $value:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u16);

        impl $type {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Every value of this version, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in the protocol description; "UNKNOWN" for others.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    "UNKNOWN" => write!(f, "UNKNOWN({})", self.0),
                    name => f.write_str(name),
                }
            }
        }

        impl core::fmt::Debug for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(crate) use numbers;
