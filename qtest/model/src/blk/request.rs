// SPDX-License-Identifier: GPL-2.0-or-later
//! Request headers of the block device ("Device Operation" and its legacy part): bytes in,
//! operation out.

use virtio_modern_spec::features::{bit, blk};
use virtio_pci_spec::bytes::{get_u32, get_u64};

use crate::disk::SECTOR;

/// Bytes of `type`, `reserved` (once `ioprio`) and `sector`.
pub const HEADER_LEN: usize = 16;
/// Bytes of one segment of a discard or write-zeroes request.
pub const SEGMENT_LEN: usize = 16;

/// Set in `type` by a driver with BARRIER: keep the order around this request.
const TYPE_BARRIER: u32 = 1 << 31;

/// Last byte of a request: done.
pub const STATUS_OK: u8 = 0;
/// Last byte of a request: it failed.
pub const STATUS_IOERR: u8 = 1;
/// Last byte of a request: the device does not know it.
pub const STATUS_UNSUPP: u8 = 2;

/// Why a request is not carried out or did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Malformed, out of range, or the backend failed.
    Io,
    /// Unknown type or not negotiated.
    Unsupported,
}

impl Failure {
    /// The status byte.
    pub const fn status(self) -> u8 {
        match self {
            Self::Io => STATUS_IOERR,
            Self::Unsupported => STATUS_UNSUPP,
        }
    }
}

/// What a driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read from this sector.
    In(u64),
    /// Write from this sector on.
    Out(u64),
    /// Make writes permanent.
    Flush,
    /// Tell the serial number.
    GetId,
    /// Segments follow that are no longer needed.
    Discard,
    /// Segments follow that shall read as zeroes.
    WriteZeroes,
}

/// Decodes a header for a driver that accepted `features`.
///
/// # Errors
/// [`Failure::Io`] for a header that is cut off, [`Failure::Unsupported`] for an unknown type, a
/// SCSI command, or a type whose feature was not accepted.
pub fn decode(header: &[u8], features: u64) -> Result<Operation, Failure> {
    let mut kind = get_u32(header, 0).ok_or(Failure::Io)?;
    let sector = get_u64(header, 8).ok_or(Failure::Io)?;
    let accepted = |n: u32| features & bit(n) != 0;
    if accepted(blk::BARRIER) {
        // Requests are carried out in order anyway.
        kind &= !TYPE_BARRIER;
    }
    match kind {
        0 => Ok(Operation::In(sector)),
        1 => Ok(Operation::Out(sector)),
        // FLUSH and the legacy FLUSH_OUT. A driver that did not accept FLUSH has no business
        // with it, but old ones send it to be safe, and it does no harm.
        4 | 5 => Ok(Operation::Flush),
        8 => Ok(Operation::GetId),
        11 if accepted(blk::DISCARD) => Ok(Operation::Discard),
        13 if accepted(blk::WRITE_ZEROES) => Ok(Operation::WriteZeroes),
        _ => Err(Failure::Unsupported),
    }
}

/// One `struct virtio_blk_discard_write_zeroes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub sectors: u32,
    /// The driver does not mind if the range is freed.
    pub unmap: bool,
}

/// Decodes a segment of `operation`.
///
/// # Errors
/// [`Failure::Io`] for one that is cut off, [`Failure::Unsupported`] for unknown flags, or unmap
/// with discard.
pub fn decode_segment(bytes: &[u8], operation: Operation) -> Result<Segment, Failure> {
    let flags = get_u32(bytes, 12).ok_or(Failure::Io)?;
    let known = u32::from(operation == Operation::WriteZeroes);
    if flags & !known != 0 {
        return Err(Failure::Unsupported);
    }
    Ok(Segment {
        sector: get_u64(bytes, 0).ok_or(Failure::Io)?,
        sectors: get_u32(bytes, 8).ok_or(Failure::Io)?,
        unmap: flags & 1 != 0,
    })
}

