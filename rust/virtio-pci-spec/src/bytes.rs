// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Bounds-checked little-endian access to byte slices.
//!
//! Every multi-byte field of the admin commands, the modern PCI structures and the legacy header
//! is little-endian. Out-of-range access gives `None`/`false`, never a panic, because most slices
//! come from another trust domain.

/// Reads one byte at `off`.
pub fn get_u8(buf: &[u8], off: usize) -> Option<u8> {
    buf.get(off).copied()
}

macro_rules! accessors {
    ($get:ident, $put:ident, $ty:ty, $n:expr) => {
        /// Reads a little-endian integer at byte offset `off`; `None` if it does not fit.
        pub fn $get(buf: &[u8], off: usize) -> Option<$ty> {
            let bytes = buf.get(off..off.checked_add($n)?)?;
            Some(<$ty>::from_le_bytes(bytes.try_into().ok()?))
        }

        /// Stores a little-endian integer at byte offset `off`; `false` (and no change) if it
        /// does not fit.
        #[must_use]
        pub fn $put(buf: &mut [u8], off: usize, value: $ty) -> bool {
            let Some(end) = off.checked_add($n) else {
                return false;
            };
            match buf.get_mut(off..end) {
                Some(dst) => {
                    dst.copy_from_slice(&value.to_le_bytes());
                    true
                }
                None => false,
            }
        }
    };
}

accessors!(get_u16, put_u16, u16, 2);
accessors!(get_u32, put_u32, u32, 4);
accessors!(get_u64, put_u64, u64, 8);

/// The low `len` (0 to 8) bytes of `value` as a little-endian array; the rest is zero.
pub fn le_bytes(value: u64, len: usize) -> [u8; 8] {
    let mut out = value.to_le_bytes();
    for b in out.iter_mut().skip(len) {
        *b = 0;
    }
    out
}

/// Reads up to 8 little-endian bytes as an integer; bytes after the eighth are ignored.
pub fn le_value(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .enumerate()
        .fold(0, |acc, (i, b)| acc | u64::from(*b) << (8 * i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_is_refused() {
        let mut buf = [0u8; 4];
        assert_eq!(get_u32(&buf, 1), None);
        assert_eq!(get_u16(&buf, usize::MAX), None);
        assert!(!put_u32(&mut buf, 1, 7));
        assert!(!put_u64(&mut buf, usize::MAX, 7));
        assert_eq!(buf, [0; 4]);
    }

    #[test]
    fn values_are_little_endian() {
        let mut buf = [0u8; 8];
        assert!(put_u32(&mut buf, 2, 0x0403_0201));
        assert_eq!(buf, [0, 0, 1, 2, 3, 4, 0, 0]);
        assert_eq!(le_value(&buf[2..5]), 0x03_0201);
        assert_eq!(le_bytes(0x1122_3344, 2), [0x44, 0x33, 0, 0, 0, 0, 0, 0]);
    }
}
