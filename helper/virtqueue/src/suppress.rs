// SPDX-License-Identifier: GPL-2.0-or-later
//! Who wants to be notified: "Available Buffer Notification Suppression" towards the device, "Used
//! Buffer Notification Suppression" towards the driver.

use pci_transport::Order;
use virtio_modern_spec::ring;

use crate::error::QueueError;
use crate::queue::{SplitQueue, FLAGS, RING};

/// Whether moving an index from `old` to `new` passes `event` (the specification's
/// vring_need_event).
fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl SplitQueue {
    /// Whether buffers were added since [`SplitQueue::needs_notify`] was last asked.
    pub fn has_unannounced(&self) -> bool {
        self.notified_idx != self.avail_idx
    }

    /// Whether the device wants to be notified of the buffers added since the last call. The
    /// caller must notify it then.
    pub fn needs_notify(&mut self) -> Result<bool, QueueError> {
        self.usable()?;
        let (old, new) = (self.notified_idx, self.avail_idx);
        if old == new {
            return Ok(false);
        }
        self.notified_idx = new;
        // The device must see avail.idx before its wish is read, or both sides may sleep.
        self.barrier();
        match self.device_wish(old, new) {
            Ok(wanted) => Ok(wanted),
            Err(e) => self.fail(e),
        }
    }

    fn device_wish(&self, old: u16, new: u16) -> Result<bool, QueueError> {
        let used = self.layout.used;
        if self.config.event_idx {
            let at = used + RING + ring::USED_ELEM_LEN as usize * usize::from(self.layout.size);
            let event = self.ring.load_u16(at, Order::Relaxed)?;
            Ok(passes(event, new, old))
        } else {
            let flags = self.ring.load_u16(used + FLAGS, Order::Relaxed)?;
            Ok(flags & ring::USED_F_NO_NOTIFY == 0)
        }
    }

    /// Asks for a notification of the next used buffer. `true`: there is one already, which may
    /// not be announced; take it and ask again.
    pub fn enable_notifications(&mut self) -> Result<bool, QueueError> {
        self.set_wish(true)?;
        self.barrier();
        match self.used_idx() {
            Ok(idx) => Ok(idx != self.last_used),
            Err(e) => self.fail(e),
        }
    }

    /// Asks for no notifications of used buffers. The device may send some anyway.
    pub fn disable_notifications(&mut self) -> Result<(), QueueError> {
        self.set_wish(false)
    }

    fn set_wish(&mut self, wanted: bool) -> Result<(), QueueError> {
        self.usable()?;
        let avail = self.layout.avail;
        let stored = if self.config.event_idx {
            let at = avail + RING + 2 * usize::from(self.layout.size);
            // The entry before the next one is passed again only after 2^16 more.
            let event = if wanted {
                self.last_used
            } else {
                self.last_used.wrapping_sub(1)
            };
            self.ring.store_u16(at, event, Order::Ordered)
        } else {
            let flags = if wanted {
                0
            } else {
                ring::AVAIL_F_NO_INTERRUPT
            };
            self.ring.store_u16(avail + FLAGS, flags, Order::Ordered)
        };
        match stored {
            Ok(()) => Ok(()),
            Err(e) => self.fail(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    // Covers: IRQ-11
    #[test]
    fn an_event_index_is_passed_once_across_the_wrap() {
        assert!(passes(0, 1, 0));
        assert!(!passes(1, 1, 0));
        assert!(passes(0xffff, 0, 0xffff));
        assert!(passes(2, 5, 0));
        assert!(!passes(5, 5, 0));
        assert!(!passes(0xffff, 5, 0));
        assert!(passes(0xfffe, 3, 0xfffe));
    }
}
