// SPDX-License-Identifier: GPL-2.0-or-later
//! `struct virtio_net_hdr` and the checksum a driver may leave to the device ("Device Operation",
//! "Packet Transmission").

use virtio_modern_spec::bytes::put_u16;
use virtio_pci_spec::bytes::get_u16;

/// Header length of a legacy driver without MRG_RXBUF.
pub const SHORT_LEN: usize = 10;
/// Header length with `num_buffers`: MRG_RXBUF accepted, or a modern driver.
pub const LONG_LEN: usize = 12;

/// The packet carries a partial checksum that the device must complete.
pub const FLAG_NEEDS_CSUM: u8 = 1;
/// `gso_type` of a packet without segmentation offload.
pub const GSO_NONE: u8 = 0;

/// Header length for the accepted features: the legacy interface has the short form unless
/// MRG_RXBUF was accepted, the modern one always the long form.
pub const fn header_len(legacy: bool, mrg_rxbuf: bool) -> usize {
    if legacy && !mrg_rxbuf {
        SHORT_LEN
    } else {
        LONG_LEN
    }
}

/// The fields of a transmit header that this device looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxHeader {
    /// `flags`.
    pub flags: u8,
    /// `gso_type`.
    pub gso_type: u8,
    /// Byte of the frame at which the checksum starts.
    pub csum_start: u16,
    /// Bytes from `csum_start` to the checksum field.
    pub csum_offset: u16,
}

impl TxHeader {
    /// Decodes the first ten bytes; `None` if there are fewer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            flags: *bytes.first()?,
            gso_type: *bytes.get(1)?,
            csum_start: get_u16(bytes, 6)?,
            csum_offset: get_u16(bytes, 8)?,
        })
    }
}

/// A receive header: no offloads, and the number of buffers where the header has that field.
pub fn rx_header(len: usize, num_buffers: u16) -> [u8; LONG_LEN] {
    let mut header = [0; LONG_LEN];
    if len == LONG_LEN {
        let _ = put_u16(&mut header, SHORT_LEN, num_buffers);
    }
    header
}

/// Sums `bytes` as big-endian 16-bit words in one's complement arithmetic, not yet inverted.
fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    let words = bytes.chunks_exact(2);
    if let [last] = words.remainder() {
        sum += u64::from(*last) << 8;
    }
    for word in words {
        if let [high, low] = word {
            sum += u64::from(u16::from_be_bytes([*high, *low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Cannot truncate: the loop above ended.
    sum as u16
}

/// Completes a partial checksum: the field holds the sum of the pseudo header, the device adds the
/// bytes from `csum_start` to the end. `false` if the field lies outside of the frame.
#[must_use]
pub fn complete_checksum(frame: &mut [u8], header: &TxHeader) -> bool {
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    let Some(rest) = frame.get(start..) else {
        return false;
    };
    if field + 2 > frame.len() {
        return false;
    }
    let sum = match !ones_complement_sum(rest) {
        // Zero means "no checksum" in UDP; all-ones is the same number and right for TCP too.
        0 => 0xffff,
        sum => sum,
    };
    if let Some(dst) = frame.get_mut(field..field + 2) {
        dst.copy_from_slice(&sum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: NET-04
    #[test]
    fn header_is_short_only_for_a_legacy_driver_without_mrg_rxbuf() {
        assert_eq!(header_len(true, false), 10);
        assert_eq!(header_len(true, true), 12);
        assert_eq!(header_len(false, false), 12);
        assert_eq!(header_len(false, true), 12);
        // The field is there, and little-endian, exactly with the long form.
        assert_eq!(rx_header(12, 0x0102)[10..], [2, 1]);
        assert_eq!(rx_header(10, 0x0102)[10..], [0, 0]);
    }

    // Covers: NET-04
    #[test]
    fn tx_header_fields_are_little_endian() {
        let header = TxHeader::decode(&[1, 3, 0, 0, 0, 0, 0x22, 0x01, 0x10, 0x02]).unwrap();
        assert_eq!(
            header,
            TxHeader {
                flags: 1,
                gso_type: 3,
                csum_start: 0x122,
                csum_offset: 0x210
            }
        );
        assert_eq!(TxHeader::decode(&[0; 9]), None);
    }

    #[test]
    fn checksum_of_rfc_1071_example() {
        // RFC 1071, section 3: 0001 f203 f4f5 f6f7 sum to ddf2.
        assert_eq!(
            ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(ones_complement_sum(&[0x12]), 0x1200);
    }

    #[test]
    fn completed_checksum_makes_the_packet_sum_to_all_ones() {
        for len in [8, 9, 64, 1501] {
            let mut frame: Vec<u8> = (0..len + 14).map(|i| (i * 7) as u8).collect();
            let header = TxHeader {
                csum_start: 14,
                csum_offset: 6,
                ..TxHeader::default()
            };
            frame[20..22].copy_from_slice(&[0, 0]);
            assert!(complete_checksum(&mut frame, &header));
            assert_eq!(ones_complement_sum(&frame[14..]), 0xffff, "length {len}");
        }
    }

    #[test]
    fn checksum_field_outside_of_the_frame_is_refused() {
        let mut frame = [0xaa; 60];
        for (csum_start, csum_offset) in [(61, 0), (0, 59), (59, 0), (0xffff, 0xffff)] {
            let header = TxHeader {
                csum_start,
                csum_offset,
                ..TxHeader::default()
            };
            assert!(!complete_checksum(&mut frame, &header));
        }
        assert_eq!(frame, [0xaa; 60]);
    }
}
