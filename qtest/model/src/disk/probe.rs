// SPDX-License-Identifier: GPL-2.0-or-later
//! What the tests of block and SCSI disks store in.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::{Backend, RamDisk, SECTOR};
use crate::effect::FunctionId;

/// A disk that counts flushes and can be made to fail.
pub(crate) struct Probe {
    pub(crate) disk: RamDisk,
    pub(crate) flushes: Arc<AtomicU64>,
    /// Reads and writes that touch this sector fail.
    pub(crate) bad: Option<u64>,
}

impl Probe {
    /// A disk of `sectors` for each function, and the number of flushes of the VFs' disks; the PF
    /// has a disk of its own that counts apart.
    pub(crate) fn disks(
        sectors: u64,
        bad: Option<u64>,
    ) -> (
        impl FnMut(FunctionId) -> io::Result<Box<dyn Backend>>,
        Arc<AtomicU64>,
    ) {
        let flushes = Arc::new(AtomicU64::new(0));
        let of_vfs = Arc::clone(&flushes);
        let make = move |function| -> io::Result<Box<dyn Backend>> {
            let flushes = match function {
                FunctionId::Pf => Arc::default(),
                FunctionId::Vf(_) => Arc::clone(&of_vfs),
            };
            Ok(Box::new(Probe {
                disk: RamDisk::new(sectors * SECTOR),
                flushes,
                bad,
            }))
        };
        (make, flushes)
    }

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
