// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Texts from the peer, made safe for logs.

use core::fmt::{self, Write};

use crate::limits::NAME_LEN;

/// A name field of HELLO: up to 32 bytes of printable ASCII, padded with zeros. Bytes outside
/// 0x20 to 0x7e become `?`, so that a peer cannot forge log lines.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Name([u8; NAME_LEN]);

impl Name {
    /// The name made of the first 32 bytes of `name`.
    pub const fn new(name: &str) -> Self {
        Self::from_bytes(name.as_bytes())
    }

    /// The name in a field as received; it ends at the first zero byte.
    pub const fn from_bytes(bytes: &[u8]) -> Self {
        let mut out = [0; NAME_LEN];
        let mut i = 0;
        while i < bytes.len() && i < NAME_LEN && bytes[i] != 0 {
            out[i] = if bytes[i] >= 0x20 && bytes[i] <= 0x7e {
                bytes[i]
            } else {
                b'?'
            };
            i += 1;
        }
        Name(out)
    }

    /// The field as sent.
    pub const fn bytes(&self) -> &[u8; NAME_LEN] {
        &self.0
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
        let used = self.0.get(..end).unwrap_or(&[]);
        core::str::from_utf8(used).unwrap_or("")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shows a text of the peer with control characters replaced, so that it stays on one log line.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            f.write_char(if c.is_control() { '?' } else { c })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(Name::new("qemu").as_str(), "qemu");
        assert_eq!(Name::new("a\nb\u{e9}").as_str(), "a?b??");
        let long = Name::new("0123456789012345678901234567890123456789");
        assert_eq!(long.as_str().len(), NAME_LEN);
        assert_eq!(Name::from_bytes(b"ab\0cd").as_str(), "ab");
        assert_eq!(Name::from_bytes(&[]).as_str(), "");
    }

    #[test]
    fn texts_stay_on_one_line() {
        assert_eq!(format!("{}", Printable("a\nb\x1b[1mc")), "a?b?[1mc");
    }
}
