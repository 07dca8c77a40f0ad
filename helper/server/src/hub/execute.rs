// SPDX-License-Identifier: GPL-2.0-or-later
//! Execution of the sessions' jobs.

use std::time::{Duration, Instant};

use legacy_vf_proto::{ErrorCode, Reply};
use virtio_modern_spec::admin::{qualifier, status};
use virtio_pci_spec::legacy;
use virtio_pf::{Access, Completion, LegacyOp, Notified, OpError, Space, SubmitError};

use super::opening::Refusal;
use super::{Hub, Stage};
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::query;
use crate::ratelimit::{About, Kind};
use crate::session::work::cost;
use crate::session::{InFlight, Job, RequestId, Session, Work};

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
    /// Executes jobs of a session until one takes time, none is left, or its share is used up.
    pub(super) fn pump(&mut self, session: &mut Session, now: Instant) {
        loop {
            if !self.shares.left_for(session) {
                if session.has_work() && session.put_off() {
                    self.put_off.push(session.id());
                }
                return;
            }
            let Some((request, job)) = session.next_job() else {
                return;
            };
            self.shares.spend(session, cost(&job));
            if let Some(refusal) = self.refuse_all(&job) {
                session.fail(request, refusal.0, &refusal.1);
                continue;
            }
            match job {
                Job::Open { open, file } => self.open(session, request, &open, file.as_ref(), now),
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

    pub(super) fn token_for(&mut self, session: &Session) -> u64 {
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
        if let Some(suppressed) = self.limits.allow(Kind::Access, About::Vf(member), now) {
            let Peer { pid, uid, .. } = session.peer();
            tracing::warn!(vf = member, pid, uid, %code, suppressed, "{text}");
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
                if let Some(suppressed) = self.limits.allow(kind, About::Vf(member), now) {
                    let Peer { pid, uid, .. } = session.peer();
                    tracing::warn!(vf = member, pid, uid, %code, suppressed, "{text}");
                }
                session.fail_device(ended.request, code, status, qualifier, &text);
            }
        }
    }
}
