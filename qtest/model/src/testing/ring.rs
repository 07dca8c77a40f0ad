// SPDX-License-Identifier: GPL-2.0-or-later
//! The driver side of a split ring.

use std::sync::Arc;

use virtio_modern_spec::ring::{self, legacy_layout};

use super::memory::TestMemory;

/// A piece of a buffer to make available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device may write it.
    pub writable: bool,
}

impl Buffer {
    /// A piece the device reads.
    pub fn readable(addr: u64, len: u32) -> Self {
        Buffer {
            addr,
            len,
            writable: false,
        }
    }

    /// A piece the device writes.
    pub fn writable(addr: u64, len: u32) -> Self {
        Buffer {
            addr,
            len,
            writable: true,
        }
    }
}

/// Where a ring lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlace {
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// The driver's half of a queue.
#[derive(Debug)]
pub struct DriverRing {
    /// Where the driver's buffers are.
    pub memory: Arc<TestMemory>,
    /// Entries.
    pub size: u16,
    /// Where it lies.
    pub place: RingPlace,
    next_desc: u16,
    avail_idx: u16,
    used_idx: u16,
}

impl DriverRing {
    /// A ring with its parts anywhere, as modern drivers have it.
    pub fn modern(memory: &Arc<TestMemory>, size: u16) -> Self {
        let place = RingPlace {
            desc: memory.alloc(ring::desc_table_len(size), 16),
            avail: memory.alloc(ring::avail_len(size), 2),
            used: memory.alloc(ring::used_len(size), 4),
        };
        Self::at(memory, size, place)
    }

    /// A ring in one block, as legacy drivers have it; [`pfn`](Self::pfn) tells where.
    pub fn legacy(memory: &Arc<TestMemory>, size: u16) -> Self {
        let total = legacy_layout(0, size).total;
        let base = memory.alloc(total, 4096);
        let l = legacy_layout((base / 4096) as u32, size);
        let place = RingPlace {
            desc: l.desc,
            avail: l.avail,
            used: l.used,
        };
        Self::at(memory, size, place)
    }

    fn at(memory: &Arc<TestMemory>, size: u16, place: RingPlace) -> Self {
        memory.put(place.desc, &vec![0; ring::desc_table_len(size) as usize]);
        memory.put(place.avail, &vec![0; ring::avail_len(size) as usize]);
        memory.put(place.used, &vec![0; ring::used_len(size) as usize]);
        DriverRing {
            memory: Arc::clone(memory),
            size,
            place,
            next_desc: 0,
            avail_idx: 0,
            used_idx: 0,
        }
    }

    /// Page frame number of a legacy ring.
    pub fn pfn(&self) -> u32 {
        (self.place.desc / 4096) as u32
    }

    /// Writes one descriptor.
    pub fn set_desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.put_desc(self.place.desc, index, addr, len, flags, next);
    }

    /// Writes one descriptor of the table at `table`.
    pub fn put_desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut d = Vec::with_capacity(16);
        d.extend_from_slice(&addr.to_le_bytes());
        d.extend_from_slice(&len.to_le_bytes());
        d.extend_from_slice(&flags.to_le_bytes());
        d.extend_from_slice(&next.to_le_bytes());
        self.memory.put(table + u64::from(index) * 16, &d);
    }

    /// Makes a buffer available as a chain of descriptors; gives the number of its head.
    /// Descriptors are used round-robin, so no more than fit may be outstanding.
    pub fn add(&mut self, pieces: &[Buffer]) -> u16 {
        let head = self.next_desc;
        for (i, p) in pieces.iter().enumerate() {
            let index = self.next_desc;
            self.next_desc = (index + 1) % self.size;
            let mut flags = if p.writable { ring::DESC_F_WRITE } else { 0 };
            if i + 1 < pieces.len() {
                flags |= ring::DESC_F_NEXT;
            }
            self.set_desc(index, p.addr, p.len, flags, self.next_desc);
        }
        self.publish(head);
        head
    }

    /// As [`add`](Self::add), through an indirect table.
    pub fn add_indirect(&mut self, pieces: &[Buffer]) -> u16 {
        let table = self.memory.alloc(16 * pieces.len() as u64, 16);
        for (i, p) in pieces.iter().enumerate() {
            let i = i as u16;
            let mut flags = if p.writable { ring::DESC_F_WRITE } else { 0 };
            if usize::from(i) + 1 < pieces.len() {
                flags |= ring::DESC_F_NEXT;
            }
            self.put_desc(table, i, p.addr, p.len, flags, i + 1);
        }
        let head = self.next_desc;
        self.next_desc = (head + 1) % self.size;
        self.set_desc(
            head,
            table,
            16 * pieces.len() as u32,
            ring::DESC_F_INDIRECT,
            0,
        );
        self.publish(head);
        head
    }

    /// Puts a head into the available ring.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        self.memory
            .put(self.place.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.set_avail_idx(self.avail_idx);
    }

    /// Writes avail.idx.
    pub fn set_avail_idx(&self, idx: u16) {
        self.memory.put(self.place.avail + 2, &idx.to_le_bytes());
    }

    /// Writes avail.flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.memory.put(self.place.avail, &flags.to_le_bytes());
    }

    /// Writes used_event.
    pub fn set_used_event(&self, idx: u16) {
        let at = self.place.avail + 4 + 2 * u64::from(self.size);
        self.memory.put(at, &idx.to_le_bytes());
    }

    /// Reads avail_event.
    pub fn avail_event(&self) -> u16 {
        let at = self.place.used + 4 + 8 * u64::from(self.size);
        self.memory.get16(at)
    }

    /// Reads used.flags.
    pub fn used_flags(&self) -> u16 {
        self.memory.get16(self.place.used)
    }

    /// Reads used.idx.
    pub fn used_idx(&self) -> u16 {
        self.memory.get16(self.place.used + 2)
    }

    /// The next used buffer: (head, length).
    pub fn poll(&mut self) -> Option<(u32, u32)> {
        if self.used_idx() == self.used_idx {
            return None;
        }
        let at = self.place.used + 4 + 8 * u64::from(self.used_idx % self.size);
        self.used_idx = self.used_idx.wrapping_add(1);
        Some((self.memory.get32(at), self.memory.get32(at + 4)))
    }
}
