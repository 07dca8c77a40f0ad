// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Which of the VF's interrupt sources must have which MSI-X vector: the guest's own while its
//! MSI-X is on, the caller's while the caller turns the VF's messages into INTx.
//!
//! Inside of the crate a source is a number: that of its queue, or [`CONFIG`].

use virtio_pci_spec::status::{ISR_CONFIG, ISR_QUEUE, NO_VECTOR};

use crate::queues::{Queues, TRACKED};

/// The device configuration as a source of interrupts.
pub(crate) const CONFIG: u16 = TRACKED;

/// What causes an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A change of the device configuration.
    Config,
    /// Used buffers in this queue.
    Queue(u16),
}

/// The vectors that the caller listens to; the same number twice for a VF that has a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnVectors {
    /// For configuration changes.
    pub config: u16,
    /// For all queues.
    pub queues: u16,
}

/// What became of the vectors since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// A queue in use got one of the caller's vectors only now: it may have interrupted before,
    /// with nobody listening.
    pub late: bool,
    /// The guest has its vectors back: what the VF had to say meanwhile, it may not have heard.
    pub given_back: bool,
    /// Sources that the device gave no vector, and the last of them.
    pub unmapped: u32,
    /// See `unmapped`.
    pub last_unmapped: Option<Source>,
    /// One of them is a queue, and the driver is still setting up: it would wait for its first
    /// interrupt for ever. See [`Window::gives_up`](crate::Window::gives_up).
    pub unheard: bool,
}

/// A vector to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) source: u16,
    pub(crate) vector: u16,
    /// One of the caller's, so whether the device took it is to be seen: what to try if it did not,
    /// the same if there is nothing else.
    pub(crate) second: Option<u16>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobPhase {
    /// Asks which queue the guest has selected; it has not told.
    Learn,
    /// Selects the queue.
    Select,
    /// Writes the vector.
    Write,
    /// Reads it back.
    Check,
    /// Asks whether there is such a queue, since it got no vector.
    Size,
}

#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    /// Without this no vectors are written.
    pub(crate) enabled: bool,
    pub(crate) own: Option<OwnVectors>,
    /// Changes with each change of hands.
    pub(crate) turn: u64,
    /// There may be a job.
    pub(crate) due: bool,
    /// Jobs wait for [`Vectors::retry`].
    pub(crate) stalled: bool,
    /// The driver has been ready since the last reset.
    pub(crate) ready: bool,
    /// The queue that got its address in the access after which vectors are being written, so that
    /// it cannot have interrupted yet.
    pub(crate) fresh: Option<u16>,
    pub(crate) settled: Option<Settled>,
    /// What `own.config` and `own.queues` may stand for, as ISR bits.
    pub(crate) causes: [u8; 2],
    /// Queues in use.
    pub(crate) live: Queues,
    /// Sources whose vector in the device may be one of the caller's.
    pub(crate) ours: Queues,
    /// Sources for which nothing is left to be done in this turn.
    pub(crate) done: Queues,
    /// What the guest mapped.
    pub(crate) guest: [u16; TRACKED as usize + 1],
}

impl Vectors {
    /// Of a device that has been reset, in whatever way, or that was not used yet.
    pub(crate) const UNUSED: Self = Vectors {
        enabled: false,
        own: None,
        turn: 0,
        due: false,
        stalled: false,
        ready: false,
        fresh: None,
        settled: None,
        causes: [0; 2],
        live: Queues::NONE,
        ours: Queues::NONE,
        done: Queues::NONE,
        guest: [NO_VECTOR; TRACKED as usize + 1],
    };

    /// Who is to get the interrupts from now on.
    pub(crate) fn serve(&mut self, own: Option<OwnVectors>, turn: u64) {
        if (self.own, self.turn) == (own, turn) {
            return;
        }
        (self.own, self.turn) = (own, turn);
        self.done = Queues::NONE;
        self.causes = [0; 2];
        self.stalled = false;
        self.due = true;
    }

    /// The guest wrote a queue address other than 0, and the device took it.
    pub(crate) fn address_written(&mut self, queue: u16) {
        if queue >= TRACKED {
            return;
        }
        if !self.live.contains(queue) {
            self.fresh = Some(queue);
            self.done.set(queue, false);
        }
        self.live.set(queue, true);
        self.due |= !self.stalled;
    }

    /// The guest mapped a source, or read what is mapped.
    pub(crate) fn guest_mapped(&mut self, source: u16, vector: u16) {
        if self.own.is_some() {
            return;
        }
        if let Some(v) = self.guest.get_mut(usize::from(source)) {
            *v = vector;
            self.ours.set(source, false);
        }
    }

    /// Tries again what failed.
    pub(crate) fn retry(&mut self) {
        self.stalled = false;
        self.due = true;
        self.fresh = None;
    }

    /// No more now: the device does not answer.
    pub(crate) fn stall(&mut self) {
        self.stalled = true;
        self.due = false;
        self.fresh = None;
    }

    /// The next vector to be written.
    pub(crate) fn next(&mut self) -> Option<Job> {
        if !self.due || !self.enabled {
            return None;
        }
        let mut wanted = self.ours;
        if self.own.is_some() {
            wanted = self.live;
            wanted.set(CONFIG, true);
        }
        let next = wanted.without(&self.done).iter().next();
        self.due = next.is_some();
        let source = next?;
        let (vector, second) = match self.own {
            Some(own) if source == CONFIG => (own.config, Some(own.queues)),
            Some(own) => (own.queues, Some(own.config)),
            None => (self.guest_vector(source), None),
        };
        if self.own.is_some() {
            self.ours.set(source, true);
        }
        Some(Job {
            source,
            vector,
            second,
        })
    }

    /// A job is done; `mapped` is what the device has now, if it has one.
    pub(crate) fn finish(&mut self, job: &Job, mapped: Option<u16>) {
        self.done.set(job.source, true);
        let is_queue = job.source != CONFIG;
        let settled = self.settled.get_or_insert_with(Settled::default);
        let Some(own) = self.own else {
            // What was refused stays, for the next turn.
            if mapped.is_some() {
                self.ours.set(job.source, false);
            }
            settled.given_back |= self.ours.without(&self.done).is_empty();
            return;
        };
        let Some(vector) = mapped else {
            settled.unmapped = settled.unmapped.saturating_add(1);
            settled.unheard |= is_queue && !self.ready;
            settled.last_unmapped = Some(if is_queue {
                Source::Queue(job.source)
            } else {
                Source::Config
            });
            return;
        };
        let [config, queues] = &mut self.causes;
        let causes = if vector == own.config { config } else { queues };
        *causes |= if is_queue { ISR_QUEUE } else { ISR_CONFIG };
        let fresh = self.fresh.is_some_and(|q| !is_queue || q == job.source);
        settled.late |= !fresh && !self.live.is_empty();
    }

    /// The device has no such queue.
    pub(crate) fn no_queue(&mut self, queue: u16) {
        self.live.set(queue, false);
        self.ours.set(queue, false);
    }

    /// What the guest mapped.
    pub(crate) fn guest_vector(&self, source: u16) -> u16 {
        let vector = self.guest.get(usize::from(source));
        vector.copied().unwrap_or(NO_VECTOR)
    }
}
