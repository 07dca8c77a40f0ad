// SPDX-License-Identifier: GPL-2.0-or-later
//! Sizes of messages: that of the header, and the bounds that a receiver puts on what it decodes.

/// Bytes of the header in front of every message.
pub const HEADER_LEN: usize = 16;

/// Bounds on one message. The defaults suit a device whose registers are accessed a few bytes at
/// a time; they are far below what the protocol would allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest `count` of a region read or write, in bytes; offered as `max_data_xfer_size`.
    pub max_transfer: u32,
    /// Largest version data (JSON and its NUL), in bytes.
    pub max_version_data: u32,
    /// Largest number of interrupt vectors in one SET_IRQS.
    pub max_vectors: u32,
    /// Largest number of entries of one GET_REGION_IO_FDS reply.
    pub max_io_fds: u32,
}

impl Limits {
    /// `max_data_xfer_size` when a peer names none.
    pub const DEFAULT_TRANSFER: u32 = 1 << 20;
    /// Fixed part of the longest payload besides the data of a transfer.
    const OVERHEAD: u32 = 64;
    /// Payload of a full REGION_WRITE_MULTI message.
    const WRITE_MULTI: u32 = 8 + 200 * 24;

    /// The largest message, header included, that can be valid under these limits.
    pub fn max_message(&self) -> u32 {
        let payload = self
            .max_transfer
            .max(self.max_version_data)
            .max(self.max_vectors.saturating_mul(4))
            .max(self.max_io_fds.saturating_mul(40))
            .max(Self::WRITE_MULTI);
        payload.saturating_add(Self::OVERHEAD + HEADER_LEN as u32)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_transfer: 64 * 1024,
            max_version_data: 4096,
            max_vectors: 2048,
            max_io_fds: 16,
        }
    }
}
