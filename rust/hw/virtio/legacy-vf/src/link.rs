// SPDX-License-Identifier: GPL-2.0-or-later

//! The connection to the helper over the life of a device: one lock around window and connection,
//! one thread that notices when the helper goes away and brings it back.

use std::{
    ffi::CString,
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use legacy_vf_proto::{Event, Reply, Request, Space};
use legacy_window::Window;
use pci::report;
use virtio_pci_spec::legacy::{field_of, Register};

use crate::{
    delivery::{Bars, Delivery, QueueSet},
    eventfd::EventFd,
    events,
    handshake::{Connection, LinkError, Target},
    intx::Intx,
    messages,
    ratelimit::RateLimit,
    seqpacket::{with_signals_blocked, Socket, Stop},
    stats::{LinkState, Stats},
};

/// Window and connection, which belong together: what the window remembers is true only of the
/// connection it was learnt through.
pub struct Inner {
    /// The register window.
    pub window: Window,
    /// The connection, unless the helper is lost.
    pub connection: Option<Connection>,
    /// The device was reset while the helper was lost, and nothing but a command can reset it.
    pub reset_due: bool,
}

/// Everything about the helper that vCPUs, QEMU's main loop and the link's own thread share.
pub struct Link {
    /// How log lines name the device: type, id and VF.
    pub label: String,
    /// How trace points name it.
    pub name: CString,
    /// Limits the log lines that guest or helper can cause.
    pub log: RateLimit,
    /// The same for the good news, which must not be lost behind the bad.
    pub log_back: RateLimit,
    /// And for what is rare and needs somebody to act.
    pub log_rare: RateLimit,
    /// Counters.
    pub stats: Arc<Stats>,
    /// Raised when the device goes away.
    pub stop: Stop,
    /// Longest wait for the helper in one access.
    pub deadline: Duration,
    /// How notifications are delivered. Locked for writing while the VF may fall asleep.
    pub delivery: RwLock<Delivery>,
    /// What a notify address must fit to.
    pub bars: Bars,
    /// Signalled when a new helper has said another notify address.
    pub moved: EventFd,
    /// The guest has put the VF into a power state in which it must not be touched.
    pub asleep: AtomicBool,
    /// Queues notified through the helper since the last reset.
    pub notified: QueueSet,
    /// Queues to which the guest gave memory since the last reset.
    pub in_use: QueueSet,
    /// The last accepted status has `DRIVER_OK`.
    pub driver_ok: AtomicBool,
    /// The guest or the machine reset the VF; the window must forget what it remembers.
    pub was_reset: AtomicBool,
    /// MSI-X Enable was switched.
    pub msix_switched: AtomicBool,
    /// A command has written to the VF since the last reset.
    pub touched: AtomicBool,
    /// Which VF is opened, and where.
    pub target: Target,
    /// Interrupts without MSI-X, if the device does them.
    pub intx: Option<Arc<Intx>>,
    /// Wakes the link's thread: vectors could not be written.
    pub nudge: EventFd,
    inner: Mutex<Inner>,
    /// The socket of the connection in `inner`; never locked for longer than it takes to copy.
    pub sender: Mutex<Option<Arc<Socket>>>,
    /// Why the helper is lost.
    pub reason: Mutex<String>,
}

/// What a device needs to have a link.
pub struct LinkConfig {
    /// See [`Link::label`].
    pub label: String,
    /// See [`Link::name`].
    pub name: CString,
    /// Counters, kept by the device.
    pub stats: Arc<Stats>,
    /// Which VF to open, and where.
    pub target: Target,
    /// See [`Link::deadline`].
    pub deadline: Duration,
    /// The register window.
    pub window: Window,
    /// The VF's BARs.
    pub bars: Bars,
    /// See [`Link::intx`].
    pub intx: Option<Arc<Intx>>,
}

/// Locks a mutex; a panic elsewhere would have ended QEMU.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Connects to the helper and opens the VF.
    pub fn connect(config: LinkConfig) -> Result<Self, LinkError> {
        let stop = Stop::new().map_err(LinkError::Socket)?;
        let nudge = EventFd::new().map_err(LinkError::Socket)?;
        let deadline = Instant::now() + config.deadline;
        let connection = Connection::open(&config.target, &stop, deadline, &|_| {})?;
        config.stats.link.set(LinkState::Connected);
        let opened = connection.opened();
        events::trace_virtio_legacy_vf_connected(
            &config.name,
            opened.member.into(),
            opened.session,
        );
        let (delivery, warning) = Delivery::choose(opened, &config.bars);
        if let Some(warning) = warning {
            report::warn_report(&format!("{}: {warning}", config.label));
        }
        Ok(Self {
            label: config.label,
            name: config.name,
            log: RateLimit::default(),
            log_back: RateLimit::default(),
            log_rare: RateLimit::default(),
            stats: config.stats,
            stop,
            deadline: config.deadline,
            delivery: RwLock::new(delivery),
            bars: config.bars,
            moved: EventFd::new().map_err(LinkError::Socket)?,
            asleep: AtomicBool::new(false),
            notified: QueueSet::new(),
            in_use: QueueSet::new(),
            driver_ok: AtomicBool::new(false),
            was_reset: AtomicBool::new(false),
            msix_switched: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            intx: config.intx,
            nudge,
            target: config.target,
            sender: Mutex::new(Some(connection.socket().clone())),
            inner: Mutex::new(Inner {
                window: config.window,
                connection: Some(connection),
                reset_due: false,
            }),
            reason: Mutex::new(String::new()),
        })
    }

    /// Locks window and connection. Held while the helper answers, so not for the main loop.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The same with a deadline, for the main loop.
    pub fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, Inner>> {
        loop {
            match self.inner.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// The socket for messages that have no reply.
    pub fn sender(&self) -> Option<Arc<Socket>> {
        lock(&self.sender).clone()
    }

    /// Why the helper is lost; empty while it is not.
    pub fn reason(&self) -> String {
        lock(&self.reason).clone()
    }

    /// Notes an event of the helper. What it may have changed is learnt anew at the next access.
    pub fn event(&self, event: Event) {
        self.stats.events.add();
        events::trace_virtio_legacy_vf_event(&self.name, event.kind.0.into(), event.detail);
    }

    /// Gives up the connection. From here on reads give all-ones and writes are dropped, until
    /// the link's thread has a new one.
    pub fn lose(&self, inner: &mut Inner, error: &LinkError) {
        if let Some(connection) = inner.connection.take() {
            // Also wakes the link's thread.
            connection.socket().shut_down();
        }
        *lock(&self.sender) = None;
        inner.window.lost();
        if self.stats.link.get() != LinkState::Connected {
            return;
        }
        self.stats.link.set(LinkState::Lost);
        self.stats.losses.add();
        if matches!(error, LinkError::Deadline) {
            self.stats.timeouts.add();
        }
        let reason = messages::brief(error);
        if let Ok(text) = CString::new(reason.clone()) {
            events::trace_virtio_legacy_vf_lost(&self.name, &text);
        }
        self.log.report(report::warn_report, || {
            format!(
                "{}: {reason}; until it is back at {}, legacy registers read all-ones and writes \
                 to them are dropped; traffic goes on",
                self.label,
                self.target.path.display()
            )
        });
        *lock(&self.reason) = reason;
    }

    /// The VF is being reset. Writes status 0 through the helper if `by_command`; what the reset
    /// by VFIO cannot do is done when a lost helper is back (`else_later`). Waits no longer than
    /// the deadline of an access. Returns whether the status was written.
    pub fn reset(&self, by_command: bool, else_later: bool) -> bool {
        self.stats.resets.add();
        self.forget_driver();
        let deadline = Instant::now() + self.deadline;
        let Some(mut inner) = self.lock_until(deadline) else {
            self.was_reset.store(true, Ordering::Release);
            return false;
        };
        let mut written = false;
        if by_command {
            written = self.write_status_zero(&mut inner, deadline);
            inner.reset_due = !written && else_later;
        } else {
            inner.reset_due = false;
        }
        inner.window.device_reset();
        self.touched.store(false, Ordering::Relaxed);
        written
    }

    /// What the window remembers does not outlive a reset that happened without it.
    pub fn catch_up(&self, inner: &mut Inner) {
        if self.was_reset.swap(false, Ordering::AcqRel) {
            inner.window.device_reset();
        }
    }

    /// The VF is reset: what its driver has set up does not count any more.
    pub fn forget_driver(&self) {
        self.notified.clear();
        self.in_use.clear();
        self.driver_ok.store(false, Ordering::Release);
        self.stats.state_lost.set(false);
    }

    /// Runs `f` while no notification touches the VF; it says whether the VF sleeps from then on.
    pub fn set_asleep(&self, f: impl FnOnce() -> bool) {
        let _nobody = self
            .delivery
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(true, Ordering::Release);
        let asleep = f();
        self.asleep.store(asleep, Ordering::Release);
    }

    fn write_status_zero(&self, inner: &mut Inner, deadline: Instant) -> bool {
        let Some(connection) = inner.connection.as_mut() else {
            return false;
        };
        match status_zero(connection, &self.stop, deadline, &|e| self.event(e)) {
            Ok(accepted) => accepted,
            Err(error) => {
                self.lose(inner, &error);
                false
            }
        }
    }
}

/// Writes 0 to the device status. False: the device or the helper refused.
pub fn status_zero(
    connection: &mut Connection,
    stop: &Stop,
    deadline: Instant,
    events: &dyn Fn(Event),
) -> Result<bool, LinkError> {
    let field = field_of(Register::DeviceStatus);
    let request = Request::Write {
        space: Space::Common,
        offset: field.offset,
        len: field.size,
        data: [0; 8],
    };
    connection.request(&request, stop, deadline, events, |reply| {
        matches!(reply, Reply::Write)
    })
}

/// A link with its thread. Dropping it ends both.
pub struct RunningLink {
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

impl RunningLink {
    /// Starts the thread.
    pub fn start(link: Link) -> io::Result<Self> {
        let link = Arc::new(link);
        let for_thread = link.clone();
        let thread = with_signals_blocked(|| {
            thread::Builder::new()
                .name("virtio-legacy".to_owned())
                .spawn(move || for_thread.run())
        })?;
        Ok(Self {
            link,
            thread: Some(thread),
        })
    }

    /// The link.
    pub const fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Drop for RunningLink {
    fn drop(&mut self) {
        self.link.stop.raise();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread would have aborted QEMU.
            let _finished = thread.join();
        }
        *lock(&self.link.sender) = None;
        self.link.stats.link.set(LinkState::Closed);
    }
}
