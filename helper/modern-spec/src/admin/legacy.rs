// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Legacy-interface admin commands ("Legacy Interfaces").
//!
//! The access width is the length of the data itself: a write has 32 + n readable bytes, a read 25
//! readable and 8 + n writable bytes.

use virtio_pci_spec::bytes::get_u64;

/// Readable bytes of a write before its data.
pub const WRITE_HEADER_LEN: usize = 32;
/// Readable bytes of a read.
pub const READ_REQUEST_LEN: usize = 25;
/// Where the register offset lies in both (1 byte).
pub const OFFSET: usize = 24;
/// Entries of a LEGACY_NOTIFY_INFO result.
pub const NOTIFY_ENTRIES: usize = 4;
/// Bytes of one entry.
pub const NOTIFY_ENTRY_LEN: usize = 16;
/// Bytes of the LEGACY_NOTIFY_INFO result.
pub const NOTIFY_RESULT_LEN: usize = NOTIFY_ENTRIES * NOTIFY_ENTRY_LEN;

/// Values of an entry's `flags`.
pub mod notify_flags {
    /// End of the list.
    pub const END: u8 = 0;
    /// The address is in a BAR of the owner.
    pub const OWNER: u8 = 1;
    /// The address is in a BAR of the member.
    pub const MEMBER: u8 = 2;
}

/// One entry of a LEGACY_NOTIFY_INFO result, as the device gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NotifyEntry {
    /// See [`notify_flags`]; other values are reserved.
    pub flags: u8,
    /// BAR number.
    pub bar: u8,
    /// Byte offset in the BAR.
    pub offset: u64,
}

impl NotifyEntry {
    /// Encodes the entry; padding is zero.
    pub fn encode(&self) -> [u8; NOTIFY_ENTRY_LEN] {
        let mut out = [0; NOTIFY_ENTRY_LEN];
        out[0] = self.flags;
        out[1] = self.bar;
        let _fits = crate::bytes::put_u64(&mut out, 8, self.offset);
        out
    }

    /// Decodes the entry at the start of `bytes`; bytes that are missing count as zero.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut buf = [0u8; NOTIFY_ENTRY_LEN];
        for (dst, src) in buf.iter_mut().zip(bytes) {
            *dst = *src;
        }
        NotifyEntry {
            flags: buf[0],
            bar: buf[1],
            offset: get_u64(&buf, 8).unwrap_or(0),
        }
    }
}

/// Decodes a whole result; what is missing counts as zero, that is, as end of list.
pub fn decode_notify_info(result: &[u8]) -> [NotifyEntry; NOTIFY_ENTRIES] {
    let mut out = [NotifyEntry::default(); NOTIFY_ENTRIES];
    for (entry, bytes) in out.iter_mut().zip(result.chunks(NOTIFY_ENTRY_LEN)) {
        *entry = NotifyEntry::decode(bytes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: NTF-03
    #[test]
    fn entries_round_trip_and_short_results_end_the_list() {
        let e = NotifyEntry {
            flags: 2,
            bar: 4,
            offset: 0x3000,
        };
        let b = e.encode();
        assert_eq!(b[..2], [2, 4]);
        assert_eq!(b[2..8], [0; 6]);
        assert_eq!(NotifyEntry::decode(&b), e);
        let list = decode_notify_info(&b[..]);
        assert_eq!(list[0], e);
        assert_eq!(list[1].flags, notify_flags::END);
        assert_eq!(decode_notify_info(&b[..9])[0].offset, 0);
    }
}
