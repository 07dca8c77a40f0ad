// SPDX-License-Identifier: GPL-2.0-or-later
//! What a session may have done before others have their turn.

/// Work of one session between two polls of the backend.
pub const SHARE: u32 = 4;

/// What a session has used of its share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    pub(super) turn: u64,
    pub(super) spent: u32,
    pub(super) put_off: bool,
}
