// SPDX-License-Identifier: GPL-2.0-or-later
//! Which structure lies where in the BARs of a function. PF and VFs have the same shape; only the
//! legacy notification area of the PF has a slot per VF.

/// MSI-X table and pending bits.
pub const MSIX_BAR: u8 = 1;
/// Common, ISR, notification and device structures.
pub const MODERN_BAR: u8 = 2;
/// Legacy notification area.
pub const LEGACY_NOTIFY_BAR: u8 = 4;
/// Size of the BAR0 a VF has in one test shape.
pub const VF_BAR0_SIZE: u64 = 0x1000;

/// Offset of the common configuration in [`MODERN_BAR`].
pub const COMMON_OFFSET: u64 = 0;
/// Offset of the ISR status.
pub const ISR_OFFSET: u64 = 0x1000;
/// Length of the ISR status.
pub const ISR_LEN: u64 = 1;
/// Offset of the notification structure; the device structure follows it on a page of its own.
pub const NOTIFY_OFFSET: u64 = 0x2000;

/// Where in a VF's legacy notification area its address is. Not 0, so that whoever forgets the
/// offset fails.
pub const MEMBER_NOTIFY_OFFSET: u64 = 0x40;
/// Distance of two VFs' slots in the owner's legacy notification area.
pub const OWNER_NOTIFY_STRIDE: u64 = 0x1000;
/// Where in a slot the address is.
pub const OWNER_NOTIFY_OFFSET: u64 = 0x80;

/// A structure of [`MODERN_BAR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    Common,
    Isr,
    Notify,
    Device,
}

/// The BARs of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BarLayout {
    pub(crate) sizes: [u64; 6],
    pub(crate) notify_len: u64,
    pub(crate) device_offset: u64,
    pub(crate) device_len: u64,
}

/// What the BARs depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BarNeeds {
    pub(crate) vectors: u16,
    /// Number of queue numbers, admin queues and gaps included.
    pub(crate) queues: u16,
    pub(crate) multiplier: u32,
    pub(crate) notification_data: bool,
    pub(crate) device_len: u64,
    pub(crate) legacy_slots: u64,
    pub(crate) bar0: bool,
}

impl BarLayout {
    pub(crate) fn new(n: BarNeeds) -> Self {
        let width = if n.notification_data { 4 } else { 2 };
        let last = u64::from(n.queues.saturating_sub(1)) * u64::from(n.multiplier);
        let notify_len = last + width;
        let device_offset = (NOTIFY_OFFSET + notify_len).next_multiple_of(0x1000);
        let modern = (device_offset + n.device_len.max(1)).next_power_of_two();
        let mut sizes = [0; 6];
        for (bar, size) in [
            (0, if n.bar0 { VF_BAR0_SIZE } else { 0 }),
            (MSIX_BAR, crate::msix::bar_size(n.vectors)),
            (MODERN_BAR, modern),
            (
                LEGACY_NOTIFY_BAR,
                (n.legacy_slots * OWNER_NOTIFY_STRIDE).next_power_of_two(),
            ),
        ] {
            if let Some(slot) = sizes.get_mut(usize::from(bar)) {
                *slot = size;
            }
        }
        BarLayout {
            sizes,
            notify_len,
            device_offset,
            device_len: n.device_len,
        }
    }

    pub(crate) fn size(&self, bar: u8) -> u64 {
        self.sizes.get(usize::from(bar)).copied().unwrap_or(0)
    }

    /// The structure that `len` bytes at `offset` of [`MODERN_BAR`] lie in, and the offset there.
    pub(crate) fn structure(&self, offset: u64, len: usize) -> Option<(Structure, u64)> {
        let inside = |start: u64, size: u64| {
            let at = offset.checked_sub(start)?;
            (at.checked_add(len as u64)? <= size).then_some(at)
        };
        let common = virtio_modern_spec::common::LEN;
        if let Some(at) = inside(COMMON_OFFSET, common) {
            return Some((Structure::Common, at));
        }
        if let Some(at) = inside(NOTIFY_OFFSET, self.notify_len) {
            return Some((Structure::Notify, at));
        }
        if let Some(at) = inside(self.device_offset, self.device_len) {
            return Some((Structure::Device, at));
        }
        inside(ISR_OFFSET, ISR_LEN).map(|at| (Structure::Isr, at))
    }
}
