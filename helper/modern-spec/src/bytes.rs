// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Little-endian integers stored in byte slices, and of any length taken from them; otherwise the way
//! back is `virtio_pci_spec::bytes`.

/// Reads up to 8 little-endian bytes as an integer; bytes after the eighth are ignored.
pub fn le_value(bytes: &[u8]) -> u64 {
    let low = bytes.iter().take(8).rev();
    low.fold(0, |acc, b| acc << 8 | u64::from(*b))
}

macro_rules! accessors {
    ($put:ident, $ty:ty, $n:expr) => {
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

accessors!(put_u16, u16, 2);
accessors!(put_u32, u32, 4);
accessors!(put_u64, u64, 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_is_refused() {
        let mut buf = [0u8; 4];
        assert!(!put_u16(&mut buf, 3, 7));
        assert!(!put_u32(&mut buf, 1, 7));
        assert!(!put_u64(&mut buf, usize::MAX, 7));
        assert_eq!(buf, [0; 4]);
    }

    #[test]
    fn values_are_little_endian() {
        let mut buf = [0u8; 8];
        assert!(put_u32(&mut buf, 2, 0x0403_0201));
        assert_eq!(buf, [0, 0, 1, 2, 3, 4, 0, 0]);
    }
}
