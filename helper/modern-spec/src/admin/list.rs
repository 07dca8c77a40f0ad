// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The opcode bitmap of LIST_QUERY and LIST_USE.

use super::opcode;

/// Opcodes 0 to 63 as a bitmap: bit n stands for opcode n. Commands above 63 do not exist yet; a
/// longer array from a device is truncated, which the specification allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpcodeSet(pub u64);

impl OpcodeSet {
    /// LIST_QUERY and LIST_USE, which every list must keep so that it can be changed again.
    pub const LIST: OpcodeSet = OpcodeSet::of(&[opcode::LIST_QUERY, opcode::LIST_USE]);
    /// The four register access commands, which are offered together or not at all.
    pub const LEGACY_ACCESS: OpcodeSet = OpcodeSet::of(&[
        opcode::LEGACY_COMMON_CFG_WRITE,
        opcode::LEGACY_COMMON_CFG_READ,
        opcode::LEGACY_DEV_CFG_WRITE,
        opcode::LEGACY_DEV_CFG_READ,
    ]);
    /// The register access commands and LEGACY_NOTIFY_INFO.
    pub const LEGACY: OpcodeSet =
        OpcodeSet(OpcodeSet::LEGACY_ACCESS.0 | OpcodeSet::of(&[opcode::LEGACY_NOTIFY_INFO]).0);

    /// The set of these opcodes; those above 63 are left out.
    pub const fn of(opcodes: &[u16]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < opcodes.len() {
            if opcodes[i] < 64 {
                bits |= 1 << opcodes[i];
            }
            i += 1;
        }
        OpcodeSet(bits)
    }

    /// Whether `opcode` is in the set.
    pub const fn contains(self, opcode: u16) -> bool {
        opcode < 64 && self.0 & (1 << opcode) != 0
    }

    /// Whether every opcode of `other` is in the set.
    pub const fn contains_all(self, other: OpcodeSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bitmap as bytes on the wire.
    pub const fn to_le_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// Decodes the first word of a list; missing bytes count as zero.
    pub fn decode(list: &[u8]) -> Self {
        OpcodeSet(crate::bytes::le_value(list))
    }

    /// The opcodes of the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..64u16).filter(move |o| self.contains(*o))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: ADM-08
    #[test]
    fn bitmap_words() {
        assert_eq!(OpcodeSet::LIST.0, 0x3);
        assert_eq!(OpcodeSet::LEGACY_ACCESS.0, 0x3c);
        assert_eq!(OpcodeSet::LEGACY.0, 0x7c);
        assert!(OpcodeSet::LEGACY.contains(6) && !OpcodeSet::LEGACY.contains(7));
        assert!(!OpcodeSet(u64::MAX).contains(64));
        assert_eq!(OpcodeSet::decode(&[0x7f]).0, 0x7f);
        assert!(OpcodeSet::LEGACY.iter().eq(2..=6));
    }
}
