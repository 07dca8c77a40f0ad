// SPDX-License-Identifier: GPL-2.0-or-later
//! What connections without a VF may have done between two polls of the PF. They are shared out by
//! process: one that makes many of them gets no more than one that has one, and all together do not
//! hold up those who have a VF.

use std::collections::HashMap;

use crate::peer::Account;
use crate::session::{Session, SHARE};

/// What all of them may have.
const OF_ALL: u32 = 4 * SHARE;

#[derive(Debug, Default)]
pub(super) struct Shares {
    turn: u64,
    spent: u32,
    by_account: HashMap<Account, u32>,
}

impl Shares {
    /// Another turn: everybody has a share again.
    pub(super) fn renew(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        self.spent = 0;
        self.by_account.clear();
    }

    /// Whether something is left for this session.
    pub(super) fn left_for(&self, session: &mut Session) -> bool {
        if !session.has_share(self.turn) {
            return false;
        }
        let account = session.peer().account();
        let used = || self.by_account.get(&account).copied().unwrap_or(0);
        session.member().is_some() || (self.spent < OF_ALL && used() < SHARE)
    }

    /// Counts what a job of this session takes.
    pub(super) fn spend(&mut self, session: &mut Session, cost: u32) {
        session.spend(cost);
        if session.member().is_none() {
            self.spent = self.spent.saturating_add(cost);
            *self.by_account.entry(session.peer().account()).or_default() += cost;
        }
    }
}
