// SPDX-License-Identifier: GPL-2.0-or-later
//! Sending: which command goes to the device next.

use std::collections::VecDeque;
use std::time::Instant;

use virtio_modern_spec::admin::opcode;

use crate::admin::{AdminQueue, FlushError, SendError};
use crate::command::Command;
use crate::error::PfError;
use crate::lane::Kind;
use crate::pf::{Pf, Phase};
use crate::types::Class;

impl Pf {
    /// Sends what can be sent.
    pub(crate) fn dispatch(&mut self, now: Instant) -> Result<(), PfError> {
        self.send_probes()?;
        for list in 0..self.ready.len() {
            self.dispatch_list(list, now)?;
        }
        Ok(())
    }

    /// Sends commands of the lanes of one list, each lane's next one in turn.
    fn dispatch_list(&mut self, list: usize, now: Instant) -> Result<(), PfError> {
        let by = now + self.config.command_timeout;
        while let Some(member) = self.ready.get_mut(list).and_then(VecDeque::pop_front) {
            let Some(lane) = self.lanes.get_mut(usize::from(member)) else {
                continue;
            };
            lane.listed = false;
            let Some(job) = lane.peek().copied() else {
                continue;
            };
            if !self.phase.allows(&job.kind) {
                // It is listed again when the phase changes.
                continue;
            }
            let several = self.admin.len() > 1;
            if list != usize::from(several && job.class == Class::Long) {
                // What was in front of it has ended meanwhile.
                self.list_lane(member);
                continue;
            }
            let busy = self.admin.iter().any(|queue| queue.in_flight() > 0);
            if matches!(job.kind, Kind::ListUse(_)) && busy {
                // "MUST NOT send LIST_USE while other commands are outstanding."
                self.list_lane(member);
                break;
            }
            let Some((queue, admin)) = choose(&mut self.admin, list) else {
                break;
            };
            let command = job.kind.command(member);
            match admin.send(&command, member) {
                Ok(slot) => {
                    lane.sent(queue, slot, by);
                    let timer = lane.timer();
                    self.counters.sent(command.opcode());
                    if let Some(at) = timer {
                        self.set_timer(at);
                    }
                }
                Err(SendError::Full) => {
                    lane.listed = true;
                    if let Some(list) = self.ready.get_mut(list) {
                        list.push_front(member);
                    }
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

/// The queue for the next command of a list: the first one, or the least busy of the others.
fn choose(queues: &mut [AdminQueue], list: usize) -> Option<(usize, &mut AdminQueue)> {
    let of_list = queues.iter_mut().enumerate().skip(list);
    match list {
        0 => of_list.take(1).next(),
        _ => of_list.min_by_key(|(_, queue)| queue.in_flight()),
    }
}
