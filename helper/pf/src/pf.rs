// SPDX-License-Identifier: GPL-2.0-or-later
//! The state of the driver, and what its owner may look at.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use pci_transport::{ConfigImage, IrqEvent, PciFunction, VfBar};
use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_pci_spec::bytes::{get_u16, get_u8};
use virtio_pci_spec::{ids, pci, DeviceType};

use crate::admin::AdminQueue;
use crate::caps::{self, Structures};
use crate::config::PfConfig;
use crate::error::{OpError, PfError};
use crate::lane::{Kind, Lane, Stage};
use crate::limit::RateLimit;
use crate::notify::Bars;
use crate::setup::{enable_function, Vectors};
use crate::stats::Counters;
use crate::types::{Class, Completion, PfEvent, PfInfo, PfState, VfInfo};

/// Where the state machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A reset is to be requested.
    ToReset { at: Instant },
    /// Waiting for a sign that the device answers, before a reset is requested.
    Asking,
    /// The device answers: its reset is to be requested now.
    Answering,
    /// Waiting for device_status to read 0.
    Resetting { since: Instant, look_at: Instant },
    /// LIST_QUERY is under way.
    ListQuery,
    /// LIST_USE is under way.
    ListUse,
    /// Serving.
    Running,
    /// Given up.
    Failed,
    /// Shut down.
    Stopped,
}

impl Phase {
    pub(crate) fn timer(&self) -> Option<Instant> {
        match self {
            Phase::ToReset { at } => Some(*at),
            Phase::Resetting { look_at, .. } => Some(*look_at),
            _ => None,
        }
    }

    /// Whether the admin queue is in use.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Phase::ListQuery | Phase::ListUse | Phase::Running)
    }

    /// Whether a command may be sent now.
    pub(crate) fn allows(&self, kind: &Kind) -> bool {
        match kind {
            Kind::ListQuery => *self == Phase::ListQuery,
            Kind::ListUse(_) => *self == Phase::ListUse,
            Kind::Op { .. } | Kind::Notify { .. } | Kind::NotifyInfo { .. } => {
                *self == Phase::Running
            }
        }
    }
}

/// Log lines that the device can provoke.
#[derive(Default)]
pub(crate) struct Limits {
    pub(crate) refused: RateLimit,
    pub(crate) timed_out: RateLimit,
    pub(crate) late: RateLimit,
    pub(crate) short: RateLimit,
    pub(crate) sick: RateLimit,
    pub(crate) trouble: RateLimit,
}

/// A PF under the control of this process.
pub struct Pf {
    pub(crate) function: Box<dyn PciFunction>,
    pub(crate) id: Arc<str>,
    pub(crate) config: PfConfig,
    pub(crate) structures: Structures,
    pub(crate) info: PfInfo,
    pub(crate) vfs: Vec<VfInfo>,
    pub(crate) bars: Bars,
    /// The admin queues in use.
    pub(crate) admin: Vec<AdminQueue>,
    pub(crate) irqs: Vec<IrqEvent>,
    pub(crate) vectors: Vectors,
    pub(crate) fds_epoch: u64,
    /// Index 0 is the group itself, 1 and up the VFs.
    pub(crate) lanes: Vec<Lane>,
    /// Lanes that may have something to send, in turn: on the first queue, and on the others.
    pub(crate) ready: [VecDeque<u16>; 2],
    pub(crate) phase: Phase,
    pub(crate) state: PfState,
    /// Lower bound of all timers of lanes and queues.
    pub(crate) timer: Option<Instant>,
    /// Something was submitted since the last poll.
    pub(crate) wake: Option<Instant>,
    /// When to look for answers without an interrupt, or at device_status.
    pub(crate) look_at: Option<Instant>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) events: Vec<PfEvent>,
    pub(crate) counters: Counters,
    pub(crate) limits: Limits,
    /// Resets in a row without a completed operation in between.
    pub(crate) attempts: u32,
    pub(crate) running_since: Option<Instant>,
    /// When device_status, which was asked for, must have come.
    pub(crate) status_by: Option<Instant>,
    /// When device_status was last looked at for want of an interrupt.
    pub(crate) status_seen: Option<Instant>,
    /// Why the start failed.
    pub(crate) failure: Option<PfError>,
}

impl Pf {
    pub(crate) fn new(function: Box<dyn PciFunction>, config: PfConfig) -> Result<Pf, PfError> {
        let id: Arc<str> = function.id().into();
        let image = ConfigImage::read(&*function)?;
        let info = identify(&id, &image, &config)?;
        let mut owner = [0; 6];
        for (bar, size) in (0u8..).zip(owner.iter_mut()) {
            *size = function.bar(bar).map_or(0, |b| b.size);
        }
        let structures = caps::find(&*function, &image, |bar| {
            owner
                .get(usize::from(bar))
                .copied()
                .filter(|size| *size > 0)
        })?;
        enable_function(&*function)?;
        let now = Instant::now();
        Ok(Pf {
            function,
            id,
            config,
            structures,
            info,
            vfs: Vec::new(),
            bars: Bars {
                owner,
                member: [VfBar::Unknown; 6],
            },
            admin: Vec::new(),
            irqs: Vec::new(),
            vectors: Vectors::default(),
            fds_epoch: 0,
            lanes: vec![Lane::default()],
            ready: [VecDeque::new(), VecDeque::new()],
            phase: Phase::ToReset { at: now },
            state: PfState::Starting,
            timer: None,
            wake: None,
            look_at: None,
            completions: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            limits: Limits::default(),
            attempts: 0,
            running_since: None,
            status_by: None,
            status_seen: None,
            failure: None,
        })
    }

