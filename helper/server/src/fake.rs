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

use legacy_vf_proto::{NotifyKind, Space};

use crate::backend::{
    AccessBackend, BackendEvent, BackendState, Completion, Notified, NotifyAddress, OpError,
    Operation, PfSummary, Polled, SubmitError,
};
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
    /// Events to give out.
    pub events: Vec<BackendEvent>,
    /// Notifications travel as commands.
    pub notify_by_command: bool,
    /// Accesses seen: member and operation.
    pub log: Vec<(u16, Operation)>,
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
    op: Operation,
    due: Instant,
}

/// See the module's description.
#[derive(Debug)]
pub struct FakeBackend {
    info: PfSummary,
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
            info: PfSummary {
                id: "fake-pf".into(),
                transport: "vfio-user",
                vfio_fds: false,
                virtio_id: 1,
                vendor_id: 0x1af4,
                device_id: 0x1041,
                vf_device_id: 0x1041,
                serial: 0x1122_3344_5566_7788,
                num_vfs,
                features: 1 << 32 | 1 << 37 | 1 << 41,
                admin_queue_index: 3,
                admin_queue_size: 64,
                commands: 0x7f,
                access_deadline: Duration::from_secs(2),
                session: 1,
            },
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

    /// Changes what is fixed about the PF; before it is served.
    pub fn info_mut(&mut self) -> &mut PfSummary {
        &mut self.info
    }

    /// Its VFs have VFIO device files and this token.
    pub fn on_vfio(&mut self, token: [u8; 16], files: DeviceFiles) {
        self.info.transport = "vfio";
        self.info.vfio_fds = true;
        self.vfio = Some((token, files));
    }

    /// The remote control.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    fn execute(&mut self, member: u16, op: &Operation) -> [u8; 8] {
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
            .take(usize::from(op.len));
        match op.data {
            Some(data) => bytes.zip(data).for_each(|(dst, src)| *dst = src),
            None => out.iter_mut().zip(bytes).for_each(|(dst, src)| *dst = *src),
        }
        out
    }
}

impl AccessBackend for FakeBackend {
    fn info(&self) -> &PfSummary {
        &self.info
    }

    fn notify_address(&self, member: u16) -> Option<NotifyAddress> {
        (1..=self.info.num_vfs)
            .contains(&member)
            .then_some(NotifyAddress {
                kind: NotifyKind::Owner,
                bar: 4,
                offset: u64::from(member) * 4,
            })
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

    fn submit(
        &mut self,
        member: u16,
        op: Operation,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError> {
        if self.notify_address(member).is_none() {
            return Err(SubmitError::NoSuchVf(member));
        }
        let control = self.control.clone();
        let mut b = control.get();
        if let Some(why) = &b.failure {
            return Err(SubmitError::PfFailed(why.clone()));
        }
        if b.capacity != 0 && self.running.len() >= b.capacity {
            return Err(SubmitError::Full);
        }
        if b.keep_log {
            b.log.push((member, op));
        }
        self.running.push_back(Running {
            token,
            member,
            op,
            due: now + b.delay,
        });
        b.max_in_flight = b.max_in_flight.max(self.running.len());
        Ok(())
    }

    fn notify(&mut self, member: u16, queue: u16, _now: Instant) -> Result<Notified, SubmitError> {
        if self.notify_address(member).is_none() {
            return Err(SubmitError::NoSuchVf(member));
        }
        let mut b = self.control.get();
        if let Some(why) = &b.failure {
            return Err(SubmitError::PfFailed(why.clone()));
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

    fn poll(&mut self, now: Instant, out: &mut Polled) {
        let mut drain = [0; 64];
        let _nothing = self.woken.read(&mut drain);
        let (stuck, error, failure) = {
            let mut b = self.control.get();
            out.events.append(&mut b.events);
            (b.stuck, b.error.clone(), b.failure.clone())
        };
        if let Some(why) = failure {
            out.done.extend(self.running.drain(..).map(|r| Completion {
                token: r.token,
                result: Err(OpError::PfFailed(why.clone())),
            }));
            return;
        }
        if stuck {
            return;
        }
        while self.running.front().is_some_and(|r| r.due <= now) {
            let Some(r) = self.running.pop_front() else {
                return;
            };
            let result = match &error {
                Some(e) => Err(e.clone()),
                None => Ok(self.execute(r.member, &r.op)),
            };
            out.done.push(Completion {
                token: r.token,
                result,
            });
        }
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

    fn spin_hint(&self) -> Duration {
        Duration::ZERO
    }

    fn state(&self) -> BackendState {
        match &self.control.get().failure {
            Some(why) => BackendState::Failed(why.clone()),
            None => BackendState::Running,
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("fake", 1)]
    }

    fn shutdown(&mut self) -> Result<(), String> {
        self.control.get().shut_down = true;
        Ok(())
    }
}
