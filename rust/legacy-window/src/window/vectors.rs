// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Writing the VF's vectors behind the guest's back.

use virtio_pci_spec::bytes::le_bytes;
use virtio_pci_spec::legacy::{field_of, Register};

use super::{Access, Target, Window};
use crate::step::{Command, CommandKind, Effects, FailKind, Outcome, Space, Step};
use crate::vectors::{Causes, Job, JobPhase, OwnVectors, Settled, Source};

/// Interrupts of the VF for a guest that has MSI-X off.
impl Window {
    /// Keeps track of what is needed to take the VF's vectors; before the first access.
    pub fn emulate_intx(&mut self) {
        self.vectors.enabled = true;
    }

    /// Whether the device may interrupt: a queue has been given an address, or the driver is
    /// ready, since the last reset. Always false without [`emulate_intx`](Self::emulate_intx).
    pub const fn driven(&self) -> bool {
        self.vectors.enabled && self.vectors.driven()
    }

    /// Says who is to have the VF's interrupts: the caller, by its vectors, or (`None`) the guest,
    /// by those it mapped. Takes effect with [`begin_settle`](Self::begin_settle); the VF's MSI-X
    /// must be on from before the one to after the other.
    pub fn serve_vectors(&mut self, own: Option<OwnVectors>) {
        if self.vectors.enabled {
            self.vectors.serve(own);
        }
    }

    /// Writes the vectors that are not as they must be, as an access of its own: to be resumed
    /// until [`Step::Done`]. Nothing is to be done most of the time. What the guest has selected
    /// stays selected for it.
    ///
    /// A device that refuses a vector is offered the other one of the caller's. If commands fail
    /// for another reason, nothing more is tried until [`retry_settle`](Self::retry_settle) or
    /// [`restored`](Self::restored).
    pub fn begin_settle(&mut self) -> Step {
        let access = Access {
            target: Target::Notify,
            size: 0,
            write: None,
            read: [0; 8],
            effects: Effects::default(),
        };
        self.next_vector(access)
    }

    /// Whether vectors wait for [`retry_settle`](Self::retry_settle).
    pub const fn settle_stalled(&self) -> bool {
        self.vectors.stalled()
    }

    /// Lets the next [`begin_settle`](Self::begin_settle) try again what failed.
    pub fn retry_settle(&mut self) {
        self.vectors.retry();
    }

    /// What has become of the vectors since the last call.
    pub fn take_settled(&mut self) -> Settled {
        self.vectors.take_settled()
    }

    /// What a message of one of the caller's vectors may mean.
    pub fn causes(&self, vector: u16) -> Causes {
        self.vectors.causes(vector)
    }

    /// The vectors that the guest mapped to sources in use, in no order, possibly repeated.
    pub fn guest_vectors(&self) -> impl Iterator<Item = u16> + '_ {
        self.vectors.guest_vectors()
    }

    fn next_vector(&mut self, access: Access) -> Step {
        let job = if self.lost { None } else { self.vectors.next() };
        match job {
            Some(job) => self.vector_job(access, job),
            None => self.done(&access, 0),
        }
    }

    /// Begins or goes on with a job that does not have its queue selected yet.
    fn vector_job(&mut self, access: Access, job: Job) -> Step {
        let Source::Queue(queue) = job.source else {
            return self.vector_write(access, job);
        };
        if self.shadow.guest_select.is_none() {
            return self.vector_command(access, job, JobPhase::Learn, CommandKind::Read);
        }
        if self.shadow.device_select != Some(queue) {
            self.shadow.device_select = None;
            let data = CommandKind::Write(le_bytes(queue.into(), 2));
            return self.vector_command(access, job, JobPhase::Select, data);
        }
        self.vector_write(access, job)
    }

    fn vector_write(&mut self, access: Access, job: Job) -> Step {
        if job.again {
            return self.vector_command(access, job, JobPhase::Check, CommandKind::Read);
        }
        self.vectors.writing(&job);
        let data = CommandKind::Write(le_bytes(job.vector.into(), 2));
        self.vector_command(access, job, JobPhase::Write, data)
    }

    fn vector_command(
        &mut self,
        mut access: Access,
        job: Job,
        phase: JobPhase,
        kind: CommandKind,
    ) -> Step {
        access.target = Target::Vector { job, phase };
        let register = match (phase, job.source) {
            (JobPhase::Learn | JobPhase::Select, _) => Register::QueueSelect,
            (_, Source::Config) => Register::ConfigVector,
            (_, Source::Queue(_)) => Register::QueueVector,
        };
        let f = field_of(register);
        let command = Command {
            space: Space::Common,
            offset: f.offset,
            len: f.size,
            kind,
        };
        self.command(access, command)
    }

    /// Goes on after a command of a job.
    pub(super) fn vector_resume(
        &mut self,
        access: Access,
        mut job: Job,
        phase: JobPhase,
        outcome: Outcome,
    ) -> Step {
        let short = |data: [u8; 8]| {
            let [a, b, ..] = data;
            u16::from_le_bytes([a, b])
        };
        match (phase, outcome) {
            (JobPhase::Learn, Outcome::Data(data)) => {
                self.shadow.guest_select = Some(short(data));
                self.shadow.device_select = Some(short(data));
                self.vector_job(access, job)
            }
            (JobPhase::Select, Outcome::Written) => {
                if let Source::Queue(queue) = job.source {
                    self.shadow.device_select = Some(queue);
                }
                self.vector_write(access, job)
            }
            (JobPhase::Write, Outcome::Written) if job.check => {
                self.vector_command(access, job, JobPhase::Check, CommandKind::Read)
            }
            (JobPhase::Write, Outcome::Written) => {
                self.vector_finished(access, job, Some(job.vector))
            }
            (JobPhase::Check, Outcome::Data(data)) if short(data) == job.vector => {
                self.vector_finished(access, job, Some(job.vector))
            }
            (JobPhase::Check, Outcome::Data(_)) if job.again => {
                job.again = false;
                self.vector_write(access, job)
            }
            (JobPhase::Check, Outcome::Data(_)) if job.second != job.vector => {
                job.vector = job.second;
                self.vector_write(access, job)
            }
            (JobPhase::Check, Outcome::Data(_)) | (_, Outcome::Failed(FailKind::Refused)) => {
                if let Outcome::Failed(kind) = outcome {
                    self.counters.failed = self.counters.failed.wrapping_add(1);
                    self.shadow.device_select = None;
                    let mut access = access;
                    access.effects.failed.get_or_insert(kind);
                    return self.vector_finished(access, job, None);
                }
                self.vector_finished(access, job, None)
            }
            (_, outcome) => {
                let mut access = access;
                let kind = match outcome {
                    Outcome::Failed(kind) => kind,
                    Outcome::Data(_) | Outcome::Written => FailKind::Mismatch,
                };
                self.counters.failed = self.counters.failed.wrapping_add(1);
                access.effects.failed.get_or_insert(kind);
                self.shadow.device_select = None;
                self.shadow.forget_vectors();
                self.vectors.stall();
                if kind == FailKind::Lost {
                    self.lost();
                }
                self.done(&access, 0)
            }
        }
    }

    fn vector_finished(&mut self, access: Access, job: Job, mapped: Option<u16>) -> Step {
        self.vectors.finish(&job, mapped);
        self.shadow.forget_vectors();
        self.next_vector(access)
    }
}
