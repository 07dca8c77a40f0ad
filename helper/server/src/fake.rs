// SPDX-License-Identifier: GPL-2.0-or-later
//! A PF without hardware: registers in memory, and everything that can go wrong on demand. For
//! tests, benchmarks and fuzzing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_pci_spec::DeviceType;
use virtio_pf::{
    Access, Completion, Counters, LegacyOp, NotResponding, Notified, NotifyAddress, NotifyKind,
    OpError, PfError, PfEvent, PfInfo, PfState, Space, SubmitError, VfInfo,
};

use crate::backend::{AccessBackend, Served};
use crate::device_files::DeviceFiles;
use crate::proof::ProofError;

/// What the fake does, and what it has seen.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Time that an access takes.
    pub delay: Duration,
    /// Accesses never end (until this is cleared, or the backend is told to fail).
    pub stuck: bool,
    /// Accesses end with this.
    pub error: Option<OpError>,
    /// Operations that it works on together; 0: no limit.
    pub capacity: usize,
    /// The PF has failed for this reason.
    pub failure: Option<String>,
    /// A VF that does not answer.
    pub not_responding: Option<(u16, NotResponding)>,
    /// Events to give out.
    pub events: Vec<PfEvent>,
    /// What is to be known of a VF is found out when it is opened.
    pub asks: bool,
    /// Notifications travel as commands.
    pub notify_by_command: bool,
    /// Accesses seen: member and operation.
    pub log: Vec<(u16, LegacyOp)>,
    /// Whether `log` is kept.
    pub keep_log: bool,
    /// Notifications seen: member and queue.
    pub notifications: Vec<(u16, u16)>,
    /// Most operations that were worked on together.
    pub max_in_flight: usize,
    /// [`AccessBackend::shutdown`] was called.
    pub shut_down: bool,
}

/// Changes the behaviour of a [`FakeBackend`] from elsewhere.
#[derive(Clone, Debug)]
pub struct Control {
    behaviour: Arc<Mutex<Behaviour>>,
    wake: Arc<UnixStream>,
}

impl Control {
    /// The behaviour; do not hold it for long.
    pub fn get(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the behaviour and wakes who waits for the backend.
    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.get());
        let _full = (&*self.wake).write(&[1]);
    }
}

#[derive(Debug)]
struct Running {
    token: u64,
    member: u16,
    op: Option<LegacyOp>,
    due: Instant,
}

fn vf(member: u16) -> VfInfo {
    let address = NotifyAddress {
        kind: NotifyKind::Owner,
        bar: 4,
        offset: u64::from(member) * 4,
        checked: true,
    };
    VfInfo {
        member,
        asked: true,
        notify: Some(address),
        owner_notify: Some(address),
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct FakeBackend {
    info: PfInfo,
    served: Served,
    vfs: Vec<VfInfo>,
    state: PfState,
    counters: Counters,
    control: Control,
    woken: UnixStream,
    /// With VFs that have VFIO device files: the token, and how files are looked at.
    vfio: Option<([u8; 16], DeviceFiles)>,
    /// Common registers and device configuration of each VF.
    registers: Vec<([u8; 256], [u8; 256])>,
    running: VecDeque<Running>,
}

impl FakeBackend {
    /// A net PF with this many VFs.
    ///
    /// # Errors
    /// If no socket pair can be made.
    pub fn new(num_vfs: u16) -> std::io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(FakeBackend {
            info: PfInfo {
                id: "fake-pf".into(),
                vendor_id: 0x1af4,
                device_id: 0x1041,
                revision: 1,
                device_type: Some(DeviceType::Net),
                serial: 0x1122_3344_5566_7788,
                features_offered: 1 << 32 | 1 << 37 | 1 << 41,
                features: 1 << 32 | 1 << 37 | 1 << 41,
                admin_queue_index: 3,
                admin_queue_num: 1,
                admin_queues: 1,
                admin_queue_size: 64,
                vectors: 0,
                num_vfs,
                vfs_kept: false,
                vf_device_id: 0x1041,
                vf_type: Some(DeviceType::Net),
                commands_offered: OpcodeSet(0x7f),
                commands: OpcodeSet(0x7f),
                command_timeout: Duration::from_secs(2),
                initialisations: 1,
            },
            served: Served {
                transport: "vfio-user",
                vfio_fds: false,
                session: 0,
            },
            vfs: (1..=num_vfs).map(vf).collect(),
            state: PfState::Running,
            counters: Counters::default(),
            control: Control {
                behaviour: Arc::default(),
                wake: Arc::new(wake),
            },
            woken,
            vfio: None,
            registers: vec![([0; 256], [0; 256]); usize::from(num_vfs)],
            running: VecDeque::new(),
        })
    }

    /// Changes what is known about the PF.
    pub fn info_mut(&mut self) -> &mut PfInfo {
        &mut self.info
    }

    /// Changes how it is served; before it is.
    pub fn served_mut(&mut self) -> &mut Served {
        &mut self.served
    }

    /// Its VFs have VFIO device files and this token.
    pub fn on_vfio(&mut self, token: [u8; 16], files: DeviceFiles) {
        self.served.transport = "vfio";
        self.served.vfio_fds = true;
        self.vfio = Some((token, files));
    }

    /// The remote control.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    fn check_member(&self, member: u16) -> Result<(), SubmitError> {
        match self.vf(member) {
            Some(_) => Ok(()),
            None => Err(SubmitError::NoSuchVf {
                member,
                num_vfs: self.info.num_vfs,
            }),
        }
    }

    fn execute(&mut self, member: u16, op: &LegacyOp) -> [u8; 8] {
        let mut out = [0; 8];
        let vf = usize::from(member)
            .checked_sub(1)
            .and_then(|i| self.registers.get_mut(i));
        let Some((common, device)) = vf else {
            return out;
        };
        let space = match op.space {
            Space::Common => common,
            Space::Device => device,
        };
        let bytes = space
            .iter_mut()
            .skip(usize::from(op.offset))
            .take(usize::from(op.len()));
        match op.access {
            Access::Write { data, .. } => bytes.zip(data).for_each(|(dst, src)| *dst = src),
            Access::Read { .. } => out.iter_mut().zip(bytes).for_each(|(dst, src)| *dst = *src),
        }
        out
    }
}

