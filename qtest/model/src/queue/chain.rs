// SPDX-License-Identifier: GPL-2.0-or-later
//! Descriptor chains: walked here, because a device has to tell a chain that ends from one that is
//! broken.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_modern_spec::ring;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use crate::dma::DmaView;

/// What made a ring unusable. The device goes to DEVICE_NEEDS_RESET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum RingFault {
    /// The driver moved avail.idx by more than the queue size (or back).
    #[error("avail.idx {idx} is not within the queue size after {seen}")]
    AvailIndex {
        /// The index found in the ring.
        idx: u16,
        /// The index up to which buffers were taken.
        seen: u16,
    },
    /// A part of the ring is not reachable by DMA or not aligned.
    #[error("the ring is not accessible")]
    RingUnreachable,
    /// A descriptor number is not below the table's length.
    #[error("descriptor {index} is outside the table")]
    DescriptorIndex {
        /// The number.
        index: u16,
    },
    /// A descriptor table entry is not reachable by DMA.
    #[error("descriptor at {addr:#x} is not accessible")]
    DescriptorUnreachable {
        /// Its address.
        addr: u64,
    },
    /// A chain with a loop, or longer than the queue.
    #[error("descriptor chain is longer than the queue size or loops")]
    ChainTooLong,
    /// More than 2^32 bytes in one chain.
    #[error("descriptor chain has more than 2^32 bytes")]
    ChainTooBig,
    /// A readable descriptor follows a writable one.
    #[error("readable descriptor after a writable one")]
    ReadableAfterWritable,
    /// INDIRECT without INDIRECT_DESC negotiated, nested, or together with NEXT.
    #[error("misplaced indirect descriptor")]
    Indirect,
    /// An indirect table of no entries, of a broken length or longer than the queue.
    #[error("indirect table of {len} bytes")]
    IndirectLength {
        /// Its length in bytes.
        len: u32,
    },
    /// The buffer belongs to a queue that was reset since. Not the driver's fault: whoever holds
    /// the buffer just lets go of it.
    #[error("the queue was reset since the buffer was taken")]
    Stale,
    /// A buffer is not reachable by DMA.
    #[error("buffer at {addr:#x} is not accessible")]
    BufferUnreachable {
        /// Address of the first byte of the piece.
        addr: u64,
    },
}

/// One descriptor of a chain, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// DMA address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
}

/// A buffer taken from a queue: readable bytes first, then writable ones, however they are cut.
#[derive(Debug)]
pub struct Chain {
    pub(crate) queue: u16,
    pub(crate) head: u16,
    pub(crate) epoch: u32,
    pub(crate) segments: Vec<Segment>,
    /// How many of the segments are readable.
    pub(crate) split: usize,
    readable_len: u64,
    writable_len: u64,
}

impl Chain {
    /// The chain that begins at descriptor `head`, not read yet. `segments` is storage to build it
    /// in.
    pub(super) fn new(queue: u16, head: u16, epoch: u32, mut segments: Vec<Segment>) -> Self {
        segments.clear();
        Chain {
            queue,
            head,
            epoch,
            segments,
            split: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }

    /// Reads the chain from a descriptor table of `size` entries at the address `table`.
    pub(super) fn walk(
        &mut self,
        mem: &DmaView<'_>,
        mut table: u64,
        size: u16,
        rules: ChainRules,
    ) -> Result<(), RingFault> {
        let limit = rules.max_len.unwrap_or(u32::from(size));
        let mut table_len = u32::from(size);
        let mut index = self.head;
        let mut in_indirect = false;
        let mut seen = 0u32;
        loop {
            if u32::from(index) >= table_len {
                return Err(RingFault::DescriptorIndex { index });
            }
            let addr = table
                .checked_add(u64::from(index) * ring::DESC_LEN)
                .ok_or(RingFault::DescriptorUnreachable { addr: table })?;
            let d: Descriptor = mem
                .read_obj(GuestAddress(addr))
                .map_err(|_| RingFault::DescriptorUnreachable { addr })?;
            let flags = d.flags();
            if flags & ring::DESC_F_INDIRECT != 0 {
                if !rules.indirect || in_indirect || flags & ring::DESC_F_NEXT != 0 {
                    return Err(RingFault::Indirect);
                }
                let entries = d.len() / ring::DESC_LEN as u32;
                if d.len() % ring::DESC_LEN as u32 != 0 || entries == 0 || entries > limit {
                    return Err(RingFault::IndirectLength { len: d.len() });
                }
                in_indirect = true;
                table = d.addr().0;
                table_len = entries;
                index = 0;
                continue;
            }
            seen += 1;
            if seen > limit {
                return Err(RingFault::ChainTooLong);
            }
            let len = u64::from(d.len());
            if flags & ring::DESC_F_WRITE != 0 {
                self.writable_len += len;
            } else {
                if self.segments.len() > self.split {
                    return Err(RingFault::ReadableAfterWritable);
                }
                self.readable_len += len;
                self.split += 1;
            }
            if self.readable_len + self.writable_len > 1 << 32 {
                return Err(RingFault::ChainTooBig);
            }
            self.segments.push(Segment {
                addr: d.addr().0,
                len: d.len(),
            });
            if flags & ring::DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = d.next();
        }
    }

    /// The queue it came from.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Bytes of the readable part.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes of the writable part.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// The readable pieces as the driver cut them.
    pub fn readable(&self) -> &[Segment] {
        self.segments
            .split_at(self.split.min(self.segments.len()))
            .0
    }

    /// The writable pieces as the driver cut them.
    pub fn writable(&self) -> &[Segment] {
        self.segments
            .split_at(self.split.min(self.segments.len()))
            .1
    }
}

/// Calls `f(addr, len)` for the pieces of `segments` that make up bytes `offset..offset+len`, as
/// far as there are any; gives the number of bytes covered.
pub(crate) fn cover(
    segments: &[Segment],
    offset: u64,
    len: usize,
    mut f: impl FnMut(u64, usize) -> Result<(), RingFault>,
) -> Result<usize, RingFault> {
    let mut skip = offset;
    let mut left = len as u64;
    for s in segments {
        if left == 0 {
            break;
        }
        let seg = u64::from(s.len);
        if skip >= seg {
            skip -= seg;
            continue;
        }
        let n = (seg - skip).min(left);
        let addr = s
            .addr
            .checked_add(skip)
            .ok_or(RingFault::BufferUnreachable { addr: s.addr })?;
        // `n` is at most `len`, which is a usize.
        f(addr, n as usize)?;
        skip = 0;
        left -= n;
    }
    Ok(len - left as usize)
}

/// Limits and features that decide how chains are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainRules {
    /// INDIRECT_DESC was negotiated.
    pub(crate) indirect: bool,
    /// Chains longer than the queue are accepted, up to this many descriptors.
    pub(crate) max_len: Option<u32>,
}
