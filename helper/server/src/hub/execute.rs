// SPDX-License-Identifier: GPL-2.0-or-later
//! Execution of the sessions' jobs.

use std::time::{Duration, Instant};

use legacy_vf_proto::{ErrorCode, NotifyKind, Open, OpenReply, Proof, Reply};
use virtio_modern_spec::admin::{list::OpcodeSet, qualifier, status};
use virtio_pci_spec::legacy;
use virtio_pf::{
    Access, Completion, LegacyOp, Notified, NotifyAddress, OpError, Space, SubmitError,
};

use super::{Hub, Stage};
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::proof::ProofError;
use crate::query;
use crate::ratelimit::Kind;
use crate::received::ReceivedFile;
use crate::registry::{ClaimError, Owner};
use crate::session::{InFlight, Job, RequestId, Session, Work};

/// A refusal: what the client is told.
pub(super) struct Refusal(pub ErrorCode, pub String);

/// Where an operation goes, for messages.
fn place(op: &LegacyOp) -> String {
    let verb = match op.access {
        Access::Read { .. } => "read",
        Access::Write { .. } => "write",
    };
    let (space, register) = match op.space {
        Space::Common => (
            "common",
            legacy::field_at(op.offset, true).map(|f| format!("{:?}", f.register)),
        ),
        Space::Device => ("device configuration", None),
    };
    let register = register.map_or(String::new(), |r| format!(" ({r})"));
    format!(
        "{verb} of {} bytes at {space}+{:#x}{register}",
        op.len(),
        op.offset
    )
}

/// The protocol's number for where notifications go.
fn notify_kind(address: Option<NotifyAddress>) -> NotifyKind {
    use virtio_pf::NotifyKind as Kind;
    match address.map(|a| a.kind) {
        None => NotifyKind::None,
        Some(Kind::Owner) => NotifyKind::Owner,
        Some(Kind::Member) => NotifyKind::Member,
    }
}

/// The code and text for an operation that failed.
fn describe(
    error: &OpError,
    limit: Duration,
    member: u16,
    what: &str,
) -> (ErrorCode, u16, u16, String) {
    match error {
        OpError::Device {
            status: s,
            qualifier: q,
        } => (
            ErrorCode::DEVICE,
            *s,
            *q,
            format!(
                "VF {member}: {what}: the device answered status {s} ({}) qualifier {q} ({})",
                status::name(*s),
                qualifier::name(*q)
            ),
        ),
        OpError::ShortReply { got, want } => (
            ErrorCode::DEVICE,
            0,
            0,
            format!("VF {member}: {what}: the device gave {got} bytes instead of {want}"),
        ),
        OpError::TimedOut => (
            ErrorCode::TIMED_OUT,
            0,
            0,
            format!(
                "VF {member}: {what}: no answer of the device within {limit:?}; it may still \
                 execute the command later"
            ),
        ),
        OpError::NotResponding => (
            ErrorCode::NOT_RESPONDING,
            0,
            0,
            format!("VF {member}: {what}: the VF does not answer; it is tried again later"),
        ),
        OpError::PfFailed(why) => (
            ErrorCode::PF_FAILED,
            0,
            0,
            format!("VF {member}: {what}: the PF failed: {why}"),
        ),
        OpError::Shutdown => (
            ErrorCode::SHUTTING_DOWN,
            0,
            0,
            format!("VF {member}: {what}: the helper is shutting down"),
        ),
    }
}

impl<B: AccessBackend> Hub<B> {
    /// Executes jobs of a session until one takes time or none is left.
    pub(super) fn pump(&mut self, session: &mut Session, now: Instant) {
        while let Some((request, job)) = session.next_job() {
            if let Some(refusal) = self.refuse_all(&job) {
                session.fail(request, refusal.0, &refusal.1);
                continue;
            }
            match job {
                Job::Open { open, files } => self.open(session, request, &open, &files, now),
                Job::Token { member } => self.token(session, request, member),
                Job::Query { what, member } => {
                    let max = session.max_payload();
                    match query::answer(self, what, member, max, now) {
                        Ok(json) => session.reply(request, &Reply::Query { json: &json }),
                        Err((code, text)) => session.fail(request, code, &text),
                    }
                }
                Job::Access { member, op } => self.access(session, request, member, op, now),
                Job::Notify { member, queue } => self.notify(session, request, member, queue, now),
            }
            if session.is_stalled() {
                self.stalled.push(session.id());
                return;
            }
        }
    }

