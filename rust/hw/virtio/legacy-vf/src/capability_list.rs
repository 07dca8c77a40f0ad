// SPDX-License-Identifier: GPL-2.0-or-later

//! The capability list as the guest sees it: with `disable-modern=on` no virtio capability and no
//! modern structure, and MSI-X always at its end.

use std::ops::Range;

use virtio_pci_spec::{
    modern::cfg_type,
    pci::{header, CAP_ID_MSIX, CAP_ID_VENDOR, STATUS_CAP_LIST},
};

use crate::capabilities::{walk, VirtioCap};

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

impl ByteChange {
    const fn to(offset: u8, value: u8) -> Self {
        Self {
            offset,
            value,
            mask: 0xff,
        }
    }
}

/// Takes the vendor capabilities out of the list in `image`, the configuration space that the
/// guest sees, and blanks them.
pub fn unlink(image: &[u8; 256], caps: &[VirtioCap]) -> Vec<ByteChange> {
    let byte = |at: u8| image.get(usize::from(at)).copied().unwrap_or(0);
    let mut changes = Vec::new();
    let mut link = header::CAPABILITY_LIST as u8;
    let mut kept = false;
    for (at, _) in walk(image) {
        if byte(at) == CAP_ID_VENDOR {
            changes.push(ByteChange::to(link, byte(at + 1) & !3));
        } else {
            kept = true;
            link = at + 1;
        }
    }
    for cap in caps {
        changes.extend(hidden_bytes(cap).map(|offset| ByteChange::to(offset, 0)));
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

/// Puts MSI-X at the end of the list in `image`, where QEMU's own device has it: there are drivers
/// that take the byte behind the capability's ID, which points to the next one, for MSI-X Enable.
pub fn put_msix_last(image: &[u8; 256]) -> Vec<ByteChange> {
    let byte = |at: u8| image.get(usize::from(at)).copied().unwrap_or(0);
    let list = walk(image);
    let (Some((last, _)), Some((msix, link))) = (
        list.last(),
        list.iter().find(|(at, _)| byte(*at) == CAP_ID_MSIX),
    ) else {
        return Vec::new();
    };
    if msix == last {
        return Vec::new();
    }
    vec![
        ByteChange::to(*link, byte(msix + 1) & !3),
        ByteChange::to(last + 1, *msix),
        ByteChange::to(msix + 1, 0),
    ]
}

/// The bytes of a capability, all of which disappear.
fn hidden_bytes(cap: &VirtioCap) -> Range<u8> {
    cap.at..cap.at.saturating_add(cap.len)
}

/// Whether a byte of the configuration space belongs to a capability in `caps`.
pub fn is_hidden(caps: &[VirtioCap], address: u32) -> bool {
    u8::try_from(address).is_ok_and(|a| caps.iter().any(|c| hidden_bytes(c).contains(&a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(at: u8, cfg_type: u8, bar: u8, offset: u32, length: u32) -> VirtioCap {
        VirtioCap {
            at,
            len: 16,
            cfg_type,
            bar,
            offset,
            length,
        }
    }

    fn apply(image: &mut [u8; 256], changes: &[ByteChange]) {
        for c in changes {
            let byte = &mut image[usize::from(c.offset)];
            *byte = (*byte & !c.mask) | (c.value & c.mask);
        }
    }

    fn list(image: &[u8; 256]) -> Vec<u8> {
        let mut ids = Vec::new();
        let mut at = image[0x34];
        while at != 0 {
            ids.push(image[usize::from(at)]);
            at = image[usize::from(at) + 1];
        }
        ids
    }

    #[test]
    fn vendor_capabilities_leave_the_list_and_the_others_stay() {
        let mut image = [0u8; 256];
        image[6] = 0x10;
        image[0x34] = 0x90;
        for (at, id, next) in [
            (0x90, 9, 0x40),
            (0x40, 0x10, 0xa0),
            (0xa0, 9, 0xb0),
            (0xb0, 9, 0x80),
            (0x80, 0x11, 0xc0),
            (0xc0, 9, 0),
        ] {
            image[at] = id;
            image[at + 1] = next;
        }
        let caps = [
            cap(0x90, 1, 2, 0, 64),
            cap(0xa0, 2, 2, 0x1000, 16),
            cap(0xb0, 3, 2, 0x2000, 4),
            cap(0xc0, 4, 2, 0x3000, 28),
        ];
        let changes = unlink(&image, &caps);
        apply(&mut image, &changes);
        assert_eq!(list(&image), [0x10, 0x11]);
        assert_eq!(image[6], 0x10);
        assert!(image[0x90..0xa0]
            .iter()
            .chain(&image[0xa0..0xd0])
            .all(|b| *b == 0));
        assert!(is_hidden(&caps, 0x90) && is_hidden(&caps, 0xcf));
        assert!(!is_hidden(&caps, 0x80) && !is_hidden(&caps, 0xd0) && !is_hidden(&caps, 0x190));
    }

    #[test]
    fn msix_goes_to_the_end_of_the_list() {
        let mut image = [0u8; 256];
        image[0x34] = 0x98;
        for (at, id, next) in [(0x98, 0x11, 0xa4), (0xa4, 0x10, 0x50), (0x50, 1, 0)] {
            image[at] = id;
            image[at + 1] = next;
        }
        let changes = put_msix_last(&image);
        apply(&mut image, &changes);
        assert_eq!((list(&image), image[0x99]), (vec![0x10, 1, 0x11], 0));
        assert_eq!(put_msix_last(&image), [], "it is there already");
        image[0x34] = 0;
        assert_eq!(put_msix_last(&image), [], "no list");
        image[0x34] = 0x98;
        image[0x99] = 0x98; // points to itself
        let changes = put_msix_last(&image);
        apply(&mut image, &changes);
    }

    #[test]
    fn a_list_of_nothing_else_disappears() {
        let mut image = [0u8; 256];
        image[6] = 0x12;
        image[0x34] = 0x40;
        image[0x40] = 9;
        let changes = unlink(&image, &[cap(0x40, 1, 2, 0, 64)]);
        apply(&mut image, &changes);
        assert_eq!((image[0x34], image[6]), (0, 0x02));
    }

    #[test]
    fn structures_are_cut_to_their_bars() {
        let caps = [
            cap(0x40, cfg_type::COMMON, 2, 0, 64),
            cap(0x50, cfg_type::NOTIFY, 2, 0x3ff0, 0x1000),
            cap(0x60, cfg_type::ISR, 2, 0x4000, 4),
            cap(0x70, cfg_type::DEVICE, 6, 0, 28),
            cap(0x80, cfg_type::PCI, 2, 0, 4),
            cap(0x90, cfg_type::COMMON, 2, 0, 64),
        ];
        let size = |bar| if bar == 2 { 0x4000 } else { 0 };
        let found = ranges(&caps, size).unwrap();
        let found: Vec<_> = found.iter().map(|r| (r.bar, r.offset, r.length)).collect();
        assert_eq!(found, [(2, 0, 64), (2, 0x3ff0, 0x10)]);
        let many: Vec<_> = (0..9).map(|i| cap(0x40, 1, 2, i * 64, 64)).collect();
        assert_eq!(ranges(&many, size), Err(9));
    }
}
