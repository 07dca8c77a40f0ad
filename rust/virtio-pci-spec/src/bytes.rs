// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Bounds-checked little-endian access to byte slices.
//!
//! Every multi-byte field of the admin commands, the modern PCI structures and the legacy header
//! is little-endian. Out-of-range access gives `None`, never a panic, because most slices
//! come from another trust domain.

/// Reads one byte at `off`.
pub fn get_u8(buf: &[u8], off: usize) -> Option<u8> {
    buf.get(off).copied()
}

macro_rules! accessors {
    ($get:ident, $ty:ty, $n:expr) => {
        /// Reads a little-endian integer at byte offset `off`; `None` if it does not fit.
        pub fn $get(buf: &[u8], off: usize) -> Option<$ty> {
            let bytes = buf.get(off..off.checked_add($n)?)?;
            Some(<$ty>::from_le_bytes(bytes.try_into().ok()?))
        }
    };
}

accessors!(get_u16, u16, 2);
accessors!(get_u32, u32, 4);
accessors!(get_u64, u64, 8);

/// All-ones of `len` (0 to 8) bytes.
pub const fn ones(len: usize) -> u64 {
    match u64::MAX.checked_shl(8 * len as u32) {
        Some(above) => !above,
        None => u64::MAX,
    }
}

/// The low `len` (0 to 8) bytes of `value` as a little-endian array; the rest is zero.
pub const fn le_bytes(value: u64, len: usize) -> [u8; 8] {
    (value & ones(len)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_is_refused() {
        let buf = [0u8; 4];
        assert_eq!(get_u32(&buf, 1), None);
        assert_eq!(get_u16(&buf, usize::MAX), None);
    }

    #[test]
    fn values_are_little_endian() {
        let buf = [0, 0, 1, 2, 3, 4, 0, 0];
        assert_eq!(get_u32(&buf, 2), Some(0x0403_0201));
        assert_eq!(le_bytes(0x1122_3344, 2), [0x44, 0x33, 0, 0, 0, 0, 0, 0]);
    }
}
