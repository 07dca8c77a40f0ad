// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Sets of queues.

/// Queues that are tracked, and the number after the last of them; QEMU's own devices have no more.
pub(crate) const TRACKED: u16 = 1024;

const WORDS: usize = TRACKED as usize / 64 + 1;

/// A set of the first 1024 queues of a device.
// Inside of the crate `TRACKED` may be in it: what the configuration is among interrupt sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues([u64; WORDS]);

impl Queues {
    /// The empty set.
    pub(crate) const NONE: Self = Queues([0; WORDS]);

    /// Whether the queue is in the set.
    pub fn contains(&self, queue: u16) -> bool {
        let word = self.0.get(usize::from(queue / 64));
        word.is_some_and(|word| word & 1 << (queue % 64) != 0)
    }

    /// Its queues, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        let words = self.0.into_iter().zip((0..).step_by(64));
        words
            .filter(|(word, _)| *word != 0)
            .flat_map(|(word, first)| (0..64).map(move |i| (word >> i & 1, first + i)))
            .filter_map(|(bit, queue)| (bit != 0).then_some(queue))
    }

    /// Whether no queue is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Puts a queue in or takes it out.
    pub(crate) fn set(&mut self, queue: u16, on: bool) {
        if let Some(word) = self.0.get_mut(usize::from(queue / 64)) {
            let bit = 1 << (queue % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    /// Those that are not in `but`.
    pub(crate) fn without(mut self, but: &Self) -> Self {
        for (word, not) in self.0.iter_mut().zip(but.0) {
            *word &= !not;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn what_is_put_in_is_in() {
        let mut set = Queues::default();
        assert!(set.is_empty());
        for queue in [1023, 0, 64, 63, 64] {
            set.set(queue, true);
        }
        set.set(u16::MAX, true);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 1023]);
        assert!(set.contains(63) && !set.contains(62) && !set.contains(u16::MAX));
        let mut but = Queues::default();
        but.set(63, true);
        assert_eq!(set.without(&but).iter().collect::<Vec<_>>(), [0, 64, 1023]);
        set.set(0, false);
        assert!(!set.contains(0) && !set.is_empty());
    }
}
