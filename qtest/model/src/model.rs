// SPDX-License-Identifier: GPL-2.0-or-later
//! The whole device: PF, VFs, admin queues, switch; time and effects.

use std::sync::Arc;

use crate::admin::{Admin, Around};
use crate::config::{ModelConfig, SrIovCapability};
use crate::counters::{Counters, FunctionCounters};
use crate::device::{ControlError, DeviceControl};
use crate::dma::{DmaMemory, IovaMap};
use crate::effect::{Effect, FrameSwitch, FunctionId, Port};
use crate::event::{Event, EventMask, Record, ResetCause};
use crate::fault::FaultSet;
use crate::function::Function;
use crate::function_core::Memory;
use crate::shared::Shared;
use crate::violation::Violation;

/// How often rings are looked at when drivers are asked not to notify.
const POLL_NS: u64 = 1_000_000;
/// Frames delivered in one call at most, so that devices that answer each other cannot keep the
/// model.
const MAX_DELIVERIES: usize = 65536;

/// The simulated device.
///
/// Front ends call it with accesses, carry out the [`Effect`]s it leaves behind and tell it the
/// time. Every call is complete when it returns.
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) pf: Function,
    pub(crate) vfs: Vec<Function>,
    /// VFs 1 to this number live.
    pub(crate) live: u16,
    /// VF Memory Space Enable.
    pub(crate) vf_memory: bool,
    /// A driver of the PF negotiated SR_IOV at least once.
    pub(crate) sriov_negotiated: bool,
    pub(crate) admin: Admin,
    pub(crate) faults: FaultSet,
    pub(crate) shared: Shared,
    switch: Box<dyn FrameSwitch>,
    ports: Vec<Port>,
}

impl Model {
    /// The device of these functions, without live VFs.
    pub(crate) fn new(
        config: ModelConfig,
        pf: Function,
        vfs: Vec<Function>,
        switch: Box<dyn FrameSwitch>,
    ) -> Self {
        Model {
            shared: Shared::new(config.knobs.clone(), config.leniency, config.events),
            config,
            admin: Admin::new(&pf.core.virtio.numbers),
            faults: FaultSet::new(pf.core.virtio.numbers.admin_num),
            pf,
            vfs,
            live: 0,
            vf_memory: false,
            sriov_negotiated: false,
            switch,
            ports: Vec::new(),
        }
    }

