// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Accesses to the device configuration.

use virtio_pci_spec::DeviceType;

use super::{Access, Target, Window};
use crate::ahead::Ahead;
use crate::plan::{piece, stretch};
use crate::step::{Command, FailKind, Rejected, Space, Step};

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
            let left = access.size - done;
            let (why, len) = match (piece(self.device, self.config_len, at, left), access.write) {
                (None, _) => (Rejected::BehindConfig, left),
                (Some(p), Some(_)) if !p.writable => (Rejected::ReadOnly, p.len),
                (Some(p), write) => {
                    let shown = of_broken(self.device, p.offset).filter(|_| self.broken);
                    if let (Some(shown), None) = (shown, write) {
                        access.put(done, &[shown; 8], 1);
                        done = done.saturating_add(1);
                        continue;
                    }
                    let more = write.is_none() && !self.exact;
                    let whole = stretch(self.device, self.config_len, p.offset);
                    let asked = if more { p.len.max(whole) } else { p.len };
                    access.target = Target::Config(pos, done, asked);
                    let rest = write.map(|v| v.checked_shr(8 * u32::from(done)).unwrap_or(0));
                    return self
                        .command(access, Command::new(Space::Device, p.offset, asked, rest));
                }
            };
            access.effects.rejected.get_or_insert(why);
            done = done.saturating_add(len);
        }
        access.done(u64::from_le_bytes(access.read))
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
                let own = piece(self.device, self.config_len, at, want);
                self.exact = own.is_some_and(|p| asked > p.len);
                if self.exact {
                    return self.config(access, pos, done);
                }
                access.effects.failed.get_or_insert(FailKind::Refused);
                access.put(done, &[0xff; 8], len);
            }
            Err(kind) => {
                // No time, or nobody, is left for the rest.
                access.effects.failed.get_or_insert(kind);
                access.put(done, &[0xff; 8], want);
                return access.done(u64::from_le_bytes(access.read));
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
