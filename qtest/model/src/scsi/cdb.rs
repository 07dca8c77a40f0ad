// SPDX-License-Identifier: GPL-2.0-or-later
//! Command descriptor blocks (SPC-4, SBC-3): which command, how much data and in which direction.

use super::sense::Sense;

/// Operation codes that are served.
pub mod opcode {
    #![allow(missing_docs)]
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const VERIFY_10: u8 = 0x2f;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const UNMAP: u8 = 0x42;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const VERIFY_16: u8 = 0x8f;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
}

/// Service action of READ CAPACITY (16).
const READ_CAPACITY_16: u8 = 0x10;

/// A range of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// First block.
    pub lba: u64,
    /// How many.
    pub count: u32,
}

/// Where mode pages are asked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeSense {
    /// The ten-byte command with its longer header.
    pub ten: bool,
    /// No block descriptor, please.
    pub no_descriptor: bool,
    /// 0 current, 1 changeable, 2 default, 3 saved.
    pub control: u8,
    /// Page code.
    pub page: u8,
    /// Subpage code.
    pub subpage: u8,
}

/// A decoded command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Is the unit ready?
    TestUnitReady,
    /// Sense data that waits, in descriptor format if so asked.
    RequestSense {
        /// Descriptor format.
        descriptor: bool,
    },
    /// Identity, or a page of vital product data.
    Inquiry {
        /// The page.
        vital: Option<u8>,
    },
    /// The logical units.
    ReportLuns {
        /// SELECT REPORT.
        select: u8,
    },
    /// Number and size of blocks, short form.
    ReadCapacity10,
    /// Number and size of blocks.
    ReadCapacity16,
    /// Mode pages.
    ModeSense(ModeSense),
    /// Read blocks.
    Read(Blocks),
    /// Write blocks; `fua`: permanent before the command ends.
    Write {
        /// Where to.
        blocks: Blocks,
        /// Force Unit Access.
        fua: bool,
    },
    /// Are the blocks readable?
    Verify(Blocks),
    /// Make what was written permanent.
    SynchronizeCache(Blocks),
    /// Ranges in a parameter list are no longer needed.
    Unmap,
}

/// A command and the data it asks to transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What to do.
    pub command: Command,
    /// Most bytes to the driver (allocation length, or blocks to read).
    pub data_in: u64,
    /// Bytes from the driver (parameter list length, or blocks to write).
    pub data_out: u64,
}

fn be16(cdb: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(cdb.get(at..at + 2)?.try_into().ok()?))
}

fn be32(cdb: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(cdb.get(at..at + 4)?.try_into().ok()?))
}

fn be64(cdb: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(cdb.get(at..at + 8)?.try_into().ok()?))
}

/// The range that a read, write, verify or synchronize command names.
fn blocks(cdb: &[u8]) -> Option<Blocks> {
    let op = *cdb.first()?;
    Some(match op >> 5 {
        0 => Blocks {
            lba: u64::from(be32(cdb, 0)? & 0x1f_ffff),
            // 0 stands for 256, only here.
            count: match *cdb.get(4)? {
                0 => 256,
                n => n.into(),
            },
        },
        1 => Blocks {
            lba: be32(cdb, 2)?.into(),
            count: be16(cdb, 7)?.into(),
        },
        _ => Blocks {
            lba: be64(cdb, 2)?,
            count: be32(cdb, 10)?,
        },
    })
}

/// Decodes a command for blocks of `block_size` bytes. `Ok(None)`: the command is longer than what
/// was given.
///
/// # Errors
/// Sense data for commands and fields that are not supported.
pub fn decode(cdb: &[u8], block_size: u32) -> Result<Option<Decoded>, Sense> {
    let Some(op) = cdb.first().copied() else {
        return Ok(None);
    };
    if !known(op) {
        return Err(Sense::INVALID_OPCODE);
    }
    // The last byte, CONTROL, comes after everything below.
    let len = match op >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    };
    let Some(cdb) = cdb.get(..len) else {
        return Ok(None);
    };
    // NACA: the condition it asks for is not supported (SAM-5).
    if cdb.last().is_some_and(|control| control & 4 != 0) {
        return Err(Sense::INVALID_FIELD);
    }
    // Everything read below lies inside of `len` bytes.
    fields(op, cdb, block_size)
}

fn known(op: u8) -> bool {
    use opcode::*;
    matches!(
        op,
        TEST_UNIT_READY
            | REQUEST_SENSE
            | READ_6
            | WRITE_6
            | INQUIRY
            | MODE_SENSE_6
            | READ_CAPACITY_10
            | READ_10
            | WRITE_10
            | VERIFY_10
            | SYNCHRONIZE_CACHE_10
            | UNMAP
            | MODE_SENSE_10
            | READ_16
            | WRITE_16
            | VERIFY_16
            | SYNCHRONIZE_CACHE_16
            | SERVICE_ACTION_IN_16
            | REPORT_LUNS
    )
}

