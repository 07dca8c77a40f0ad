// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Accesses to the device configuration.

use virtio_pci_spec::bytes::le_value;
use virtio_pci_spec::DeviceType;

use super::{Access, Target, Window};
use crate::ahead::Ahead;
use crate::plan::{piece, stretch, PieceKind};
use crate::step::{FailKind, Rejected, Space, Step};

/// What a byte of the configuration shows of a broken device, for a driver that looks at nothing else
/// any more. That of blk has a single queue; it finds neither sectors nor a block that it could use.
const fn of_broken(device: DeviceType, offset: u8) -> Option<u8> {
    match (device, offset) {
        // `blk_size`: 0 would be divided by.
        (DeviceType::Block, 20) => Some(1),
        (DeviceType::Block, 0..=7 | 21..=23) => Some(0),
        _ => None,
    }
}

impl Window {
    /// Goes on with an access at `pos` after `done` bytes of it.
    pub(super) fn config(&mut self, mut access: Access, pos: u32, mut done: u8) -> Step {
        while done < access.size {
            let at = pos.saturating_add(done.into());
            let next = piece(self.device, self.config_len, at, access.size - done);
            let why = match (next.kind, access.write) {
                (PieceKind::Behind, _) => Rejected::BehindConfig,
                (
                    PieceKind::Element {
                        writable: false, ..
                    },
                    Some(_),
                ) => Rejected::ReadOnly,
                (PieceKind::Element { offset, .. }, write) => {
                    let shown = of_broken(self.device, offset).filter(|_| self.broken);
                    if let (Some(shown), None) = (shown, write) {
                        access.put(done, &[shown; 8], 1);
                        done = done.saturating_add(1);
                        continue;
                    }
                    let asked = if write.is_some() || self.exact {
                        next.len
                    } else {
                        next.len.max(stretch(self.device, self.config_len, offset))
                    };
                    access.target = Target::Config { pos, done, asked };
                    let rest = write.map(|v| v.checked_shr(8 * u32::from(done)).unwrap_or(0));
                    return self.command(access, Space::Device, offset, asked, rest);
                }
            };
            access.effects.rejected.get_or_insert(why);
            done = done.saturating_add(next.len);
        }
        access.done(le_value(&access.read))
    }

    /// Takes the outcome of the command for `asked` bytes.
    pub(super) fn config_resume(
        &mut self,
        mut access: Access,
        (pos, done, asked): (u32, u8, u8),
        outcome: Result<[u8; 8], FailKind>,
    ) -> Step {
        let at = pos.saturating_add(done.into());
        let want = access.size.saturating_sub(done);
        let len = asked.min(want);
        match outcome {
            Ok(data) => {
                access.put(done, &data, len);
                self.ahead = Ahead::new(at, &data, len, asked);
            }
            Err(FailKind::Refused) => {
                // The guest did not ask for the neighbours; it gets its own bytes without them.
                // Where those are refused, too, it was not the length.
                self.exact = asked > piece(self.device, self.config_len, at, want).len;
                if self.exact {
                    return self.config(access, pos, done);
                }
                access.failed(FailKind::Refused);
                access.put(done, &[0xff; 8], len);
            }
            Err(kind) => {
                // No time, or nobody, is left for the rest.
                access.failed(kind);
                access.put(done, &[0xff; 8], want);
                return access.done(le_value(&access.read));
            }
        }
        self.config(access, pos, done.saturating_add(len))
    }
}

impl Access {
    /// Puts the first `len` bytes of `from` to position `at` of what was read.
    fn put(&mut self, at: u8, from: &[u8; 8], len: u8) {
        let to = self.read.iter_mut().skip(at.into());
        for (to, from) in to.zip(from.iter().take(len.into())) {
            *to = *from;
        }
    }
}
