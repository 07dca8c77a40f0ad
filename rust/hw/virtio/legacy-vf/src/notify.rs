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

/// Rings for a queue without the helper. Called by vCPUs without the big QEMU lock, from several
/// at once; must not wait for anything but the device.
///
/// A write to the VF's region is one way; a mapped page, or an eventfd that the kernel turns into
/// the write, are others.
pub trait Doorbell: Send + Sync {
    /// Notifies `queue`.
    fn ring(&self, device: &VfioPciBase, queue: u16) -> io::Result<()>;
}

/// Writes the queue index to the VF's notify address through VFIO.
struct RegionDoorbell {
    bar: u8,
    offset: u64,
    /// A write that fails once will always fail: a vfio-user connection does not come back, and
    /// QEMU logs every attempt.
    once: bool,
    broken: AtomicBool,
}

impl Doorbell for RegionDoorbell {
    fn ring(&self, device: &VfioPciBase, queue: u16) -> io::Result<()> {
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

/// How notifications are delivered.
pub enum Delivery {
    /// By this device itself.
    Direct(Box<dyn Doorbell>),
    /// By a message to the helper, which has an address in the PF or issues a command.
    Helper,
}

impl Delivery {
    /// What the helper says about the VF's notify address, checked against the VF's BARs. The
    /// second value is a warning if the address cannot be used.
    pub fn choose(
        opened: &OpenReply,
        kind: Kind,
        bar_size: impl Fn(u8) -> u64,
    ) -> (Self, Option<String>) {
        if opened.notify_kind != NotifyKind::Member {
            return (Self::Helper, None);
        }
        let (bar, offset) = (opened.notify_bar, opened.notify_offset);
        let fits = (1..=5).contains(&bar)
            && offset % 2 == 0
            && offset
                .checked_add(2)
                .is_some_and(|end| end <= bar_size(bar));
        if !fits {
            let warning = format!(
                "the notify address (BAR {bar}, offset {offset:#x}) is not inside the VF; \
                 notifications go through the helper, which is slow"
            );
            return (Self::Helper, Some(warning));
        }
        let doorbell = RegionDoorbell {
            bar,
            offset,
            once: kind == Kind::User,
            broken: AtomicBool::new(false),
        };
        (Self::Direct(Box::new(doorbell)), None)
    }

    /// As `qom-get notify-by` shows it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Direct(_) => "vf",
            Self::Helper => "helper",
        }
    }
}

/// Queues that a legacy device can have.
const QUEUES: usize = 1024;

/// Which queues were notified through the helper since the last reset.
#[derive(Debug)]
pub struct Notified([AtomicU64; QUEUES / 64]);

impl Notified {
    /// None.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; QUEUES / 64])
    }

    fn add(&self, queue: u16) {
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

    fn list(&self) -> Vec<u16> {
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
            Delivery::Direct(doorbell) => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 2);
                doorbell.ring(device, queue)
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
                format!("{}: notification of queue {queue} failed: {e}", self.label)
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
