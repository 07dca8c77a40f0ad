// SPDX-License-Identifier: GPL-2.0-or-later
//! [`virtio_pf::Pf`] as the backend.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use virtio_pf::{
    Completion, Counters, LegacyOp, NotResponding, Notified, Pf, PfError, PfEvent, PfInfo, PfState,
    SubmitError, VfInfo,
};

use crate::backend::{AccessBackend, Served};
use crate::device_files::DeviceFiles;
use crate::proof::ProofError;

/// A PF under control, with what the server wants to know about it.
pub struct PfBackend {
    pf: Pf,
    served: Served,
    vfio: Option<([u8; 16], DeviceFiles)>,
}

impl PfBackend {
    /// A PF that a vfio-user server has; `session` as in [`Served::session`].
    pub fn on_vfio_user(pf: Pf, session: u64) -> Self {
        PfBackend {
            pf,
            served: Served {
                transport: "vfio-user",
                vfio_fds: false,
                session,
            },
            vfio: None,
        }
    }

    /// A PF that is driven through the kernel's VFIO: its VFs have device files, and a token.
    pub fn on_vfio(pf: Pf, session: u64, token: [u8; 16], files: DeviceFiles) -> Self {
        PfBackend {
            pf,
            served: Served {
                transport: "vfio",
                vfio_fds: true,
                session,
            },
            vfio: Some((token, files)),
        }
    }
}

impl AccessBackend for PfBackend {
    fn info(&self) -> &PfInfo {
        self.pf.info()
    }

    fn served(&self) -> &Served {
        &self.served
    }

    fn vf(&self, member: u16) -> Option<&VfInfo> {
        self.pf.vf(member)
    }

    fn not_responding(&self, member: u16) -> Option<NotResponding> {
        self.pf.not_responding(member).copied()
    }

    fn vf_token(&self) -> Option<[u8; 16]> {
        self.vfio.as_ref().map(|(token, _)| *token)
    }

    fn member_of_file(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        match &self.vfio {
            Some((_, files)) => files.member(file, named),
            None => Err(ProofError::NoDevice),
        }
    }

    fn open(&mut self, member: u16, token: u64, now: Instant) -> Result<bool, SubmitError> {
        self.pf.open(member, token, now)
    }

    fn submit(
        &mut self,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        self.pf.submit(member, op, token, now)
    }

    fn notify(&mut self, member: u16, queue: u16, now: Instant) -> Result<Notified, SubmitError> {
        self.pf.notify(member, queue, now)
    }

    fn poll(&mut self, now: Instant) -> Vec<Completion> {
        self.pf.poll(now)
    }

    fn poll_spinning(&mut self, budget: Duration) -> Vec<Completion> {
        self.pf.poll_spinning(budget)
    }

    fn take_events(&mut self) -> Vec<PfEvent> {
        self.pf.take_events()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.pf.fds()
    }

    fn fds_epoch(&self) -> u64 {
        self.pf.fds_epoch()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.pf.next_deadline()
    }

    fn state(&self) -> &PfState {
        self.pf.state()
    }

    fn counters(&self) -> &Counters {
        self.pf.counters()
    }

    fn shutdown(&mut self) -> Result<(), PfError> {
        self.pf.shutdown().1
    }
}
