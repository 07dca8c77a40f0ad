// SPDX-License-Identifier: GPL-2.0-or-later
//! What the tests of block and SCSI disks store in.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::backend::{Backend, RamDisk};
use super::SECTOR;

/// A disk that counts flushes and can be made to fail.
pub(crate) struct Probe {
    pub(crate) disk: RamDisk,
    pub(crate) flushes: Arc<AtomicU64>,
    /// Reads and writes that touch this sector fail.
    pub(crate) bad: Option<u64>,
}

impl Probe {
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match self.bad {
            Some(bad) if offset / SECTOR <= bad && bad * SECTOR < offset + len as u64 => {
                Err(io::Error::other("bad sector"))
            }
            _ => Ok(()),
        }
    }
}

impl Backend for Probe {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        self.disk.read(offset, buf)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        self.disk.write(offset, data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.zero(offset, len)
    }
    fn resize(&mut self, len: u64) -> io::Result<()> {
        self.disk.resize(len)
    }
}
