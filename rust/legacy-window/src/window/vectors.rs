// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Writing the VF's vectors behind the guest's back.

use virtio_pci_spec::legacy::Register;
use virtio_pci_spec::status::NO_VECTOR;

use super::{Access, Target, Window};
use crate::step::{FailKind, Step};
use crate::vectors::{Job, JobPhase, OwnVectors, Settled, CONFIG};

/// Interrupts of the VF for a guest that has MSI-X off.
impl Window {
    /// Allows the caller to take the VF's vectors; before the first access.
    pub fn emulate_intx(&mut self) {
        self.vectors.enabled = true;
    }

    /// Says who is to have the VF's interrupts: the caller, by its vectors, or (`None`) the guest,
    /// by those it mapped. Takes effect with [`begin_settle`](Self::begin_settle); the VF's MSI-X
    /// must be on from before the one to after the other.
    ///
    /// `turn` is another number whenever the VF's vectors have changed hands, also if they are with
    /// the same as before again: all are written anew then, and what was refused is tried again.
    pub fn serve_vectors(&mut self, own: Option<OwnVectors>, turn: u64) {
        if self.vectors.enabled {
            self.vectors.serve(own, turn);
        }
    }

    /// Writes the vectors that are not as they must be, as an access of its own: to be resumed
    /// until [`Step::Done`]. Nothing is to be done most of the time. What the guest has selected
    /// stays selected for it.
    ///
    /// A device that refuses a vector is offered the other one of the caller's; one that has no
    /// such queue is not asked for a vector of it again. If commands fail for another reason,
    /// nothing more is tried until [`retry_settle`](Self::retry_settle),
    /// [`restored`](Self::restored) or the next turn.
    pub fn begin_settle(&mut self) -> Step {
        self.next_vector(Access::new(0, None))
    }

    /// Whether vectors wait for [`retry_settle`](Self::retry_settle).
    pub const fn settle_stalled(&self) -> bool {
        self.vectors.stalled
    }

    /// Lets the next [`begin_settle`](Self::begin_settle) try again what failed.
    pub fn retry_settle(&mut self) {
        self.vectors.retry();
    }

    /// What has become of the vectors since the last call.
    pub fn take_settled(&mut self) -> Settled {
        self.vectors.settled.take().unwrap_or_default()
    }

    /// Makes the device broken, since the VF gives a queue no vector that its driver needs. True if
    /// it was not yet.
    pub fn gives_up(&mut self) -> bool {
        !core::mem::replace(&mut self.broken, true)
    }

    /// What a message of one of the caller's vectors may mean, as ISR bits.
    pub fn causes(&self, vector: u16) -> u8 {
        let [config, queues] = self.vectors.causes;
        match self.vectors.own {
            Some(own) if own.config == vector => config,
            Some(own) if own.queues == vector => queues,
            _ => 0,
        }
    }

    /// The vectors that the guest mapped to sources in use, in no order, possibly repeated.
    pub fn guest_vectors(&self) -> impl Iterator<Item = u16> + '_ {
        let sources = self.vectors.live.iter().chain([CONFIG]);
        sources
            .map(|source| self.vectors.guest_vector(source))
            .filter(|vector| *vector != NO_VECTOR)
    }

    fn next_vector(&mut self, access: Access) -> Step {
        let job = if self.lost { None } else { self.vectors.next() };
        match job {
            Some(job) => self.vector_job(access, job),
            None => {
                self.vectors.fresh = None;
                access.done(0)
            }
        }
    }

    /// Begins or goes on with a job that may not have its queue selected yet.
    fn vector_job(&mut self, access: Access, job: Job) -> Step {
        let phase = if job.source == CONFIG || self.shadow.device_select == Some(job.source) {
            JobPhase::Write
        } else if self.shadow.guest_select.is_none() {
            JobPhase::Learn
        } else {
            self.shadow.device_select = None;
            JobPhase::Select
        };
        self.vector_command(access, job, phase)
    }

    fn vector_command(&mut self, mut access: Access, job: Job, phase: JobPhase) -> Step {
        access.target = Target::Vector { job, phase };
        let vector = match job.source {
            CONFIG => Register::ConfigVector,
            _ => Register::QueueVector,
        };
        let (register, write) = match phase {
            JobPhase::Learn => (Register::QueueSelect, None),
            JobPhase::Select => (Register::QueueSelect, Some(job.source)),
            JobPhase::Write => (vector, Some(job.vector)),
            JobPhase::Check => (vector, None),
            JobPhase::Size => (Register::QueueSize, None),
        };
        self.register(access, register, write.map(u64::from))
    }

    /// Takes the outcome of a command of a job: what was read, if it was a read.
    pub(super) fn vector_resume(
        &mut self,
        mut access: Access,
        mut job: Job,
        phase: JobPhase,
        outcome: Result<[u8; 8], FailKind>,
    ) -> Step {
        let value = match outcome {
            Ok([a, b, ..]) => u16::from_le_bytes([a, b]),
            Err(kind) => {
                access.effects.failed.get_or_insert(kind);
                self.shadow.device_select = None;
                if kind == FailKind::Refused {
                    return self.vector_refused(access, job, phase);
                }
                self.shadow.forget_vectors();
                self.vectors.stall();
                return access.done(0);
            }
        };
        match (phase, job.second) {
            (JobPhase::Learn, _) => {
                self.shadow.learn_select(value);
                self.vector_job(access, job)
            }
            (JobPhase::Select, _) => {
                self.shadow.device_select = Some(job.source);
                self.vector_job(access, job)
            }
            (JobPhase::Write, Some(_)) => self.vector_command(access, job, JobPhase::Check),
            (JobPhase::Check, Some(second)) if value != job.vector => {
                if second == job.vector {
                    return self.vector_refused(access, job, phase);
                }
                job.vector = second;
                self.vector_command(access, job, JobPhase::Write)
            }
            (JobPhase::Write | JobPhase::Check, _) => {
                self.vector_finished(access, job, Some(job.vector))
            }
            (JobPhase::Size, _) => {
                if value == 0 {
                    self.vectors.no_queue(job.source);
                    return self.next_vector(access);
                }
                self.vector_finished(access, job, None)
            }
        }
    }

    /// The device gives no vector, unless it is for a queue that is none: a driver may have written
    /// an address for it.
    fn vector_refused(&mut self, access: Access, job: Job, phase: JobPhase) -> Step {
        let is_selected = matches!(phase, JobPhase::Write | JobPhase::Check);
        if is_selected && job.source != CONFIG && job.second.is_some() {
            return self.vector_command(access, job, JobPhase::Size);
        }
        self.vector_finished(access, job, None)
    }

    fn vector_finished(&mut self, access: Access, job: Job, mapped: Option<u16>) -> Step {
        self.vectors.finish(&job, mapped);
        self.shadow.forget_vectors();
        self.next_vector(access)
    }
}
