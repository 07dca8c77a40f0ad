// SPDX-License-Identifier: GPL-2.0-or-later
//! The queues of one function by number.
//!
//! A function that no driver uses has none of its own: it shows those of a set that many functions
//! share, all of them as after a reset. The first change makes its own.

use std::sync::Arc;

use super::VirtQueue;

/// See the module. A number without a queue is a gap.
#[derive(Debug)]
pub(crate) struct QueueSet {
    idle: Arc<[Option<VirtQueue>]>,
    own: Option<Box<[Option<VirtQueue>]>>,
}

impl QueueSet {
    /// These queues, none of them in use.
    pub(crate) fn new(queues: Vec<Option<VirtQueue>>) -> Self {
        QueueSet {
            idle: queues.into(),
            own: None,
        }
    }

    /// Takes the shared set of `other`, if it is the same.
    pub(crate) fn share(&mut self, other: &Self) {
        let size = |q: &Option<VirtQueue>| q.as_ref().map(VirtQueue::max_size);
        let sizes = self.idle.iter().map(size);
        if sizes.eq(other.idle.iter().map(size)) {
            self.idle = Arc::clone(&other.idle);
        }
    }

    /// Bytes that are this function's alone.
    pub(crate) fn private_bytes(&self) -> usize {
        self.own.as_deref().map_or(0, std::mem::size_of_val)
    }

    /// Queue numbers, gaps included.
    pub(crate) fn len(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn get(&self, index: u16) -> Option<&VirtQueue> {
        let queues = self.own.as_deref().unwrap_or(&self.idle);
        queues.get(usize::from(index))?.as_ref()
    }

    /// The queue, to be changed.
    pub(crate) fn get_mut(&mut self, index: u16) -> Option<&mut VirtQueue> {
        self.idle.get(usize::from(index))?.as_ref()?;
        let copy = |q: &Option<VirtQueue>| q.as_ref().and_then(|q| VirtQueue::new(q.max_size()));
        let own = self
            .own
            .get_or_insert_with(|| self.idle.iter().map(copy).collect());
        own.get_mut(usize::from(index))?.as_mut()
    }

    /// All queues that may differ from their state after a reset, with their numbers.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u16, &VirtQueue)> {
        let own = self.own.iter().flat_map(|own| own.iter());
        (0..).zip(own).filter_map(|(i, q)| Some((i, q.as_ref()?)))
    }

    /// As [`used`](Self::used), to be changed.
    pub(crate) fn used_mut(&mut self) -> impl Iterator<Item = &mut VirtQueue> {
        let own = self.own.iter_mut().flat_map(|own| own.iter_mut());
        own.filter_map(Option::as_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(sizes: &[u16]) -> QueueSet {
        // A queue of no entries is refused, which makes the gap.
        QueueSet::new(sizes.iter().map(|n| VirtQueue::new(*n)).collect())
    }

    #[test]
    fn the_first_change_makes_the_queues() {
        let (a, mut b) = (set(&[16, 0, 8]), set(&[16, 0, 8]));
        b.share(&a);
        assert!(Arc::ptr_eq(&a.idle, &b.idle));
        assert_eq!((b.len(), b.used().count()), (3, 0));
        assert!(b.get_mut(1).is_none() && b.get_mut(3).is_none());
        assert_eq!(b.used().count(), 0, "a gap is nothing to change");
        assert!(b.get_mut(2).is_some_and(|q| q.set_size(4)));
        assert_eq!(b.get(2).map(VirtQueue::size), Some(4));
        assert_eq!(
            a.get(2).map(VirtQueue::size),
            Some(8),
            "the others' is as it was"
        );
        assert_eq!(b.used().map(|(n, _)| n).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(b.used_mut().count(), 2);
    }

    #[test]
    fn only_equal_sets_are_shared() {
        let a = set(&[16, 8]);
        for other in [&[16][..], &[16, 16], &[16, 8, 8], &[16, 0]] {
            let mut b = set(other);
            b.share(&a);
            assert!(!Arc::ptr_eq(&a.idle, &b.idle), "{other:?}");
        }
    }
}
