// SPDX-License-Identifier: GPL-2.0-or-later
//! The admin queues of the PF ("Administration Virtqueues"): taking commands in order, fault rules,
//! replies. The lists of commands in use are the owner's and so the same for all queues; everything
//! else is each queue's own.

mod command;
mod list;
mod notify_info;
mod under_way;

use virtio_modern_spec::admin::{opcode, Reply, Request};

use crate::config::ModelConfig;
use crate::effect::FunctionId;
use crate::event::{CommandRecord, Event};
use crate::fault::{Action, FaultSet, Subject};
use crate::function::Function;
use crate::queue::{Chain, RingFault};
use crate::shared::Shared;
use crate::violation::Violation;
use crate::virtio::QueueNumbers;
use command::{Command, Group, Outcome};
use list::Lists;
use under_way::{Delayed, Queues, UnderWay};

/// Readable bytes of a command that are looked at; no command is longer.
const MAX_REQUEST: usize = 4096;

/// State of the owner side of both groups.
pub(crate) struct Admin {
    lists: Lists,
    queues: Queues,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// The rest of the device, as commands need it.
pub(crate) struct Around<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) pf: &'a mut Function,
    pub(crate) vfs: &'a mut [Function],
    pub(crate) live: u16,
    pub(crate) faults: &'a mut FaultSet,
    pub(crate) shared: &'a mut Shared,
}

/// What became of one command.
enum Step {
    Next,
    Stop,
}

impl Admin {
    pub(crate) fn new(numbers: &QueueNumbers) -> Self {
        Admin {
            lists: Lists::new(),
            queues: Queues::new(numbers),
            request: vec![0; MAX_REQUEST],
            reply: Vec::new(),
        }
    }

    /// The PF was reset: lists are unset, and no command of before completes.
    pub(crate) fn reset(&mut self) {
        self.lists = Lists::new();
        for queue in self.queues.all_mut() {
            *queue = UnderWay::default();
        }
    }

    /// One queue was reset: its buffers are the driver's again, and the others go on.
    pub(crate) fn queue_reset(&mut self, queue: u16) {
        if let Some(q) = self.queues.get_mut(queue) {
            *q = UnderWay::default();
        }
    }

