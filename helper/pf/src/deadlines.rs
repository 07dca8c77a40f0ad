// SPDX-License-Identifier: GPL-2.0-or-later
//! What becomes of commands that the device does not answer in time, and of their queue.

use std::time::Instant;

use crate::error::{OpError, PfError};
use crate::lane::{Job, Lost, Stage};
use crate::pf::Pf;
use crate::watch::Overdue;

impl Pf {
    /// Ends what is past its deadline and wakes what waits for another attempt.
    pub(crate) fn expire(&mut self, now: Instant) -> Result<(), PfError> {
        let mut unanswered = false;
        let mut failed = Ok(());
        for member in 0..=self.info.num_vfs {
            let mut ended = Vec::new();
            let mut sent = false;
            let Some(lane) = self.lanes.get_mut(usize::from(member)) else {
                break;
            };
            match &mut lane.current {
                Some((job, stage)) if now >= job.deadline => {
                    let error = match stage {
                        Stage::Sent { .. } => OpError::TimedOut,
                        Stage::Backoff { .. } | Stage::Again => last_answer(job),
                    };
                    ended.push((*job, error));
                    if let Stage::Sent { queue, slot } = *stage {
                        sent = true;
                        if let Some(admin) = self.admin.get_mut(queue) {
                            let order = admin.give_up(slot);
                            if member != 0 {
                                let by = now + self.config.command_timeout;
                                admin.watch.given_up(order, member, by);
                                lane.lost = Some(Lost {
                                    queue,
                                    order,
                                    since: now,
                                });
                            }
                        }
                    }
                    lane.current = None;
                }
                Some((_, stage @ Stage::Backoff { .. })) => {
                    if matches!(stage, Stage::Backoff { until } if now >= *until) {
                        *stage = Stage::Again;
                    }
                }
                _ => {}
            }
            while lane.waiting.front().is_some_and(|job| now >= job.deadline) {
                let job = lane.waiting.pop_front();
                ended.extend(job.map(|job| (job, OpError::TimedOut)));
            }
            if !ended.is_empty() {
                self.trial_failed(member, sent, now);
            }
            unanswered |= sent;
            for (job, error) in ended {
                self.counters.timed_out += u64::from(error == OpError::TimedOut);
                let result = self.finish(member, job, Err(error), now);
                if failed.is_ok() {
                    failed = result;
                }
            }
            self.list_lane(member);
        }
        let lanes = self.lanes.iter().filter_map(|lane| lane.timer());
        let queues = self.admin.iter().filter_map(|queue| queue.watch.timer());
        self.timer = lanes.chain(queues).min();
        failed?;
        match unanswered {
            true => self.ask_status(now),
            false => Ok(()),
        }
    }

    /// A queue on which nothing is answered behind a command that was given up is stuck.
    pub(crate) fn check_queues(&mut self, now: Instant) -> Result<(), PfError> {
        if !self.phase.is_live() {
            return Ok(());
        }
        let next = now + self.config.command_timeout;
        for (index, queue) in self.admin.iter_mut().enumerate() {
            match queue.watch.overdue(now, next) {
                Some(Overdue::Stuck) => {
                    return Err(PfError::Misbehaved {
                        function: self.id.clone(),
                        register: "admin queue",
                        why: format!("stuck: queue {index} answers nothing, not even LIST_QUERY"),
                    })
                }
                Some(Overdue::Dropped(slot)) => {
                    queue.give_up(slot);
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// What became of a command that waited for another attempt: the device did answer.
fn last_answer(job: &Job) -> OpError {
    job.last.map_or(OpError::TimedOut, |reply| OpError::Device {
        status: reply.status,
        qualifier: reply.qualifier,
    })
}
