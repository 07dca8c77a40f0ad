// SPDX-License-Identifier: GPL-2.0-or-later
//! Choosing among the entries of LEGACY_NOTIFY_INFO.

use pci_transport::VfBar;
use virtio_modern_spec::admin::legacy::{notify_flags, NotifyEntry};

use crate::types::{NotifyAddress, NotifyKind};

/// Bytes of a notification.
const WIDTH: u64 = 2;

/// The BARs that an entry may point into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bars {
    /// Sizes of the PF's BARs; 0: not implemented.
    pub(crate) owner: [u64; 6],
    /// The BARs of the VFs.
    pub(crate) member: [VfBar; 6],
}

/// The usable entries in order of the device's preference: the list ends at the first entry with
/// flags 0; an entry of another kind, in a BAR that does not exist, or at an odd offset or one
/// outside the BAR is left out.
pub(crate) fn usable<'a>(
    entries: &'a [NotifyEntry],
    bars: &'a Bars,
) -> impl Iterator<Item = NotifyAddress> + 'a {
    entries
        .iter()
        .take_while(|e| e.flags != notify_flags::END)
        .filter_map(|e| check(e, bars))
}

fn check(entry: &NotifyEntry, bars: &Bars) -> Option<NotifyAddress> {
    // BAR 0 is not among the values that the entry may have.
    if !(1..=5).contains(&entry.bar) || entry.offset % WIDTH != 0 {
        return None;
    }
    let end = entry.offset.checked_add(WIDTH)?;
    let index = usize::from(entry.bar);
    let (kind, checked) = match entry.flags {
        notify_flags::OWNER => {
            let size = bars.owner.get(index).copied()?;
            (NotifyKind::Owner, (end <= size).then_some(true)?)
        }
        notify_flags::MEMBER => match bars.member.get(index)? {
            VfBar::Absent => return None,
            VfBar::Size(size) => (NotifyKind::Member, (end <= *size).then_some(true)?),
            VfBar::Unknown => (NotifyKind::Member, false),
        },
        _ => return None,
    };
    Some(NotifyAddress {
        kind,
        bar: entry.bar,
        offset: entry.offset,
        checked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARS: Bars = Bars {
        owner: [0x1000, 0, 0x4000, 0, 0, 0],
        member: [
            VfBar::Absent,
            VfBar::Size(0x1000),
            VfBar::Absent,
            VfBar::Absent,
            VfBar::Size(0x100),
            VfBar::Unknown,
        ],
    };

    fn entry(flags: u8, bar: u8, offset: u64) -> NotifyEntry {
        NotifyEntry { flags, bar, offset }
    }

    fn all(entries: &[NotifyEntry]) -> Vec<(NotifyKind, u8, u64, bool)> {
        usable(entries, &BARS)
            .map(|a| (a.kind, a.bar, a.offset, a.checked))
            .collect()
    }

    // Covers: NTF-07
    #[test]
    fn bad_entries_are_ignored_and_the_list_ends_at_flags_0() {
        for bad in [
            entry(3, 2, 0),
            entry(255, 2, 0),
            entry(1, 6, 0),
            entry(1, 0, 0),
            entry(1, 1, 0),
            entry(1, 2, 1),
            entry(1, 2, 0x4000),
            entry(1, 2, u64::MAX - 1),
            entry(2, 2, 0),
            entry(2, 0, 0),
            entry(2, 4, 0x100),
            entry(2, 4, 0xff),
            entry(2, 200, 0),
        ] {
            let good = entry(1, 2, 0x3ffe);
            assert_eq!(
                all(&[bad, good, entry(0, 0, 0), entry(0, 0, 0)]),
                [(NotifyKind::Owner, 2, 0x3ffe, true)],
                "{bad:?}"
            );
        }
        assert!(all(&[entry(0, 0, 0), entry(1, 2, 0)]).is_empty());
        assert!(all(&[]).is_empty());
    }

    // Covers: NTF-08
    #[test]
    fn the_order_is_kept_and_four_entries_are_accepted() {
        let list = [
            entry(2, 4, 0xfe),
            entry(1, 2, 2),
            entry(2, 1, 0),
            entry(2, 5, 0x8000),
        ];
        assert_eq!(
            all(&list),
            [
                (NotifyKind::Member, 4, 0xfe, true),
                (NotifyKind::Owner, 2, 2, true),
                (NotifyKind::Member, 1, 0, true),
                (NotifyKind::Member, 5, 0x8000, false),
            ]
        );
    }
}
