// SPDX-License-Identifier: GPL-2.0-or-later
//! The messages of the vfio-user protocol: bytes to structures and back, and nothing else.
//!
//! No sockets, no file descriptors, no waiting. Both the client in the helper's transport and the
//! server of the simulated PF use this crate, so neither side can drift from the other; QEMU's
//! own client is the third peer, and what it sends and accepts is what the layouts follow.
//!
//! A message is a 16-byte [`Header`] and a payload of `header.size - 16` bytes. A receiver reads
//! the header first, has [`Header::decode`] check it against [`Limits`], reads exactly
//! [`Header::payload_len`] more bytes and hands them to [`Request::decode`] or [`Reply::decode`].
//! A payload that makes no sense is an error of that message alone: the stream is still in step,
//! because the whole message was read.
//!
//! Every number is in the byte order of the host, as the protocol says. Decoding never panics and
//! never allocates more than the bytes it was given (times a small constant).

#![forbid(unsafe_code)]

mod bytes;
mod command;
pub mod errno;
mod error;
mod header;
mod irq;
mod limits;
mod region;
mod reply;
mod request;
mod version;

pub use command::Command;
pub use error::WireError;
pub use header::Header;
pub use irq::{irq_flags, IrqInfo, SetIrqs, IRQ_ERR, IRQ_INTX, IRQ_MSI, IRQ_MSIX, IRQ_REQ};
pub use limits::{Limits, HEADER_LEN};
pub use region::{
    region_flags, IoEventFd, IoFdsReply, RegionInfo, SparseArea, IO_FD_TYPE_IOEVENTFD, REGION_BAR0,
    REGION_CONFIG, REGION_ROM, REGION_VGA,
};
pub use reply::{device_flags, DeviceInfo, Reply};
pub use request::{dma_flags, DmaMap, DmaUnmap, RegionAccess, Request, WriteMulti, WriteOne};
pub use version::{Capabilities, Version, MAJOR, MINOR};

#[cfg(test)]
mod tests;
