// SPDX-License-Identifier: GPL-2.0-or-later

//! Doorbells: how a guest's notification reaches the VF.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, PoisonError,
    },
    time::Instant,
};

use legacy_vf_proto::{limits::MAX_MESSAGE, NotifyKind, OpenReply, Request};
use pci::report;
use vfio::VfioPciBase;

use crate::{
    events,
    legacy::Kind,
    link::Link,
    seqpacket::{Socket, WaitFor, Woken},
};

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
    fn ring(&self, device: &VfioPciBase, queue: u16) -> io::Result<()> {
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

impl Link {
    /// Delivers a notification of the guest. Never takes the lock of the register window, so it
    /// does not wait for a register access of another vCPU.
    pub fn notify(&self, device: &VfioPciBase, queue: u16) {
        self.stats.notifies.add();
        let delivery = self.delivery.read().unwrap_or_else(PoisonError::into_inner);
        let sent = match &*delivery {
            Delivery::Vf(doorbell) => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 2);
                if self.asleep.load(Ordering::Acquire) {
                    Err(io::Error::other("the guest has put the VF to sleep (D3)"))
                } else {
                    doorbell.ring(device, queue)
                }
            }
            Delivery::Helper => {
                drop(delivery);
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 1);
                // Before it is sent: if the helper dies, the queue is notified again by its
                // successor, and a notification too many does no harm.
                self.notified.add(queue);
                match self.sender() {
                    Some(socket) => self.send_notify(&socket, queue),
                    None => Ok(()),
                }
            }
        };
        if let Err(e) = sent {
            self.stats.notify_failures.add();
            events::trace_virtio_legacy_vf_notify_failed(&self.name, queue.into());
            self.log.report(report::warn_report, || {
                format!(
                    "{}: notification of queue {queue} failed: {e}; see whether the VF, or the \
                     process that emulates it, is alive and awake; the guest's buffers wait until \
                     it notifies again",
                    self.label
                )
            });
        }
    }

    /// Repeats the notifications that a helper which is gone may have swallowed.
    pub fn notify_again(&self, socket: &Arc<Socket>) -> io::Result<()> {
        for queue in self.notified.list() {
            self.send_notify(socket, queue)?;
        }
        Ok(())
    }

    fn send_notify(&self, socket: &Arc<Socket>, queue: u16) -> io::Result<()> {
        let mut buf = [0; MAX_MESSAGE];
        let len = Request::Notify { queue }.encode_no_reply(0, &mut buf);
        let message = buf.get(..len).unwrap_or_default();
        let mut deadline = None;
        loop {
            match socket.send(message, None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let deadline = deadline.get_or_insert_with(|| Instant::now() + self.deadline);
                    match socket.wait(WaitFor::Room, &self.stop, Some(*deadline))? {
                        Woken::Ready => {}
                        Woken::Stopped => return Ok(()),
                        Woken::Deadline => {
                            // The link's thread sees the end and reconnects.
                            socket.shut_down();
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                    }
                }
                result => return result,
            }
        }
    }
}
