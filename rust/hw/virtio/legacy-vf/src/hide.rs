// SPDX-License-Identifier: GPL-2.0-or-later

//! `disable-modern=on`: no virtio capability and no modern structure for the guest.

use std::ops::Range;

use virtio_pci_spec::{
    modern::cfg_type,
    pci::{header, CAP_ID_VENDOR, STATUS_CAP_LIST},
};

use crate::identity::VirtioCap;

/// Modern structures that can be covered, more than any device has.
pub const MAX_HIDDEN: usize = 8;

/// Part of a BAR that the guest must not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenRange {
    /// BAR number.
    pub bar: u8,
    /// First byte.
    pub offset: u64,
    /// Bytes, not 0.
    pub length: u64,
}

/// The parts of BARs that hold modern structures, cut to the BARs' sizes.
///
/// # Errors
/// There are more than [`MAX_HIDDEN`]; the number.
pub fn ranges(caps: &[VirtioCap], bar_size: impl Fn(u8) -> u64) -> Result<Vec<HiddenRange>, usize> {
    let mut found = Vec::new();
    for cap in caps {
        if !matches!(
            cap.cfg_type,
            cfg_type::COMMON | cfg_type::NOTIFY | cfg_type::ISR | cfg_type::DEVICE
        ) {
            continue;
        }
        let offset = u64::from(cap.offset);
        let left = bar_size(cap.bar).saturating_sub(offset);
        let range = HiddenRange {
            bar: cap.bar,
            offset,
            length: left.min(cap.length.into()),
        };
        if range.length > 0 && !found.contains(&range) {
            found.push(range);
        }
    }
    if found.len() > MAX_HIDDEN {
        return Err(found.len());
    }
    Ok(found)
}

/// A change to a byte of the configuration space as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteChange {
    /// Where.
    pub offset: u8,
    /// The new value, as far as `mask` goes.
    pub value: u8,
    /// Which bits change.
    pub mask: u8,
}

/// Takes the vendor capabilities out of the list in `image`, the configuration space that the
/// guest sees, and blanks them.
pub fn unlink(image: &[u8; 256], caps: &[VirtioCap]) -> Vec<ByteChange> {
    let byte = |at: u8| image.get(usize::from(at)).copied().unwrap_or(0);
    let mut changes = Vec::new();
    let mut link = header::CAPABILITY_LIST as u8;
    let mut at = byte(link) & !3;
    let mut kept = false;
    for _ in 0..48 {
        if at < 0x40 {
            break;
        }
        let next = byte(at + 1) & !3;
        if byte(at) == CAP_ID_VENDOR {
            changes.push(ByteChange {
                offset: link,
                value: next,
                mask: 0xff,
            });
        } else {
            kept = true;
            link = at + 1;
        }
        at = next;
    }
    for cap in caps {
        changes.extend(hidden_bytes(cap).map(|offset| ByteChange {
            offset,
            value: 0,
            mask: 0xff,
        }));
    }
    if !kept {
        changes.push(ByteChange {
            offset: header::STATUS as u8,
            value: 0,
            mask: STATUS_CAP_LIST as u8,
        });
    }
    changes
}

/// The bytes of a capability, all of which disappear.
fn hidden_bytes(cap: &VirtioCap) -> Range<u8> {
    cap.at..cap.at.saturating_add(cap.len)
}

/// Whether a byte of the configuration space belongs to a capability in `caps`.
pub fn is_hidden(caps: &[VirtioCap], address: u32) -> bool {
    u8::try_from(address).is_ok_and(|a| caps.iter().any(|c| hidden_bytes(c).contains(&a)))
}
