// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory of a driver under test, with a record of what the device touched.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::dma::{Access, DmaMemory};

/// One access of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub len: usize,
    /// Direction.
    pub access: Access,
}

/// A piece of memory at one I/O virtual address, handed out front to back.
#[derive(Debug)]
pub struct TestMemory {
    region: MmapRegion,
    base: u64,
    next: AtomicU64,
    touches: Option<Mutex<Vec<Touch>>>,
}

impl TestMemory {
    /// `len` bytes of zeros at `base`.
    ///
    /// # Panics
    /// There is no memory.
    pub fn new(base: u64, len: usize) -> Arc<Self> {
        Arc::new(Self::build(base, len, None))
    }

    /// As [`new`](Self::new); every access of the device is recorded.
    ///
    /// # Panics
    /// There is no memory.
    pub fn recording(base: u64, len: usize) -> Arc<Self> {
        Arc::new(Self::build(base, len, Some(Mutex::default())))
    }

    fn build(base: u64, len: usize, touches: Option<Mutex<Vec<Touch>>>) -> Self {
        let region = MmapRegion::new(len);
        assert!(region.is_ok(), "no memory for a test: {region:?}");
        TestMemory {
            // Asserted above.
            region: region.unwrap_or_else(|_| unreachable!()),
            base,
            next: AtomicU64::new(base),
            touches,
        }
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.region.size()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next `len` bytes, aligned to `align` (a power of two).
    ///
    /// # Panics
    /// The memory is used up.
    pub fn alloc(&self, len: u64, align: u64) -> u64 {
        let at = self.next.load(Ordering::Relaxed).next_multiple_of(align);
        let end = at + len;
        assert!(
            end <= self.base + self.len() as u64,
            "test memory is used up"
        );
        self.next.store(end, Ordering::Relaxed);
        at
    }

    /// Gives everything that was handed out back.
    pub fn free_all(&self) {
        self.next.store(self.base, Ordering::Relaxed);
    }

    fn piece(&self, at: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let from = usize::try_from(at.checked_sub(self.base)?).ok()?;
        let n = self.len().checked_sub(from)?.min(len);
        if n == 0 {
            return None;
        }
        self.region.get_slice(from, n).ok()
    }

    /// Copies to memory as the driver.
    ///
    /// # Panics
    /// The range is not inside.
    pub fn put(&self, at: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let s = self.piece(at, data.len());
        assert!(s.is_some_and(|s| s.len() == data.len()), "outside: {at:#x}");
        if let Some(s) = s {
            s.copy_from(data);
        }
    }

    /// Copies from memory as the driver.
    ///
    /// # Panics
    /// The range is not inside.
    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        if len == 0 {
            return out;
        }
        let s = self.piece(at, len);
        assert!(s.is_some_and(|s| s.len() == len), "outside: {at:#x}");
        if let Some(s) = s {
            s.copy_to(&mut out);
        }
        out
    }

    /// A 16-bit value.
    pub fn get16(&self, at: u64) -> u16 {
        let b = self.get(at, 2);
        virtio_pci_spec::bytes::get_u16(&b, 0).unwrap_or(0)
    }

    /// A 32-bit value.
    pub fn get32(&self, at: u64) -> u32 {
        let b = self.get(at, 4);
        virtio_pci_spec::bytes::get_u32(&b, 0).unwrap_or(0)
    }

    /// What the device touched since the last call.
    pub fn touches(&self) -> Vec<Touch> {
        match &self.touches {
            Some(t) => std::mem::take(&mut *t.lock().unwrap_or_else(PoisonError::into_inner)),
            None => Vec::new(),
        }
    }
}

impl DmaMemory for TestMemory {
    fn slice(&self, iova: u64, len: usize, access: Access) -> Option<VolatileSlice<'_>> {
        let piece = self.piece(iova, len)?;
        if let Some(t) = &self.touches {
            t.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Touch {
                    iova,
                    len: piece.len(),
                    access,
                });
        }
        Some(piece)
    }
}
