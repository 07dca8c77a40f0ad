// SPDX-License-Identifier: GPL-2.0-or-later
//! VFs whose commands the device does not answer though its admin queue goes on. After the second in
//! a row, such a VF is failed at once, but for one trial command in each period; the periods grow.

use std::time::Instant;

use crate::admin::Done;
use crate::error::{OpError, SubmitError};
use crate::pf::Pf;
use crate::types::{Completion, NotResponding};

impl Pf {
    /// Since when a VF does not answer, if so.
    pub fn not_responding(&self, member: u16) -> Option<&NotResponding> {
        self.lanes.get(usize::from(member))?.sick.as_ref()
    }

    /// Whether a VF may have an operation now. For one that does not answer: as a trial, if it is
    /// time for one.
    pub(crate) fn check_health(&mut self, member: u16, now: Instant) -> Result<(), SubmitError> {
        // Each trial may cost a slot for good: they must leave room for those that answer.
        let room = self.admin.iter().all(|a| 2 * a.given_up() < a.capacity());
        let lane = self.lanes.get_mut(usize::from(member));
        let Some(sick) = lane.and_then(|l| l.sick.as_mut()) else {
            return Ok(());
        };
        if sick.retries == 0 {
            // One command was lost, no more is known.
            return Ok(());
        }
        if sick.trial || now < sick.next_trial || !room {
            return Err(SubmitError::NotResponding {
                member,
                since: now.saturating_duration_since(sick.since),
            });
        }
        sick.trial = true;
        Ok(())
    }

    /// Takes notice of what an answer says about the commands before it. Whether it was a probe's.
    pub(crate) fn judge_older(&mut self, queue: usize, order: u64, now: Instant) -> bool {
        let next = now + self.config.command_timeout;
        let Some(admin) = self.admin.get_mut(queue) else {
            return false;
        };
        let (passed, is_probe) = admin.watch.answered(order, next);
        if let Some(at) = admin.watch.timer() {
            self.set_timer(at);
        }
        for member in passed {
            self.passed_over(member, now);
        }
        if is_probe {
            // The queue works, so there is nothing to recover.
            self.attempts = 0;
            self.counters.probes_answered += 1;
        }
        is_probe
    }

    /// A command that was given up has been answered.
    pub(crate) fn came_late(&mut self, queue: usize, done: &Done, now: Instant) {
        if done.lane == 0 {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(usize::from(done.lane)) {
            lane.lost
                .take_if(|lost| (lost.queue, lost.order) == (queue, done.order));
        }
        self.responds(done.lane, now);
        self.list_lane(done.lane);
    }

    /// The device has passed over a command of this VF without an answer.
    fn passed_over(&mut self, member: u16, now: Instant) {
        let policy = self.config.trial;
        let Some(lane) = self.lanes.get_mut(usize::from(member)) else {
            return;
        };
        let since = lane.lost.take().map_or(now, |lost| lost.since);
        let sick = *lane.sick.get_or_insert_with(|| NotResponding {
            since,
            retries: 0,
            next_trial: since + policy.delay(0),
            trial: false,
        });
        if sick.retries == 0 {
            return self.list_lane(member);
        }
        let error = OpError::NotResponding;
        // What waits behind a trial cannot be: it would not have been accepted.
        for job in std::mem::take(&mut lane.waiting) {
            if let Some(token) = job.kind.token() {
                self.completions.push(Completion {
                    member,
                    token,
                    result: Err(error.clone()),
                });
            }
        }
        if let Some(left_out) = self.limits.sick.allow(now) {
            tracing::warn!(
                function = %self.id, vf = member, retries = sick.retries, left_out,
                "the VF does not answer, the PF does: failing its commands at once"
            );
        }
    }

    /// A command of a VF ended at its deadline. `sent`: the device had it.
    pub(crate) fn trial_failed(&mut self, member: u16, sent: bool, now: Instant) {
        let policy = self.config.trial;
        let lane = self.lanes.get_mut(usize::from(member));
        if let Some(sick) = lane.and_then(|l| l.sick.as_mut()) {
            sick.trial = false;
            if sent {
                sick.retries = sick.retries.saturating_add(1);
                sick.next_trial = now + policy.delay(sick.retries);
            }
        }
    }

    /// The device has answered a command of this VF, in time or late.
    pub(crate) fn responds(&mut self, member: u16, now: Instant) {
        let lane = self.lanes.get_mut(usize::from(member));
        let Some(sick) = lane.and_then(|l| l.sick.take()) else {
            return;
        };
        if let Some(left_out) = self.limits.sick.allow(now) {
            let after = now.saturating_duration_since(sick.since);
            tracing::info!(
                function = %self.id, vf = member, ?after, retries = sick.retries, left_out,
                "the VF answers again"
            );
        }
    }

    /// The PF is reset: no command is with the device any more, and a VF that did not answer may be
    /// tried at once.
    pub(crate) fn forget_lost(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.lost = None;
            let waits = !lane.waiting.is_empty();
            if let Some(sick) = &mut lane.sick {
                sick.trial = waits;
                sick.next_trial = now;
            }
        }
    }
}
