// SPDX-License-Identifier: GPL-2.0-or-later
//! From any state to a running PF: one state machine for the first start and for recovery.
//!
//! reset -> wait for 0 -> set up to DRIVER_OK -> VFs -> LIST_QUERY -> LIST_USE -> running. As many
//! commands for one VF as for thousands: what is to be known of a VF is asked when it is opened. A
//! failure at start ends the start. A failure later fails
//! what is in flight, keeps the VFs and goes back to the reset, a bounded number of times.

use std::time::{Duration, Instant};

use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_pci_spec::DeviceType;

use crate::config::ExistingVfs;
use crate::error::{OpError, PfError};
use crate::lane::{Job, Kind, Lane};
use crate::pf::{Pf, Phase};
use crate::regs::Common;
use crate::setup::{bring_up, enable_function};
use crate::types::{PfEvent, PfState, VfInfo};

/// The opcodes that this driver sends.
const USED: u64 = OpcodeSet::LIST.0 | OpcodeSet::LEGACY.0;
pub(crate) const FIRST_LOOK: Duration = Duration::from_micros(200);
pub(crate) const LAST_LOOK: Duration = Duration::from_millis(10);

impl Pf {
    /// Takes the steps that do not need the admin queue, as far as they can be taken now.
    pub(crate) fn advance(&mut self, now: Instant) -> Result<(), PfError> {
        if let Phase::ToReset { at } = self.phase {
            if now < at {
                return Ok(());
            }
            // What follows waits for the device, which may have stopped. A start may wait.
            let answers = self.state == PfState::Starting || self.status_later()?.is_some();
            self.phase = match answers {
                true => Phase::Answering,
                false => Phase::Asking,
            };
        }
        if self.phase == Phase::Asking {
            self.expect_status(now);
        }
        if self.phase == Phase::Answering {
            if self.completions_first(now) {
                return Ok(());
            }
            enable_function(&*self.function)?;
            Common::new(&*self.function, self.structures.common).set_status(0)?;
            self.phase = Phase::Resetting {
                since: now,
                look_at: now,
            };
        }
        if let Phase::Resetting { since, look_at } = self.phase {
            if now < look_at || self.completions_first(now) {
                return Ok(());
            }
            let regs = Common::new(&*self.function, self.structures.common);
            if regs.status()? == 0 {
                return self.after_reset(now);
            }
            let waited = now.saturating_duration_since(since);
            if waited >= self.config.reset_timeout {
                return Err(self.reset_timed_out());
            }
            self.phase = Phase::Resetting {
                since,
                look_at: now + (waited / 4).clamp(FIRST_LOOK, LAST_LOOK),
            };
        }
        Ok(())
    }

    pub(crate) fn reset_timed_out(&self) -> PfError {
        PfError::TimedOut {
            function: self.id.clone(),
            what: "reset",
            after: self.config.reset_timeout,
        }
    }

    fn after_reset(&mut self, now: Instant) -> Result<(), PfError> {
        // The device was seen to be reset: it has forgotten every buffer.
        for queue in self.admin.drain(..) {
            queue.release_after_reset();
        }
        let before = self.irqs.len();
        let agreed = bring_up(
            &mut *self.function,
            &self.structures,
            &self.config,
            &mut self.irqs,
            &mut self.admin,
        );
        if self.irqs.len() != before {
            self.fds_epoch += 1;
        }
        let agreed = agreed?;
        self.vectors = agreed.vectors;
        self.info.features_offered = agreed.offered;
        self.info.features = agreed.features;
        self.info.admin_queue_index = agreed.admin_index;
        self.info.admin_queue_num = agreed.admin_num;
        self.info.admin_queue_size = agreed.queue_size;
        self.info.admin_queues = u16::try_from(self.admin.len()).unwrap_or(0);
        self.info.vectors = agreed.vectors.count();
        self.ensure_vfs()?;
        self.phase = Phase::ListQuery;
        self.start_setup(0, Kind::ListQuery, now);
        Ok(())
    }

    /// Puts a command of the set-up in front of its lane.
    fn start_setup(&mut self, member: u16, kind: Kind, now: Instant) {
        // How long it may wait; its time counts from when it is sent.
        let deadline = now + self.config.start_timeout;
        if let Some(lane) = self.lanes.get_mut(usize::from(member)) {
            lane.waiting.push_front(Job::new(kind, deadline));
        }
        self.list_lane(member);
        self.set_timer(deadline);
    }

