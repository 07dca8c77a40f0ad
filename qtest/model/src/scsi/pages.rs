// SPDX-License-Identifier: GPL-2.0-or-later
//! What a disk tells of itself: INQUIRY, vital product data, capacity, mode pages (SPC-4, SBC-3).

use super::cdb::ModeSense;
use super::sense::Sense;

/// Most ranges in one UNMAP.
pub const MAX_UNMAP_RANGES: u16 = 16;
/// Most blocks in all ranges of one UNMAP.
pub const MAX_UNMAP_BLOCKS: u32 = 1 << 20;
/// Most bytes one command may read, write or verify: `max_sectors` of the configuration.
pub const MAX_TRANSFER: u64 = 0xffff * 512;
/// Bytes of a physical block.
const PHYSICAL_BLOCK: u32 = 4096;

/// First byte of INQUIRY data: a disk.
pub const DISK: u8 = 0x00;
/// First byte of INQUIRY data: a well-known logical unit.
pub const WELL_KNOWN: u8 = 0x1e;
/// First byte of INQUIRY data: nothing there, nor could there be.
pub const NOTHING: u8 = 0x7f;

const VENDOR: &[u8; 8] = b"VLVF    ";
const PRODUCT: &[u8; 16] = b"SIMULATED DISK  ";
const REVISION: &[u8; 4] = b"0001";

/// What the answers depend on.
#[derive(Clone, Copy, Debug)]
pub struct Disk<'a> {
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Unit serial number.
    pub serial: &'a str,
}

/// Standard INQUIRY data of a peripheral.
pub fn inquiry(peripheral: u8) -> Vec<u8> {
    // SPC-4; hierarchical LUNs, response format 2; 31 more bytes; command queuing.
    let mut d = vec![peripheral, 0, 6, 0x12, 31, 0, 0, 2];
    d.extend(VENDOR);
    d.extend(PRODUCT);
    d.extend(REVISION);
    d
}

/// Pages of vital product data.
const VITAL: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];

/// A page of vital product data.
///
/// # Errors
/// There is no such page.
pub fn vital(page: u8, disk: &Disk<'_>) -> Result<Vec<u8>, Sense> {
    let body: Vec<u8> = match page {
        0x00 => VITAL.to_vec(),
        0x80 => disk.serial.bytes().collect(),
        0x83 => identification(disk.serial),
        0xb0 => block_limits(disk.block_size),
        0xb1 => {
            let mut b = vec![0; 60];
            // Not a rotating medium.
            put(&mut b, 0, &1u16.to_be_bytes());
            b
        }
        // UNMAP is supported; reading what was unmapped gives anything.
        0xb2 => vec![0, 0x80, 0x02, 0],
        _ => return Err(Sense::INVALID_FIELD),
    };
    let mut d = vec![DISK, page];
    d.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    d.extend(body);
    Ok(d)
}

fn put(to: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = to.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

/// Two designators: vendor with serial number, and a locally assigned name made from them.
fn identification(serial: &str) -> Vec<u8> {
    let mut b = vec![0x02, 0x01, 0, (VENDOR.len() + serial.len()).min(255) as u8];
    b.extend(VENDOR);
    b.extend(serial.bytes());
    // FNV-1a, 64 bits of which 4 make room for the format (NAA 3).
    let hash = serial.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, c| {
        (h ^ u64::from(c)).wrapping_mul(0x0100_0000_01b3)
    });
    b.extend([0x01, 0x03, 0, 8]);
    b.extend((3 << 60 | hash >> 4).to_be_bytes());
    b
}

fn block_limits(block_size: u32) -> Vec<u8> {
    let mut b = vec![0; 60];
    // Offsets of the page less its four bytes of header.
    let most = MAX_TRANSFER / u64::from(block_size.max(1));
    put(
        &mut b,
        4,
        &u32::try_from(most).unwrap_or(u32::MAX).to_be_bytes(),
    );
    put(&mut b, 16, &MAX_UNMAP_BLOCKS.to_be_bytes());
    put(&mut b, 20, &u32::from(MAX_UNMAP_RANGES).to_be_bytes());
    b
}

/// Answer to REPORT LUNS.
///
/// # Errors
/// The selection is not supported.
pub fn report_luns(select: u8, present: bool) -> Result<Vec<u8>, Sense> {
    let mut list = Vec::new();
    if present && matches!(select, 0 | 2) {
        list.extend([0; 8]);
    }
    match select {
        0 => {}
        1 | 2 => list.extend([0xc1, 0x01, 0, 0, 0, 0, 0, 0]),
        _ => return Err(Sense::INVALID_FIELD),
    }
    let mut d = u32::try_from(list.len())
        .unwrap_or(0)
        .to_be_bytes()
        .to_vec();
    d.extend([0; 4]);
    d.extend(list);
    Ok(d)
}

