// SPDX-License-Identifier: GPL-2.0-or-later
//! Whether an admin queue still answers, after a command on it was given up.
//!
//! A device performs the commands of one admin queue in order ("Administration Virtqueues"). So an
//! answer to a command that was sent behind the one given up shows that the device is past that one:
//! the command was lost, the queue is not stuck. A probe is sent so that there is such an answer.

use std::time::Instant;

/// A command that every device must answer.
#[derive(Clone, Copy, Debug)]
struct Probe {
    deadline: Instant,
    /// Its slot and its number, once the device has it.
    sent: Option<(u16, u64)>,
}

/// What is to be done about a probe whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Nothing that was sent after the command given up was answered.
    Stuck,
    /// The device is past all commands given up; it did not answer the probe in this slot.
    Dropped(u16),
}

/// Commands given up on one queue whose fate is open, and the probe behind them.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Number and lane of each; they hold a slot, so there are no more than slots.
    suspects: Vec<(u64, u16)>,
    probe: Option<Probe>,
}

impl Watch {
    /// The command of this number was given up. If no probe is under way, one is wanted, to be
    /// answered by `deadline`.
    pub(crate) fn given_up(&mut self, order: u64, lane: u16, deadline: Instant) {
        self.suspects.push((order, lane));
        self.want(deadline);
    }

    fn want(&mut self, deadline: Instant) {
        if !self.suspects.is_empty() {
            let probe = Probe {
                deadline,
                sent: None,
            };
            self.probe.get_or_insert(probe);
        }
    }

    /// Whether a probe is to be sent now.
    pub(crate) fn wants_probe(&self) -> bool {
        self.probe.is_some_and(|p| p.sent.is_none())
    }

    /// The device has the probe.
    pub(crate) fn probe_sent(&mut self, slot: u16, order: u64) {
        if let Some(probe) = &mut self.probe {
            probe.sent = Some((slot, order));
        }
    }

    /// The command of this number was answered. Gives the lanes whose commands the device has
    /// passed over, and whether this was the probe.
    pub(crate) fn answered(&mut self, order: u64, next: Instant) -> (Vec<u16>, bool) {
        if self.suspects.is_empty() && self.probe.is_none() {
            return (Vec::new(), false);
        }
        let mut passed = Vec::new();
        self.suspects.retain(|(number, lane)| {
            if *number < order {
                passed.push(*lane);
            }
            // Its own answer, though late.
            *number > order
        });
        let is_probe = self
            .probe
            .and_then(|p| p.sent)
            .is_some_and(|(_, number)| number == order);
        let in_vain = self.suspects.is_empty() && self.wants_probe();
        if is_probe || in_vain {
            self.probe = None;
            // For what was given up but sent after this probe.
            self.want(next);
        }
        (passed, is_probe)
    }

    /// When something has to be done if no answer comes.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.probe.map(|p| p.deadline)
    }

    /// What to do about a probe that was not answered by now; `next` is the deadline of the next.
    pub(crate) fn overdue(&mut self, now: Instant, next: Instant) -> Option<Overdue> {
        let probe = self.probe.filter(|p| now >= p.deadline)?;
        match probe.sent {
            Some((slot, order)) if self.suspects.iter().all(|(number, _)| *number > order) => {
                self.probe = None;
                self.want(next);
                Some(Overdue::Dropped(slot))
            }
            _ => Some(Overdue::Stuck),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_answer_behind_a_lost_command_shows_that_the_queue_goes_on() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut w = Watch::default();
        assert_eq!(w.answered(1, later), (vec![], false));
        w.given_up(5, 2, later);
        w.given_up(7, 3, later);
        assert!(w.wants_probe());
        // In front of it: nothing is known yet.
        assert_eq!(w.answered(4, later), (vec![], false));
        assert_eq!(w.answered(6, later), (vec![2], false));
        w.probe_sent(0, 9);
        assert!(!w.wants_probe());
        assert_eq!(w.overdue(now, later), None);
        assert_eq!(w.answered(9, later), (vec![3], true));
        assert_eq!(w.timer(), None);
    }

    #[test]
    fn only_silence_behind_a_lost_command_is_a_stuck_queue() {
        let now = Instant::now();
        let next = now + Duration::from_secs(1);
        let mut w = Watch::default();
        w.given_up(5, 2, now);
        assert_eq!(w.overdue(now, next), Some(Overdue::Stuck), "no room for it");
        w.probe_sent(3, 6);
        assert_eq!(w.overdue(now, next), Some(Overdue::Stuck));
        // Its own late answer, and that of another: the probe itself was lost.
        assert_eq!(w.answered(5, next), (vec![], false));
        assert_eq!(w.overdue(now, next), Some(Overdue::Dropped(3)));
        assert_eq!(w.timer(), None);
        // One that was sent after the probe needs another.
        w.given_up(10, 2, now);
        w.probe_sent(3, 11);
        w.given_up(12, 3, now);
        assert_eq!(w.answered(11, next), (vec![2], true));
        assert!(w.wants_probe());
        assert_eq!(w.timer(), Some(next));
        // Not needed any more.
        assert_eq!(w.answered(12, next), (vec![], false));
        assert!(!w.wants_probe());
        assert_eq!(w.timer(), None);
    }
}