    /// The reason why no work is taken at all, if so.
    fn refuse_all(&self, job: &Job) -> Option<Refusal> {
        match &self.stage {
            Stage::Serving => None,
            _ if matches!(job, Job::Query { .. }) => None,
            Stage::Draining(_) => Some(Refusal(
                ErrorCode::SHUTTING_DOWN,
                "The helper is shutting down; connect again later".into(),
            )),
            Stage::Failed(cause) => Some(Refusal(
                ErrorCode::PF_FAILED,
                format!("PF {} failed: {cause}", self.backend.info().id),
            )),
        }
    }

    fn open(
        &mut self,
        session: &mut Session,
        request: RequestId,
        open: &Open,
        files: &[ReceivedFile],
        now: Instant,
    ) {
        match self.try_open(session, open, files, now) {
            Ok(member) => {
                session.opened(member);
                self.unopened = self.unopened.saturating_sub(1);
                self.counters.opens += 1;
                if let Some(suppressed) = self.limits.allow(Kind::Open, now) {
                    tracing::info!(member, peer = %session.peer(),
                        name = %session.name(), suppressed, "VF opened");
                }
                let token = self.token_for(session);
                if let Ok(true) = self.backend.open(member, token, now) {
                    self.in_flight += 1;
                    let work = Work::Open(member);
                    session.begin(InFlight {
                        token,
                        request,
                        work,
                    });
                } else {
                    // All is known, or it cannot be found out now.
                    self.reply_open(session, request, member);
                }
            }
            Err(Refusal(code, text)) => {
                if let Some(suppressed) = self.limits.allow(Kind::Refused, now) {
                    tracing::warn!(member = open.member, peer = %session.peer(),
                        name = %session.name(), %code, suppressed, "OPEN refused: {text}");
                }
                session.fail(request, code, &text);
            }
        }
    }

    fn try_open(
        &mut self,
        session: &Session,
        open: &Open,
        files: &[ReceivedFile],
        now: Instant,
    ) -> Result<u16, Refusal> {
        let refuse = |code, text: String| Err(Refusal(code, text));
        let member = self.prove(session.peer(), open, files)?;
        let info = self.backend.info();
        let pf = &info.id;
        if self.backend.vf(member).is_none() {
            return refuse(
                ErrorCode::NO_SUCH_VF,
                format!("PF {pf} has VFs 1 to {}, no VF {member}", info.num_vfs),
            );
        }
        if open.serial != 0 && info.serial != 0 && open.serial != info.serial {
            return refuse(
                ErrorCode::WRONG_OWNER,
                format!(
                    "The VF shows the serial number {:016x}, PF {pf} has {:016x}: it is a VF of \
                     another PF; use that PF's helper",
                    open.serial, info.serial
                ),
            );
        }
        let virtio_id = info.vf_virtio_id();
        if open.virtio_id != 0 && open.virtio_id != virtio_id {
            return refuse(
                ErrorCode::WRONG_TYPE,
                format!(
                    "The VFs of PF {pf} have the virtio device ID {}, the client expects {}",
                    virtio_id, open.virtio_id
                ),
            );
        }
        if !info.commands.contains_all(OpcodeSet::LEGACY_ACCESS) {
            return refuse(
                ErrorCode::NOT_SUPPORTED,
                format!(
                    "PF {pf} does not offer the legacy register access commands (opcodes 2 to 5); \
                     commands in use: {:#x}",
                    info.commands.0
                ),
            );
        }
        let owner = Owner {
            session: session.id(),
            peer: session.peer(),
            name: session.name(),
            since: now,
        };
        let mut claimed = self.registry.claim(member, owner);
        if let (Err(ClaimError::Busy(holder)), Proof::VFIO_FD) = (claimed, open.proof) {
            self.evict(member, &holder, now);
            claimed = self.registry.claim(member, owner);
        }
        match claimed {
            Ok(()) => Ok(member),
            Err(ClaimError::NoSuchVf) => {
                refuse(ErrorCode::NO_SUCH_VF, format!("There is no VF {member}"))
            }
            Err(ClaimError::Busy(holder)) => refuse(
                ErrorCode::BUSY,
                format!(
                    "VF {member} is in use by {} (\"{}\") since {} s",
                    holder.peer,
                    holder.name,
                    now.saturating_duration_since(holder.since).as_secs()
                ),
            ),
        }
    }

