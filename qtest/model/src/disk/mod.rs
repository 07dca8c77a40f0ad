// SPDX-License-Identifier: GPL-2.0-or-later
//! What block and SCSI disks have in common: where the sectors are kept (memory or a file), how much
//! is moved at once, and how the size changes.

#[cfg(test)]
pub(crate) mod probe;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a sector, in which the size of a disk is given.
pub const SECTOR: u64 = 512;

/// Bytes moved between the backend and the driver's memory at once.
pub(crate) const CHUNK: usize = 256 << 10;
/// Largest disk: what a signed 64-bit file offset can address.
const MAX_LEN: u64 = i64::MAX as u64;

/// A store of bytes. The device type checks every range against [`Backend::len`] before it
/// calls, so an implementation never sees an offset of a driver that lies outside.
pub trait Backend: Send {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// Never true of a disk in use; for symmetry with `len`.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read; `buf` is then undefined.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Stores `data` at `offset`.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being stored.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes everything written so far permanent.
    ///
    /// # Errors
    /// Whatever prevents that.
    fn flush(&mut self) -> io::Result<()>;

    /// The driver no longer needs a range. A hint: nothing need happen.
    ///
    /// # Errors
    /// Whatever prevents what is done about it.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes a range read as zeroes and frees it where possible.
    ///
    /// # Errors
    /// Whatever prevents that.
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Changes the size; new bytes read as zeroes.
    ///
    /// # Errors
    /// Whatever prevents that; the size is then as before.
    fn resize(&mut self, len: u64) -> io::Result<()>;
}

/// Gives a disk another size, in sectors.
///
/// # Errors
/// Why that is not possible.
pub(crate) fn resize(disk: &mut dyn Backend, sectors: u64) -> Result<(), String> {
    let len = sectors.checked_mul(SECTOR).filter(|len| *len <= MAX_LEN);
    let len = len.ok_or_else(|| format!("{sectors} sectors are too many for a disk"))?;
    disk.resize(len)
        .map_err(|e| format!("the disk cannot be resized: {e}"))
}

/// Room for the next part of `left` bytes.
pub(crate) fn chunk(scratch: &mut Vec<u8>, left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    scratch.get_mut(..len).unwrap_or_default()
}

/// Bytes of one piece of a [`RamDisk`].
const PIECE: u64 = 64 << 10;

/// A disk in memory; pieces that were never written take none.
#[derive(Debug, Default)]
pub struct RamDisk {
    len: u64,
    pieces: HashMap<u64, Box<[u8]>>,
}

impl RamDisk {
    /// An empty disk of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self {
            len,
            pieces: HashMap::new(),
        }
    }
}

/// Splits a range at the borders of pieces: (piece, offset in it, bytes).
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    std::iter::from_fn(move || {
        let inside = at % PIECE;
        let len = (PIECE - inside).min(end.saturating_sub(at));
        let item = (len > 0).then_some((at / PIECE, inside as usize, len as usize));
        at += len;
        item
    })
}

impl Backend for RamDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        for (piece, inside, len) in pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut_checked(len).ok_or_else(out_of_range)?;
            match self.pieces.get(&piece) {
                Some(data) => {
                    now.copy_from_slice(data.get(inside..inside + len).ok_or_else(out_of_range)?)
                }
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > self.len {
            return Err(out_of_range());
        }
        let mut rest = data;
        for (piece, inside, len) in pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_checked(len).ok_or_else(out_of_range)?;
            self.pieces
                .entry(piece)
                .or_insert_with(|| vec![0; PIECE as usize].into_boxed_slice())
                .get_mut(inside..inside + len)
                .ok_or_else(out_of_range)?
                .copy_from_slice(now);
            rest = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len)
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        for (piece, inside, len) in pieces(offset, len) {
            if len as u64 == PIECE {
                self.pieces.remove(&piece);
            } else if let Some(data) = self.pieces.get_mut(&piece) {
                data.get_mut(inside..inside + len)
                    .ok_or_else(out_of_range)?
                    .fill(0);
            }
        }
        Ok(())
    }

    fn resize(&mut self, len: u64) -> io::Result<()> {
        if len < self.len {
            // What is cut off must not come back when the disk grows again.
            self.zero(len, len.next_multiple_of(PIECE) - len)?;
            let first_gone = len.div_ceil(PIECE);
            self.pieces.retain(|piece, _| *piece < first_gone);
        }
        self.len = len;
        Ok(())
    }
}

fn out_of_range() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "range lies outside of the disk",
    )
}

/// A disk in a file that the front end opened; its size is the file's, down to whole sectors.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    len: u64,
}

/// Bytes written at once by [`FileDisk::zero`].
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl FileDisk {
    /// Takes an open file.
    ///
    /// # Errors
    /// When its size cannot be found out.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len: len - len % SECTOR,
        })
    }
}

impl Backend for FileDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset.saturating_add(data.len() as u64) > self.len {
            return Err(out_of_range());
        }
        self.file.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let mut at = offset;
        let end = offset.saturating_add(len).min(self.len);
        while at < end {
            let len = (end - at).min(ZEROES.len() as u64);
            self.file
                .write_all_at(ZEROES.get(..len as usize).unwrap_or_default(), at)?;
            at += len;
        }
        Ok(())
    }

    fn resize(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(disk: &mut dyn Backend) {
        let len = 5 * PIECE;
        disk.resize(len).unwrap();
        assert_eq!(disk.len(), len);
        let data: Vec<u8> = (0..2 * PIECE).map(|i| (i % 251) as u8 + 1).collect();
        disk.write(PIECE - 100, &data).unwrap();
        let mut back = vec![0xaa; data.len() + 200];
        disk.read(PIECE - 200, &mut back).unwrap();
        assert_eq!(back[..100], [0; 100]);
        assert_eq!(back[100..100 + data.len()], data);
        assert_eq!(back[100 + data.len()..], [0; 100]);
        // Zero a part, a whole piece among it.
        disk.zero(PIECE - 50, PIECE + 60).unwrap();
        disk.read(PIECE - 100, &mut back[..data.len()]).unwrap();
        assert_eq!(back[..50], data[..50]);
        assert!(back[50..PIECE as usize + 110].iter().all(|b| *b == 0));
        assert_eq!(back[PIECE as usize + 110], data[PIECE as usize + 110]);
        // Shrink and grow: what was cut off is gone.
        disk.write(2 * PIECE + 10, &[7; 100]).unwrap();
        disk.resize(2 * PIECE + 20).unwrap();
        disk.resize(len).unwrap();
        let mut tail = [1; 40];
        disk.read(2 * PIECE, &mut tail).unwrap();
        assert_eq!(tail[10..20], [7; 10]);
        assert_eq!(tail[20..], [0; 20]);
        assert!(disk.write(len - 1, &[0; 2]).is_err());
        disk.flush().unwrap();
    }

    #[test]
    fn ram_disk_keeps_and_forgets() {
        exercise(&mut RamDisk::new(0));
    }

    #[test]
    fn file_disk_keeps_and_forgets() {
        let path = std::env::temp_dir().join(format!("vlvf-file-disk-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        exercise(&mut FileDisk::new(file).unwrap());
    }

    #[test]
    fn unwritten_pieces_take_no_memory() {
        let mut disk = RamDisk::new(1 << 40);
        disk.write((1 << 40) - 512, &[1; 512]).unwrap();
        disk.zero(0, 1 << 30).unwrap();
        assert_eq!(disk.pieces.len(), 1);
    }
}
