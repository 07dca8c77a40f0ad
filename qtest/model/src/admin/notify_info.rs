// SPDX-License-Identifier: GPL-2.0-or-later
//! LEGACY_NOTIFY_INFO: the addresses at which a VF's queues can be notified.

use virtio_modern_spec::admin::legacy::{notify_flags, NotifyEntry, NOTIFY_ENTRIES};

use crate::bars::{
    LEGACY_NOTIFY_BAR, MEMBER_NOTIFY_OFFSET, OWNER_NOTIFY_OFFSET, OWNER_NOTIFY_STRIDE,
};
use crate::config::{BadEntry, NotifyLayout};

fn member_entry() -> NotifyEntry {
    NotifyEntry {
        flags: notify_flags::MEMBER,
        bar: LEGACY_NOTIFY_BAR,
        offset: MEMBER_NOTIFY_OFFSET,
    }
}

fn owner_entry(member: u16) -> NotifyEntry {
    let slot = u64::from(member.saturating_sub(1));
    NotifyEntry {
        flags: notify_flags::OWNER,
        bar: LEGACY_NOTIFY_BAR,
        offset: slot * OWNER_NOTIFY_STRIDE + OWNER_NOTIFY_OFFSET,
    }
}

fn bad_entry(kind: BadEntry) -> NotifyEntry {
    let good = member_entry();
    match kind {
        BadEntry::Flags => NotifyEntry { flags: 3, ..good },
        BadEntry::Bar6 => NotifyEntry { bar: 6, ..good },
        BadEntry::Bar0 => NotifyEntry { bar: 0, ..good },
        BadEntry::Odd => NotifyEntry {
            offset: good.offset + 1,
            ..good
        },
        BadEntry::Range => NotifyEntry {
            offset: 1 << 20,
            ..good
        },
    }
}

/// The answer for one member; at most three entries, the last one always ends the list.
pub(crate) fn entries(layout: NotifyLayout, member: u16) -> [NotifyEntry; NOTIFY_ENTRIES] {
    let end = NotifyEntry::default();
    let (m, o) = (member_entry(), owner_entry(member));
    match layout {
        NotifyLayout::Absent | NotifyLayout::Empty => [end; NOTIFY_ENTRIES],
        NotifyLayout::Owner => [o, end, end, end],
        NotifyLayout::Member => [m, end, end, end],
        NotifyLayout::MemberFirst => [m, o, end, end],
        NotifyLayout::OwnerFirst => [o, m, end, end],
        NotifyLayout::BadFirst(kind) => {
            let second = match kind {
                BadEntry::Flags => BadEntry::Range,
                _ => BadEntry::Flags,
            };
            [bad_entry(kind), bad_entry(second), m, end]
        }
        NotifyLayout::BadOnly => [
            bad_entry(BadEntry::Range),
            bad_entry(BadEntry::Odd),
            bad_entry(BadEntry::Bar0),
            end,
        ],
    }
}
