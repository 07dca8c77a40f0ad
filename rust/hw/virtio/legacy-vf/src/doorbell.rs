// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest's notification that came to QEMU, on its way to the VF or to the helper.
//!
//! Nothing here takes a lock that another notification or a register access holds.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use legacy_vf_proto::{limits::MAX_MESSAGE, NotifyKind, OpenReply, Request};
use pci::report;
use vfio::VfioPciBase;

use crate::{
    events,
    link::Link,
    socket::{Patience, Socket, WaitFor, Woken},
};

/// Bytes of a notification.
const WIDTH: u64 = 2;

/// Where notifications go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// By a message to the helper, which has an address in the PF or issues a command.
    Helper,
    /// To the VF: BAR, 1 to 5, and an even offset there.
    Vf(u8, u64),
}

impl Address {
    /// What the helper says about the VF's notify address, compared with the sizes of the VF's BARs;
    /// the helper is not trusted with this. The second value is a warning if it cannot be used.
    pub fn choose(opened: &OpenReply, bars: &[u64; 6]) -> (Self, Option<String>) {
        if opened.notify_kind != NotifyKind::Member {
            return (Self::Helper, None);
        }
        let (bar, offset) = (opened.notify_bar, opened.notify_offset);
        let size = bars.get(usize::from(bar)).copied().unwrap_or(0);
        let inside = offset.checked_add(WIDTH).is_some_and(|end| end <= size);
        if (1..=5).contains(&bar) && offset % WIDTH == 0 && inside && offset < OFFSETS {
            return (Self::Vf(bar, offset), None);
        }
        let warning = format!(
            "the notify address (BAR {bar}, offset {offset:#x}) is not inside the VF; \
             notifications go through the helper, which is slow"
        );
        (Self::Helper, Some(warning))
    }
}

/// Offsets of a BAR that [`Doorbell`] can keep beside the BAR's number.
const OFFSETS: u64 = 1 << 60;

/// What notifications need, for any vCPU at any time.
#[derive(Debug, Default)]
pub struct Doorbell {
    /// BAR, 0 for the helper, and offset.
    address: AtomicU64,
    /// A write that fails once will always fail: a vfio-user connection does not come back, and QEMU
    /// logs every attempt.
    broken: AtomicBool,
    /// Queues notified through the helper since the last reset.
    through_helper: [AtomicU64; QUEUES / 64],
}

/// Queues that a legacy device can have.
const QUEUES: usize = 1024;

impl Doorbell {
    /// Where notifications go.
    pub fn address(&self) -> Address {
        let address = self.address.load(Ordering::Acquire);
        match (address / OFFSETS) as u8 {
            0 => Address::Helper,
            bar => Address::Vf(bar, address % OFFSETS),
        }
    }

    /// Says where notifications go from now on. Whether that is another place than before.
    pub fn set_address(&self, address: Address) -> bool {
        let value = match address {
            Address::Helper => 0,
            Address::Vf(bar, offset) => u64::from(bar) * OFFSETS + offset,
        };
        self.address.swap(value, Ordering::AcqRel) != value
    }

    /// The VF was reset: nothing is to be notified again.
    pub fn forget(&self) {
        for word in &self.through_helper {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn note(&self, queue: u16) {
        if let Some(word) = self.through_helper.get(usize::from(queue / 64)) {
            let bit = 1 << (queue % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn noted(&self, queue: u16) -> bool {
        let word = self.through_helper.get(usize::from(queue / 64));
        word.is_some_and(|w| w.load(Ordering::Relaxed) & 1 << (queue % 64) != 0)
    }
}

impl Link {
    /// Delivers a notification of the guest. `lasting`: a write that failed may work another time.
    pub fn ring(&self, device: &VfioPciBase, queue: u16, lasting: bool) {
        self.counters.notifies.add();
        let sent = match self.doorbell.address() {
            Address::Vf(bar, offset) => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 2);
                self.ring_vf(device, bar, offset, queue, lasting)
            }
            Address::Helper => {
                events::trace_virtio_legacy_vf_notify(&self.name, queue.into(), 1);
                // Before it is sent: if the helper dies, the queue is notified again by its
                // successor, and a notification too many does no harm.
                self.doorbell.note(queue);
                let limit = self.deadline;
                match self.sender() {
                    Some(socket) => self.send(&socket, queue, Patience::of_vcpu(limit, false)),
                    None => Ok(()),
                }
            }
        };
        if let Err(e) = sent {
            self.counters.notify_failures.add();
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

    fn ring_vf(
        &self,
        device: &VfioPciBase,
        bar: u8,
        offset: u64,
        queue: u16,
        lasting: bool,
    ) -> io::Result<()> {
        if self.doorbell.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let result = device.region_write(bar, offset, &queue.to_le_bytes(), true);
        if !lasting && result.is_err() {
            self.doorbell.broken.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Repeats the notifications that a helper which is gone may have swallowed.
    pub fn ring_again(&self, socket: &Socket) -> io::Result<()> {
        for queue in (0..QUEUES as u16).filter(|q| self.doorbell.noted(*q)) {
            // Nobody waits for what this thread has locked: it has nothing.
            self.send(socket, queue, Patience::of_user(self.deadline))?;
        }
        Ok(())
    }

    fn send(&self, socket: &Socket, queue: u16, mut patience: Patience<'_>) -> io::Result<()> {
        let mut buf = [0; MAX_MESSAGE];
        let len = Request::Notify { queue }.encode_no_reply(0, &mut buf);
        let message = buf.get(..len).unwrap_or_default();
        loop {
            match socket.send(message, None) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match socket.wait(WaitFor::Room, &self.stop, &mut patience)? {
                        Woken::Ready => {}
                        Woken::Stopped => return Ok(()),
                        Woken::Over(_) => {
                            // The link's thread sees the end, reconnects and notifies again.
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
