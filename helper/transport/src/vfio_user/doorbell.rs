// SPDX-License-Identifier: GPL-2.0-or-later
//! Which of a server's ioeventfds may be used for a write.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{fcntl_getfl, fcntl_setfl, fstat, OFlags};
use vfio_user_wire::{IoEventFd, IO_FD_TYPE_IOEVENTFD};

use crate::function::Width;
use crate::irq::IrqEvent;

/// Whether an entry of the server's ioeventfd table stands for this very write.
pub(super) fn stands_for(entry: &IoEventFd, offset: u64, width: Width, value: u32) -> bool {
    entry.kind == IO_FD_TYPE_IOEVENTFD
        && entry.offset == offset
        && (entry.size == 0 || entry.size == width.bytes() as u64)
        && (entry.flags & IoEventFd::DATAMATCH == 0 || entry.datamatch == u64::from(value))
}

/// Accepts a descriptor from the peer as a doorbell: not a file or socket that could make a write
/// wait, and non-blocking.
pub(super) fn adopt_eventfd(id: &Arc<str>, fd: OwnedFd) -> Option<IrqEvent> {
    // Anonymous inodes, of which eventfds are, have no file type.
    let plain = fstat(&fd).ok()?.st_mode & 0o170_000 == 0;
    let flags = fcntl_getfl(&fd).ok()?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).ok()?;
    plain.then(|| IrqEvent::from_fd(id.clone(), fd))
}
