// SPDX-License-Identifier: GPL-2.0-or-later
//! What is to be known of a VF before it is used, asked for when it is opened.

use std::time::Instant;

use virtio_modern_spec::admin::legacy::decode_notify_info;
use virtio_modern_spec::admin::opcode;

use crate::error::{OpError, SubmitError};
use crate::lane::{Job, Kind};
use crate::notify;
use crate::pf::Pf;
use crate::types::NotifyKind;

impl Pf {
    /// Asks the device where the VF is notified, if that is not known. `true`: a completion with
    /// `token` tells that [`Pf::vf`] has what there is to know. If the device did not answer, a
    /// later call asks again.
    ///
    /// It ends within [`crate::PfConfig::command_timeout`] after it was sent, and within
    /// [`crate::PfConfig::start_timeout`] after `now`: many VFs may be opened at once.
    pub fn open(&mut self, member: u16, token: u64, now: Instant) -> Result<bool, SubmitError> {
        self.check_open()?;
        self.check_member(member)?;
        let known = self.vf(member).is_some_and(|vf| vf.asked);
        let offered = self.info.commands.contains(opcode::LEGACY_NOTIFY_INFO);
        // A VF that does not answer is tried with what its guest wants.
        if known || !offered || self.not_responding(member).is_some() {
            return Ok(false);
        }
        let deadline = now + self.config.start_timeout;
        self.enqueue(member, Job::new(Kind::NotifyInfo { token }, deadline), now)?;
        Ok(true)
    }

    /// Takes the answer. Without one, notifications go by command.
    pub(crate) fn notify_info(&mut self, member: u16, result: &Result<&[u8], OpError>) {
        let Ok(bytes) = result else { return };
        let entries = decode_notify_info(bytes);
        let bars = self.bars;
        let mut usable = notify::usable(&entries, &bars);
        let Some(vf) = self.vfs.get_mut(usize::from(member).wrapping_sub(1)) else {
            return;
        };
        let first = usable.next();
        vf.asked = true;
        vf.notify = first;
        vf.owner_notify = first
            .into_iter()
            .chain(usable)
            .find(|a| a.kind == NotifyKind::Owner);
        tracing::debug!(function = %self.id, vf = member, notify = ?vf.notify, "notification address");
    }
}
