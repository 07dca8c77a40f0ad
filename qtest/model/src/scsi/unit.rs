// SPDX-License-Identifier: GPL-2.0-or-later
//! The logical unit: a disk on a backend, and what it has to tell the driver unasked.

use super::cdb::{Blocks, Command};
use super::pages::{self, Disk};
use super::sense::Sense;
use crate::disk::{self, Backend};

/// Unit attentions kept at most; there are not that many kinds.
const MAX_ATTENTIONS: usize = 8;

/// Bytes that VERIFY reads at once.
const VERIFY_CHUNK: usize = 64 << 10;

/// A disk.
pub(super) struct Unit {
    backend: Box<dyn Backend>,
    block_size: u32,
    read_only: bool,
    serial: String,
    /// Conditions to be reported, the oldest first.
    attentions: Vec<Sense>,
    /// The unit is there.
    pub(super) present: bool,
    pub(super) flushes: u64,
}

/// What a command without blocks to move leads to: data for the driver, or sense data.
pub(super) type Outcome = Result<Vec<u8>, Sense>;

impl Unit {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        block_size: u32,
        read_only: bool,
        serial: String,
    ) -> Self {
        Self {
            backend,
            block_size,
            read_only,
            serial,
            attentions: vec![Sense::POWER_ON],
            present: true,
            flushes: 0,
        }
    }

    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Number of bytes, as the backend has them.
    pub(super) fn len(&self) -> u64 {
        self.backend.len()
    }

    fn disk(&self) -> Disk<'_> {
        Disk {
            blocks: self.backend.len() / u64::from(self.block_size),
            block_size: self.block_size,
            read_only: self.read_only,
            serial: &self.serial,
        }
    }

    /// Something to be reported with the next command.
    pub(super) fn attend(&mut self, what: Sense) {
        if !self.attentions.contains(&what) && self.attentions.len() < MAX_ATTENTIONS {
            self.attentions.push(what);
        }
    }

    /// As after power-on.
    pub(super) fn power_on(&mut self) {
        self.attentions = vec![Sense::POWER_ON];
    }

    /// The oldest condition, which is then reported.
    pub(super) fn attention(&mut self) -> Option<Sense> {
        match self.attentions.is_empty() {
            true => None,
            false => Some(self.attentions.remove(0)),
        }
    }

    /// Changes the size; the error says why it cannot be done.
    pub(super) fn resize(&mut self, sectors: u64) -> Result<(), String> {
        disk::resize(self.backend.as_mut(), sectors)
    }

    /// Byte offset and length of a range of blocks.
    pub(super) fn range(&self, blocks: Blocks) -> Result<(u64, u64), Sense> {
        let disk = self.disk();
        let end = blocks.lba.checked_add(blocks.count.into());
        if end.is_none_or(|end| end > disk.blocks) {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        let size = u64::from(self.block_size);
        Ok((blocks.lba * size, u64::from(blocks.count) * size))
    }

    /// As [`range`](Self::range), for a command that moves or looks at every block.
    pub(super) fn transfer(&self, blocks: Blocks) -> Result<(u64, u64), Sense> {
        let (start, len) = self.range(blocks)?;
        match len > pages::MAX_TRANSFER {
            true => Err(Sense::INVALID_FIELD),
            false => Ok((start, len)),
        }
    }

    /// Reads blocks and throws them away.
    fn verify(&mut self, blocks: Blocks) -> Result<(), Sense> {
        let (start, len) = self.transfer(blocks)?;
        let mut buf = vec![0; VERIFY_CHUNK];
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).unwrap_or(VERIFY_CHUNK);
            let part = buf.get_mut(..part.min(VERIFY_CHUNK)).unwrap_or_default();
            self.backend
                .read(start + done, part)
                .map_err(|_| Sense::READ_ERROR)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    pub(super) fn may_write(&self) -> Result<(), Sense> {
        match self.read_only {
            true => Err(Sense::WRITE_PROTECTED),
            false => Ok(()),
        }
    }

    pub(super) fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), Sense> {
        self.backend.read(at, buf).map_err(|_| Sense::READ_ERROR)
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Sense> {
        self.backend.write(at, data).map_err(|_| Sense::WRITE_ERROR)
    }

    pub(super) fn flush(&mut self) -> Result<(), Sense> {
        self.flushes += 1;
        self.backend.flush().map_err(|_| Sense::WRITE_ERROR)
    }

    /// Carries out a command that moves no blocks; `parameters` is what the driver sent along.
    pub(super) fn answer(&mut self, command: &Command, parameters: &[u8]) -> Outcome {
        let disk = self.disk();
        if disk.blocks == 0 && needs_medium(command) {
            return Err(Sense::NO_MEDIUM);
        }
        match *command {
            Command::TestUnitReady => Ok(Vec::new()),
            Command::RequestSense { descriptor } => {
                let sense = self.attention().unwrap_or(Sense::NONE);
                Ok(request_sense(sense, descriptor))
            }
            Command::Inquiry { vital: None } => Ok(pages::inquiry(pages::DISK)),
            Command::Inquiry { vital: Some(page) } => pages::vital(page, &disk),
            Command::ReportLuns { select } => pages::report_luns(select, self.present),
            Command::ReadCapacity10 => Ok(pages::capacity_10(&disk)),
            Command::ReadCapacity16 => Ok(pages::capacity_16(&disk)),
            Command::ModeSense(mode) => pages::mode_sense(&mode, &disk),
            Command::Verify(blocks) => self.verify(blocks).map(|()| Vec::new()),
            Command::SynchronizeCache(blocks) => {
                // A count of 0 is everything behind the block.
                self.range(blocks)?;
                self.flush().map(|()| Vec::new())
            }
            Command::Unmap => {
                self.may_write()?;
                let size = u64::from(self.block_size);
                for r in pages::unmap_ranges(parameters, &disk)? {
                    self.backend
                        .discard(r.lba * size, u64::from(r.count) * size)
                        .map_err(|_| Sense::WRITE_ERROR)?;
                }
                Ok(Vec::new())
            }
            // Blocks are moved by the device.
            Command::Read(_) | Command::Write { .. } => Err(Sense::INVALID_OPCODE),
        }
    }
}

