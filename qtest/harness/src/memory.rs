// SPDX-License-Identifier: GPL-2.0-or-later
//! Who uses which part of guest memory.

use anyhow::{bail, Result};

/// Hands out guest memory, upwards from 1 MiB; nothing is given back.
#[derive(Debug)]
pub struct GuestMemory {
    next: u64,
    end: u64,
}

impl GuestMemory {
    /// Memory of a guest with `size` bytes.
    pub fn new(size: u64) -> Self {
        GuestMemory {
            next: 1 << 20,
            end: size,
        }
    }

    /// `len` bytes, starting at a multiple of `align` (a power of two).
    ///
    /// # Errors
    /// If there is no room left.
    pub fn take(&mut self, len: u64, align: u64) -> Result<u64> {
        let at = self.next.next_multiple_of(align.max(1));
        match at.checked_add(len).filter(|end| *end <= self.end) {
            Some(end) => {
                self.next = end;
                Ok(at)
            }
            None => bail!("guest memory is used up"),
        }
    }
}
