// SPDX-License-Identifier: GPL-2.0-or-later

//! The connection to the helper over the life of a device: what the vCPUs, QEMU's main loop and the
//! link's own thread share. Its two locks are described in `guest`.

use std::{
    ffi::CString,
    io, process,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use legacy_vf_proto::Event;
use legacy_window::Window;
use pci::report;

use crate::{
    connection::{Connection, LinkError, Target, Waiting},
    counters::{Counters, LinkState},
    doorbell::{Address, Doorbell},
    events,
    guest::{Guest, Io},
    intx::Intx,
    messages,
    ratelimit::RateLimit,
    socket::{with_signals_blocked, EventFd, Patience, Socket},
};

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
    pub counters: Arc<Counters>,
    /// Signalled when the device goes away: ends every wait.
    pub stop: EventFd,
    /// Wakes the link's thread: vectors are to be written, or a status.
    pub wake: EventFd,
    /// Asks the main loop to look at doorbells and vectors.
    pub main_loop: EventFd,
    /// The device is gone, or going.
    pub gone: AtomicBool,
    /// Longest wait for the helper in one access.
    pub deadline: Duration,
    /// Sizes of the VF's BARs, to which a notify address must fit.
    pub bars: [u64; 6],
    /// Where notifications go.
    pub doorbell: Doorbell,
    /// Interrupts without MSI-X, if the device does them.
    pub intx: Option<Arc<Intx>>,
    /// Which VF is opened, and where.
    pub target: Target,
    /// How many wait for `io`.
    pub waiters: AtomicUsize,
    /// Register window and connection; see [`lock_io`](Self::lock_io).
    pub(crate) io: Mutex<Io>,
    /// What is known of the guest; see [`guest`](Self::guest).
    pub(crate) guest: Mutex<Guest>,
    /// The socket of the connection in `io`; never locked for longer than it takes to copy.
    sender: Mutex<Option<Arc<Socket>>>,
    /// Why the helper is lost.
    reason: Mutex<String>,
}

/// What a device needs to have a link.
pub struct LinkConfig {
    /// See [`Link::label`].
    pub label: String,
    /// See [`Link::name`].
    pub name: CString,
    /// Counters, kept by the device.
    pub counters: Arc<Counters>,
    /// Which VF to open, and where.
    pub target: Target,
    /// See [`Link::deadline`].
    pub deadline: Duration,
    /// Longest wait for the first connection.
    pub patience: Duration,
    /// The register window.
    pub window: Window,
    /// See [`Link::bars`].
    pub bars: [u64; 6],
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
        let [stop, wake, main_loop] = [EventFd::new(), EventFd::new(), EventFd::new()];
        let stop = stop.map_err(LinkError::Socket)?;
        let waiting = Waiting {
            stop: &stop,
            events: &|_| {},
        };
        let patience = &mut Patience::of_user(config.patience);
        let connection = Connection::open(&config.target, waiting, patience)?;
        config.counters.link.set(LinkState::Connected);
        let opened = *connection.opened();
        let name = &config.name;
        events::trace_virtio_legacy_vf_connected(name, opened.member.into(), opened.session);
        let link = Self {
            label: config.label,
            name: config.name,
            log: RateLimit::default(),
            log_back: RateLimit::default(),
            log_rare: RateLimit::default(),
            counters: config.counters,
            stop,
            wake: wake.map_err(LinkError::Socket)?,
            main_loop: main_loop.map_err(LinkError::Socket)?,
            gone: AtomicBool::new(false),
            deadline: config.deadline,
            bars: config.bars,
            doorbell: Doorbell::default(),
            intx: config.intx,
            target: config.target,
            waiters: AtomicUsize::new(0),
            sender: Mutex::new(Some(connection.socket().clone())),
            io: Mutex::new(Io {
                window: config.window,
                connection: Some(connection),
                epoch: 0,
                msix_switches: 0,
                turn: 0,
                driven: false,
            }),
            guest: Mutex::default(),
            reason: Mutex::default(),
        };
        let (address, warning) = Address::choose(&opened, &link.bars);
        if let Some(warning) = warning {
            report::warn_report(&format!("{}: {warning}", link.label));
        }
        link.doorbell.set_address(address);
        Ok(link)
    }

    /// What waits look at.
    pub fn waiting<'a>(&'a self, events: &'a dyn Fn(Event)) -> Waiting<'a> {
        Waiting {
            stop: &self.stop,
            events,
        }
    }

    /// The device goes away: nobody is to begin anything.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.stop.signal();
    }

    /// Whether the device is going away.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The socket for messages that have no reply.
    pub fn sender(&self) -> Option<Arc<Socket>> {
        lock(&self.sender).clone()
    }

    /// Messages without a reply go there from now on.
    pub fn set_sender(&self, socket: Option<Arc<Socket>>) {
        *lock(&self.sender) = socket;
    }

    /// Why the helper is lost; empty while it is not.
    pub fn reason(&self) -> String {
        lock(&self.reason).clone()
    }

    /// Notes why the helper is lost; whether that is news.
    pub fn set_reason(&self, text: String) -> bool {
        let mut reason = lock(&self.reason);
        let news = *reason != text;
        *reason = text;
        news
    }

    /// Counts an event of the helper.
    pub fn event(&self, event: Event) {
        self.counters.events.add();
        events::trace_virtio_legacy_vf_event(&self.name, event.kind.0.into(), event.detail);
    }

    /// Gives up the connection. From here on reads give all-ones and writes are dropped, until
    /// the link's thread has a new one.
    pub fn lose(&self, io: &mut Io, error: &LinkError) {
        if let Some(connection) = io.connection.take() {
            // Also wakes the link's thread.
            connection.socket().shut_down();
        }
        self.set_sender(None);
        io.window.lost();
        if self.counters.link.get() != LinkState::Connected {
            return;
        }
        self.counters.link.set(LinkState::Lost);
        self.counters.losses.add();
        if matches!(error, LinkError::Deadline) {
            self.counters.timeouts.add();
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
        self.set_reason(reason);
    }

    /// Resets the VF by a status of 0. Whether the VF took it.
    pub fn write_reset(&self, io: &mut Io, patience: &mut Patience<'_>) -> bool {
        let Some(connection) = io.connection.as_mut() else {
            return false;
        };
        let on_event = |e| self.event(e);
        match connection.write_status(0, self.waiting(&on_event), patience) {
            Ok(accepted) => {
                self.guest().reset_due &= !accepted;
                accepted
            }
            Err(LinkError::GivenUp | LinkError::Stopped) => false,
            Err(error) => {
                self.lose(io, &error);
                false
            }
        }
    }

    /// The function was reset, by whatever means: what its driver had set up does not count any
    /// more. `msix`: MSI-X Enable now.
    pub fn was_reset(&self, msix: bool) {
        let mut guest = self.guest();
        guest.reset();
        guest.set_msix(msix);
        drop(guest);
        self.doorbell.forget();
        self.counters.state_lost.set(false);
    }
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
                .spawn(move || {
                    let abort = AbortOnPanic;
                    for_thread.run();
                    std::mem::forget(abort);
                })
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

/// A panic of the thread would leave a device that never connects again, and a lock whose data
/// nobody can trust; the panic's message has been printed.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        process::abort();
    }
}

impl Drop for RunningLink {
    fn drop(&mut self) {
        self.link.leave();
        if let Some(thread) = self.thread.take() {
            let _never_panics = thread.join();
        }
        self.link.set_sender(None);
        self.link.counters.link.set(LinkState::Closed);
    }
}