    /// Answers an OPEN that succeeded with what is known of the VF now.
    fn reply_open(&mut self, session: &mut Session, request: RequestId, member: u16) {
        let info = self.backend.info();
        let notify = self.backend.vf(member).and_then(|vf| vf.notify);
        let reply = OpenReply {
            member,
            virtio_id: info.vf_virtio_id(),
            num_vfs: info.num_vfs,
            notify_kind: notify_kind(notify),
            notify_bar: notify.map_or(0, |a| a.bar),
            notify_offset: notify.map_or(0, |a| a.offset),
            commands: info.commands.0,
            deadline_ms: u32::try_from(info.command_timeout.as_millis()).unwrap_or(u32::MAX),
            session: self.backend.session(),
        };
        session.reply(request, &Reply::Open(reply));
    }

    /// Ends the connection of a VF's owner. The kernel lets one user at a time have a VF: whoever
    /// shows its device file has it now, and a connection from before must not reach its registers.
    fn evict(&mut self, member: u16, holder: &Owner, now: Instant) {
        self.counters.evicted += 1;
        if let Some(suppressed) = self.limits.allow(Kind::Refused, now) {
            tracing::warn!(member, peer = %holder.peer, name = %holder.name, suppressed,
                "Another process holds the VF's device file now; disconnecting its former owner");
        }
        self.registry.release(member, holder.session);
        self.drop_session(holder.session);
    }

    /// The VF that the client may open: the one it names, or the one it shows to hold.
    fn prove(&self, peer: Peer, open: &Open, files: &[ReceivedFile]) -> Result<u16, Refusal> {
        let vfio_fds = self.backend.served().vfio_fds;
        match open.proof {
            Proof::NONE => self
                .config
                .policy
                .unproven(peer, vfio_fds)
                .map(|()| open.member)
                .map_err(|why| Refusal(ErrorCode::ACCESS_DENIED, why.to_string())),
            Proof::VFIO_FD if !vfio_fds => Err(Refusal(
                ErrorCode::BAD_PROOF,
                format!(
                    "The VFs of PF {} are emulated by another process and have no VFIO device \
                     file; open them without proof",
                    self.backend.info().id
                ),
            )),
            Proof::VFIO_FD => match (files, files.first().and_then(ReceivedFile::get)) {
                ([_], Some(file)) => self.backend.member_of_file(file, open.member),
                _ => Err(ProofError::Count(files.len())),
            }
            .map_err(|why| {
                let code = match why {
                    ProofError::OtherDevice { .. } => ErrorCode::WRONG_OWNER,
                    ProofError::Untold | ProofError::Unreadable(_) => ErrorCode::NOT_SUPPORTED,
                    _ => ErrorCode::BAD_PROOF,
                };
                Refusal(code, why.to_string())
            }),
            Proof(other) => Err(Refusal(
                ErrorCode::BAD_PROOF,
                format!(
                    "Unknown kind of proof {other}; known are 0 (none) and 1 (VFIO device file)"
                ),
            )),
        }
    }

    /// Tells the token. Whoever may connect may know it where a proof is asked for at OPEN: without
    /// the VF's device file it opens nothing.
    fn token(&mut self, session: &mut Session, request: RequestId, member: u16) {
        let (info, served) = (self.backend.info(), self.backend.served());
        let denied = match served.vfio_fds {
            true => None,
            false => self.config.policy.unproven(session.peer(), false).err(),
        };
        let (code, text) = if let Some(why) = denied {
            (ErrorCode::ACCESS_DENIED, why.to_string())
        } else if self.backend.vf(member).is_none() {
            (
                ErrorCode::NO_SUCH_VF,
                format!(
                    "PF {} has VFs 1 to {}, no VF {member}",
                    info.id, info.num_vfs
                ),
            )
        } else if let Some(uuid) = self.backend.vf_token() {
            return session.reply(request, &Reply::Token { uuid });
        } else {
            (
                ErrorCode::NOT_SUPPORTED,
                format!(
                    "PF {} is reached over {}, where VFs need no token",
                    info.id, served.transport
                ),
            )
        };
        session.fail(request, code, &text);
    }

    fn token_for(&mut self, session: &Session) -> u64 {
        self.next_token = self.next_token.wrapping_add(1);
        u64::from(self.next_token) << 32 | u64::from(session.id().slot)
    }

