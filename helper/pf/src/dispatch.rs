// SPDX-License-Identifier: GPL-2.0-or-later
//! Sending: which command goes to the device next.

use std::time::Instant;

use virtio_modern_spec::admin::opcode;

use crate::admin::{FlushError, SendError};
use crate::command::Command;
use crate::error::PfError;
use crate::lane::Kind;
use crate::pf::{Pf, Phase};

impl Pf {
    /// Sends what can be sent.
    pub(crate) fn dispatch(&mut self, now: Instant) -> Result<(), PfError> {
        self.send_probes()?;
        let by = now + self.config.command_timeout;
        while let Some(member) = self.ready.pop_front() {
            let index = usize::from(member);
            let Some(lane) = self.lanes.get_mut(index) else {
                continue;
            };
            lane.listed = false;
            let Some(job) = lane.peek() else { continue };
            if !self.phase.allows(&job.kind) {
                // It is listed again when the phase changes.
                continue;
            }
            let busy = self.admin.iter().any(|queue| queue.in_flight() > 0);
            if matches!(job.kind, Kind::ListUse(_)) && busy {
                // "MUST NOT send LIST_USE while other commands are outstanding."
                self.ready.push_back(member);
                lane.listed = true;
                break;
            }
            let queue = 0;
            let Some(admin) = self.admin.get_mut(queue) else {
                break;
            };
            let command = job.kind.command(member);
            match admin.send(&command, member) {
                Ok(slot) => {
                    lane.sent(queue, slot, by);
                    if let Some(at) = lane.timer() {
                        self.timer = Some(self.timer.map_or(at, |t| t.min(at)));
                    }
                    self.counters.sent(command.opcode());
                }
                Err(SendError::Full) => {
                    lane.listed = true;
                    self.ready.push_front(member);
                    break;
                }
                Err(SendError::Queue(e)) => return Err(self.queue_error(e)),
            }
        }
        Ok(())
    }

    /// Sends LIST_QUERY, which a device must answer, behind commands that were given up. With
    /// nothing free it waits; a queue that keeps every slot until the probe's deadline is stuck.
    fn send_probes(&mut self) -> Result<(), PfError> {
        if self.phase != Phase::Running {
            return Ok(());
        }
        for queue in &mut self.admin {
            if !queue.watch.wants_probe() {
                continue;
            }
            match queue.send(&Command::ListQuery, 0) {
                Ok(slot) => {
                    let order = queue.order(slot);
                    queue.watch.probe_sent(slot, order);
                    self.counters.probes += 1;
                    self.counters.sent(opcode::LIST_QUERY);
                }
                Err(SendError::Full) => {}
                Err(SendError::Queue(source)) => {
                    return Err(PfError::Queue {
                        function: self.id.clone(),
                        source,
                    })
                }
            }
        }
        Ok(())
    }

    /// Notifies the device of what was sent.
    pub(crate) fn flush(&mut self) -> Result<(), PfError> {
        for queue in &mut self.admin {
            match queue.flush(&*self.function) {
                Ok(None) => {}
                Ok(Some(true)) => self.counters.kicks += 1,
                Ok(Some(false)) => self.counters.kicks_suppressed += 1,
                Err(FlushError::Queue(source)) => {
                    return Err(PfError::Queue {
                        function: self.id.clone(),
                        source,
                    })
                }
                Err(FlushError::Transport(e)) => return Err(e.into()),
            }
        }
        Ok(())
    }
}
