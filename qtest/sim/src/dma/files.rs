// SPDX-License-Identifier: GPL-2.0-or-later
//! One mapping per file, shared by all functions and clients that were given that file.
//!
//! A file that can be shrunk by its owner would let one client kill the whole simulator: touching
//! a page behind the new end is SIGBUS. So only files that are sealed against shrinking are
//! mapped (a memfd; the seal is added here where the client allows it). Other files are accepted,
//! but their ranges stay unreachable, unless the user vouches for the clients.

use rustix::fs::{fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat, OFlags, SealFlags};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use vfio_user_wire::errno;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Bytes of one file that are mapped at most; 65 of them still fit in the address space.
pub const MAX_FILE: u64 = 1 << 40;
/// Files that are mapped at a time, over all clients.
pub const MAX_FILES: usize = 4096;

/// Identity of a file, and whether it is mapped for writing.
type Key = (u64, u64, bool);

/// A file mapped from its start.
#[derive(Debug)]
pub struct MappedFile {
    region: MmapRegion,
    writable: bool,
}

impl MappedFile {
    /// A part of the file; `None` if it is not all inside.
    pub(super) fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let offset = usize::try_from(offset).ok()?;
        self.region.get_slice(offset, len).ok()
    }

    /// Whether writes are possible.
    pub fn writable(&self) -> bool {
        self.writable
    }
}

/// The files that are mapped now.
#[derive(Debug, Default)]
pub struct FileCache {
    files: HashMap<Key, Weak<MappedFile>>,
    map_unsealed: bool,
    /// Maps refused because their file could shrink.
    pub unsealed: u64,
}

impl FileCache {
    /// A cache; `map_unsealed` maps files that their owner can shrink, too.
    pub fn new(map_unsealed: bool) -> Self {
        Self {
            map_unsealed,
            ..Self::default()
        }
    }

    /// The mapping of a file that holds at least `end` bytes. The descriptor is closed unless a
    /// new mapping keeps it (one per file).
    ///
    /// `Ok(None)`: the file can shrink, its memory is not touched.
    ///
    /// # Errors
    /// The error number for the reply and a text for the log.
    pub fn get(
        &mut self,
        fd: OwnedFd,
        end: u64,
        want_write: bool,
    ) -> Result<Option<Arc<MappedFile>>, (u32, String)> {
        let stat = fstat(&fd).map_err(|e| (errno::EINVAL, format!("fstat: {e}")))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if end > size {
            let text = format!("range ends at {end:#x}, the file has {size:#x} bytes");
            return Err((errno::EINVAL, text));
        }
        if size > MAX_FILE {
            return Err((
                errno::ENOMEM,
                format!("file of {size:#x} bytes is too large"),
            ));
        }
        let flags = fcntl_getfl(&fd).map_err(|e| (errno::EINVAL, format!("F_GETFL: {e}")))?;
        let access = flags & OFlags::RWMODE;
        let writable = want_write && access == OFlags::RDWR;
        if want_write && !writable {
            let text = "writable range of a file descriptor that is not open for writing";
            return Err((errno::EINVAL, text.to_owned()));
        }
        let key = (stat.st_dev, stat.st_ino, writable);
        if let Some(file) = self.files.get(&key).and_then(Weak::upgrade) {
            if file.region.size() as u64 >= end {
                return Ok(Some(file));
            }
        }
        if !self.map_unsealed && !cannot_shrink(&fd) {
            self.unsealed += 1;
            return Ok(None);
        }
        self.files.retain(|_, file| file.strong_count() > 0);
        if self.files.len() >= MAX_FILES {
            return Err((
                errno::ENOSPC,
                format!("more than {MAX_FILES} files are mapped"),
            ));
        }
        let length = usize::try_from(size).map_err(|_| (errno::ENOMEM, "too large".to_owned()))?;
        const PROT_READ: i32 = 1;
        const PROT_WRITE: i32 = 2;
        const MAP_SHARED: i32 = 1;
        const MAP_NORESERVE: i32 = 0x4000;
        let prot = if writable {
            PROT_READ | PROT_WRITE
        } else {
            PROT_READ
        };
        let region = MmapRegionBuilder::new(length)
            .with_file_offset(FileOffset::new(File::from(fd), 0))
            .with_mmap_prot(prot)
            .with_mmap_flags(MAP_SHARED | MAP_NORESERVE)
            .build()
            .map_err(|e| (errno::ENOMEM, format!("mmap of {size:#x} bytes: {e}")))?;
        let file = Arc::new(MappedFile { region, writable });
        self.files.insert(key, Arc::downgrade(&file));
        Ok(Some(file))
    }

    /// Files mapped now.
    pub fn len(&self) -> usize {
        self.files.values().filter(|f| f.strong_count() > 0).count()
    }

    /// Whether no file is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether the file is sealed against shrinking, or could be sealed now.
fn cannot_shrink(fd: &impl AsFd) -> bool {
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => true,
        Ok(seals) if !seals.contains(SealFlags::SEAL) => {
            fcntl_add_seals(fd, SealFlags::SHRINK).is_ok()
        }
        _ => false,
    }
}
