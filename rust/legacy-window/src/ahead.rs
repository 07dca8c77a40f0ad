// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The rest of a field whose beginning the guest has just read.
//!
//! Legacy drivers read the device configuration byte by byte. The first byte of a field brings its
//! neighbours with it, and they answer the reads that follow at once and in order, each byte once.
//! So the guest sees a field as it was at one moment, which single bytes do not give it; the next
//! pass over the field asks the device again.

/// Longest command that reads ahead, in bytes.
const MOST: usize = 4;

/// Bytes of the device configuration that were read and not yet asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Position of the first of them.
    pos: u32,
    len: u8,
    bytes: [u8; MOST],
}

impl Ahead {
    /// What `data`, read at `pos`, has from its byte `used` to its byte `len`.
    pub(crate) fn new(pos: u32, data: &[u8; 8], used: u8, len: u8) -> Self {
        let mut ahead = Ahead {
            pos: pos.saturating_add(u32::from(used)),
            ..Ahead::default()
        };
        let rest = data.iter().take(usize::from(len)).skip(usize::from(used));
        for (to, from) in ahead.bytes.iter_mut().zip(rest) {
            *to = *from;
            ahead.len += 1;
        }
        ahead
    }

    /// Answers a read of `size` bytes at `pos`, if that goes on just there: the bytes, with zeros
    /// behind, and what is left.
    pub(crate) fn take(self, pos: u32, size: u8) -> Option<([u8; 8], Ahead)> {
        if self.len == 0 || pos != self.pos || size > self.len {
            return None;
        }
        let mut whole = [0; 8];
        for (to, from) in whole.iter_mut().zip(self.bytes) {
            *to = from;
        }
        let left = Ahead::new(pos, &whole, size, self.len);
        for byte in whole.iter_mut().skip(usize::from(size)) {
            *byte = 0;
        }
        Some((whole, left))
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;

    #[test]
    fn bytes_are_given_in_order_and_once() {
        let ahead = Ahead::new(6, &[1, 2, 3, 4, 9, 9, 9, 9], 1, 4);
        assert_eq!(ahead.take(6, 1), None, "behind what is held");
        assert_eq!(ahead.take(8, 1), None, "a byte left out");
        assert_eq!(ahead.take(7, 4), None, "more than is held");
        let (bytes, ahead) = ahead.take(7, 2).expect("the next two");
        assert_eq!(bytes, [2, 3, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ahead.take(7, 1), None, "again");
        let (bytes, ahead) = ahead.take(9, 1).expect("the last");
        assert_eq!(bytes[0], 4);
        assert_eq!(ahead.take(10, 1), None, "used up");
        assert_eq!(Ahead::default().take(0, 0), None);
    }
}
