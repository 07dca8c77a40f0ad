// SPDX-License-Identifier: GPL-2.0-or-later
//! [`virtio_pf::Pf`] as the backend.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use virtio_modern_spec::admin::opcode;
use virtio_pci_spec::ids::MODERN_DEVICE_BASE;
use virtio_pci_spec::DeviceType;
use virtio_pf::{Access, LegacyOp, Pf, PfEvent, PfState};

use crate::backend::{
    AccessBackend, BackendEvent, BackendState, Completion, Notified, NotifyAddress, OpError,
    Operation, PfSummary, Polled, SubmitError,
};
use crate::device_files::DeviceFiles;
use crate::proof::ProofError;
use legacy_vf_proto::{NotifyKind, Space};

/// A PF under control, with what the server wants to know about it.
pub struct PfBackend {
    pf: Pf,
    summary: PfSummary,
    timeout: Duration,
    token: Option<[u8; 16]>,
    files: Option<DeviceFiles>,
}

impl PfBackend {
    /// `transport` as in [`PfSummary::transport`]; `timeout` is the PF's command timeout;
    /// `session` tells this initialisation from others.
    pub fn new(pf: Pf, transport: &'static str, timeout: Duration, session: u64) -> Self {
        let info = pf.info();
        // The modern device ID tells the type even where it has no legacy form.
        let virtio_id = info.vf_type.map_or_else(
            || info.vf_device_id.saturating_sub(MODERN_DEVICE_BASE),
            DeviceType::virtio_id,
        );
        let summary = PfSummary {
            id: info.id.to_string(),
            transport,
            vfio_fds: false,
            virtio_id,
            vendor_id: info.vendor_id,
            device_id: info.device_id,
            vf_device_id: info.vf_device_id,
            serial: info.serial,
            num_vfs: info.num_vfs,
            features: info.features,
            admin_queue_index: info.admin_queue_index,
            admin_queue_size: info.admin_queue_size,
            commands: info.commands.0,
            access_deadline: timeout,
            session,
        };
        PfBackend {
            pf,
            summary,
            timeout,
            token: None,
            files: None,
        }
    }

    /// The PF is driven through the kernel's VFIO: its VFs have device files, and a token.
    pub fn on_vfio(mut self, token: [u8; 16], files: DeviceFiles) -> Self {
        self.token = Some(token);
        self.files = Some(files);
        self.summary.vfio_fds = true;
        self
    }

    fn give(&mut self, ended: Vec<virtio_pf::Completion>, out: &mut Polled) {
        for c in ended {
            let result = c.result.map_err(|e| self.op_error(e));
            out.done.push(Completion {
                token: c.token,
                result,
            });
        }
        for event in self.pf.take_events() {
            match event {
                PfEvent::Reset { cause } => {
                    out.events.push(BackendEvent::Resetting(cause.to_string()));
                }
                PfEvent::Recovered { .. } => out.events.push(BackendEvent::Recovered),
                // Its cause is in the state.
                PfEvent::Failed { .. } => {}
                PfEvent::RemovalRequested => out.events.push(BackendEvent::RemovalRequested),
            }
        }
    }

    fn op_error(&self, error: virtio_pf::OpError) -> OpError {
        match error {
            virtio_pf::OpError::Device { status, qualifier } => {
                OpError::Device { status, qualifier }
            }
            virtio_pf::OpError::TimedOut => OpError::TimedOut(self.timeout),
            virtio_pf::OpError::ShortReply { got, want } => OpError::ShortReply { got, want },
            virtio_pf::OpError::PfFailed(why) => OpError::PfFailed(why.to_string()),
            virtio_pf::OpError::Shutdown => OpError::Shutdown,
        }
    }
}

fn submit_error(error: virtio_pf::SubmitError) -> SubmitError {
    use virtio_pf::SubmitError as E;
    match error {
        E::QueueFull { .. } => SubmitError::Full,
        E::NoSuchVf { member, .. } => SubmitError::NoSuchVf(member),
        E::NotOneField { .. } => SubmitError::OutOfRange(error.to_string()),
        E::NotOffered { opcode } => SubmitError::NotSupported(opcode::name(opcode)),
        E::PfFailed(why) => SubmitError::PfFailed(why.to_string()),
        E::Shutdown => SubmitError::Shutdown,
    }
}

fn legacy_op(op: &Operation) -> LegacyOp {
    LegacyOp {
        space: match op.space {
            Space::Common => virtio_pf::Space::Common,
            Space::Device => virtio_pf::Space::Device,
        },
        offset: op.offset,
        access: match op.data {
            None => Access::Read { len: op.len },
            Some(data) => Access::Write { data, len: op.len },
        },
    }
}

impl AccessBackend for PfBackend {
    fn info(&self) -> &PfSummary {
        &self.summary
    }

    fn notify_address(&self, member: u16) -> Option<NotifyAddress> {
        let vf = self.pf.vf(member)?;
        Some(vf.notify.map_or(NotifyAddress::NONE, |a| NotifyAddress {
            kind: match a.kind {
                virtio_pf::NotifyKind::Owner => NotifyKind::Owner,
                virtio_pf::NotifyKind::Member => NotifyKind::Member,
            },
            bar: a.bar,
            offset: a.offset,
        }))
    }

    fn vf_token(&self) -> Option<[u8; 16]> {
        self.token
    }

    fn member_of_file(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        match &self.files {
            Some(files) => files.member(file, named),
            None => Err(ProofError::NoDevice),
        }
    }

    fn submit(
        &mut self,
        member: u16,
        op: Operation,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        self.pf
            .submit(member, legacy_op(&op), token, now)
            .map_err(submit_error)
    }

    fn notify(&mut self, member: u16, queue: u16, now: Instant) -> Result<Notified, SubmitError> {
        match self.pf.notify(member, queue, now) {
            Ok(virtio_pf::Notified::Address) => Ok(Notified::Address),
            Ok(virtio_pf::Notified::Command | virtio_pf::Notified::Merged) => Ok(Notified::Command),
            Err(e) => Err(submit_error(e)),
        }
    }

    fn poll(&mut self, now: Instant, out: &mut Polled) {
        let ended = self.pf.poll(now);
        self.give(ended, out);
    }

    fn poll_spinning(&mut self, budget: Duration, out: &mut Polled) {
        let ended = self.pf.poll_spinning(budget);
        self.give(ended, out);
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

    fn spin_hint(&self) -> Duration {
        self.pf.spin_hint()
    }

    fn state(&self) -> BackendState {
        match self.pf.state() {
            PfState::Starting | PfState::Running => BackendState::Running,
            PfState::Recovering => BackendState::Recovering,
            PfState::Failed(why) => BackendState::Failed(why.to_string()),
            PfState::Stopped => BackendState::Failed("it was shut down".into()),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = self.pf.counters();
        let mut out: Vec<(&'static str, u64)> = c
            .commands
            .iter()
            .map(|(opcode, count)| (opcode::name(*opcode), *count))
            .collect();
        out.extend([
            ("retries", c.retries),
            ("timed_out", c.timed_out),
            ("late", c.late),
            ("short_replies", c.short_replies),
            ("kicks", c.kicks),
            ("kicks_suppressed", c.kicks_suppressed),
            ("interrupts", c.interrupts),
            ("spurious_interrupts", c.spurious),
            ("recoveries", c.recoveries),
        ]);
        out
    }

    fn shutdown(&mut self) -> Result<(), String> {
        let (_ended, result) = self.pf.shutdown();
        result.map_err(|e| e.to_string())
    }
}
