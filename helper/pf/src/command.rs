// SPDX-License-Identifier: GPL-2.0-or-later
//! Admin commands as bytes ("Group administration commands", "Legacy Interfaces").

use virtio_modern_spec::admin::legacy::{
    NOTIFY_RESULT_LEN, OFFSET, READ_REQUEST_LEN, WRITE_HEADER_LEN,
};
use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_modern_spec::admin::{group, opcode, Request, REPLY_LEN, REQUEST_LEN};
use virtio_pci_spec::legacy::{field_of, Register};

use crate::types::{Access, LegacyOp, Space};

/// Longest readable part of any command here.
pub(crate) const MAX_READABLE: usize = WRITE_HEADER_LEN + 8;
/// Longest writable part of any command here.
pub(crate) const MAX_WRITABLE: usize = REPLY_LEN + NOTIFY_RESULT_LEN;
/// Result bytes offered to LIST_QUERY: one word of opcodes. A longer list is cut by the device.
const LIST_WORD: usize = 8;

/// A command for the SR-IOV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    ListQuery,
    ListUse(OpcodeSet),
    Legacy { member: u16, op: LegacyOp },
    NotifyInfo { member: u16 },
}

impl Command {
    /// The command that has the effect of a notification.
    pub(crate) fn notify(member: u16, queue: u16) -> Self {
        let at = field_of(Register::QueueNotify);
        let mut data = [0; 8];
        for (dst, src) in data.iter_mut().zip(queue.to_le_bytes()) {
            *dst = src;
        }
        Command::Legacy {
            member,
            op: LegacyOp::write(Space::Common, at.offset, data, at.size),
        }
    }

    pub(crate) fn opcode(&self) -> u16 {
        match self {
            Command::ListQuery => opcode::LIST_QUERY,
            Command::ListUse(_) => opcode::LIST_USE,
            Command::Legacy { op, .. } => op.opcode(),
            Command::NotifyInfo { .. } => opcode::LEGACY_NOTIFY_INFO,
        }
    }

    fn member(&self) -> u16 {
        match self {
            Command::ListQuery | Command::ListUse(_) => 0,
            Command::Legacy { member, .. } | Command::NotifyInfo { member } => *member,
        }
    }

    /// The readable part. The register commands have exactly the bytes that say their width; all
    /// others are multiples of 8.
    pub(crate) fn readable(&self) -> Readable {
        let mut bytes = [0; MAX_READABLE];
        let header = Request {
            opcode: self.opcode(),
            group_type: group::SRIOV,
            member: self.member().into(),
        };
        put(&mut bytes, 0, &header.encode());
        let len = match self {
            Command::ListQuery | Command::NotifyInfo { .. } => REQUEST_LEN,
            Command::ListUse(set) => {
                put(&mut bytes, REQUEST_LEN, &set.to_le_bytes());
                REQUEST_LEN + LIST_WORD
            }
            Command::Legacy { op, .. } => {
                put(&mut bytes, OFFSET, &[op.offset]);
                match op.access {
                    Access::Read { .. } => READ_REQUEST_LEN,
                    Access::Write { data, len } => {
                        let len = usize::from(len).min(data.len());
                        let (data, _unused) = data.split_at(len);
                        put(&mut bytes, WRITE_HEADER_LEN, data);
                        WRITE_HEADER_LEN + len
                    }
                }
            }
        };
        Readable { bytes, len }
    }

    /// Bytes of the writable part.
    pub(crate) fn writable_len(&self) -> usize {
        REPLY_LEN
            + match self {
                Command::ListQuery => LIST_WORD,
                Command::ListUse(_) => 0,
                Command::NotifyInfo { .. } => NOTIFY_RESULT_LEN,
                Command::Legacy { op, .. } => match op.access {
                    Access::Read { len } => usize::from(len),
                    Access::Write { .. } => 0,
                },
            }
    }

    /// Bytes that the device must have written for a successful command to count.
    pub(crate) fn needed_len(&self) -> usize {
        match self {
            // Every byte of a register counts; what is missing elsewhere reads as zero.
            Command::Legacy { .. } => self.writable_len(),
            _ => REPLY_LEN,
        }
    }
}

/// The readable part of a command.
pub(crate) struct Readable {
    bytes: [u8; MAX_READABLE],
    len: usize,
}

impl Readable {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

fn put(buf: &mut [u8], at: usize, data: &[u8]) {
    for (dst, src) in buf.iter_mut().skip(at).zip(data) {
        *dst = *src;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy(op: LegacyOp) -> Command {
        Command::Legacy { member: 3, op }
    }

    // Covers: AVQ-09, LEG-11
    #[test]
    fn sizes_say_the_width_or_are_multiples_of_eight() {
        for c in [
            Command::ListQuery,
            Command::ListUse(OpcodeSet(0x7f)),
            Command::NotifyInfo { member: 1 },
        ] {
            assert_eq!(c.readable().bytes().len() % 8, 0, "{c:?}");
            assert_eq!(c.writable_len() % 8, 0, "{c:?}");
            assert!(c.writable_len() > 0);
        }
        for n in 1..=8u8 {
            for space in [Space::Common, Space::Device] {
                let w = legacy(LegacyOp::write(space, 4, [0xff; 8], n));
                assert_eq!(w.readable().bytes().len(), 32 + usize::from(n));
                assert_eq!(w.writable_len(), 8);
                let r = legacy(LegacyOp::read(space, 4, n));
                assert_eq!(r.readable().bytes().len(), 25);
                assert_eq!(r.writable_len(), 8 + usize::from(n));
            }
        }
    }

    #[test]
    fn a_status_write_byte_for_byte() {
        let c = legacy(LegacyOp::write(
            Space::Common,
            18,
            [7, 0, 0, 0, 0, 0, 0, 0],
            1,
        ));
        let mut want = vec![2, 0, 1, 0];
        want.extend([0; 12]);
        want.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([18, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(c.readable().bytes(), want);
    }

    // Covers: NTF-06
    #[test]
    fn a_notification_by_command_is_a_write_of_two_bytes_at_16() {
        let c = Command::notify(2, 0x0102);
        assert_eq!(c.opcode(), opcode::LEGACY_COMMON_CFG_WRITE);
        let r = c.readable();
        assert_eq!(r.bytes().len(), 34);
        assert_eq!(r.bytes()[24], 16);
        assert_eq!(r.bytes()[32..], [2, 1]);
    }
}
