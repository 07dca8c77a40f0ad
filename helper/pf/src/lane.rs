// SPDX-License-Identifier: GPL-2.0-or-later
//! The commands of one VF, one after the other.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_modern_spec::admin::{qualifier, status, Reply};

use crate::command::Command;
use crate::config::RetryPolicy;
use crate::types::{Class, LegacyOp, NotResponding};

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An operation of the owner, with its token.
    Op { token: u64, op: LegacyOp },
    /// A notification of a queue of the VF.
    Notify { queue: u16 },
    /// The VF's notification addresses, asked for by the owner with this token.
    NotifyInfo { token: u64 },
    /// The commands that the group offers.
    ListQuery,
    /// The commands that are going to be used.
    ListUse(OpcodeSet),
}

impl Kind {
    pub(crate) fn command(&self, member: u16) -> Command {
        match *self {
            Kind::Op { op, .. } => Command::Legacy { member, op },
            Kind::Notify { queue } => Command::notify(member, queue),
            Kind::NotifyInfo { .. } => Command::NotifyInfo { member },
            Kind::ListQuery => Command::ListQuery,
            Kind::ListUse(set) => Command::ListUse(set),
        }
    }

    /// What the owner knows its end by.
    pub(crate) fn token(&self) -> Option<u64> {
        match self {
            Kind::Op { token, .. } | Kind::NotifyInfo { token } => Some(*token),
            Kind::Notify { .. } | Kind::ListQuery | Kind::ListUse(_) => None,
        }
    }

    /// Whether its time counts from the moment at which the device has it. Nobody's guest waits for
    /// it, and there may be many at once.
    fn counts_from_sending(&self) -> bool {
        !matches!(self, Kind::Op { .. } | Kind::Notify { .. })
    }

    /// Whether the answer asks for another attempt. A command for a group that does not exist yet
    /// is one, too: VFs need time to come up after they were enabled.
    pub(crate) fn wants_retry(&self, reply: Reply) -> bool {
        if reply.status == status::OK {
            return false;
        }
        let transient = reply.status == status::EAGAIN
            || matches!(reply.qualifier, qualifier::NORESOURCE | qualifier::TRYAGAIN);
        let not_yet = matches!(self, Kind::ListQuery | Kind::ListUse(_))
            && reply.status == status::EINVAL
            && reply.qualifier == qualifier::INVALID_GROUP;
        transient || not_yet
    }
}

/// A command with its deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    pub(crate) deadline: Instant,
    /// Retries made.
    pub(crate) retries: u32,
    /// What the device answered to the last attempt.
    pub(crate) last: Option<Reply>,
}

impl Job {
    pub(crate) fn new(kind: Kind, deadline: Instant) -> Self {
        Job {
            kind,
            class: Class::Register,
            deadline,
            retries: 0,
            last: None,
        }
    }

    /// Whether the owner or a client asked for it.
    pub(crate) fn is_operation(&self) -> bool {
        !matches!(self.kind, Kind::ListQuery | Kind::ListUse(_))
    }

    /// When to try again, if there is a retry left before the deadline.
    pub(crate) fn retry_at(&self, policy: &RetryPolicy, now: Instant) -> Option<Instant> {
        let unlimited = matches!(self.kind, Kind::ListQuery | Kind::ListUse(_));
        if self.retries >= policy.max && !unlimited {
            return None;
        }
        let factor = 1u32 << self.retries.min(16);
        let delay = policy
            .first_delay
            .saturating_mul(factor)
            .min(policy.max_delay)
            .max(Duration::from_micros(1));
        let at = now + delay;
        (at < self.deadline).then_some(at)
    }
}

/// Where the current command is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// The device has it, in this slot of this queue.
    Sent { queue: usize, slot: u16 },
    /// It waits for another attempt.
    Backoff { until: Instant },
    /// It is to be sent again.
    Again,
}

