// SPDX-License-Identifier: GPL-2.0-or-later
//! OPEN and TOKEN: who gets which VF.

use std::time::Instant;

use legacy_vf_proto::{ErrorCode, NotifyKind, Open, OpenReply, Proof, Reply};
use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_pf::NotifyAddress;

use super::Hub;
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::proof::ProofError;
use crate::received::ReceivedFile;
use crate::registry::{ClaimError, Owner};
use crate::session::{InFlight, RequestId, Session, Work};

/// A refusal: what the client is told.
pub(super) struct Refusal(pub ErrorCode, pub String);

/// The protocol's number for where notifications go.
fn notify_kind(address: Option<NotifyAddress>) -> NotifyKind {
    use virtio_pf::NotifyKind as Kind;
    match address.map(|a| a.kind) {
        None => NotifyKind::None,
        Some(Kind::Owner) => NotifyKind::Owner,
        Some(Kind::Member) => NotifyKind::Member,
    }
}

impl<B: AccessBackend> Hub<B> {
    pub(super) fn open(
        &mut self,
        session: &mut Session,
        request: RequestId,
        open: &Open,
        file: Option<&ReceivedFile>,
        now: Instant,
    ) {
        match self.try_open(session, open, file, now) {
            Ok(member) => {
                session.opened(member);
                self.counters.opens += 1;
                self.log_opened(session.peer(), session.name(), member, now);
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
                self.log_refused(session, open.member, code, &text, now);
                session.fail(request, code, &text);
            }
        }
    }

    fn try_open(
        &mut self,
        session: &Session,
        open: &Open,
        file: Option<&ReceivedFile>,
        now: Instant,
    ) -> Result<u16, Refusal> {
        let refuse = |code, text: String| Err(Refusal(code, text));
        let member = self.prove(session.peer(), open, file)?;
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
            self.evict(session.peer(), member, &holder, now);
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
    pub(super) fn reply_open(&mut self, session: &mut Session, request: RequestId, member: u16) {
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
    fn evict(&mut self, by: Peer, member: u16, holder: &Owner, now: Instant) {
        self.counters.evicted += 1;
        self.log_taken_over(by, member, holder, now);
        self.registry.release(member, holder.session);
        self.drop_session(holder.session);
    }

    /// What a client is told that shows a file where there are none.
    pub(super) fn no_device_files(&self) -> String {
        format!(
            "The VFs of PF {} are emulated by another process and have no VFIO device file; open \
             them without proof",
            self.backend.info().id
        )
    }

    /// The VF that the client may open: the one it names, or the one it shows to hold.
    fn prove(&self, peer: Peer, open: &Open, file: Option<&ReceivedFile>) -> Result<u16, Refusal> {
        let vfio_fds = self.backend.served().vfio_fds;
        match open.proof {
            Proof::NONE => self
                .config
                .policy
                .unproven(peer, vfio_fds)
                .map(|()| open.member)
                .map_err(|why| Refusal(ErrorCode::ACCESS_DENIED, why.to_string())),
            Proof::VFIO_FD if !vfio_fds => {
                Err(Refusal(ErrorCode::BAD_PROOF, self.no_device_files()))
            }
            Proof::VFIO_FD => match file.and_then(ReceivedFile::get) {
                Some(file) => self.backend.member_of_file(file, open.member),
                None => Err(ProofError::Missing),
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
    pub(super) fn token(&mut self, session: &mut Session, request: RequestId, member: u16) {
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
}
