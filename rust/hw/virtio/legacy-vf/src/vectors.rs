// SPDX-License-Identifier: GPL-2.0-or-later

//! The VF's side of `INTx`: vectors are written, and its ISR asked, through the helper.

use legacy_window::{Command, Outcome, Source, Step};
use virtio_pci_spec::{
    legacy::Register,
    status::{ISR_CONFIG, ISR_QUEUE},
};

use crate::{
    events,
    link::{Io, Link},
    socket::Patience,
};

impl Link {
    /// Writes the VF's vectors that are not as they must be.
    pub fn write_vectors(&self, io: &mut Io, patience: &mut Patience<'_>) {
        let Some(intx) = &self.intx else { return };
        let (turn, msix) = {
            let guest = self.guest();
            (guest.turn, guest.msix)
        };
        let held = intx.isr().held;
        if !held && !msix {
            // The VF has no vector registers now; whoever switches MSI-X on asks again.
            return;
        }
        io.turn = turn;
        // After a reset the vectors are still held for a moment.
        io.driven = io.window.driven();
        let own = (held && io.driven).then(|| intx.own());
        io.window.serve_vectors(own, turn);
        let mut step = io.window.begin_settle();
        while let Step::Command(command) = step {
            let outcome = self.command(io, command, patience, &mut None);
            step = io.window.resume(outcome);
        }
        let settled = io.window.take_settled();
        let guest = self.guest();
        let counts = guest.turn == turn && guest.epoch == io.epoch;
        if counts && own.is_some() {
            intx.set_causes(|vector| io.window.causes(vector));
        }
        drop(guest);
        if !counts {
            // They changed hands meanwhile; what the VF refused says nothing.
            self.wake.signal();
            return;
        }
        if let Some(source) = settled.last_unmapped {
            if settled.unheard && io.window.gives_up() {
                self.counters.setup_failures.add();
            }
            self.unmapped(source, settled.unmapped, settled.unheard);
        }
        if settled.late && own.is_some() {
            // What happened before, nobody heard.
            let isr = self.ask_isr(io, patience).unwrap_or(ISR_CONFIG);
            intx.poke(ISR_QUEUE | isr & ISR_CONFIG);
        }
        if settled.given_back {
            self.guest().tell = io.window.guest_vectors().collect();
            self.main_loop.signal();
        }
        if io.window.settle_stalled() {
            self.wake.signal();
        }
    }

    /// Reads the VF's own ISR, and so clears it. A device sets its configuration bit whether it
    /// sends messages or not.
    fn ask_isr(&self, io: &mut Io, patience: &mut Patience<'_>) -> Option<u8> {
        let command = Command::register(Register::IsrStatus, None);
        match self.command(io, command, patience, &mut None) {
            Outcome::Data([isr, ..]) => Some(isr),
            Outcome::Written | Outcome::Failed(_) => None,
        }
    }

    /// Whether the configuration changed, for a VF that says it with the vector of its queues.
    /// True if it cannot be found out.
    pub fn config_changed(&self) -> bool {
        let mut io = self.lock_io();
        let patience = &mut self.patience(&io);
        let isr = self.ask_isr(&mut io, patience);
        drop(io);
        isr.is_none_or(|isr| isr & ISR_CONFIG != 0)
    }

    fn unmapped(&self, source: Source, count: u32, broke: bool) {
        let (what, queue) = match source {
            Source::Config => ("configuration changes".to_owned(), u32::MAX),
            Source::Queue(queue) => (format!("queue {queue}"), queue.into()),
        };
        events::trace_virtio_legacy_vf_intx_unmapped(&self.name, queue);
        self.counters.intx_unmapped.add_many(count.into());
        let consequence = if broke {
            "the device shows no queues until the driver resets it"
        } else {
            "a guest that waits for its INTx may hang"
        };
        self.warn(format_args!(
            "the VF gives no interrupt vector to {what}, so {consequence}; let the guest use MSI-X, \
             or see why the VF refuses (`virtio-legacy-vf stats`)"
        ));
    }
}
