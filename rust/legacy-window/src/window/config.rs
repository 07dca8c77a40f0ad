// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Accesses to the device configuration.

use virtio_pci_spec::bytes::{le_bytes, le_value};

use super::{Access, Target, Window};
use crate::plan::{piece, stretch, PieceKind};
use crate::step::{Command, CommandKind, Rejected, Space, Step};

impl Window {
    /// Goes on with an access to the device configuration from its position.
    pub(super) fn config(&mut self, mut access: Access) -> Step {
        if self.lost {
            return self.config_lost(access);
        }
        while let Target::Config { pos, done, .. } = access.target {
            let want = access.size.saturating_sub(done);
            if want == 0 {
                break;
            }
            let next = piece(self.device, self.config_len, pos, want);
            match (next.kind, access.write) {
                (PieceKind::Behind, _) => {
                    access
                        .effects
                        .rejected
                        .get_or_insert(Rejected::BehindConfig);
                }
                (PieceKind::Element { writable, .. }, Some(_)) if !writable => {
                    access.effects.rejected.get_or_insert(Rejected::ReadOnly);
                }
                (PieceKind::Element { offset, .. }, write) => {
                    let asked = if write.is_some() || self.exact {
                        next.len
                    } else {
                        next.len.max(stretch(self.device, self.config_len, offset))
                    };
                    access.target = Target::Config {
                        pos,
                        done,
                        piece: asked.min(want),
                        asked,
                    };
                    let kind = match write {
                        None => CommandKind::Read,
                        Some(value) => CommandKind::Write(le_bytes(
                            value.checked_shr(8 * u32::from(done)).unwrap_or(0),
                            next.len.into(),
                        )),
                    };
                    return self.command(
                        access,
                        Command {
                            space: Space::Device,
                            offset,
                            len: asked,
                            kind,
                        },
                    );
                }
            }
            access = access.config_next(pos, done, next.len);
        }
        self.done_with(&access, le_value(&access.read))
    }

    /// What is left of an access to the device configuration while the helper is lost.
    pub(super) fn config_lost(&mut self, mut access: Access) -> Step {
        access.effects.lost = true;
        if let Target::Config { done, .. } = access.target {
            access.put(done, &[0xff; 8], access.size.saturating_sub(done));
        }
        self.done_with(&access, le_value(&access.read))
    }
}

impl Access {
    /// Moved on by `by` bytes.
    pub(super) fn config_next(mut self, pos: u32, done: u8, by: u8) -> Self {
        self.target = Target::at(pos.saturating_add(u32::from(by)), done.saturating_add(by));
        self
    }

    /// Puts the first `len` bytes of `from` to position `at` of what was read.
    pub(super) fn put(&mut self, at: u8, from: &[u8; 8], len: u8) {
        for (dst, src) in self
            .read
            .iter_mut()
            .skip(usize::from(at))
            .zip(from.iter().take(usize::from(len)))
        {
            *dst = *src;
        }
    }
}
