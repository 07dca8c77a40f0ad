// SPDX-License-Identifier: GPL-2.0-or-later

//! Doorbells: where notifications go, and for which queues.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use legacy_vf_proto::{NotifyKind, OpenReply};
use vfio::VfioPciBase;

use crate::place::Kind;

/// Bytes of a notification.
const WIDTH: u64 = 2;

/// The VF's BARs, as far as a notify address must be compared with them.
#[derive(Clone, Debug)]
pub struct Bars {
    /// How the VF is driven.
    pub kind: Kind,
    /// Bytes of each BAR, 0 for none.
    pub sizes: [u64; 6],
    /// Mapped parts of each BAR: offset and length.
    pub mapped: [Vec<(u64, u64)>; 6],
}

impl Bars {
    /// Those of a realized device.
    pub fn of(vfio: &VfioPciBase, kind: Kind) -> Self {
        Self {
            kind,
            sizes: std::array::from_fn(|bar| vfio.bar_size(bar as u8)),
            mapped: std::array::from_fn(|bar| vfio.mapped_parts(bar as u8)),
        }
    }

    /// Whether a notification fits there. The helper is not trusted with this.
    fn contain(&self, bar: u8, offset: u64) -> bool {
        let size = self.sizes.get(usize::from(bar)).copied().unwrap_or(0);
        let end = offset.checked_add(WIDTH);
        (1..=5).contains(&bar) && offset % WIDTH == 0 && end.is_some_and(|end| end <= size)
    }

    /// Whether a store to that place reaches the device.
    ///
    /// Not with vfio-user: the other process may take the memory away, which would end this one.
    fn can_store(&self, bar: u8, offset: u64) -> bool {
        let inside = |(start, len): &(u64, u64)| {
            offset
                .checked_sub(*start)
                .and_then(|o| o.checked_add(WIDTH))
                .is_some_and(|end| end <= *len)
        };
        let parts = self.mapped.get(usize::from(bar));
        self.kind == Kind::Host && parts.is_some_and(|parts| parts.iter().any(inside))
    }
}

/// The VF's notify address and how this process reaches it.
#[derive(Debug)]
pub struct Doorbell {
    /// BAR of the VF, 1 to 5.
    pub bar: u8,
    /// Offset there, even; with its two bytes inside the BAR.
    pub offset: u64,
    /// By a store to mapped memory, else by a write to VFIO's region.
    mapped: bool,
    /// A write that fails once will always fail: a vfio-user connection does not come back, and
    /// QEMU logs every attempt.
    once: bool,
    broken: AtomicBool,
}

impl Doorbell {
    /// Notifies `queue`. Any vCPU without the big QEMU lock, several at once; waits for nothing but
    /// the device.
    pub fn ring(&self, device: &VfioPciBase, queue: u16) -> io::Result<()> {
        if self.mapped && device.store_u16(self.bar, self.offset, queue) {
            return Ok(());
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let result = device.region_write(self.bar, self.offset, &queue.to_le_bytes(), true);
        if self.once && result.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// How QEMU itself delivers notifications.
#[derive(Debug)]
pub enum Delivery {
    /// To the VF.
    Vf(Doorbell),
    /// By a message to the helper, which has an address in the PF or issues a command.
    Helper,
}

impl Delivery {
    /// What the helper says about the VF's notify address, compared with the VF's BARs. The second
    /// value is a warning if the address cannot be used.
    pub fn choose(opened: &OpenReply, bars: &Bars) -> (Self, Option<String>) {
        if opened.notify_kind != NotifyKind::Member {
            return (Self::Helper, None);
        }
        let (bar, offset) = (opened.notify_bar, opened.notify_offset);
        if !bars.contain(bar, offset) {
            let warning = format!(
                "the notify address (BAR {bar}, offset {offset:#x}) is not inside the VF; \
                 notifications go through the helper, which is slow"
            );
            return (Self::Helper, Some(warning));
        }
        let doorbell = Doorbell {
            bar,
            offset,
            mapped: bars.can_store(bar, offset),
            once: bars.kind == Kind::User,
            broken: AtomicBool::new(false),
        };
        (Self::Vf(doorbell), None)
    }

    /// The VF's notify address: BAR and offset.
    pub const fn address(&self) -> Option<(u8, u64)> {
        match self {
            Self::Vf(doorbell) => Some((doorbell.bar, doorbell.offset)),
            Self::Helper => None,
        }
    }

    /// As `qom-get notify-by` shows it.
    pub const fn by(&self) -> &'static str {
        match self {
            Self::Vf(_) => "vf",
            Self::Helper => "helper",
        }
    }

    /// As `qom-get doorbell-path` shows it while the kernel does not do it.
    pub const fn path(&self) -> &'static str {
        match self {
            Self::Vf(Doorbell { mapped: true, .. }) => "mmap",
            Self::Vf(_) => "region",
            Self::Helper => "helper",
        }
    }
}

/// Queues that a legacy device can have.
const QUEUES: usize = 1024;

/// A set of queues.
#[derive(Debug)]
pub struct QueueSet([AtomicU64; QUEUES / 64]);

impl QueueSet {
    /// None.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; QUEUES / 64])
    }

    /// Adds one; those that no legacy device has are left out.
    pub fn add(&self, queue: u16) {
        if let Some(word) = self.0.get(usize::from(queue / 64)) {
            word.fetch_or(1 << (queue % 64), Ordering::Relaxed);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Takes one out.
    pub fn remove(&self, queue: u16) {
        if let Some(word) = self.0.get(usize::from(queue / 64)) {
            word.fetch_and(!(1 << (queue % 64)), Ordering::Relaxed);
        }
    }

    /// All of them, ascending.
    pub fn list(&self) -> Vec<u16> {
        let noted = |q: &u16| {
            self.0
                .get(usize::from(q / 64))
                .is_some_and(|w| w.load(Ordering::Relaxed) & 1 << (q % 64) != 0)
        };
        (0..QUEUES as u16).filter(noted).collect()
    }
}