fn needs_medium(command: &Command) -> bool {
    !matches!(
        command,
        Command::RequestSense { .. }
            | Command::Inquiry { .. }
            | Command::ReportLuns { .. }
            | Command::ModeSense(_)
    )
}

/// Whether a command is carried out although a unit attention waits.
pub(super) fn ignores_attention(command: &Command) -> bool {
    matches!(
        command,
        Command::RequestSense { .. } | Command::Inquiry { .. } | Command::ReportLuns { .. }
    )
}

pub(super) fn request_sense(sense: Sense, descriptor: bool) -> Vec<u8> {
    match descriptor {
        true => sense.descriptor().to_vec(),
        false => sense.fixed().to_vec(),
    }
}

/// What a logical unit that is not there answers.
pub(super) fn absent(command: &Command, present: bool) -> Outcome {
    match *command {
        Command::Inquiry { vital: None } => Ok(pages::inquiry(pages::NOTHING)),
        Command::RequestSense { descriptor } => Ok(request_sense(Sense::NO_UNIT, descriptor)),
        Command::ReportLuns { select } => pages::report_luns(select, present),
        _ => Err(Sense::NO_UNIT),
    }
}

/// What the well-known logical unit REPORT LUNS answers.
pub(super) fn well_known(command: &Command, present: bool) -> Outcome {
    match *command {
        Command::Inquiry { vital: None } => Ok(pages::inquiry(pages::WELL_KNOWN)),
        Command::TestUnitReady => Ok(Vec::new()),
        Command::RequestSense { descriptor } => Ok(request_sense(Sense::NONE, descriptor)),
        Command::ReportLuns { select } => pages::report_luns(select, present),
        _ => Err(Sense::INVALID_OPCODE),
    }
}
