// SPDX-License-Identifier: GPL-2.0-or-later
//! Eventfds that stand for doorbell writes (GET_REGION_IO_FDS).
//!
//! QEMU 10.2 does not ask for them; the helper's client may. A doorbell then costs the client one
//! write to an eventfd, and a hypervisor could attach it as an ioeventfd.

use crate::hardware::Doorbell;
use rustix::event::{eventfd, EventfdFlags};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vfio_user_wire::{IoEventFd, IO_FD_TYPE_IOEVENTFD};

/// Eventfds one connection may have.
pub const MAX_PER_CONNECTION: usize = 64;

/// One eventfd and the write it stands for.
pub struct DoorbellFd {
    /// BAR of the write.
    pub bar: u8,
    /// The write.
    pub doorbell: Doorbell,
    /// The eventfd.
    pub fd: Arc<OwnedFd>,
}

/// The eventfds of one connection.
#[derive(Default)]
pub struct DoorbellFds {
    fds: Vec<DoorbellFd>,
}

impl DoorbellFds {
    /// All of them, in order of creation.
    pub fn all(&self) -> &[DoorbellFd] {
        &self.fds
    }

    /// The eventfds for these writes; those that exist already are given again.
    ///
    /// # Errors
    /// No more eventfds can be had.
    pub fn create(
        &mut self,
        bar: u8,
        doorbells: &[Doorbell],
    ) -> Result<Vec<Arc<OwnedFd>>, rustix::io::Errno> {
        let mut out = Vec::with_capacity(doorbells.len());
        for doorbell in doorbells {
            let known = |d: &&DoorbellFd| d.bar == bar && d.doorbell == *doorbell;
            if let Some(known) = self.fds.iter().find(known) {
                out.push(Arc::clone(&known.fd));
                continue;
            }
            if self.fds.len() >= MAX_PER_CONNECTION {
                return Err(rustix::io::Errno::MFILE);
            }
            let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            out.push(Arc::clone(&fd));
            self.fds.push(DoorbellFd {
                bar,
                doorbell: *doorbell,
                fd,
            });
        }
        Ok(out)
    }

    /// The reply's entries for these writes, descriptors in the same order.
    pub fn describe(doorbells: &[Doorbell]) -> Vec<IoEventFd> {
        doorbells
            .iter()
            .zip(0..)
            .map(|(d, fd_index)| IoEventFd {
                offset: d.offset,
                size: u64::from(d.width),
                fd_index,
                kind: IO_FD_TYPE_IOEVENTFD,
                flags: IoEventFd::DATAMATCH,
                datamatch: u64::from(d.value),
            })
            .collect()
    }
}
