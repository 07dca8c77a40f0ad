// SPDX-License-Identifier: GPL-2.0-or-later
//! What comes in: messages of clients and room for answers to them, completions and events of the
//! backend, and time.

use std::time::{Duration, Instant};

use legacy_vf_proto::ErrorCode;
use virtio_pf::{Completion, PfState};

use super::{Hub, Stage};
use crate::backend::AccessBackend;
use crate::peer::Peer;
use crate::ratelimit::{About, Kind};
use crate::received::ReceivedFile;
use crate::session::SessionId;

/// Time between attempts to start a job that the backend had no room for.
const STALL_RETRY: Duration = Duration::from_millis(5);

impl<B: AccessBackend> Hub<B> {
    /// A message of a client has come. `bytes` longer than 4096 stand for one that was cut.
    pub fn receive(
        &mut self,
        id: SessionId,
        bytes: &[u8],
        file: Option<ReceivedFile>,
        now: Instant,
    ) {
        let Some(mut session) = self.take(id) else {
            return;
        };
        let kind = virtio_pci_spec::bytes::get_u16(bytes, 0).unwrap_or(0);
        self.counters.request(kind);
        let about = About::Peer(session.peer().account());
        if let Err(e) = session.receive(bytes, file, now) {
            self.counters.bad_messages += 1;
            if let Some(suppressed) = self.limits.allow(Kind::BadMessage, about, now) {
                let Peer { pid, uid, .. } = session.peer();
                tracing::warn!(pid, uid, name = ?session.name(), suppressed,
                    "Client sent something that is not a request: {e}");
            }
        }
        if !session.is_stalled() {
            self.pump(&mut session, now);
        }
        self.put(session);
    }

    /// Whether the one file that comes with a message is wanted.
    ///
    /// # Errors
    /// Code and text for [`Hub::refuse_files`].
    pub fn wants_file(&self, id: SessionId, bytes: &[u8]) -> Result<(), (ErrorCode, String)> {
        if let Some(session) = self.session(id) {
            session
                .wants_file(bytes)
                .map_err(|(code, text)| (code, text.to_owned()))?;
        }
        match self.backend.served().vfio_fds {
            true => Ok(()),
            false => Err((ErrorCode::BAD_PROOF, self.no_device_files())),
        }
    }

    /// A message with files has come that are not wanted. Nobody has received them; the connection
    /// ends.
    pub fn refuse_files(
        &mut self,
        id: SessionId,
        bytes: &[u8],
        why: (ErrorCode, String),
        now: Instant,
    ) {
        let Some(mut session) = self.take(id) else {
            return;
        };
        let (code, text) = why;
        let about = About::Peer(session.peer().account());
        self.counters.unwanted_files += 1;
        if let Some(suppressed) = self.limits.allow(Kind::BadMessage, about, now) {
            let Peer { pid, uid, .. } = session.peer();
            tracing::warn!(pid, uid, name = ?session.name(), %code, suppressed,
                "Client sent files that are not wanted; disconnecting it: {text}");
        }
        session.refuse_files(bytes, code, &text, now);
        self.put(session);
    }

    /// The message of [`Hub::outgoing`] was sent.
    pub fn sent(&mut self, id: SessionId, now: Instant) {
        if let Some(mut session) = self.take(id) {
            session.sent();
            // There is room for answers now.
            if !session.is_stalled() {
                self.pump(&mut session, now);
            }
            self.put(session);
        }
    }

    /// Moves everything on, at a time of the caller's. Returns how many operations have ended.
    pub fn poll(&mut self, now: Instant) -> usize {
        let done = self.backend.poll(now);
        self.polled(done, now)
    }

    /// Like [`Hub::poll`] in real time, and waits busily for at most `budget` until an operation has
    /// ended. It has ended when it is seen to, not when the look at the PF began.
    pub fn poll_spinning(&mut self, budget: Duration) -> usize {
        let done = self.backend.poll_spinning(budget);
        self.polled(done, Instant::now())
    }

    fn polled(&mut self, done: Vec<Completion>, now: Instant) -> usize {
        self.shares.renew();
        let ended = done.len();
        for completion in done {
            self.complete(completion, now);
        }
        for event in self.backend.take_events() {
            self.pf_event(&event, now);
        }
        if self.stage == Stage::Serving {
            if let PfState::Failed(cause) = self.backend.state() {
                let cause = cause.to_string();
                self.pf_failed(cause);
            }
        }
        if !self.stalled.is_empty() {
            self.retry_stalled(now);
        }
        self.serve_put_off(now);
        if self.next_scan.is_some_and(|t| t <= now) {
            self.scan(now);
        }
        ended
    }

    /// Goes on with sessions that had used up their share, each with a new one.
    fn serve_put_off(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.put_off) {
            if let Some(mut session) = self.take(id) {
                session.resume();
                if !session.is_stalled() {
                    self.pump(&mut session, now);
                }
                self.put(session);
            }
        }
    }

    fn retry_stalled(&mut self, now: Instant) {
        // Those that find no room again put themselves back, in the same order.
        for id in std::mem::take(&mut self.stalled) {
            if let Some(mut session) = self.take(id) {
                self.pump(&mut session, now);
                // Its client may not have made room for the answer.
                if session.is_stalled() && self.stalled.last() != Some(&id) {
                    self.stalled.push(id);
                }
                self.put(session);
            }
        }
        self.next_retry = (!self.stalled.is_empty()).then(|| now + STALL_RETRY);
    }
}
