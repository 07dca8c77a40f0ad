// SPDX-License-Identifier: GPL-2.0-or-later
//! What [`Pf::poll`] does while the admin queues are in use: takes interrupts and answers; when what
//! is over its time ends and what is sent next is decided elsewhere.

use std::time::{Duration, Instant};

use pci_transport::FunctionEvent;

use crate::admin::{AdminQueue, Answer, Done};
use crate::error::{OpError, PfError};
use crate::lane::{Job, Kind, Stage};
use crate::pf::{Pf, Phase};
use crate::types::{Completion, PfEvent};

/// Rounds of answers and new commands in one poll; more wait for the next.
const MAX_ROUNDS: usize = 4;
/// Interval of looking for answers where there are no interrupts.
const POLL_INTERVAL: Duration = Duration::from_micros(500);
/// Interval of looking at device_status while commands are in flight, where the device cannot tell
/// by an interrupt.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

impl Pf {
    /// Does all that can be done now: takes interrupts and answers, sends, repeats, expires,
    /// recovers. Never blocks longer than single register accesses take.
    pub fn poll(&mut self, now: Instant) -> Vec<Completion> {
        self.wake = None;
        if !matches!(self.phase, Phase::Failed | Phase::Stopped) {
            if let Err(error) = self.turn(now) {
                self.trouble(error, now);
            }
        }
        std::mem::take(&mut self.completions)
    }

    /// Like [`Pf::poll`], but looks again and again for at most `budget` until there is a
    /// completion, without interrupts from the device meanwhile.
    ///
    /// If there is one, the descriptors are not looked at (that is for `poll`, when they are
    /// ready) and interrupts stay off: while commands are in flight, [`Pf::next_deadline`] then
    /// asks for another call before anything is waited for.
    pub fn poll_spinning(&mut self, budget: Duration) -> Vec<Completion> {
        let begun = Instant::now();
        if self.phase == Phase::Running && !budget.is_zero() {
            self.wake = None;
            self.function.hurry(self.patience(begun));
            if let Err(error) = self.spin_for(begun, budget) {
                self.trouble(error, begun);
            }
            if self.phase == Phase::Running && !self.completions.is_empty() {
                if self.admin.iter().any(|a| a.in_flight() > 0) {
                    self.wake = Some(begun);
                }
                return std::mem::take(&mut self.completions);
            }
        }
        self.poll(Instant::now())
    }

