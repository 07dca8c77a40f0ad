// SPDX-License-Identifier: GPL-2.0-or-later

//! The VF's side of `INTx`: vectors are written, and its ISR asked, through the helper.

use std::{
    sync::{atomic::Ordering, MutexGuard},
    time::{Duration, Instant},
};

use legacy_window::{Command, CommandKind, Outcome, Source, Space, Step};
use pci::report;
use virtio_pci_spec::{
    legacy::{field_of, Register},
    status::{ISR_CONFIG, ISR_QUEUE},
};

use crate::{
    events,
    intx::Intx,
    link::{Inner, Link},
};

/// Pause before vectors that could not be written are tried again.
pub const RETRY: Duration = Duration::from_millis(250);

impl Link {
    /// Writes the VF's vectors that are not as they must be. Costs nothing when all are.
    pub fn settle(&self) {
        if self.intx.is_none() {
            return;
        }
        let deadline = Instant::now() + self.deadline;
        match self.lock_until(deadline) {
            Some(mut inner) => self.settle_locked(&mut inner, deadline),
            None => self.nudge.signal(),
        }
    }

    /// The same for who has the lock.
    pub fn settle_locked(&self, inner: &mut Inner, deadline: Instant) {
        let Some(intx) = &self.intx else { return };
        self.catch_up(inner);
        // After a reset the vectors are still held for a moment.
        let own = intx.own().filter(|_| inner.window.driven());
        inner.window.serve_vectors(own);
        let mut step = inner.window.begin_settle();
        let mut refusal = None;
        while let Step::Command(command) = step {
            let outcome = self.command(inner, command, deadline, &mut refusal);
            step = inner.window.resume(outcome);
        }
        intx.driven.store(inner.window.driven(), Ordering::Release);
        if own.is_some() {
            for vector in 0..intx.vectors {
                intx.set_causes(vector, inner.window.causes(vector));
            }
        }
        let settled = inner.window.take_settled();
        if let Some(source) = settled.last_unmapped {
            self.unmapped(source, settled.unmapped);
        }
        if settled.late && own.is_some() {
            // What happened before, nobody heard.
            let isr = self.ask_isr(inner, deadline).unwrap_or(ISR_CONFIG);
            intx.poke(ISR_QUEUE | isr & ISR_CONFIG);
        }
        if inner.window.settle_stalled() {
            self.nudge.signal();
        }
    }

    /// Tries again what failed; for the link's own thread.
    pub fn settle_again(&self) {
        let deadline = Instant::now() + self.deadline;
        let mut inner = self.lock();
        inner.window.retry_settle();
        self.settle_locked(&mut inner, deadline);
        drop(inner);
    }

    /// Gives the vectors back to the guest, which is about to enable MSI-X, and returns those it
    /// has mapped.
    pub fn give_back(&self, intx: &Intx) -> Vec<u16> {
        intx.wanted.store(false, Ordering::Release);
        let deadline = Instant::now() + self.deadline;
        let Some(mut inner) = self.lock_until(deadline) else {
            self.nudge.signal();
            return Vec::new();
        };
        self.settle_locked(&mut inner, deadline);
        let mut vectors: Vec<u16> = inner.window.guest_vectors().collect();
        drop(inner);
        vectors.sort_unstable();
        vectors.dedup();
        vectors
    }

    /// Reads the VF's own ISR, and so clears it. A device sets its configuration bit whether it
    /// sends messages or not.
    fn ask_isr(&self, inner: &mut Inner, deadline: Instant) -> Option<u8> {
        let field = field_of(Register::IsrStatus);
        let command = Command {
            space: Space::Common,
            offset: field.offset,
            len: field.size,
            kind: CommandKind::Read,
        };
        match self.command(inner, command, deadline, &mut None) {
            Outcome::Data([isr, ..]) => Some(isr),
            Outcome::Written | Outcome::Failed(_) => None,
        }
    }

    /// Whether the configuration changed, for a VF that says it with the vector of its queues.
    /// True if it cannot be found out.
    pub fn config_changed(&self) -> bool {
        let deadline = Instant::now() + self.deadline;
        let mut inner: MutexGuard<'_, Inner> = match self.lock_until(deadline) {
            Some(inner) => inner,
            None => return true,
        };
        let isr = self.ask_isr(&mut inner, deadline);
        drop(inner);
        isr.is_none_or(|isr| isr & ISR_CONFIG != 0)
    }

    fn unmapped(&self, source: Source, count: u32) {
        let (what, queue) = match source {
            Source::Config => ("configuration changes".to_owned(), u32::MAX),
            Source::Queue(queue) => (format!("queue {queue}"), queue.into()),
        };
        events::trace_virtio_legacy_vf_intx_unmapped(&self.name, queue);
        self.stats.intx_unmapped.add_many(count.into());
        self.log.report(report::warn_report, || {
            format!(
                "{}: the VF gives no interrupt vector to {what}, so a guest that waits for its \
                 INTx may hang; let the guest use MSI-X or poll, or see why the VF refuses \
                 (`qemu-virtio-admin-helper stats`)",
                self.label
            )
        });
    }
}