    fn access(
        &mut self,
        session: &mut Session,
        request: RequestId,
        member: u16,
        op: LegacyOp,
        now: Instant,
    ) {
        let token = self.token_for(session);
        match self.backend.submit(member, op, token, now) {
            Ok(()) => {
                self.in_flight += 1;
                self.counters.access(member, |c| c.started(&op));
                let work = Work::Access(op);
                session.begin(InFlight {
                    token,
                    request,
                    work,
                });
            }
            Err(SubmitError::QueueFull { .. }) => {
                session.stall(request, Job::Access { member, op })
            }
            Err(e) => self.not_submitted(session, request, member, &place(&op), &e, now),
        }
    }

    fn notify(
        &mut self,
        session: &mut Session,
        request: RequestId,
        member: u16,
        queue: u16,
        now: Instant,
    ) {
        match self.backend.notify(member, queue, now) {
            Ok(how) => {
                self.counters.access(member, |c| {
                    c.notifications += 1;
                    c.notify_commands += u64::from(how != Notified::Address);
                });
                session.reply(request, &Reply::Notify);
            }
            Err(SubmitError::QueueFull { .. }) => {
                session.stall(request, Job::Notify { member, queue })
            }
            Err(e) => {
                let what = format!("notification of queue {queue}");
                self.not_submitted(session, request, member, &what, &e, now);
            }
        }
    }

    fn not_submitted(
        &mut self,
        session: &mut Session,
        request: RequestId,
        member: u16,
        what: &str,
        error: &SubmitError,
        now: Instant,
    ) {
        let code = match error {
            SubmitError::NoSuchVf { .. } => ErrorCode::NO_SUCH_VF,
            SubmitError::NotOffered { .. } => ErrorCode::NOT_SUPPORTED,
            SubmitError::NotOneField { .. } => ErrorCode::OUT_OF_RANGE,
            SubmitError::QueueFull { .. } => ErrorCode::TOO_MANY,
            SubmitError::NotResponding { .. } => ErrorCode::NOT_RESPONDING,
            SubmitError::PfFailed(_) => ErrorCode::PF_FAILED,
            SubmitError::Shutdown => ErrorCode::SHUTTING_DOWN,
        };
        let text = format!("VF {member}: {what}: {error}");
        self.counters.access(member, |c| c.failed += 1);
        if let Some(suppressed) = self.limits.allow(Kind::Access, now) {
            tracing::warn!(member, %code, suppressed, "{text}");
        }
        session.fail(request, code, &text);
    }

    /// An operation has ended.
    pub(super) fn complete(&mut self, completion: Completion, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let slot = completion.token as u32;
        let id = self
            .slots
            .get(slot as usize)
            .map(|(generation, _)| crate::session::SessionId {
                slot,
                generation: *generation,
            });
        let Some(mut session) = id.and_then(|id| self.take(id)) else {
            self.counters.orphans += 1;
            return;
        };
        match session.end(completion.token) {
            // The connection that asked has gone, and another has its place.
            None => self.counters.orphans += 1,
            Some(ended) => {
                self.finish(&mut session, &ended, completion.result, now);
                self.pump(&mut session, now);
            }
        }
        self.put(session);
    }

    fn finish(
        &mut self,
        session: &mut Session,
        ended: &InFlight,
        result: Result<[u8; 8], OpError>,
        now: Instant,
    ) {
        let member = session.member().unwrap_or(0);
        let op = match ended.work {
            // Without an address, the VF is notified by command.
            Work::Open(member) => return self.reply_open(session, ended.request, member),
            Work::Access(op) => op,
        };
        match result {
            Ok(data) => {
                let latency = now.saturating_duration_since(ended.request.arrived);
                self.counters.access(member, |c| c.succeeded(latency));
                let reply = match op.access {
                    Access::Read { .. } => Reply::Read { data },
                    Access::Write { .. } => Reply::Write,
                };
                session.reply(ended.request, &reply);
            }
            Err(error) => {
                let timed_out = error == OpError::TimedOut;
                self.counters.access(member, |c| {
                    c.failed += 1;
                    c.timed_out += u64::from(timed_out);
                });
                if let OpError::Device { status, qualifier } = error {
                    self.counters.device.record(status, qualifier);
                }
                let what = place(&op);
                let limit = self.backend.info().command_timeout;
                let (code, status, qualifier, text) = describe(&error, limit, member, &what);
                let kind = match code {
                    ErrorCode::DEVICE => Kind::Device,
                    ErrorCode::TIMED_OUT => Kind::TimedOut,
                    _ => Kind::Access,
                };
                if let Some(suppressed) = self.limits.allow(kind, now) {
                    tracing::warn!(member, %code, suppressed, "{text}");
                }
                session.fail_device(ended.request, code, status, qualifier, &text);
            }
        }
    }
}