/// A command that was given up while nothing shows yet whether the device is past it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) queue: usize,
    /// Its number on that queue.
    pub(crate) order: u64,
    pub(crate) since: Instant,
}

/// One VF's commands; also one lane, of member 0, for those of the whole group.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) current: Option<(Job, Stage)>,
    pub(crate) waiting: VecDeque<Job>,
    /// Nothing is sent while the device may still have to perform this one.
    pub(crate) lost: Option<Lost>,
    /// The device does not answer its commands.
    pub(crate) sick: Option<NotResponding>,
    /// It is on the list of lanes that may have something to send.
    pub(crate) listed: bool,
}

impl Lane {
    /// The command to send next.
    pub(crate) fn peek(&self) -> Option<&Job> {
        match &self.current {
            _ if self.lost.is_some() => None,
            Some((job, Stage::Again)) => Some(job),
            Some(_) => None,
            None => self.waiting.front(),
        }
    }

    /// Notes that what [`Lane::peek`] gave was sent.
    /// `by`: its deadline, if that counts from now.
    pub(crate) fn sent(&mut self, queue: usize, slot: u16, by: Instant) {
        let mut job = match self.current.take() {
            Some((job, Stage::Again)) => Some(job),
            Some(other) => {
                self.current = Some(other);
                return;
            }
            None => self.waiting.pop_front(),
        };
        if let Some(job) = &mut job {
            if job.retries == 0 && job.kind.counts_from_sending() {
                job.deadline = job.deadline.min(by);
            }
        }
        self.current = job.map(|job| (job, Stage::Sent { queue, slot }));
    }

    /// The earliest time at which something has to be done about this lane.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let current = self.current.as_ref().map(|(job, stage)| match stage {
            Stage::Backoff { until } => job.deadline.min(*until),
            Stage::Sent { .. } | Stage::Again => job.deadline,
        });
        let waiting = self.waiting.front().map(|job| job.deadline);
        [current, waiting].into_iter().flatten().min()
    }

    /// Whether this notification is waiting already; the device has not seen it yet.
    pub(crate) fn has_waiting_notify(&self, queue: u16) -> bool {
        self.waiting
            .iter()
            .any(|job| job.kind == Kind::Notify { queue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: ADM-20, ADM-19
    #[test]
    fn only_transient_answers_are_repeated() {
        let op = Kind::Op {
            token: 0,
            op: LegacyOp::read(crate::Space::Common, 18, 1),
        };
        let retry = |kind: Kind, status, qualifier| kind.wants_retry(Reply { status, qualifier });
        assert!(retry(op, 11, 0));
        assert!(retry(op, 12, 6));
        assert!(retry(op, 22, 7));
        for (s, q) in [
            (0, 0),
            (0, 7),
            (22, 3),
            (12, 0),
            (16, 0),
            (5, 0x99),
            (99, 1),
        ] {
            assert!(!retry(op, s, q), "{s}/{q}");
        }
        // Unknown status with a qualifier that the specification says to retry on.
        assert!(retry(op, 5, 7));
        assert!(retry(Kind::ListQuery, 22, 4));
        assert!(!retry(op, 22, 4));
    }

    #[test]
    fn retries_back_off_and_end() {
        let now = Instant::now();
        let policy = RetryPolicy {
            max: 3,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(3),
        };
        let mut job = Job::new(Kind::NotifyInfo { token: 0 }, now + Duration::from_secs(1));
        let mut delays = Vec::new();
        while let Some(at) = job.retry_at(&policy, now) {
            delays.push((at - now).as_millis());
            job.retries += 1;
        }
        assert_eq!(delays, [1, 2, 3]);
        job.retries = 0;
        job.deadline = now + Duration::from_micros(999);
        assert_eq!(job.retry_at(&policy, now), None);
        let mut list = Job::new(Kind::ListQuery, now + Duration::from_secs(1));
        list.retries = u32::MAX;
        assert!(list.retry_at(&policy, now).is_some());
    }
}
