// SPDX-License-Identifier: GPL-2.0-or-later

//! Where notifications go, and what is known of them. No locks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use legacy_vf_proto::{NotifyKind, OpenReply};

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
    pub broken: AtomicBool,
    /// Queues notified through the helper since the last reset.
    through_helper: [AtomicU64; QUEUES / 64],
}

/// Queues that a legacy device can have.
pub const QUEUES: usize = 1024;

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

    /// A queue was notified through the helper.
    pub fn note(&self, queue: u16) {
        if let Some(word) = self.through_helper.get(usize::from(queue / 64)) {
            let bit = 1 << (queue % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether it was, since the last reset.
    pub fn noted(&self, queue: u16) -> bool {
        let word = self.through_helper.get(usize::from(queue / 64));
        word.is_some_and(|w| w.load(Ordering::Relaxed) & 1 << (queue % 64) != 0)
    }
}
