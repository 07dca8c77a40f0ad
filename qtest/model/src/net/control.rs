// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands of the control virtqueue ("Control Virtqueue"): bytes in, command out.
//!
//! A command is decoded from the readable bytes as one string, so every framing is accepted, the
//! legacy one with a descriptor per part among them.

use virtio_pci_spec::bytes::{get_u16, get_u32};

use super::filter::{Mac, RxMode};

/// `ack` of a command that was carried out.
pub const ACK_OK: u8 = 0;
/// `ack` of a command that was refused.
pub const ACK_ERR: u8 = 1;

/// Longest command that is looked at; a longer one is refused. Room for MAC tables of several
/// thousand entries.
pub const MAX_COMMAND: usize = 32 << 10;

const CLASS_RX: u8 = 0;
const CLASS_MAC: u8 = 1;
const CLASS_VLAN: u8 = 2;
const CLASS_ANNOUNCE: u8 = 3;
const CLASS_MQ: u8 = 4;

/// A command of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Class RX: switches a receive mode.
    Rx(RxMode, bool),
    /// MAC_TABLE_SET: unicast and multicast table.
    MacTable(Vec<Mac>, Vec<Mac>),
    /// MAC_ADDR_SET.
    MacAddr(Mac),
    /// VLAN_ADD (`true`) or VLAN_DEL.
    Vlan(u16, bool),
    /// ANNOUNCE_ACK.
    AnnounceAck,
    /// VQ_PAIRS_SET.
    Pairs(u16),
}

/// Decodes a command; `None` for one that is unknown or malformed.
pub fn decode(bytes: &[u8]) -> Option<Command> {
    let (head, data) = bytes.split_at_checked(2)?;
    Some(match head {
        [CLASS_RX, command] => {
            let mode = match command {
                0 => RxMode::Promisc,
                1 => RxMode::AllMulti,
                2 => RxMode::AllUni,
                3 => RxMode::NoMulti,
                4 => RxMode::NoUni,
                5 => RxMode::NoBcast,
                _ => return None,
            };
            Command::Rx(mode, *data.first()? != 0)
        }
        [CLASS_MAC, 0] => {
            let (unicast, rest) = mac_table(data)?;
            let (multicast, _) = mac_table(rest)?;
            Command::MacTable(unicast, multicast)
        }
        [CLASS_MAC, 1] => Command::MacAddr(data.get(..6)?.try_into().ok()?),
        [CLASS_VLAN, 0] => Command::Vlan(get_u16(data, 0)?, true),
        [CLASS_VLAN, 1] => Command::Vlan(get_u16(data, 0)?, false),
        [CLASS_ANNOUNCE, 0] => Command::AnnounceAck,
        [CLASS_MQ, 0] => Command::Pairs(get_u16(data, 0)?),
        _ => return None,
    })
}

/// One `struct virtio_net_ctrl_mac` and what follows it. The entry count is only believed as far
/// as there are bytes.
fn mac_table(bytes: &[u8]) -> Option<(Vec<Mac>, &[u8])> {
    let entries = usize::try_from(get_u32(bytes, 0)?).ok()?;
    let (table, rest) = bytes.get(4..)?.split_at_checked(entries.checked_mul(6)?)?;
    let macs = table
        .chunks_exact(6)
        .filter_map(|mac| mac.try_into().ok())
        .collect();
    Some((macs, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: NET-05
    #[test]
    fn commands_are_little_endian() {
        assert_eq!(decode(&[0, 0, 1]), Some(Command::Rx(RxMode::Promisc, true)));
        assert_eq!(
            decode(&[0, 5, 0]),
            Some(Command::Rx(RxMode::NoBcast, false))
        );
        assert_eq!(
            decode(&[2, 0, 0x34, 0x02]),
            Some(Command::Vlan(0x234, true))
        );
        assert_eq!(decode(&[2, 1, 5, 0]), Some(Command::Vlan(5, false)));
        assert_eq!(decode(&[4, 0, 2, 1]), Some(Command::Pairs(0x102)));
        assert_eq!(decode(&[3, 0]), Some(Command::AnnounceAck));
        assert_eq!(
            decode(&[1, 1, 1, 2, 3, 4, 5, 6]),
            Some(Command::MacAddr([1, 2, 3, 4, 5, 6]))
        );
        let mut table = vec![1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 2, 0, 0, 0];
        table.extend([0x33; 6]);
        table.extend([0x35; 6]);
        assert_eq!(
            decode(&table),
            Some(Command::MacTable(
                vec![[2, 0, 0, 0, 0, 9]],
                vec![[0x33; 6], [0x35; 6]]
            ))
        );
    }

    #[test]
    fn short_and_lying_commands_are_refused() {
        let full: [&[u8]; 6] = [
            &[0, 0, 1],
            &[1, 1, 1, 2, 3, 4, 5, 6],
            &[2, 0, 5, 0],
            &[3, 0],
            &[4, 0, 1, 0],
            &[1, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0],
        ];
        for command in full {
            assert!(decode(command).is_some());
            for len in 0..command.len() {
                assert_eq!(decode(&command[..len]), None, "{command:?} cut to {len}");
            }
        }
        // 2^32 - 1 entries in ten bytes.
        assert_eq!(decode(&[1, 0, 255, 255, 255, 255, 1, 2, 3, 4, 5, 6]), None);
        for class in 5..=255 {
            assert_eq!(decode(&[class, 0, 0, 0, 0, 0, 0, 0]), None);
        }
        assert_eq!(decode(&[0, 6, 1]), None);
    }
}