fn fields(op: u8, cdb: &[u8], block_size: u32) -> Result<Option<Decoded>, Sense> {
    let byte = |at: usize| cdb.get(at).copied().unwrap_or(0);
    let to_driver = |command, len: u64| Decoded {
        command,
        data_in: len,
        data_out: 0,
    };
    let none = |command| to_driver(command, 0);
    let some = |at16: usize| u64::from(be16(cdb, at16).unwrap_or(0));
    let decoded = match op {
        opcode::TEST_UNIT_READY => none(Command::TestUnitReady),
        opcode::REQUEST_SENSE => {
            let descriptor = byte(1) & 1 != 0;
            to_driver(Command::RequestSense { descriptor }, byte(4).into())
        }
        opcode::INQUIRY => {
            let vital = match (byte(1) & 3, byte(2)) {
                (0, 0) => None,
                (1, page) => Some(page),
                // A page without EVPD, or the obsolete command support data.
                _ => return Err(Sense::INVALID_FIELD),
            };
            to_driver(Command::Inquiry { vital }, some(3))
        }
        opcode::REPORT_LUNS => {
            let len = be32(cdb, 6).unwrap_or(0);
            if len < 16 {
                return Err(Sense::INVALID_FIELD);
            }
            to_driver(Command::ReportLuns { select: byte(2) }, len.into())
        }
        opcode::READ_CAPACITY_10 => to_driver(Command::ReadCapacity10, 8),
        opcode::SERVICE_ACTION_IN_16 => match byte(1) & 0x1f {
            READ_CAPACITY_16 => {
                to_driver(Command::ReadCapacity16, be32(cdb, 10).unwrap_or(0).into())
            }
            _ => return Err(Sense::INVALID_FIELD),
        },
        opcode::MODE_SENSE_6 | opcode::MODE_SENSE_10 => {
            let ten = op == opcode::MODE_SENSE_10;
            let mode = ModeSense {
                ten,
                no_descriptor: byte(1) & 8 != 0,
                control: byte(2) >> 6,
                page: byte(2) & 0x3f,
                subpage: byte(3),
            };
            let len = if ten { some(7) } else { byte(4).into() };
            to_driver(Command::ModeSense(mode), len)
        }
        opcode::UNMAP => {
            // ANCHOR: blocks cannot be kept reserved.
            if byte(1) & 1 != 0 {
                return Err(Sense::INVALID_FIELD);
            }
            Decoded {
                command: Command::Unmap,
                data_in: 0,
                data_out: some(7),
            }
        }
        _ => return ranged(op, cdb, block_size),
    };
    Ok(Some(decoded))
}

/// Commands that name a range of blocks.
fn ranged(op: u8, cdb: &[u8], block_size: u32) -> Result<Option<Decoded>, Sense> {
    let Some(range) = blocks(cdb) else {
        return Ok(None);
    };
    let flags = match op {
        opcode::READ_6 | opcode::WRITE_6 => 0,
        _ => cdb.get(1).copied().unwrap_or(0),
    };
    let bytes = u64::from(range.count) * u64::from(block_size);
    let (command, data_in, data_out) = match op {
        opcode::READ_6 | opcode::READ_10 | opcode::READ_16 => (Command::Read(range), bytes, 0),
        opcode::WRITE_6 | opcode::WRITE_10 | opcode::WRITE_16 => {
            let fua = flags & 8 != 0;
            (Command::Write { blocks: range, fua }, 0, bytes)
        }
        opcode::VERIFY_10 | opcode::VERIFY_16 => {
            // BYTCHK: nothing is compared.
            if flags & 6 != 0 {
                return Err(Sense::INVALID_FIELD);
            }
            (Command::Verify(range), 0, 0)
        }
        opcode::SYNCHRONIZE_CACHE_10 | opcode::SYNCHRONIZE_CACHE_16 => {
            (Command::SynchronizeCache(range), 0, 0)
        }
        _ => return Err(Sense::INVALID_OPCODE),
    };
    // RDPROTECT, WRPROTECT, VRPROTECT: there is no protection information.
    let protectable = !matches!(command, Command::SynchronizeCache(_));
    if protectable && flags >> 5 != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(Some(Decoded {
        command,
        data_in,
        data_out,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(cdb: &[u8]) -> Decoded {
        decode(cdb, 512).unwrap().unwrap()
    }

    #[test]
    fn reads_and_writes_of_all_lengths() {
        let range = |lba, count| Blocks { lba, count };
        assert_eq!(
            ok(&[0x08, 0xff, 0x02, 0x03, 0, 0]),
            Decoded {
                command: Command::Read(range(0x1f_0203, 256)),
                data_in: 256 * 512,
                data_out: 0
            }
        );
        assert_eq!(ok(&[0x0a, 0, 0, 9, 7, 0]).data_out, 7 * 512);
        let ten = ok(&[0x2a, 8, 1, 2, 3, 4, 0, 0x10, 0, 0]);
        let write = |blocks, fua| Command::Write { blocks, fua };
        assert_eq!(ten.command, write(range(0x0102_0304, 0x1000), true));
        // A count of 0 is none here.
        assert_eq!(ok(&[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0]).data_in, 0);
        let long = ok(&[0x8a, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 3, 0, 0]);
        assert_eq!(long.command, write(range(0x0102_0304_0506_0708, 3), false));
        assert_eq!(
            decode(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], 512),
            Err(Sense::INVALID_FIELD)
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let all_known = (0..=255u8).filter(|op| known(*op)).count();
        assert_eq!(all_known, 19);
        for op in 0..=255u8 {
            let mut cdb = [0; 16];
            cdb[0] = op;
            let result = decode(&cdb, 512);
            assert_eq!(
                result == Err(Sense::INVALID_OPCODE),
                !known(op),
                "opcode {op:#x}: {result:?}"
            );
            for len in 1..6 {
                let short = decode(&cdb[..len], 512);
                match known(op) {
                    true => assert_eq!(short, Ok(None), "opcode {op:#x}"),
                    false => assert_eq!(short, Err(Sense::INVALID_OPCODE)),
                }
            }
        }
        assert_eq!(decode(&[], 512), Ok(None));
        assert_eq!(decode(&[0, 0, 0, 0, 0, 4], 512), Err(Sense::INVALID_FIELD));
    }
}