/// Answer to READ CAPACITY (10).
pub fn capacity_10(disk: &Disk<'_>) -> Vec<u8> {
    let last = disk.blocks.saturating_sub(1);
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    let mut d = last.to_be_bytes().to_vec();
    d.extend(disk.block_size.to_be_bytes());
    d
}

/// Answer to READ CAPACITY (16).
pub fn capacity_16(disk: &Disk<'_>) -> Vec<u8> {
    let mut d = disk.blocks.saturating_sub(1).to_be_bytes().to_vec();
    d.extend(disk.block_size.to_be_bytes());
    let per_physical = (PHYSICAL_BLOCK / disk.block_size.clamp(1, PHYSICAL_BLOCK)).max(1);
    // No protection; log2 of logical per physical blocks; thin provisioning.
    d.extend([0, per_physical.trailing_zeros() as u8, 0x80]);
    d.resize(32, 0);
    d
}

/// Answer to MODE SENSE.
///
/// # Errors
/// The page is not supported, or saved values are asked for.
pub fn mode_sense(mode: &ModeSense, disk: &Disk<'_>) -> Result<Vec<u8>, Sense> {
    const CHANGEABLE: u8 = 1;
    const SAVED: u8 = 3;
    const ALL: u8 = 0x3f;
    if mode.control == SAVED {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    let subpage_known = mode.subpage == 0 || (mode.page == ALL && mode.subpage == 0xff);
    if !subpage_known {
        return Err(Sense::INVALID_FIELD);
    }
    let mut pages = Vec::new();
    // Caching: what is written is permanent only after SYNCHRONIZE CACHE (WCE).
    let mut caching = [0; 20];
    put(&mut caching, 0, &[0x08, 18, 0x04]);
    // Control: commands may be reordered freely.
    let mut control = [0; 12];
    put(&mut control, 0, &[0x0a, 10, 0, 0x10]);
    for page in [&mut caching[..], &mut control[..]] {
        let [code, _, values @ ..] = page else {
            continue;
        };
        if mode.page != ALL && mode.page != *code {
            continue;
        }
        if mode.control == CHANGEABLE {
            values.fill(0);
        }
        pages.extend_from_slice(page);
    }
    if pages.is_empty() {
        return Err(Sense::INVALID_FIELD);
    }
    let mut descriptor = Vec::new();
    if !mode.no_descriptor {
        let blocks = u32::try_from(disk.blocks)
            .unwrap_or(u32::MAX)
            .min(0xff_ffff);
        descriptor.extend(blocks.to_be_bytes());
        descriptor.extend(disk.block_size.to_be_bytes());
    }
    // Write protection; DPO and FUA are understood.
    let specific = if disk.read_only { 0x90 } else { 0x10 };
    let len = descriptor.len() + pages.len();
    let mut d = if mode.ten {
        let [high, low] = u16::try_from(len + 6).unwrap_or(u16::MAX).to_be_bytes();
        vec![high, low, 0, specific, 0, 0, 0, descriptor.len() as u8]
    } else {
        vec![
            (len + 3).min(255) as u8,
            0,
            specific,
            descriptor.len() as u8,
        ]
    };
    d.extend(descriptor);
    d.extend(pages);
    Ok(d)
}

/// One range of UNMAP's parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub lba: u64,
    /// How many.
    pub count: u32,
}

/// Decodes UNMAP's parameter list; the ranges lie inside of the disk.
///
/// # Errors
/// It is too short or too long, or a range is not inside of the disk.
pub fn unmap_ranges(list: &[u8], disk: &Disk<'_>) -> Result<Vec<Range>, Sense> {
    const HEADER: usize = 8;
    const RANGE: usize = 16;
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let [_, _, high, low, ..] = list else {
        return Err(Sense::PARAMETER_LENGTH);
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let ranges = list.get(HEADER..HEADER + len - len % RANGE);
    let ranges = ranges.ok_or(Sense::PARAMETER_LENGTH)?;
    let mut all = Vec::new();
    let mut total = 0u64;
    for r in ranges.chunks_exact(RANGE) {
        let lba = r.get(..8).and_then(|b| b.try_into().ok());
        let count = r.get(8..12).and_then(|b| b.try_into().ok());
        let (Some(lba), Some(count)) = (lba, count) else {
            return Err(Sense::PARAMETER_LENGTH);
        };
        let (lba, count) = (u64::from_be_bytes(lba), u32::from_be_bytes(count));
        total += u64::from(count);
        match lba.checked_add(count.into()) {
            Some(end) if end <= disk.blocks => all.push(Range { lba, count }),
            _ => return Err(Sense::LBA_OUT_OF_RANGE),
        }
    }
    if all.len() > MAX_UNMAP_RANGES.into() || total > MAX_UNMAP_BLOCKS.into() {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(all)
}
