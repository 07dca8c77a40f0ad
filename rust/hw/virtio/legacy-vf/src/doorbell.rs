// SPDX-License-Identifier: GPL-2.0-or-later

//! Notifications that came to QEMU: where they go, and their way there.
//!
//! Nothing here takes a lock that is held for longer than it takes to copy, or by a register access.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, PoisonError,
    },
};

use legacy_vf_proto::{NotifyKind, OpenReply, Request};
use vfio::VfioPciBase;

use crate::socket::{Over, Patience, Socket};

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
    /// The socket of the connection; `None` while the helper is lost.
    sender: Mutex<Option<Arc<Socket>>>,
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

    /// The socket for messages that have no reply.
    pub fn sender(&self) -> Option<Arc<Socket>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.clone()
    }

    /// Messages without a reply go there from now on.
    pub fn set_sender(&self, socket: Option<Arc<Socket>>) {
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Notifies a queue of the VF at this address. `lasting`: a write that failed may work another
    /// time.
    pub fn write(
        &self,
        device: &VfioPciBase,
        (bar, offset): (u8, u64),
        queue: u16,
        lasting: bool,
    ) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let sent = device.region_write(bar, offset, &queue.to_le_bytes(), true);
        if !lasting && sent.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Notifies a queue through the helper.
    pub fn send(&self, queue: u16, patience: Patience<'_>) -> io::Result<()> {
        // Before it is sent: if the helper dies, the queue is notified again by its successor, and a
        // notification too many does no harm.
        if let Some(word) = self.through_helper.get(usize::from(queue / 64)) {
            let bit = 1 << (queue % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        self.sender()
            .map_or(Ok(()), |socket| notify(&socket, queue, patience))
    }

    /// Repeats the notifications that a helper which is gone may have swallowed.
    pub fn send_again<'a>(
        &self,
        socket: &Socket,
        patience: impl Fn() -> Patience<'a>,
    ) -> io::Result<()> {
        for (word, first) in self.through_helper.iter().zip((0..).step_by(64)) {
            let word = word.load(Ordering::Relaxed);
            for bit in (0..64).filter(|bit| word & 1 << bit != 0) {
                notify(socket, first + bit, patience())?;
            }
        }
        Ok(())
    }
}

fn notify(socket: &Socket, queue: u16, mut patience: Patience<'_>) -> io::Result<()> {
    let mut buf = [0; 64];
    let len = Request::Notify { queue }.encode_no_reply(0, &mut buf);
    match socket.send(buf.get(..len).unwrap_or_default(), None, &mut patience)? {
        Ok(()) | Err(Over::Stopped) => Ok(()),
        Err(Over::Deadline | Over::GivenUp) => {
            // The link's thread sees the end, reconnects and notifies again.
            socket.shut_down();
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}