    /// The PF as it was found and set up.
    pub fn info(&self) -> &PfInfo {
        &self.info
    }

    /// One VF, from 1.
    pub fn vf(&self, member: u16) -> Option<&VfInfo> {
        self.vfs.get(usize::from(member.checked_sub(1)?))
    }

    /// What the PF is doing.
    pub fn state(&self) -> &PfState {
        &self.state
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration in force.
    pub fn config(&self) -> &PfConfig {
        &self.config
    }

    /// State of the memory that is shared with the device.
    pub fn dma_stats(&self) -> pci_transport::PoolStats {
        self.function.dma_stats()
    }

    /// Sets the token that openers of a VF must show; `false` where the transport has no such
    /// thing.
    pub fn set_vf_token(&mut self, token: &[u8; 16]) -> Result<bool, PfError> {
        Ok(self.function.set_vf_token(token)?)
    }

    /// Puts a lane on the list of those that may have something to send.
    pub(crate) fn list_lane(&mut self, member: u16) {
        let several = self.admin.len() > 1;
        let Some(lane) = self.lanes.get_mut(usize::from(member)) else {
            return;
        };
        let Some(job) = lane.peek().filter(|_| !lane.listed) else {
            return;
        };
        let [first, others] = &mut self.ready;
        match job.class {
            Class::Long if several => others.push_back(member),
            _ => first.push_back(member),
        }
        lane.listed = true;
    }

    pub(crate) fn set_timer(&mut self, at: Instant) {
        self.timer = Some(self.timer.map_or(at, |t| t.min(at)));
    }

    /// What became known since the last call.
    pub fn take_events(&mut self) -> Vec<PfEvent> {
        std::mem::take(&mut self.events)
    }

    /// File descriptors to wait on (readable); when one is, call [`Pf::poll`]. The set changes
    /// only when [`Pf::fds_epoch`] does.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        if matches!(self.phase, Phase::Failed | Phase::Stopped) {
            // A dead peer's socket would be readable for ever.
            return Vec::new();
        }
        let mut fds: Vec<_> = self.irqs.iter().map(AsFd::as_fd).collect();
        fds.extend(self.function.event_fds());
        fds
    }

    /// Changes when [`Pf::fds`] gives other descriptors than before.
    pub fn fds_epoch(&self) -> u64 {
        self.fds_epoch
    }

    /// Whether a register was asked for that has not come yet. For those whose time stands still meanwhile.
    pub fn expects_register(&self) -> bool {
        self.status_by.is_some()
    }

    /// When [`Pf::poll`] must be called at the latest; `None`: not before a descriptor is ready.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Failed | Phase::Stopped => None,
            _ => [
                self.wake,
                self.timer,
                self.look_at,
                self.status_by,
                self.phase.timer(),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// Ends every operation with `error` and forgets every other command.
    pub(crate) fn end_all(&mut self, error: &OpError) {
        for (member, lane) in self.lanes.iter_mut().enumerate() {
            let current = lane.current.take().map(|(job, _)| job);
            for job in current.into_iter().chain(lane.waiting.drain(..)) {
                if let Some(token) = job.kind.token() {
                    self.completions.push(Completion {
                        member: member as u16,
                        token,
                        result: Err(error.clone()),
                    });
                }
            }
            lane.listed = false;
        }
        self.ready = Default::default();
        self.timer = None;
        self.wake = None;
        self.look_at = None;
    }

    /// Whether the device has a command of this lane.
    pub(crate) fn is_sent(&self, lane: u16, queue: usize, slot: u16) -> bool {
        self.lanes
            .get(usize::from(lane))
            .and_then(|l| l.current.as_ref())
            .is_some_and(|(_, stage)| matches!(stage, Stage::Sent { queue: q, slot: s } if (*q, *s) == (queue, slot)))
    }
}

/// Reads what the function is and refuses what this driver cannot be for.
fn identify(id: &Arc<str>, image: &ConfigImage, config: &PfConfig) -> Result<PfInfo, PfError> {
    let bytes = image.bytes();
    let word = |at| get_u16(bytes, at).unwrap_or(0xffff);
    let vendor_id = word(pci::header::VENDOR_ID);
    let device_id = word(pci::header::DEVICE_ID);
    let device_type = DeviceType::from_pci_id(device_id);
    let modern = (ids::MODERN_DEVICE_BASE..=0x107f).contains(&device_id);
    if vendor_id != ids::VENDOR || !(modern || device_type.is_some()) {
        return Err(PfError::Unsuitable {
            function: id.clone(),
            why: format!("{vendor_id:04x}:{device_id:04x} is not a virtio device"),
        });
    }
    Ok(PfInfo {
        id: id.clone(),
        vendor_id,
        device_id,
        revision: get_u8(bytes, pci::header::REVISION_ID).unwrap_or(0),
        device_type,
        serial: image.serial(),
        features_offered: 0,
        features: 0,
        admin_queue_index: 0,
        admin_queue_num: 0,
        admin_queues: 0,
        admin_queue_size: 0,
        vectors: 0,
        num_vfs: 0,
        vfs_kept: false,
        vf_device_id: 0,
        vf_type: None,
        commands_offered: OpcodeSet(0),
        commands: OpcodeSet(0),
        initialisations: 0,
        command_timeout: config.command_timeout,
    })
}
