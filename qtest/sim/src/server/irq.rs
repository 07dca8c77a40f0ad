// SPDX-License-Identifier: GPL-2.0-or-later
//! The eventfds that a client attached to interrupt vectors.

use rustix::fs::{fcntl_getfl, fcntl_setfl, readlink, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use vfio_user_wire::{errno, irq_flags, IrqInfo, SetIrqs, IRQ_ERR, IRQ_MSIX};

/// Interrupt types that a PCI client asks for: INTx, MSI, MSI-X, ERR, REQ.
pub const NUM_IRQS: u32 = 5;

/// Eventfds of one connection.
#[derive(Debug, Default)]
pub struct IrqTable {
    msix: Vec<Option<OwnedFd>>,
    /// Accepted so that QEMU can offer error recovery; the simulator signals it on demand.
    error: Option<OwnedFd>,
    /// Interrupts signalled.
    pub fired: u64,
    /// Interrupts without an eventfd attached.
    pub lost: u64,
}

impl IrqTable {
    /// A table of `vectors` MSI-X vectors, none attached.
    pub fn new(vectors: u32) -> Self {
        let mut table = Self::default();
        table.msix.resize_with(vectors as usize, || None);
        table
    }

    /// Describes interrupt type `index`; `None` if there is no such type.
    pub fn info(&self, index: u32) -> Option<IrqInfo> {
        let (count, flags) = match index {
            IRQ_MSIX => {
                let count = u32::try_from(self.msix.len()).unwrap_or(0);
                (count, irq_flags::INFO_EVENTFD | irq_flags::INFO_NORESIZE)
            }
            IRQ_ERR => (1, irq_flags::INFO_EVENTFD | irq_flags::INFO_NORESIZE),
            i if i < NUM_IRQS => (0, irq_flags::INFO_EVENTFD),
            _ => return None,
        };
        Some(IrqInfo {
            flags,
            index,
            count,
        })
    }

    /// Vectors that have an eventfd.
    pub fn attached(&self) -> usize {
        self.msix.iter().flatten().count()
    }

    /// Which of the vectors from `start` have an eventfd.
    pub fn present(&self, start: usize, count: usize) -> Vec<bool> {
        let vectors = self.msix.iter().skip(start).take(count);
        vectors.map(Option::is_some).collect()
    }

    /// Carries out SET_IRQS.
    ///
    /// # Errors
    /// The error number for the reply and a text for the log. Nothing was changed then.
    pub fn set(&mut self, set: &SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), (u32, String)> {
        let invalid = |text: String| Err((errno::EINVAL, text));
        let single = self.error.is_some();
        let vectors = match set.index {
            IRQ_MSIX => self.msix.len(),
            IRQ_ERR => 1,
            i if i < NUM_IRQS => 0,
            i => return invalid(format!("there is no interrupt type {i}")),
        };
        let (start, count) = (set.start as usize, set.count as usize);
        if start.saturating_add(count) > vectors {
            let i = set.index;
            return invalid(format!(
                "vectors {start}+{count} of interrupt type {i}, which has {vectors}"
            ));
        }
        if set.flags & irq_flags::SET_ACTION_TRIGGER == 0 {
            // MSI-X vectors are masked in the table, which the client keeps.
            return Err((
                errno::EOPNOTSUPP,
                "vectors cannot be masked here".to_owned(),
            ));
        }
        if set.flags & irq_flags::SET_DATA_EVENTFD != 0 {
            if !fds.is_empty() && fds.len() != count {
                let n = fds.len();
                return invalid(format!("{n} file descriptors for {count} vectors"));
            }
            for fd in &fds {
                check_eventfd(fd)?;
            }
            if set.index == IRQ_ERR {
                self.error = fds.into_iter().next();
                return Ok(());
            }
            let mut fds = fds.into_iter();
            for slot in self.msix.iter_mut().skip(start).take(count) {
                *slot = fds.next();
            }
            return Ok(());
        }
        if set.flags & irq_flags::SET_DATA_NONE != 0 && count == 0 {
            match set.index {
                IRQ_ERR => self.error = None,
                _ => self.msix.iter_mut().for_each(|slot| *slot = None),
            }
            return Ok(());
        }
        // A trigger by the client itself.
        for i in 0..count {
            let wanted = set.flags & irq_flags::SET_DATA_NONE != 0
                || set.data.get(i).is_some_and(|b| *b != 0);
            if !wanted {
                continue;
            }
            if set.index == IRQ_MSIX {
                self.fire(start + i);
            } else if single {
                self.fire_error();
            }
        }
        Ok(())
    }

    /// Signals an MSI-X vector. Without an eventfd the interrupt is lost, as on a bus where
    /// nobody listens.
    pub fn fire(&mut self, vector: usize) {
        match self.msix.get(vector).and_then(Option::as_ref) {
            Some(fd) => {
                signal(fd);
                self.fired += 1;
            }
            None => self.lost += 1,
        }
    }

    /// Signals the error interrupt, if somebody listens.
    pub fn fire_error(&self) -> bool {
        self.error.as_ref().map(signal).is_some()
    }
}

/// Adds one to the eventfd's counter. A counter at its maximum stays there, which is as good.
fn signal(fd: &OwnedFd) {
    while let Err(Errno::INTR) = rustix::io::write(fd, &1u64.to_ne_bytes()) {}
}

/// Takes only eventfds, and makes them non-blocking: a write to anything else, or to a full
/// counter in blocking mode, could stop the simulator for everybody.
fn check_eventfd(fd: &OwnedFd) -> Result<(), (u32, String)> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match readlink(link.as_str(), Vec::new()) {
        Ok(name) if name.to_bytes().starts_with(b"anon_inode:[eventfd") => {}
        Ok(name) => {
            let text = format!("{} is not an eventfd", name.to_string_lossy());
            return Err((errno::EINVAL, text));
        }
        Err(e) => return Err((errno::EINVAL, format!("{link}: {e}"))),
    }
    let flags = fcntl_getfl(fd).map_err(|e| (errno::EINVAL, format!("F_GETFL: {e}")))?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(fd, flags | OFlags::NONBLOCK)
            .map_err(|e| (errno::EINVAL, format!("F_SETFL: {e}")))?;
    }
    Ok(())
}