    /// Commands taken from a queue that did not complete yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.queues.outstanding()
    }

    /// A queue has stopped before a command.
    pub(crate) fn is_stuck(&self) -> bool {
        self.queues.any_stuck()
    }

    pub(crate) fn unstick(&mut self) {
        for queue in self.queues.all_mut() {
            queue.stuck = false;
        }
    }

    /// Serves admin queue `queue`.
    pub(crate) fn run(&mut self, queue: u16, a: &mut Around<'_>) {
        let stuck = self.queues.get(queue).is_none_or(|q| q.stuck);
        if stuck || !a.pf.core.queue_ready(queue) {
            return;
        }
        if let Some(q) = a.pf.core.virtio.queue_mut(queue) {
            q.kicked = false;
        }
        if let Err(fault) = self.serve(queue, a) {
            a.pf.ring_fault(queue, fault, a.shared);
        }
        a.pf.core.notify_driver(a.shared);
    }

    fn serve(&mut self, queue: u16, a: &mut Around<'_>) -> Result<(), RingFault> {
        while let Some(chain) = a.pf.core.pop(queue)? {
            if let Step::Stop = self.one(chain, a)? {
                return Ok(());
            }
        }
        if a.pf.core.budget_used_up() {
            a.shared.later(FunctionId::Pf, queue);
        }
        Ok(())
    }

    fn one(&mut self, chain: Chain, a: &mut Around<'_>) -> Result<Step, RingFault> {
        let queue = chain.queue();
        let (readable, writable) = (chain.readable_len(), chain.writable_len());
        let n = readable.min(MAX_REQUEST as u64) as usize;
        let got =
            a.pf.core
                .read_chain(&chain, 0, self.request.split_at_mut(n).0)?;
        let bytes = self.request.split_at(got).0;
        let cmd = Command {
            header: Request::decode(bytes),
            bytes,
            readable,
            writable,
        };
        let access = cmd.access();
        let subject = Subject {
            admin_queue: self.queues.ordinal(queue),
            opcode: cmd.header.opcode,
            group_type: cmd.header.group_type,
            member: cmd.header.member,
            offset: access.map(|x| x.offset),
        };
        let fault = a.faults.decide(subject);
        if let Some((_, Action::Stuck)) = fault {
            if let Some(q) = self.queues.get_mut(queue) {
                q.stuck = true;
            }
            a.pf.core.unpop(chain);
            if let Some(q) = a.pf.core.virtio.queue_mut(queue) {
                q.kicked = true;
            }
            return Ok(Step::Stop);
        }
        self.note_rule_breaks(&cmd, a.shared);

        self.reply.clear();
        self.reply.extend_from_slice(&Reply::OK.encode());
        let outcome = match fault {
            Some((_, Action::Status { status, qualifier })) => {
                Outcome::of(Reply { status, qualifier })
            }
            Some((_, Action::Drop | Action::NeedsReset)) => Outcome::of(Reply::OK),
            _ => Group {
                config: a.config,
                lists: &mut self.lists,
                vfs: a.vfs,
                live: a.live,
            }
            .execute(&cmd, &mut self.reply, a.shared),
        };
        let reply = outcome.reply;
        if reply.status != 0 {
            // Nothing of a result is left; what is defined reads as zeros.
            self.reply.clear();
            self.reply.extend_from_slice(&reply.encode());
            let len = self.reply.len() + command::result_len(&cmd);
            self.reply.resize(len, 0);
        }
        a.shared.counters.command(cmd.header.opcode, reply.status);
        if fault.is_some() {
            a.shared.counters.commands_faulted += 1;
        }
        a.shared.log(
            FunctionId::Pf,
            Event::Command(CommandRecord {
                queue,
                opcode: cmd.header.opcode,
                name: opcode::name(cmd.header.opcode),
                group_type: cmd.header.group_type,
                member: cmd.header.member,
                offset: access.map(|x| x.offset),
                len: access.map(|x| x.len),
                data: outcome.data,
                readable,
                writable,
                status: reply.status,
                qualifier: reply.qualifier,
                fault: fault.map(|(id, _)| id),
            }),
        );
        self.finish(chain, outcome.not_before, fault.map(|(_, f)| f), a)
    }

    /// Sends the reply that lies in `self.reply`, as far as a fault lets it.
    fn finish(
        &mut self,
        chain: Chain,
        not_before: Option<u64>,
        fault: Option<Action>,
        a: &mut Around<'_>,
    ) -> Result<Step, RingFault> {
        let room = usize::try_from(chain.writable_len()).unwrap_or(usize::MAX);
        self.reply.truncate(room);
        let Some(under_way) = self.queues.get_mut(chain.queue()) else {
            return Ok(Step::Stop);
        };
        let mut used = self.reply.len() as u32;
        let mut due = not_before;
        match fault {
            Some(Action::Drop) => {
                under_way.lost += 1;
                return Ok(Step::Next);
            }
            Some(Action::NeedsReset) => {
                under_way.lost += 1;
                a.pf.core.break_down(None, "fault rule", a.shared);
                return Ok(Step::Stop);
            }
            Some(Action::ShortReply { len }) => {
                self.reply.truncate(len as usize);
                used = self.reply.len() as u32;
            }
            Some(Action::UsedLength { len }) => used = len,
            Some(Action::Delay { ms }) => {
                let delay = ms.saturating_mul(1_000_000);
                due = due.max(Some(a.shared.now_ns.saturating_add(delay)));
            }
            Some(Action::Status { .. } | Action::Stuck) | None => {}
        }
        if let Some(due) = due {
            under_way.delayed.push(Delayed {
                due,
                chain,
                reply: self.reply.clone(),
                used,
            });
            a.shared.timer(due, FunctionId::Pf);
            return Ok(Step::Next);
        }
        a.pf.core.write_chain(&chain, 0, &self.reply)?;
        a.pf.core.complete(chain, used)?;
        Ok(Step::Next)
    }

    /// Sends the replies whose time has come.
    pub(crate) fn tick(&mut self, a: &mut Around<'_>) {
        let now = a.shared.now_ns;
        while let Some(d) = self.queues.take_due(now) {
            if !a.pf.core.is_current(&d.chain) {
                continue;
            }
            let queue = d.chain.queue();
            let sent =
                a.pf.core
                    .write_chain(&d.chain, 0, &d.reply)
                    .and_then(|_| a.pf.core.complete(d.chain, d.used));
            if let Err(fault) = sent {
                a.pf.ring_fault(queue, fault, a.shared);
            }
        }
        a.pf.core.notify_driver(a.shared);
    }

    fn note_rule_breaks(&self, cmd: &Command<'_>, shared: &mut Shared) {
        let (readable, writable) = (cmd.readable, cmd.writable);
        let whole = |n: u64| n != 0 && n % 8 == 0;
        let width_is_size = cmd.access().is_some();
        let whole = whole(readable) && whole(writable);
        if !width_is_size && !whole {
            shared.violation(
                FunctionId::Pf,
                Violation::CommandSize {
                    opcode: cmd.header.opcode,
                    readable,
                    writable,
                },
            );
        }
        let outstanding = self.outstanding();
        if cmd.header.opcode == opcode::LIST_USE && outstanding > 0 {
            shared.violation(FunctionId::Pf, Violation::ListUseNotAlone { outstanding });
        }
    }
}