/// The byte offset of `len` bytes at `sector` on a disk of `disk_len` bytes; the length must be
/// whole sectors and the range inside of the disk.
///
/// # Errors
/// [`Failure::Io`] otherwise.
pub fn check_range(sector: u64, len: u64, disk_len: u64) -> Result<u64, Failure> {
    let start = sector.checked_mul(SECTOR).ok_or(Failure::Io)?;
    let end = start.checked_add(len).ok_or(Failure::Io)?;
    if len % SECTOR != 0 || end > disk_len {
        return Err(Failure::Io);
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32, sector: u64) -> [u8; HEADER_LEN] {
        let mut h = [0; HEADER_LEN];
        h[..4].copy_from_slice(&kind.to_le_bytes());
        // ioprio of old drivers: ignored.
        h[4..8].copy_from_slice(&7u32.to_le_bytes());
        h[8..].copy_from_slice(&sector.to_le_bytes());
        h
    }

    // Covers: BLK-03, BLK-04
    #[test]
    fn types_of_all_ages() {
        let none = 0;
        let all = u64::MAX;
        assert_eq!(decode(&header(0, 9), none), Ok(Operation::In(9)));
        assert_eq!(decode(&header(1, 9), none), Ok(Operation::Out(9)));
        assert_eq!(decode(&header(4, 0), none), Ok(Operation::Flush));
        assert_eq!(decode(&header(5, 0), none), Ok(Operation::Flush));
        assert_eq!(decode(&header(8, 0), none), Ok(Operation::GetId));
        // The barrier bit counts only for a driver that accepted BARRIER.
        let barrier = bit(blk::BARRIER);
        assert_eq!(
            decode(&header(0x8000_0001, 3), barrier),
            Ok(Operation::Out(3))
        );
        assert_eq!(
            decode(&header(0x8000_0000, 3), barrier),
            Ok(Operation::In(3))
        );
        assert_eq!(
            decode(&header(0x8000_0001, 3), none),
            Err(Failure::Unsupported)
        );
        // SCSI commands and what nobody knows.
        for kind in [2, 3, 6, 7, 10, 14, 99] {
            assert_eq!(decode(&header(kind, 0), all), Err(Failure::Unsupported));
        }
        // Gated by features.
        assert_eq!(decode(&header(11, 0), none), Err(Failure::Unsupported));
        assert_eq!(decode(&header(13, 0), none), Err(Failure::Unsupported));
        assert_eq!(decode(&header(11, 0), all), Ok(Operation::Discard));
        assert_eq!(decode(&header(13, 0), all), Ok(Operation::WriteZeroes));
    }

    #[test]
    fn cut_off_headers_and_segments_fail() {
        let h = header(0, 1);
        for len in 0..HEADER_LEN {
            assert_eq!(decode(&h[..len], 0), Err(Failure::Io));
            assert_eq!(
                decode_segment(&h[..len], Operation::Discard),
                Err(Failure::Io)
            );
        }
    }

    #[test]
    fn segment_flags() {
        let mut s = [0; SEGMENT_LEN];
        s[0] = 5;
        s[8] = 6;
        let plain = Segment {
            sector: 5,
            sectors: 6,
            unmap: false,
        };
        assert_eq!(decode_segment(&s, Operation::Discard), Ok(plain));
        s[12] = 1;
        assert_eq!(
            decode_segment(&s, Operation::Discard),
            Err(Failure::Unsupported)
        );
        assert_eq!(
            decode_segment(&s, Operation::WriteZeroes),
            Ok(Segment {
                unmap: true,
                ..plain
            })
        );
        s[12] = 2;
        assert_eq!(
            decode_segment(&s, Operation::WriteZeroes),
            Err(Failure::Unsupported)
        );
    }

    #[test]
    fn ranges_end_with_the_disk() {
        assert_eq!(check_range(0, 512, 512), Ok(0));
        assert_eq!(check_range(1, 0, 512), Ok(512));
        assert_eq!(check_range(1, 512, 512), Err(Failure::Io));
        assert_eq!(check_range(0, 511, 512), Err(Failure::Io));
        assert_eq!(check_range(u64::MAX, 512, u64::MAX), Err(Failure::Io));
        assert_eq!(check_range(u64::MAX / 512, 512, u64::MAX), Err(Failure::Io));
    }
}