    /// Refuses, before anything is touched, what [`Pf::ensure_vfs`] would have to refuse.
    pub(crate) fn check_vfs(&self) -> Result<(), PfError> {
        let now = self.function.sriov_status()?;
        let (live, wanted) = (now.live_vfs(), self.config.vfs);
        if live > 0 {
            tracing::info!(function = %self.id, live, "VFs were enabled before this driver started");
        }
        match self.config.existing_vfs {
            ExistingVfs::Adopt if live > 0 => return Ok(()),
            ExistingVfs::RequireSame if live > 0 && live != wanted => {
                return Err(PfError::VfCount {
                    function: self.id.clone(),
                    existing: live,
                    wanted,
                })
            }
            _ => {}
        }
        if wanted > now.total_vfs {
            return Err(PfError::Unsuitable {
                function: self.id.clone(),
                why: format!("{wanted} VFs are wanted and it has {}", now.total_vfs),
            });
        }
        Ok(())
    }

    /// Enables the VFs, which SR_IOV was negotiated for, or takes over those that are enabled.
    fn ensure_vfs(&mut self) -> Result<(), PfError> {
        let first = self.vfs.is_empty();
        if first {
            self.check_vfs()?;
        }
        let mut now = self.function.sriov_status()?;
        let replace = first && self.config.existing_vfs == ExistingVfs::Replace;
        if now.live_vfs() > 0 && replace && now.live_vfs() != self.config.vfs {
            tracing::warn!(function = %self.id, live = now.live_vfs(), "disabling all VFs");
            self.function.disable_vfs()?;
            now = self.function.sriov_status()?;
        }
        let live = now.live_vfs();
        let wanted = match (first, live) {
            (true, 0) => self.config.vfs,
            (true, live) => live,
            (false, _) => self.info.num_vfs,
        };
        if live == 0 {
            if !first {
                tracing::warn!(function = %self.id, "VFs vanished with the failure: enabling them");
            }
            self.function.enable_vfs(wanted)?;
        } else if live != wanted {
            return Err(PfError::VfCount {
                function: self.id.clone(),
                existing: live,
                wanted,
            });
        }
        if !first {
            return Ok(());
        }
        self.bars.member = self.function.vf_bars()?;
        self.info.num_vfs = wanted;
        self.info.vfs_kept = live > 0;
        self.info.vf_device_id = now.vf_device_id;
        self.info.vf_type = DeviceType::from_pci_id(now.vf_device_id);
        self.vfs = (1..=wanted)
            .map(|member| VfInfo {
                member,
                asked: false,
                notify: None,
                owner_notify: None,
            })
            .collect();
        self.lanes
            .resize_with(usize::from(wanted) + 1, Lane::default);
        Ok(())
    }

    /// Takes the answer to a command of the set-up. `result` is the command-specific result with
    /// zeros for what the device did not write.
    pub(crate) fn setup_done(
        &mut self,
        member: u16,
        kind: Kind,
        result: Result<&[u8], OpError>,
        now: Instant,
    ) -> Result<(), PfError> {
        match (kind, result) {
            (Kind::ListQuery, Ok(list)) => self.listed(OpcodeSet::decode(list), now),
            (Kind::ListUse(set), Ok(_)) => {
                self.info.commands = set;
                self.enter_running(now);
                Ok(())
            }
            (kind, Err(error)) => Err(PfError::Command {
                function: self.id.clone(),
                opcode: kind.command(member).opcode(),
                error,
            }),
            (Kind::Op { .. } | Kind::Notify { .. } | Kind::NotifyInfo { .. }, Ok(_)) => Ok(()),
        }
    }

    fn listed(&mut self, offered: OpcodeSet, now: Instant) -> Result<(), PfError> {
        self.info.commands_offered = offered;
        if !offered.contains_all(OpcodeSet::LEGACY_ACCESS) {
            return Err(PfError::Unsuitable {
                function: self.id.clone(),
                why: format!(
                    "it does not offer the legacy register commands (list {:#x})",
                    offered.0
                ),
            });
        }
        // Only what was offered and is sent; bits 0 and 1 stay, so that the list can be asked for
        // and changed again.
        let set = OpcodeSet(offered.0 & USED);
        self.phase = Phase::ListUse;
        self.start_setup(0, Kind::ListUse(set), now);
        Ok(())
    }

    fn enter_running(&mut self, now: Instant) {
        self.phase = Phase::Running;
        self.info.initialisations = self.info.initialisations.wrapping_add(1);
        self.running_since = Some(now);
        if self.state == PfState::Recovering {
            tracing::info!(function = %self.id, attempts = self.attempts, "PF works again");
            self.events.push(PfEvent::Recovered {
                attempts: self.attempts,
            });
        }
        self.state = PfState::Running;
        for member in 1..=self.info.num_vfs {
            self.list_lane(member);
        }
    }
}
