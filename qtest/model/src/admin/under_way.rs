// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands that were taken from an admin queue and did not complete yet, each queue by itself.

use crate::queue::Chain;
use crate::virtio::QueueNumbers;

/// A reply that waits for its time.
pub(super) struct Delayed {
    pub(super) due: u64,
    pub(super) chain: Chain,
    pub(super) reply: Vec<u8>,
    pub(super) used: u32,
}

/// What is under way on one queue.
#[derive(Default)]
pub(super) struct UnderWay {
    pub(super) delayed: Vec<Delayed>,
    /// Commands that will never complete.
    pub(super) lost: usize,
    /// The queue has stopped before a command.
    pub(super) stuck: bool,
}

impl UnderWay {
    /// A reply that is due.
    fn take_due(&mut self, now: u64) -> Option<Delayed> {
        let at = self.delayed.iter().position(|d| d.due <= now)?;
        Some(self.delayed.remove(at))
    }
}

/// All admin queues.
pub(super) struct Queues {
    first: u16,
    queues: Vec<UnderWay>,
}

impl Queues {
    pub(super) fn new(numbers: &QueueNumbers) -> Self {
        let new = |_| UnderWay::default();
        Queues {
            first: numbers.admin_index,
            queues: (0..numbers.admin_num).map(new).collect(),
        }
    }

    /// How many admin queues come before `queue`.
    pub(super) fn ordinal(&self, queue: u16) -> u16 {
        queue.wrapping_sub(self.first)
    }

    pub(super) fn get(&self, queue: u16) -> Option<&UnderWay> {
        self.queues.get(usize::from(self.ordinal(queue)))
    }

    pub(super) fn get_mut(&mut self, queue: u16) -> Option<&mut UnderWay> {
        let at = usize::from(self.ordinal(queue));
        self.queues.get_mut(at)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut UnderWay> {
        self.queues.iter_mut()
    }

    /// Any reply that is due.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Delayed> {
        self.queues.iter_mut().find_map(|q| q.take_due(now))
    }

    /// Commands taken from any queue that did not complete.
    pub(super) fn outstanding(&self) -> usize {
        self.queues.iter().map(|q| q.delayed.len() + q.lost).sum()
    }

    pub(super) fn any_stuck(&self) -> bool {
        self.queues.iter().any(|q| q.stuck)
    }
}
