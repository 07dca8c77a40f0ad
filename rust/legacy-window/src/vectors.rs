// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Which of the VF's interrupt sources must have which MSI-X vector: the guest's own while its
//! MSI-X is on, the caller's while the caller turns the VF's messages into INTx.

use virtio_pci_spec::status::NO_VECTOR;

/// Queues whose vectors are kept; QEMU's own devices have no more. Those above get no INTx.
pub(crate) const TRACKED: usize = 1024;

const WORDS: usize = TRACKED / 64 + 1;
const CONFIG: usize = TRACKED;

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

/// What one of the caller's vectors may stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Some queue has it.
    pub queues: bool,
    /// Configuration changes have it.
    pub config: bool,
}

/// What became of the vectors since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// A queue in use got one of the caller's vectors only now: it may have interrupted before,
    /// with nobody listening.
    pub late: bool,
    /// Sources that the device gave no vector, and the last of them.
    pub unmapped: u32,
    /// See `unmapped`.
    pub last_unmapped: Option<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bits([u64; WORDS]);

impl Bits {
    const NONE: Self = Bits([0; WORDS]);

    fn get(&self, i: usize) -> bool {
        self.0
            .get(i / 64)
            .is_some_and(|word| word & 1 << (i % 64) != 0)
    }

    fn set(&mut self, i: usize, on: bool) {
        if let Some(word) = self.0.get_mut(i / 64) {
            let bit = 1 << (i % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    /// The first bit set here, and not in `but`.
    fn first(&self, but: &Self) -> Option<usize> {
        let words = self.0.iter().zip(&but.0).enumerate();
        words
            .map(|(i, (word, not))| (i, word & !not))
            .find(|(_, word)| *word != 0)
            .map(|(i, word)| i * 64 + word.trailing_zeros() as usize)
    }
}

/// A vector to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) source: Source,
    pub(crate) vector: u16,
    /// What to try if the device does not take `vector`; the same if there is nothing else.
    pub(crate) second: u16,
    /// Whether to see what the device made of it.
    pub(crate) check: bool,
    /// The device may have it already.
    pub(crate) again: bool,
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
}

#[derive(Clone, Debug)]
pub(crate) struct Vectors {
    /// Without this nothing is kept and nothing written.
    pub(crate) enabled: bool,
    own: Option<OwnVectors>,
    /// There may be a job.
    due: bool,
    /// Jobs wait for [`Vectors::retry`].
    stalled: bool,
    /// A queue has an address, or the driver is ready; until the next reset.
    driven: bool,
    /// `own` has become what it is, and not all is written yet.
    changed: bool,
    /// The queue that got its address in the access under way or the last one.
    fresh: Option<usize>,
    settled: Settled,
    /// Of `own.config` and `own.queues`.
    causes: [Causes; 2],
    /// Sources in use; the configuration always is.
    live: Bits,
    /// Sources whose vector in the device may be one of the caller's.
    ours: Bits,
    /// Sources for which nothing is left to be done while `own` stays.
    done: Bits,
    /// What the guest mapped.
    guest: [u16; TRACKED + 1],
}

fn slot(source: Source) -> Option<usize> {
    match source {
        Source::Config => Some(CONFIG),
        Source::Queue(q) => Some(usize::from(q)).filter(|q| *q < TRACKED),
    }
}

fn source(slot: usize) -> Source {
    match u16::try_from(slot) {
        Ok(queue) if slot < TRACKED => Source::Queue(queue),
        _ => Source::Config,
    }
}

impl Vectors {
    pub(crate) const fn new(enabled: bool) -> Self {
        Vectors {
            enabled,
            own: None,
            due: false,
            stalled: false,
            driven: false,
            changed: false,
            fresh: None,
            settled: Settled {
                late: false,
                unmapped: 0,
                last_unmapped: None,
            },
            causes: [Causes {
                queues: false,
                config: false,
            }; 2],
            live: Bits::NONE,
            ours: Bits::NONE,
            done: Bits::NONE,
            guest: [NO_VECTOR; TRACKED + 1],
        }
    }

    /// The device has been reset, in whatever way.
    pub(crate) fn reset(&mut self) {
        *self = Vectors::new(self.enabled);
    }

    pub(crate) const fn driven(&self) -> bool {
        self.driven
    }

    /// Who is to get the interrupts from now on.
    pub(crate) fn serve(&mut self, own: Option<OwnVectors>) {
        if self.own == own {
            return;
        }
        self.own = own;
        self.due = true;
        self.changed = true;
        self.stalled = false;
        self.done = Bits::NONE;
        self.causes = [Causes::default(); 2];
    }

    /// The next access of the guest begins.
    pub(crate) fn next_access(&mut self) {
        self.fresh = None;
    }

    /// The driver wrote this status, not 0.
    pub(crate) fn status_written(&mut self, driver_ok: bool) {
        self.driven |= driver_ok;
        self.due |= self.own.is_some() && !self.stalled;
    }

    /// The guest wrote a queue address other than 0, and the device took it.
    pub(crate) fn address_written(&mut self, queue: u16) {
        let Some(q) = slot(Source::Queue(queue)) else {
            return;
        };
        if !self.live.get(q) {
            self.fresh = Some(q);
            self.done.set(q, false);
        }
        self.live.set(q, true);
        self.driven = true;
        self.due |= !self.stalled;
    }

    /// The guest mapped a source, or read what is mapped.
    pub(crate) fn guest_mapped(&mut self, source: Source, vector: u16) {
        if self.own.is_some() {
            return;
        }
        if let Some(s) = slot(source) {
            if let Some(v) = self.guest.get_mut(s) {
                *v = vector;
            }
            self.ours.set(s, false);
        }
    }

    /// The helper is back.
    pub(crate) fn retry(&mut self) {
        self.stalled = false;
        self.due = true;
    }

    pub(crate) const fn stalled(&self) -> bool {
        self.stalled
    }

    /// No more now: the device does not answer.
    pub(crate) fn stall(&mut self) {
        self.stalled = true;
        self.due = false;
    }

    /// The next vector to be written.
    pub(crate) fn next(&mut self) -> Option<Job> {
        if !self.due || !self.enabled {
            return None;
        }
        let job = match self.own {
            Some(own) => {
                let mut wanted = self.live;
                wanted.set(CONFIG, true);
                wanted.first(&self.done).map(|s| {
                    let source = source(s);
                    let (vector, second) = match source {
                        Source::Config => (own.config, own.queues),
                        Source::Queue(_) => (own.queues, own.config),
                    };
                    Job {
                        source,
                        vector,
                        second,
                        check: true,
                        again: self.ours.get(s),
                    }
                })
            }
            None => self.ours.first(&Bits::NONE).map(|s| {
                let vector = self.guest.get(s).copied().unwrap_or(NO_VECTOR);
                Job {
                    source: source(s),
                    vector,
                    second: vector,
                    check: false,
                    again: false,
                }
            }),
        };
        self.due = job.is_some();
        self.changed &= self.due;
        job
    }

    /// The device may have taken `vector`.
    pub(crate) fn writing(&mut self, job: &Job) {
        if let (Some(s), true) = (slot(job.source), self.own.is_some()) {
            self.ours.set(s, true);
        }
    }

    /// A job is done; `mapped` is what the device has now, if it has one; `again` stands in the job
    /// if it had it before.
    pub(crate) fn finish(&mut self, job: &Job, mapped: Option<u16>) {
        let Some(s) = slot(job.source) else { return };
        let Some(own) = self.own else {
            self.ours.set(s, false);
            return;
        };
        self.done.set(s, true);
        let is_queue = job.source != Source::Config;
        let Some(vector) = mapped else {
            self.settled.unmapped = self.settled.unmapped.saturating_add(1);
            self.settled.last_unmapped = Some(job.source);
            return;
        };
        let [config, queues] = &mut self.causes;
        let causes = if vector == own.config { config } else { queues };
        causes.queues |= is_queue;
        causes.config |= !is_queue;
        let fresh = if is_queue {
            self.fresh == Some(s)
        } else {
            self.fresh.is_some()
        };
        let in_use = self.live.first(&Bits::NONE).is_some();
        self.settled.late |= !fresh && in_use && (self.changed || !job.again);
    }

    pub(crate) fn take_settled(&mut self) -> Settled {
        core::mem::take(&mut self.settled)
    }

    pub(crate) fn causes(&self, vector: u16) -> Causes {
        let [config, queues] = self.causes;
        match self.own {
            Some(own) if own.config == vector => config,
            Some(own) if own.queues == vector => queues,
            _ => Causes::default(),
        }
    }

    /// Vectors of the guest for sources in use, each as often as it is mapped.
    pub(crate) fn guest_vectors(&self) -> impl Iterator<Item = u16> + '_ {
        let used = |(s, v): (usize, &u16)| {
            let used = *v != NO_VECTOR && (s == CONFIG || self.live.get(s));
            used.then_some(*v)
        };
        self.guest.iter().enumerate().filter_map(used)
    }
}
