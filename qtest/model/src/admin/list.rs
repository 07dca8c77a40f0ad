// SPDX-License-Identifier: GPL-2.0-or-later
//! Which commands each group type offers and which of them are in use (LIST_QUERY, LIST_USE).

use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_modern_spec::admin::{group, opcode, qualifier, Reply};
use virtio_pci_spec::bytes::get_u64;

use crate::config::{Knobs, ModelConfig, NotifyLayout};

/// The lists of both group types; each is independent of the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists {
    in_use: [Option<OpcodeSet>; 2],
}

impl Lists {
    /// After a reset of the owner: nothing but the list commands is legal.
    pub(crate) const fn new() -> Self {
        Lists { in_use: [None; 2] }
    }

    /// Whether `opcode` may be used now.
    pub(crate) fn legal(&self, group_type: u16, opcode: u16) -> bool {
        self.in_use
            .get(usize::from(group_type))
            .is_some_and(|l| l.unwrap_or(OpcodeSet::LIST).contains(opcode))
    }

    /// LIST_USE: takes the bitmap words in `data` into use.
    pub(crate) fn use_list(
        &mut self,
        config: &ModelConfig,
        group_type: u16,
        data: &[u8],
    ) -> (Reply, Option<u16>) {
        let offered = offered(config, group_type);
        let refused = Reply::invalid(qualifier::INVALID_FIELD);
        for (i, word) in data.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(word) {
                *to = *from;
            }
            let wanted = u64::from_le_bytes(bytes);
            let surplus = wanted & !offered_word(config, group_type, i);
            if surplus != 0 {
                let first = (i as u32) * 64 + surplus.trailing_zeros();
                return (refused, u16::try_from(first).ok());
            }
        }
        let first_word = match get_u64(data, 0) {
            Some(w) => w,
            None => OpcodeSet::decode(data).0,
        };
        let wanted = OpcodeSet(first_word & offered.0);
        let full = !OpcodeSet(OpcodeSet::LIST.0 | OpcodeSet::LEGACY.0).contains_all(wanted);
        if config.knobs.list_use_refuses_full && full {
            return (refused, None);
        }
        if let Some(slot) = self.in_use.get_mut(usize::from(group_type)) {
            *slot = Some(wanted);
        }
        (Reply::OK, None)
    }
}

/// Opcodes 0 to 63 that LIST_QUERY reports for a group type.
pub(crate) fn offered(config: &ModelConfig, group_type: u16) -> OpcodeSet {
    let mut set = OpcodeSet::LIST.0;
    if group_type == group::SRIOV {
        let Knobs {
            no_legacy_commands,
            extra_opcodes,
            ..
        } = config.knobs;
        if !no_legacy_commands {
            set |= OpcodeSet::LEGACY_ACCESS.0;
            if config.layout != NotifyLayout::Absent {
                set |= OpcodeSet::of(&[opcode::LEGACY_NOTIFY_INFO]).0;
            }
        }
        set |= extra_opcodes;
    }
    OpcodeSet(set)
}

fn offered_word(config: &ModelConfig, group_type: u16, word: usize) -> u64 {
    match word {
        0 => offered(config, group_type).0,
        _ if group_type == group::SRIOV => config
            .knobs
            .extra_opcode_words
            .get(word - 1)
            .copied()
            .unwrap_or(0),
        _ => 0,
    }
}

/// LIST_QUERY: appends the bitmap to `out`.
pub(crate) fn query(config: &ModelConfig, group_type: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&offered(config, group_type).to_le_bytes());
    if group_type == group::SRIOV {
        for word in &config.knobs.extra_opcode_words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}
