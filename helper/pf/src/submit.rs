// SPDX-License-Identifier: GPL-2.0-or-later
//! Taking operations and notifications from the owner.

use std::sync::Arc;
use std::time::Instant;

use pci_transport::{Posted, Width};

use crate::error::SubmitError;
use crate::lane::{Job, Kind};
use crate::pf::Pf;
use crate::types::{Class, LegacyOp, Notified, PfState};

impl Pf {
    /// Accepts an operation on a VF's legacy registers; its end comes from [`Pf::poll`] with
    /// `token`, never from this call. Operations of one VF are performed one after the other, in
    /// the order of their submission, each finished before the next begins.
    ///
    /// An operation that was accepted always completes: with a result, or with an error no later
    /// than [`crate::PfConfig::command_timeout`] after `now`, given that `poll` is called when
    /// [`Pf::next_deadline`] says so. The device is notified by the next `poll`, so that several
    /// submissions cost one notification.
    pub fn submit(
        &mut self,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        self.submit_as(Class::Register, member, op, token, now)
    }

    /// Like [`Pf::submit`], for a device that may need long: with several admin queues, it is sent
    /// on one that has no operations of [`Class::Register`]. The order of a VF's operations holds
    /// over all queues.
    pub fn submit_as(
        &mut self,
        class: Class,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        self.check_open()?;
        self.check_member(member)?;
        op.check(self.info.vf_type)?;
        self.check_offered(op.opcode())?;
        self.check_health(member, now)?;
        let deadline = now + self.config.command_timeout;
        let job = Job {
            class,
            ..Job::new(Kind::Op { token, op }, deadline)
        };
        self.enqueue(member, job, now)
    }

    /// Notifies a queue of a VF: by the owner's notification address where there is one, otherwise
    /// by command. There is no completion.
    pub fn notify(
        &mut self,
        member: u16,
        queue: u16,
        now: Instant,
    ) -> Result<Notified, SubmitError> {
        self.check_open()?;
        self.check_member(member)?;
        if let Some(at) = self.vf(member).and_then(|vf| vf.owner_notify) {
            self.function.hurry(self.patience(now));
            let stored =
                self.function
                    .bar_write(at.bar, at.offset, Width::B2, queue.into(), Posted::Yes);
            return match stored {
                Ok(()) => Ok(Notified::Address),
                Err(error) => {
                    let cause: Arc<str> = error.to_string().into();
                    self.trouble(error.into(), now);
                    Err(SubmitError::PfFailed(cause))
                }
            };
        }
        let kind = Kind::Notify { queue };
        self.check_offered(kind.command(member).opcode())?;
        let lane = self.lanes.get(usize::from(member));
        if lane.is_some_and(|lane| lane.has_waiting_notify(queue)) {
            return Ok(Notified::Merged);
        }
        self.check_health(member, now)?;
        let deadline = now + self.config.command_timeout;
        self.enqueue(member, Job::new(kind, deadline), now)?;
        Ok(Notified::Command)
    }

    pub(crate) fn check_open(&self) -> Result<(), SubmitError> {
        match &self.state {
            PfState::Failed(cause) => Err(SubmitError::PfFailed(cause.clone())),
            PfState::Stopped => Err(SubmitError::Shutdown),
            PfState::Starting | PfState::Running | PfState::Recovering => Ok(()),
        }
    }

    pub(crate) fn check_member(&self, member: u16) -> Result<(), SubmitError> {
        if member == 0 || member > self.info.num_vfs {
            return Err(SubmitError::NoSuchVf {
                member,
                num_vfs: self.info.num_vfs,
            });
        }
        Ok(())
    }

    fn check_offered(&self, opcode: u16) -> Result<(), SubmitError> {
        if self.info.commands.contains(opcode) {
            Ok(())
        } else {
            Err(SubmitError::NotOffered { opcode })
        }
    }

    pub(crate) fn enqueue(
        &mut self,
        member: u16,
        job: Job,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let limit = self.config.vf_queue;
        let Some(lane) = self.lanes.get_mut(usize::from(member)) else {
            return Err(SubmitError::NoSuchVf {
                member,
                num_vfs: self.info.num_vfs,
            });
        };
        if lane.waiting.len() >= limit {
            return Err(SubmitError::QueueFull {
                member,
                waiting: lane.waiting.len(),
            });
        }
        lane.waiting.push_back(job);
        self.list_lane(member);
        self.set_timer(job.deadline);
        self.wake = Some(now);
        Ok(())
    }
}
