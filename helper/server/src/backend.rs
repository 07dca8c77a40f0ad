// SPDX-License-Identifier: GPL-2.0-or-later
//! What the server needs of a PF, in the types of its driver. [`crate::PfBackend`] is the real one;
//! tests use `fake::FakeBackend`.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use virtio_pf::{
    Completion, Counters, LegacyOp, NotResponding, Notified, PfError, PfEvent, PfInfo, PfState,
    SubmitError, VfInfo,
};

use crate::proof::ProofError;

/// What is to be known about a PF that is served and that its driver does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// How the PF is reached: "vfio-user" or "vfio".
    pub transport: &'static str,
    /// Whether its VFs have VFIO device files, with which a client can prove that it holds one.
    pub vfio_fds: bool,
    /// Tells this process's use of the PF from those before.
    pub session: u64,
}

/// A PF that executes register accesses of its VFs. Single-threaded; no call but
/// [`AccessBackend::shutdown`] waits for the device for longer than its accesses may take.
pub trait AccessBackend {
    /// The PF as it is set up now.
    fn info(&self) -> &PfInfo;

    /// How it is served.
    fn served(&self) -> &Served;

    /// Number of this session with the PF; another after each initialisation.
    fn session(&self) -> u64 {
        let times = self.info().initialisations.into();
        self.served().session.wrapping_add(times)
    }

    /// One VF, from 1; `None` if there is no such VF.
    fn vf(&self, member: u16) -> Option<&VfInfo>;

    /// Since when a VF does not answer, if so.
    fn not_responding(&self, member: u16) -> Option<NotResponding> {
        let _unused = member;
        None
    }

    /// The token that openers of a VF show to the kernel; `None` where there is no such thing.
    fn vf_token(&self) -> Option<[u8; 16]> {
        None
    }

    /// The VF that a VFIO device file stands for; `named` is the member in the request, 0 for none.
    /// Asked only with [`Served::vfio_fds`].
    ///
    /// # Errors
    /// Why it is not a VF of this PF, or not the named one.
    fn member_of_file(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        let _unused = (file, named);
        Err(ProofError::NoDevice)
    }

    /// A VF is opened: asks the device what is to be known of it. `true`: there will be a completion
    /// with `token`, after which [`AccessBackend::vf`] has it.
    ///
    /// # Errors
    /// [`SubmitError`]; there will be no completion then.
    fn open(&mut self, member: u16, token: u64, now: Instant) -> Result<bool, SubmitError> {
        let _unused = (member, token, now);
        Ok(false)
    }

    /// Starts an access. Accesses of one member are executed in order.
    ///
    /// # Errors
    /// [`SubmitError`]; there will be no completion then.
    fn submit(
        &mut self,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError>;

    /// Notifies a queue of a member. There is no completion.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    fn notify(&mut self, member: u16, queue: u16, now: Instant) -> Result<Notified, SubmitError>;

    /// Tells the device about what was submitted, retries, expires deadlines. Gives what has ended.
    fn poll(&mut self, now: Instant) -> Vec<Completion>;

    /// Like [`AccessBackend::poll`], but looks again and again for at most `budget` until something
    /// has ended, without asking the device for interrupts meanwhile. With no budget, once.
    fn poll_spinning(&mut self, budget: Duration) -> Vec<Completion> {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            let done = self.poll(now);
            if !done.is_empty() || now.saturating_duration_since(begun) >= budget {
                return done;
            }
            std::hint::spin_loop();
        }
    }

    /// News since the last call, oldest first.
    fn take_events(&mut self) -> Vec<PfEvent>;

    /// File descriptors that become readable when [`AccessBackend::poll`] has something to do.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Changes when [`AccessBackend::fds`] gives other descriptors than before.
    fn fds_epoch(&self) -> u64 {
        0
    }

    /// When [`AccessBackend::poll`] must be called at the latest.
    fn next_deadline(&self) -> Option<Instant>;

    /// What the PF is doing.
    fn state(&self) -> &PfState;

    /// Counters of the driver.
    fn counters(&self) -> &Counters;

    /// Resets the PF and gives everything back.
    ///
    /// # Errors
    /// If the reset was not seen to finish; memory that the device might still use then stays
    /// allocated until the process ends.
    fn shutdown(&mut self) -> Result<(), PfError>;
}