impl AccessBackend for FakeBackend {
    fn info(&self) -> &PfInfo {
        &self.info
    }

    fn served(&self) -> &Served {
        &self.served
    }

    fn vf(&self, member: u16) -> Option<&VfInfo> {
        self.vfs.get(usize::from(member.checked_sub(1)?))
    }

    fn not_responding(&self, member: u16) -> Option<NotResponding> {
        let not = self.control.get().not_responding;
        not.filter(|(m, _)| *m == member).map(|(_, state)| state)
    }

    fn vf_token(&self) -> Option<[u8; 16]> {
        self.vfio.as_ref().map(|(token, _)| *token)
    }

    fn member_of_file(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        match &self.vfio {
            Some((_, files)) => files.member(file, named),
            None => Err(ProofError::NoDevice),
        }
    }

    fn open(&mut self, member: u16, token: u64, now: Instant) -> Result<bool, SubmitError> {
        self.check_member(member)?;
        let b = self.control.get();
        if b.asks {
            self.running.push_back(Running {
                token,
                member,
                op: None,
                due: now + b.delay,
            });
        }
        Ok(b.asks)
    }

    fn submit(
        &mut self,
        member: u16,
        op: LegacyOp,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        self.check_member(member)?;
        let control = self.control.clone();
        let mut b = control.get();
        if let Some(why) = &b.failure {
            return Err(SubmitError::PfFailed(why.as_str().into()));
        }
        if let Some((_, state)) = b.not_responding.filter(|(m, _)| *m == member) {
            return Err(SubmitError::NotResponding {
                member,
                since: now.saturating_duration_since(state.since),
            });
        }
        if b.capacity != 0 && self.running.len() >= b.capacity {
            return Err(SubmitError::QueueFull {
                member,
                waiting: self.running.len(),
            });
        }
        if b.keep_log {
            b.log.push((member, op));
        }
        self.running.push_back(Running {
            token,
            member,
            op: Some(op),
            due: now + b.delay,
        });
        b.max_in_flight = b.max_in_flight.max(self.running.len());
        Ok(())
    }

    fn notify(&mut self, member: u16, queue: u16, _now: Instant) -> Result<Notified, SubmitError> {
        self.check_member(member)?;
        let mut b = self.control.get();
        if let Some(why) = &b.failure {
            return Err(SubmitError::PfFailed(why.as_str().into()));
        }
        if b.keep_log {
            b.notifications.push((member, queue));
        }
        Ok(if b.notify_by_command {
            Notified::Command
        } else {
            Notified::Address
        })
    }

    fn poll(&mut self, now: Instant) -> Vec<Completion> {
        let mut out = Vec::new();
        let mut drain = [0; 64];
        let _nothing = self.woken.read(&mut drain);
        let (stuck, error, failure) = {
            let b = self.control.get();
            (b.stuck, b.error.clone(), b.failure.clone())
        };
        if let Some(why) = failure {
            self.state = PfState::Failed(why.as_str().into());
            out.extend(self.running.drain(..).map(|r| Completion {
                member: r.member,
                token: r.token,
                result: Err(OpError::PfFailed(why.as_str().into())),
            }));
            return out;
        }
        if stuck {
            return out;
        }
        while self.running.front().is_some_and(|r| r.due <= now) {
            let Some(r) = self.running.pop_front() else {
                break;
            };
            let result = match &error {
                Some(e) => Err(e.clone()),
                None => Ok(r.op.map_or([0; 8], |op| self.execute(r.member, &op))),
            };
            out.push(Completion {
                member: r.member,
                token: r.token,
                result,
            });
        }
        out
    }

    fn take_events(&mut self) -> Vec<PfEvent> {
        std::mem::take(&mut self.control.get().events)
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.woken.as_fd()]
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.control.get().stuck {
            return None;
        }
        self.running.front().map(|r| r.due)
    }

    fn state(&self) -> &PfState {
        &self.state
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn shutdown(&mut self) -> Result<(), PfError> {
        self.control.get().shut_down = true;
        Ok(())
    }
}