    /// What the device was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub(crate) fn function(&self, f: FunctionId) -> Option<&Function> {
        match f {
            FunctionId::Pf => Some(&self.pf),
            FunctionId::Vf(n) => self.vfs.get(usize::from(n.checked_sub(1)?)),
        }
    }

    pub(crate) fn function_mut(&mut self, f: FunctionId) -> Option<&mut Function> {
        match f {
            FunctionId::Pf => Some(&mut self.pf),
            FunctionId::Vf(n) => self.vfs.get_mut(usize::from(n.checked_sub(1)?)),
        }
    }

    /// As [`function_mut`](Self::function_mut), together with what all functions share.
    pub(crate) fn split(&mut self, f: FunctionId) -> Option<(&mut Function, &mut Shared)> {
        let function = match f {
            FunctionId::Pf => &mut self.pf,
            FunctionId::Vf(n) => self.vfs.get_mut(usize::from(n.checked_sub(1)?))?,
        };
        Some((function, &mut self.shared))
    }

    /// Whether the function answers: the PF always, a VF while it is enabled (or while somebody
    /// else's SR-IOV capability hides it).
    pub fn exists(&self, f: FunctionId) -> bool {
        self.function(f)
            .is_some_and(|x| x.core.live || self.config.sriov == SrIovCapability::FrontEnd)
    }

    /// Number of live VFs.
    pub fn live_vfs(&self) -> u16 {
        self.live
    }

    /// Whether MSI-X of a function is on.
    pub fn msix_enabled(&self, f: FunctionId) -> bool {
        self.function(f).is_some_and(|x| x.core.msix.enabled())
    }

    /// MSI-X vectors of a function.
    pub fn msix_vectors(&self, f: FunctionId) -> u16 {
        self.function(f).map_or(0, |x| x.core.msix.vectors())
    }

    // --- life of the VFs -------------------------------------------------------------------

    /// Ends all VFs as a reset of the PF does.
    fn stop_vfs(&mut self) {
        if self.live > 0 {
            self.bring_down();
        }
        self.vf_memory = false;
        self.pf.core.config.set_sriov(0, 0);
    }

    /// VFs 1 to `num_vfs` live from now on.
    pub(crate) fn bring_up(&mut self, num_vfs: u16) {
        self.live = num_vfs;
        for vf in self.vfs.iter_mut().take(num_vfs.into()) {
            vf.reset_function(ResetCause::VfEnable, &mut self.shared);
            vf.core.live = true;
        }
        self.announce();
    }

    /// No VF lives any more.
    pub(crate) fn bring_down(&mut self) {
        let outstanding = self.admin.outstanding();
        if outstanding > 0 {
            self.shared.violation(
                FunctionId::Pf,
                Violation::VfsDisabledWithCommands { outstanding },
            );
        }
        for vf in self.vfs.iter_mut().take(self.live.into()) {
            vf.reset_function(ResetCause::VfEnable, &mut self.shared);
            vf.core.live = false;
        }
        self.live = 0;
        self.announce();
    }

    fn announce(&mut self) {
        let num_vfs = self.live;
        self.shared.log(FunctionId::Pf, Event::VfEnable { num_vfs });
        self.shared
            .effects
            .push(Effect::VfsChanged { enabled: num_vfs });
    }

    // --- memory and interrupts -------------------------------------------------------------

    /// Gives a function an address space of the front end's own making.
    pub fn set_memory(&mut self, f: FunctionId, memory: Arc<dyn DmaMemory>) {
        if let Some(x) = self.function_mut(f) {
            x.core.memory = Memory::Other(memory);
        }
    }

    /// The function's own address space, to map into and unmap from; takes the place of one given
    /// by [`set_memory`](Self::set_memory). `None` if there is no such function.
    pub fn iova_map(&mut self, f: FunctionId) -> Option<&mut IovaMap> {
        let memory = &mut self.function_mut(f)?.core.memory;
        if let Memory::Other(_) = memory {
            *memory = Memory::Map(IovaMap::new());
        }
        match memory {
            Memory::Map(m) => Some(m),
            Memory::Other(_) => None,
        }
    }

    /// The front end has (or has no) receiver for the vectors from `first`. From the first call on
    /// this decides about enabling and masks, together with Function Mask.
    pub fn set_irq_triggers(&mut self, f: FunctionId, first: u16, present: &[bool]) {
        if let Some((x, shared)) = self.split(f) {
            x.core.msix.set_triggers(first, present);
            x.core.update_intx(shared);
            x.core.flush_interrupts(shared);
        }
    }

    /// The front end stopped receiving MSI-X messages of a function.
    pub fn disable_irqs(&mut self, f: FunctionId) {
        if let Some((x, shared)) = self.split(f) {
            x.core.msix.clear_triggers();
            x.core.update_intx(shared);
        }
    }

    // --- resets ----------------------------------------------------------------------------

    /// Function level reset. One of the PF ends its VFs.
    pub fn reset_function(&mut self, f: FunctionId) {
        if f == FunctionId::Pf {
            self.stop_vfs();
        }
        if let Some((x, shared)) = self.split(f) {
            x.reset_function(ResetCause::FunctionLevel, shared);
        }
        self.settle();
    }

    /// The function's client went away: its memory and interrupts are gone, the function is reset.
    /// VFs of a PF stay enabled and go on.
    pub fn disconnected(&mut self, f: FunctionId) {
        if let Some((x, shared)) = self.split(f) {
            x.reset_function(ResetCause::Disconnected, shared);
            x.core.msix.clear_triggers();
            x.core.memory = Memory::Map(IovaMap::new());
        }
        self.settle();
    }

    /// The device of a function fails: DEVICE_NEEDS_RESET.
    pub fn break_function(&mut self, f: FunctionId, reason: &str) {
        if let Some((x, shared)) = self.split(f) {
            x.core.break_down(None, reason, shared);
        }
    }

    // --- frames and controls ---------------------------------------------------------------

    /// A frame arrives on the external port of the switch.
    pub fn rx_frame(&mut self, frame: &[u8]) {
        self.deliver(Port::External, frame);
        self.settle();
    }

    /// Changes something from outside, such as the link.
    ///
    /// # Errors
    /// The device type cannot do it, or there is no such function.
    pub fn control(&mut self, f: FunctionId, control: &DeviceControl) -> Result<(), ControlError> {
        let (x, shared) = self.split(f).ok_or(ControlError::NoFunction(f))?;
        let done = x.with_device(shared, |d, ctx| d.control(control, ctx));
        self.settle();
        done
    }

    /// Something outside that a function's device uses wants attention.
    pub fn wake(&mut self, f: FunctionId) {
        if let Some((x, shared)) = self.split(f) {
            x.wake(shared);
        }
        self.settle();
    }

    fn deliver(&mut self, from: Port, frame: &[u8]) {
        let mut ports = std::mem::take(&mut self.ports);
        ports.clear();
        self.switch.forward(from, frame, &mut ports);
        for port in ports.iter().filter(|p| **p != from) {
            match port {
                Port::External => self.shared.effects.push(Effect::FrameOut(frame.to_vec())),
                Port::Function(f) => {
                    let Some((x, shared)) = self.split(*f) else {
                        continue;
                    };
                    if !x.core.live {
                        continue;
                    }
                    x.core.refill_budget();
                    if let Err(fault) = x.with_device(shared, |d, c| d.receive_frame(frame, c)) {
                        x.ring_fault(0, fault, shared);
                    }
                }
            }
        }
        self.ports = ports;
    }

    /// Carries on what a call started in other functions: frames, consequences of resets.
    pub(crate) fn settle(&mut self) {
        let mut deliveries = 0;
        loop {
            while let Some(f) = self.shared.reset.pop() {
                if f == FunctionId::Pf {
                    self.admin.reset();
                }
                self.switch.port_reset(Port::Function(f));
            }
            while let Some(queue) = self.shared.admin_reset.pop() {
                self.admin.queue_reset(queue);
            }
            let Some((from, frame)) = self.shared.frames.pop_front() else {
                return;
            };
            deliveries += 1;
            if deliveries > MAX_DELIVERIES {
                self.shared.counters.frames_dropped += 1;
            } else {
                self.deliver(Port::Function(from), &frame);
            }
            self.shared.recycle_frame(frame);
        }
    }

    // --- admin queues ----------------------------------------------------------------------

    /// Serves an admin queue.
    pub(crate) fn run_admin(&mut self, queue: u16) {
        let (admin, mut around) = self.around();
        around.pf.core.refill_budget();
        admin.run(queue, &mut around);
    }

    fn around(&mut self) -> (&mut Admin, Around<'_>) {
        (
            &mut self.admin,
            Around {
                config: &self.config,
                pf: &mut self.pf,
                vfs: &mut self.vfs,
                live: self.live,
                faults: &mut self.faults,
                shared: &mut self.shared,
            },
        )
    }

    // --- time ------------------------------------------------------------------------------

    /// Tells the time (nanoseconds of any clock that does not go back) and carries out what is due.
    pub fn tick(&mut self, now_ns: u64) {
        self.shared.now_ns = self.shared.now_ns.max(now_ns);
        while let Some(f) = self.shared.due() {
            let now = self.shared.now_ns;
            if let Some((x, shared)) = self.split(f) {
                x.end_resets(now);
                x.wake(shared);
            }
            if f == FunctionId::Pf {
                let (admin, mut around) = self.around();
                admin.tick(&mut around);
            }
        }
        if self.faults.take_changed() && self.admin.is_stuck() {
            self.admin.unstick();
            self.serve_waiting(FunctionId::Pf);
        }
        for _ in 0..self.shared.later_len() {
            if let Some((f, queue)) = self.shared.take_later() {
                self.serve(f, queue);
            }
        }
        if self.shared.knobs.suppress_kicks {
            self.poll_all();
        }
        self.settle();
    }

    /// When the next [`tick`](Self::tick) is needed, in the same clock; `None`: no time in sight.
    pub fn next_deadline(&self) -> Option<u64> {
        let now = self.shared.now_ns;
        if self.faults.changed() && self.admin.is_stuck() {
            return Some(now);
        }
        let poll = (self.shared.knobs.suppress_kicks).then_some(now.saturating_add(POLL_NS));
        match (self.shared.next_deadline(), poll) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn serve(&mut self, f: FunctionId, queue: u16) {
        if f == FunctionId::Pf && self.pf.core.virtio.numbers.is_admin(queue) {
            self.run_admin(queue);
        } else if let Some((x, shared)) = self.split(f) {
            x.core.refill_budget();
            x.service(queue, shared);
        }
    }

    /// Serves the queues of a function that were notified while they could not be served.
    pub(crate) fn serve_waiting(&mut self, f: FunctionId) {
        let waiting = self.function(f).map(Function::waiting_queues);
        for queue in waiting.unwrap_or_default() {
            self.serve(f, queue);
        }
    }

    fn poll_all(&mut self) {
        for n in 0..=self.live {
            let f = match n {
                0 => FunctionId::Pf,
                n => FunctionId::Vf(n),
            };
            let queues = self.function(f).map_or(0, |x| x.core.virtio.queues.len());
            for queue in 0..queues as u16 {
                self.serve(f, queue);
            }
        }
    }

    // --- output ----------------------------------------------------------------------------

    /// What is to be done, in order, leaving the storage for next time.
    pub fn drain_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.shared.effects.drain(..)
    }

    /// Whether [`drain_effects`](Self::drain_effects) has something.
    pub fn has_effects(&self) -> bool {
        !self.shared.effects.is_empty()
    }

    /// What is to be done, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.shared.effects)
    }

    /// Log records since the last call, in order.
    pub fn drain_events(&mut self) -> std::collections::vec_deque::Drain<'_, Record> {
        self.shared.log.drain()
    }

    /// Log records that nobody took yet.
    pub fn events(&self) -> impl Iterator<Item = &Record> {
        self.shared.log.iter()
    }

    /// Changes which log records are kept from now on.
    pub fn set_event_mask(&mut self, mask: EventMask) {
        self.shared.log.mask = mask;
    }

    /// Fault rules of the admin queues. Changes take effect for the next command; a queue that was
    /// stuck goes on in the next tick.
    pub fn faults(&mut self) -> &mut FaultSet {
        &mut self.faults
    }

    /// Counts of the whole device.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What a function's device type itself counts, by name.
    pub fn device_numbers(&self, f: FunctionId) -> Vec<(&'static str, u64)> {
        self.function(f)
            .map(|x| x.device.numbers())
            .unwrap_or_default()
    }

    /// Queues of the device type, without admin queues; the same for every function.
    pub fn device_queues(&self) -> u16 {
        self.pf.core.virtio.numbers.device
    }

    /// Bytes of registers and queues that a function has to itself, because somebody changed them.
    pub fn private_bytes(&self, f: FunctionId) -> usize {
        self.function(f).map_or(0, |x| {
            x.core.config.private_bytes()
                + x.core.msix.private_bytes()
                + x.core.virtio.queues.private_bytes()
        })
    }

    /// Counts of one function.
    pub fn function_counters(&self, f: FunctionId) -> Option<&FunctionCounters> {
        self.function(f).map(|x| &x.core.counters)
    }
}
