// SPDX-License-Identifier: GPL-2.0-or-later
//! What the server needs of a PF. [`crate::PfBackend`] is the real one; tests use
//! `fake::FakeBackend`.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use legacy_vf_proto::{NotifyKind, Space};

use crate::proof::ProofError;

/// What is fixed about a PF while it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PfSummary {
    /// The PF as people know it: its PCI address, or the path of its vfio-user socket.
    pub id: String,
    /// How the PF is reached: "vfio-user" or "vfio".
    pub transport: &'static str,
    /// Whether its VFs have VFIO device files, with which a client can prove that it holds one.
    pub vfio_fds: bool,
    /// Virtio device ID of its VFs.
    pub virtio_id: u16,
    /// PCI vendor ID of the PF.
    pub vendor_id: u16,
    /// PCI device ID of the PF.
    pub device_id: u16,
    /// PCI device ID of the VFs.
    pub vf_device_id: u16,
    /// PCIe Device Serial Number; 0: none.
    pub serial: u64,
    /// VFs that are enabled; members are 1 to this.
    pub num_vfs: u16,
    /// Negotiated virtio features of the PF.
    pub features: u64,
    /// Virtqueue index of the admin queue in use.
    pub admin_queue_index: u16,
    /// Entries of that queue.
    pub admin_queue_size: u16,
    /// Admin commands in use, bit n for opcode n.
    pub commands: u64,
    /// Longest time one access can take, retries included.
    pub access_deadline: Duration,
    /// Number of this session with the PF; another after each initialisation.
    pub session: u64,
}

/// Where notifications of a VF go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyAddress {
    /// In whose BAR.
    pub kind: NotifyKind,
    /// The BAR; 0 for [`NotifyKind::None`].
    pub bar: u8,
    /// Offset in it.
    pub offset: u64,
}

impl NotifyAddress {
    /// No address.
    pub const NONE: NotifyAddress = NotifyAddress {
        kind: NotifyKind::None,
        bar: 0,
        offset: 0,
    };
}

/// A register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Register space.
    pub space: Space,
    /// First byte.
    pub offset: u8,
    /// Bytes, 1 to 8.
    pub len: u8,
    /// The bytes to write; `None` for a read.
    pub data: Option<[u8; 8]>,
}

/// Why an operation was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No room now; try again after the next poll.
    #[error("The admin queue is full")]
    Full,
    /// The PF has no such member.
    #[error("The PF has no VF {0}")]
    NoSuchVf(u16),
    /// The command that this needs is not in use.
    #[error("The PF does not offer {0}")]
    NotSupported(&'static str),
    /// The range does not lie inside one register.
    #[error("{0}")]
    OutOfRange(String),
    /// The PF is of no use any more.
    #[error("{0}")]
    PfFailed(String),
    /// The PF is being shut down.
    #[error("The PF is being shut down")]
    Shutdown,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The device refused the command.
    #[error("the device answered status {status} qualifier {qualifier}")]
    Device {
        /// Its status.
        status: u16,
        /// Its qualifier.
        qualifier: u16,
    },
    /// No answer within the deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Fewer result bytes than the register has.
    #[error("a result of {got} bytes where {want} were asked for")]
    ShortReply {
        /// Bytes the device wrote.
        got: u32,
        /// Bytes of the register.
        want: u32,
    },
    /// The PF failed meanwhile.
    #[error("{0}")]
    PfFailed(String),
    /// The PF is being shut down.
    #[error("the PF is being shut down")]
    Shutdown,
}

/// An operation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The caller's number of the operation.
    pub token: u64,
    /// The bytes read (those after the access's length are zero), or why it failed.
    pub result: Result<[u8; 8], OpError>,
}

/// How a notification went out. There is no completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// The owner's notify address was written.
    Address,
    /// By an admin command, which is under way or waits.
    Command,
}

/// Something that clients should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendEvent {
    /// The PF is being reset; what was in flight has failed. VFs go on.
    Resetting(String),
    /// It was reset and initialised anew, and works again.
    Recovered,
    /// The host wants the PF back.
    RemovalRequested,
}

/// What the PF is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// Serving.
    Running,
    /// Being reset and initialised anew.
    Recovering,
    /// Of no use any more, and why.
    Failed(String),
}

impl BackendState {
    /// For tables.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Recovering => "recovering",
            Self::Failed(_) => "failed",
        }
    }
}

/// What [`AccessBackend::poll`] has found.
#[derive(Debug, Default)]
pub struct Polled {
    /// Operations that have ended.
    pub done: Vec<Completion>,
    /// News, oldest first.
    pub events: Vec<BackendEvent>,
}

/// A PF that executes register accesses of its VFs. Single-threaded; no call blocks for longer
/// than one register access of the PF.
pub trait AccessBackend {
    /// What is fixed about the PF.
    fn info(&self) -> &PfSummary;

    /// Where notifications of `member` go; `None` if there is no such VF.
    fn notify_address(&self, member: u16) -> Option<NotifyAddress>;

    /// The token that openers of a VF show to the kernel; `None` where there is no such thing.
    fn vf_token(&self) -> Option<[u8; 16]> {
        None
    }

    /// The VF that a VFIO device file stands for; `named` is the member in the request, 0 for none.
    /// Asked only with [`PfSummary::vfio_fds`].
    ///
    /// # Errors
    /// Why it is not a VF of this PF, or not the named one.
    fn member_of_file(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        let _unused = (file, named);
        Err(ProofError::NoDevice)
    }

    /// Starts an access. Accesses of one member are executed in order.
    ///
    /// # Errors
    /// [`SubmitError`]; there will be no completion then.
    fn submit(
        &mut self,
        member: u16,
        op: Operation,
        token: u64,
        now: Instant,
    ) -> Result<(), SubmitError>;

    /// Notifies a queue of a member.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was sent then.
    fn notify(&mut self, member: u16, queue: u16, now: Instant) -> Result<Notified, SubmitError>;

    /// Tells the device about what was submitted, appends what has ended and happened to `out`,
    /// retries, expires deadlines.
    fn poll(&mut self, now: Instant, out: &mut Polled);

    /// Like [`AccessBackend::poll`], but looks again and again for at most `budget` until something
    /// has ended, without asking the device for interrupts meanwhile.
    fn poll_spinning(&mut self, budget: Duration, out: &mut Polled) {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            self.poll(now, out);
            if !out.done.is_empty() || now.saturating_duration_since(begun) >= budget {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// File descriptors that become readable when [`AccessBackend::poll`] has something to do.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Changes when [`AccessBackend::fds`] gives other descriptors than before.
    fn fds_epoch(&self) -> u64 {
        0
    }

    /// When [`AccessBackend::poll`] must be called at the latest.
    fn next_deadline(&self) -> Option<Instant>;

    /// How long to poll for completions before waiting on [`AccessBackend::fds`]; zero if there is
    /// nothing to wait for.
    fn spin_hint(&self) -> Duration;

    /// What the PF is doing.
    fn state(&self) -> BackendState;

    /// Counters of the backend itself, by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// Resets the PF and gives everything back.
    ///
    /// # Errors
    /// A text, if the reset was not seen to finish; memory that the device might still use then
    /// stays allocated until the process ends.
    fn shutdown(&mut self) -> Result<(), String>;
}
