// SPDX-License-Identifier: GPL-2.0-or-later
//! What becomes of a PF that failed: another reset, a bounded number of times, or the end. And the
//! end that its owner wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_pci_spec::status;

use crate::bringup::{FIRST_LOOK, LAST_LOOK};
use crate::error::{OpError, PfError};
use crate::lane::{Job, Kind, Stage};
use crate::pf::{Pf, Phase};
use crate::regs::Common;
use crate::types::{Completion, PfEvent, PfState};

/// A PF that ran this long counts as recovered for good, even if nobody used it.
const STABLE: Duration = Duration::from_secs(60);

impl Pf {
    /// Decides what becomes of the PF after an error.
    pub(crate) fn trouble(&mut self, error: PfError, now: Instant) {
        if matches!(self.phase, Phase::Failed | Phase::Stopped) {
            return;
        }
        if self.state == PfState::Starting {
            self.phase = Phase::Failed;
            self.state = PfState::Failed(error.to_string().into());
            self.failure = Some(error);
            return;
        }
        let fatal = match &error {
            PfError::Transport(e) => e.is_fatal(),
            // A device that does not even finish a reset cannot be helped from here: resetting the
            // function would take the VFs down with it.
            PfError::TimedOut { .. } => true,
            _ => false,
        };
        if fatal {
            self.give_up(error);
        } else {
            self.recover(&error, now);
        }
    }

    fn recover(&mut self, error: &PfError, now: Instant) {
        let cause: Arc<str> = error.to_string().into();
        let ran = self.running_since.take();
        if ran.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.attempts = 0;
        }
        self.attempts += 1;
        let policy = self.config.recovery;
        if self.attempts > policy.max_attempts {
            return self.give_up(PfError::GivenUp {
                function: self.id.clone(),
                attempts: policy.max_attempts,
                cause: cause.to_string(),
            });
        }
        if let Some(left_out) = self.limits.trouble.allow(now) {
            tracing::error!(
                function = %self.id, %cause, attempt = self.attempts, left_out,
                "resetting the PF; VFs go on"
            );
        }
        self.counters.recoveries += 1;
        self.events.push(PfEvent::Reset {
            cause: cause.clone(),
        });
        self.fail_in_flight(&cause);
        self.forget_lost(now);
        let delay = match self.attempts {
            0 | 1 => Duration::ZERO,
            n => policy.delay.saturating_mul(1 << (n - 2).min(10)),
        };
        self.look_at = None;
        self.status_by = None;
        self.phase = Phase::ToReset { at: now + delay };
        self.state = PfState::Recovering;
    }

    /// Ends the operations that the device has. Those that wait keep waiting, and a notification, or a
    /// question for addresses, is repeated after the reset: one too many does no harm, one too few does.
    fn fail_in_flight(&mut self, cause: &Arc<str>) {
        for (member, lane) in self.lanes.iter_mut().enumerate() {
            lane.listed = false;
            lane.waiting.retain(Job::is_operation);
            match lane.current.take() {
                Some((job, Stage::Sent { .. })) => match job.kind {
                    Kind::Op { token, .. } => self.completions.push(Completion {
                        member: member as u16,
                        token,
                        result: Err(OpError::PfFailed(cause.clone())),
                    }),
                    Kind::Notify { .. } | Kind::NotifyInfo { .. } => lane.waiting.push_front(job),
                    _ => {}
                },
                Some((job, _)) if job.is_operation() => lane.waiting.push_front(job),
                _ => {}
            }
        }
        self.ready = Default::default();
    }

    /// Ends the use of the PF for ever. Memory that the device may still use stays allocated.
    fn give_up(&mut self, error: PfError) {
        let cause: Arc<str> = error.to_string().into();
        tracing::error!(function = %self.id, %cause, "PF given up");
        self.end_all(&OpError::PfFailed(cause.clone()));
        if self.status_by.take().is_none() {
            let regs = Common::new(&*self.function, self.structures.common);
            let told = regs
                .status()
                .and_then(|now| regs.set_status(now | status::FAILED));
            tracing::debug!(function = %self.id, told = told.is_ok(), "FAILED");
        }
        self.events.push(PfEvent::Failed {
            cause: cause.clone(),
        });
        self.phase = Phase::Failed;
        self.state = PfState::Failed(cause);
        self.fds_epoch += 1;
    }

    /// Resets the PF, waits until the reset has finished, then gives back the memory that the
    /// device used. VFs stay enabled. The remaining operations end with [`OpError::Shutdown`].
    /// Blocks, at most for [`crate::PfConfig::reset_timeout`].
    pub fn shutdown(&mut self) -> (Vec<Completion>, Result<(), PfError>) {
        if self.phase == Phase::Stopped {
            return (Vec::new(), Ok(()));
        }
        self.end_all(&OpError::Shutdown);
        self.function.hurry(None);
        let result = self.reset_and_wait();
        self.phase = Phase::Stopped;
        self.state = PfState::Stopped;
        self.fds_epoch += 1;
        (std::mem::take(&mut self.completions), result)
    }

    /// Resets the device, waits until it says so, gives its memory back and turns off interrupts.
    fn reset_and_wait(&mut self) -> Result<(), PfError> {
        let begun = Instant::now();
        let regs = Common::new(&*self.function, self.structures.common);
        regs.set_status(0)?;
        let mut pause = FIRST_LOOK;
        while regs.status()? != 0 {
            if begun.elapsed() >= self.config.reset_timeout {
                return Err(self.reset_timed_out());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_LOOK);
        }
        for queue in self.admin.drain(..) {
            queue.release_after_reset();
        }
        if !self.irqs.is_empty() {
            self.function.disable_irqs()?;
            self.irqs.clear();
            self.fds_epoch += 1;
        }
        Ok(())
    }
}