    fn spin_for(&mut self, begun: Instant, budget: Duration) -> Result<(), PfError> {
        for admin in &mut self.admin {
            admin.disarm().map_err(|source| PfError::Queue {
                function: self.id.clone(),
                source,
            })?;
        }
        let mut rounds = 0u32;
        loop {
            let now = Instant::now();
            self.work(now, false)?;
            if !self.completions.is_empty()
                || self.phase != Phase::Running
                || now.saturating_duration_since(begun) >= budget
            {
                return Ok(());
            }
            rounds += 1;
            if rounds % 16 == 0 {
                // The device may be a process that needs this processor.
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// What has ended, or is over its time, comes first: everything after it may have to wait for a
    /// device that does not answer.
    fn turn(&mut self, now: Instant) -> Result<(), PfError> {
        self.function.hurry(self.patience(now));
        let answers = self.reap_live(now)?;
        if self.timer.is_some_and(|t| now >= t) {
            self.expire(now)?;
        }
        self.service(answers, now)?;
        self.check_silence(now)?;
        self.check_queues(now)?;
        self.advance(now)?;
        self.work(now, true)
    }

    fn reap_live(&mut self, now: Instant) -> Result<usize, PfError> {
        if self.phase.is_live() {
            self.reap_all(now)
        } else {
            Ok(0)
        }
    }

    /// Takes what the file descriptors announce. `answers` were taken before in this turn.
    fn service(&mut self, mut answers: usize, now: Instant) -> Result<(), PfError> {
        let ready = pci_transport::ready(&self.fds())?;
        let (irqs, function) = ready.split_at(self.irqs.len().min(ready.len()));
        let mut config = false;
        let mut queue = false;
        for (index, irq) in self.irqs.iter().enumerate() {
            if irqs.get(index) == Some(&true) && irq.drain()? > 0 {
                self.counters.interrupts += 1;
                // A shared vector may mean both.
                config |= self.vectors.config == Some(index);
                queue |= self.vectors.queues.contains(&Some(index));
            }
        }
        let said = function.contains(&true);
        if said && self.completions_first(now) {
            return Ok(());
        }
        if said || self.status_by.is_some() {
            for event in self.function.service()? {
                match event {
                    FunctionEvent::Register(value) => self.status_came(value, now)?,
                    FunctionEvent::RemovalRequested => {
                        tracing::warn!(function = %self.id, "the host wants the PF back");
                        self.events.push(PfEvent::RemovalRequested);
                    }
                    FunctionEvent::BusError => {
                        return Err(PfError::Misbehaved {
                            function: self.id.clone(),
                            register: "PCI Express",
                            why: "the bus reported an error".into(),
                        })
                    }
                }
            }
        }
        if !self.phase.is_live() {
            return Ok(());
        }
        answers += self.reap_all(now)?;
        if queue && !config && answers == 0 {
            self.counters.spurious += 1;
        }
        let overdue = self.vectors.config.is_none()
            && self
                .status_seen
                .is_none_or(|t| now.saturating_duration_since(t) >= STATUS_INTERVAL);
        if config || overdue {
            self.status_seen = Some(now);
            self.ask_status(now)?;
        }
        Ok(())
    }

    fn work(&mut self, now: Instant, arm: bool) -> Result<(), PfError> {
        for _ in 0..MAX_ROUNDS {
            self.reap_live(now)?;
            if self.timer.is_some_and(|t| now >= t) {
                self.expire(now)?;
            }
            if !self.phase.is_live() {
                return Ok(());
            }
            self.dispatch(now)?;
            self.flush()?;
            let mut more = false;
            for admin in self.admin.iter_mut().filter(|_| arm) {
                more |= admin.arm().map_err(|source| PfError::Queue {
                    function: self.id.clone(),
                    source,
                })?;
            }
            if !more {
                self.look_again(now);
                return Ok(());
            }
        }
        // Answers are waiting: come back at once.
        self.wake = Some(now);
        Ok(())
    }

    /// Sets when to look without an interrupt.
    fn look_again(&mut self, now: Instant) {
        let busy = |(n, a): (usize, &AdminQueue)| {
            (a.in_flight() > 0).then_some(self.vectors.of_queue(n).is_some())
        };
        // Whether each of those that are busy has a vector.
        let mut announced = self.admin.iter().enumerate().filter_map(busy).peekable();
        let any = announced.peek().is_some();
        self.look_at = match (any, announced.all(|told| told), self.vectors.config) {
            (false, _, _) | (true, true, Some(_)) => None,
            (true, false, _) => Some(now + POLL_INTERVAL),
            (true, true, None) => Some(now + STATUS_INTERVAL),
        };
    }

    pub(crate) fn queue_error(&self, source: driver_virtqueue::QueueError) -> PfError {
        PfError::Queue {
            function: self.id.clone(),
            source,
        }
    }

    /// Takes all answers; gives their number.
    fn reap_all(&mut self, now: Instant) -> Result<usize, PfError> {
        let mut answers = 0;
        for queue in 0..self.admin.len() {
            while let Some(admin) = self.admin.get_mut(queue) {
                match admin.reap() {
                    Ok(Some(done)) => {
                        answers += 1;
                        self.answered(queue, &done, now)?;
                    }
                    Ok(None) => break,
                    Err(e) => return Err(self.queue_error(e)),
                }
            }
        }
        Ok(answers)
    }

    fn answered(&mut self, queue: usize, done: &Done, now: Instant) -> Result<(), PfError> {
        if self.judge_older(queue, done.order, now) {
            return Ok(());
        }
        if done.late {
            self.counters.late += 1;
            if let Some(left_out) = self.limits.late.allow(now) {
                tracing::warn!(function = %self.id, lane = done.lane, left_out, "late answer");
            }
            self.came_late(queue, done, now);
            return Ok(());
        }
        if !self.is_sent(done.lane, queue, done.slot) {
            let e = driver_virtqueue::QueueError::Internal("an answer that nobody waits for");
            return Err(self.queue_error(e));
        }
        self.responds(done.lane, now);
        let Some((mut job, _)) = self
            .lanes
            .get_mut(usize::from(done.lane))
            .and_then(|lane| lane.current.take())
        else {
            return Ok(());
        };
        if let Some(reply) = done.answer.reply {
            self.counters.count_status(reply.status);
            if job.kind.wants_retry(reply) {
                if let Some(until) = job.retry_at(&self.config.retry, now) {
                    job.retries += 1;
                    job.last = Some(reply);
                    self.counters.retries += 1;
                    if let Some(lane) = self.lanes.get_mut(usize::from(done.lane)) {
                        lane.current = Some((job, Stage::Backoff { until }));
                    }
                    self.set_timer(until);
                    return Ok(());
                }
            }
        }
        let result = judge(&done.answer);
        if matches!(result, Err(OpError::ShortReply { .. })) {
            self.counters.short_replies += 1;
        }
        let ended = self.finish(done.lane, job, result, now);
        self.list_lane(done.lane);
        ended
    }

    /// Hands the end of a command to whoever it was for.
    pub(crate) fn finish(
        &mut self,
        member: u16,
        job: Job,
        result: Result<&[u8], OpError>,
        now: Instant,
    ) -> Result<(), PfError> {
        match job.kind {
            Kind::Op { .. } | Kind::Notify { .. } => {}
            Kind::NotifyInfo { .. } => self.notify_info(member, &result),
            kind => return self.setup_done(member, kind, result, now),
        }
        if let Err(error) = &result {
            self.note_failure(member, &job, error, now);
        }
        if !matches!(result, Err(OpError::TimedOut)) {
            // The device answered: it lives.
            self.attempts = 0;
        }
        if let Some(token) = job.kind.token() {
            let result = result.map(|bytes| {
                let mut data = [0; 8];
                if matches!(job.kind, Kind::Op { .. }) {
                    for (dst, src) in data.iter_mut().zip(bytes) {
                        *dst = *src;
                    }
                }
                data
            });
            self.completions.push(Completion {
                member,
                token,
                result,
            });
        }
        Ok(())
    }

    fn note_failure(&mut self, member: u16, job: &Job, error: &OpError, now: Instant) {
        let limit = match error {
            OpError::TimedOut => &mut self.limits.timed_out,
            OpError::ShortReply { .. } => &mut self.limits.short,
            _ => &mut self.limits.refused,
        };
        if let Some(left_out) = limit.allow(now) {
            let command = job.kind.command(member);
            tracing::warn!(
                function = %self.id, vf = member, %error, left_out,
                command = virtio_modern_spec::admin::opcode::name(command.opcode()),
                retries = job.retries, what = ?job.kind,
                "command failed"
            );
        }
    }
}

/// Whether the answer is one, and the result if so.
fn judge(answer: &Answer) -> Result<&[u8], OpError> {
    let short = OpError::ShortReply {
        got: answer.got as u32,
        want: answer.needed as u32,
    };
    match answer.reply {
        None => Err(short),
        Some(r) if r.status != virtio_modern_spec::admin::status::OK => Err(OpError::Device {
            status: r.status,
            qualifier: r.qualifier,
        }),
        Some(_) if answer.got < answer.needed => Err(short),
        Some(_) => Ok(&answer.result),
    }
}
