// SPDX-License-Identifier: GPL-2.0-or-later
//! A session's work, and its share of it.

use super::share::SHARE;
use super::{Job, Phase, Session, MAX_OUT};

/// What a job takes of it. Long answers and looks at files take as much as several accesses.
pub fn cost(job: &Job) -> u32 {
    match job {
        Job::Open { .. } | Job::Query { .. } => SHARE,
        Job::Token { .. } | Job::Access { .. } | Job::Notify { .. } => 1,
    }
}

impl Session {
    /// Whether something is left of its share of this turn.
    pub fn has_share(&mut self, turn: u64) -> bool {
        if self.share.turn != turn {
            self.share.turn = turn;
            self.share.spent = 0;
        }
        self.share.spent < SHARE
    }

    /// Takes something of its share.
    pub fn spend(&mut self, cost: u32) {
        self.share.spent = self.share.spent.saturating_add(cost);
    }

    /// Its work goes on in the next turn. Returns whether that is new.
    pub fn put_off(&mut self) -> bool {
        !std::mem::replace(&mut self.share.put_off, true)
    }

    /// Its work goes on.
    pub fn resume(&mut self) {
        self.share.put_off = false;
    }

    /// Whether [`Session::next_job`] has something.
    pub fn has_work(&self) -> bool {
        self.in_flight.is_none()
            && self.phase != Phase::Closing
            && self.out.len() < MAX_OUT
            && (self.stalled.is_some() || !self.queue.is_empty())
    }
}
