// SPDX-License-Identifier: GPL-2.0-or-later
//! The driver as its owner sees it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use pci_transport::PciFunction;

use crate::config::PfConfig;
use crate::error::{PfError, SubmitError};
use crate::stats::Counters;
use crate::types::{Completion, LegacyOp, Notified, PfEvent, PfInfo, PfState, VfInfo};

/// A PF under the control of this process.
pub struct Pf {
    function: Box<dyn PciFunction>,
    info: PfInfo,
    vfs: Vec<VfInfo>,
    counters: Counters,
    state: PfState,
}

impl Pf {
    /// Brings the PF up, enables the VFs, agrees on the commands and asks for the notification
    /// addresses. Blocks, at most for [`PfConfig::start_timeout`].
    pub fn start(function: Box<dyn PciFunction>, config: PfConfig) -> Result<Pf, PfError> {
        config.check().map_err(PfError::Config)?;
        Err(PfError::Unsuitable {
            function: function.id().into(),
            why: "this driver is incomplete".into(),
        })
    }

    /// The PF as it was found and set up.
    pub fn info(&self) -> &PfInfo {
        &self.info
    }

    /// One VF, from 1.
    pub fn vf(&self, member: u16) -> Option<&VfInfo> {
        self.vfs.get(usize::from(member.checked_sub(1)?))
    }

    /// What the PF is doing.
    pub fn state(&self) -> &PfState {
        &self.state
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Accepts an operation on a VF's legacy registers; its end comes from [`Pf::poll`] with
    /// `token`. Operations of one VF are performed one after the other, in the order of their
    /// submission, each finished before the next begins.
    ///
    /// An operation that was accepted always completes: with a result, or with an error no later
    /// than [`PfConfig::command_timeout`] after `now`, given that `poll` is called when
    /// [`Pf::next_deadline`] says so.
    pub fn submit(
        &mut self,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let _unused = (member, op, token, now);
        Err(SubmitError::Shutdown)
    }

    /// Notifies a queue of a VF: by the owner's notification address where there is one, otherwise
    /// by command. There is no completion.
    pub fn notify(
        &mut self,
        member: u16,
        queue: u16,
        now: Instant,
    ) -> Result<Notified, SubmitError> {
        let _unused = (member, queue, now);
        Err(SubmitError::Shutdown)
    }

    /// Does all that can be done now: takes completions and interrupts, repeats, expires, recovers.
    pub fn poll(&mut self, now: Instant) -> Vec<Completion> {
        let _unused = now;
        Vec::new()
    }

    /// Like [`Pf::poll`], but looks again and again for at most `budget` until there is a
    /// completion.
    pub fn poll_spinning(&mut self, budget: Duration) -> Vec<Completion> {
        let _unused = budget;
        Vec::new()
    }

    /// How long it is worth looking again and again, rather than sleeping on [`Pf::fds`], after a
    /// submission; zero if it is not.
    pub fn spin_hint(&self) -> Duration {
        Duration::ZERO
    }

    /// What became known since the last call.
    pub fn take_events(&mut self) -> Vec<PfEvent> {
        Vec::new()
    }

    /// File descriptors to wait on (readable); when one is, call [`Pf::poll`]. The set changes
    /// only when [`Pf::fds_epoch`] does.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.function.event_fds()
    }

    /// Changes when [`Pf::fds`] gives other descriptors than before.
    pub fn fds_epoch(&self) -> u64 {
        0
    }

    /// When [`Pf::poll`] must be called at the latest; `None`: not before a descriptor is ready.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Resets the PF, waits until the reset has finished, then gives back the memory that the
    /// device used. VFs stay enabled. The remaining operations end with
    /// [`OpError::Shutdown`](crate::OpError::Shutdown).
    pub fn shutdown(&mut self) -> (Vec<Completion>, Result<(), PfError>) {
        (Vec::new(), Ok(()))
    }
}
