// SPDX-License-Identifier: GPL-2.0-or-later

//! The connection to the helper over the life of a device: what the vCPUs, QEMU's main loop and the
//! link's own thread share. Its two locks are described in `guest`.

use std::{
    ffi::CString,
    fmt, io, process,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, TryLockError,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use legacy_vf_proto::OpenReply;
use legacy_window::Window;
use pci::report;

use crate::{
    connection::{Connection, LinkError, Target},
    counters::{Counters, LinkState},
    doorbell::{Address, Doorbell},
    events,
    guest::{Guest, Io},
    isr::Intx,
    lock::lock,
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

impl Link {
    /// A link that is not connected yet.
    pub fn new(
        label: String,
        name: CString,
        counters: Arc<Counters>,
        target: Target,
        window: Window,
    ) -> io::Result<Self> {
        Ok(Self {
            label,
            name,
            log: RateLimit::default(),
            log_back: RateLimit::default(),
            log_rare: RateLimit::default(),
            counters,
            stop: EventFd::new()?,
            wake: EventFd::new()?,
            main_loop: EventFd::new()?,
            gone: AtomicBool::new(false),
            deadline: Duration::ZERO,
            bars: [0; 6],
            doorbell: Doorbell::default(),
            intx: None,
            target,
            waiters: AtomicUsize::new(0),
            sender: Mutex::default(),
            io: Mutex::new(Io {
                window,
                connection: None,
                epoch: 0,
                msix_switches: 0,
                turn: 0,
                driven: false,
            }),
            guest: Mutex::default(),
            reason: Mutex::default(),
        })
    }

    /// Connects to the helper for the first time, and opens the VF.
    pub fn connect(&self, limit: Duration) -> Result<(), LinkError> {
        let patience = &mut Patience::of_user(&self.stop, limit);
        let connection = Connection::open(&self.target, patience)?;
        self.counters.link.set(LinkState::Connected);
        let opened = *connection.opened();
        events::trace_virtio_legacy_vf_connected(&self.name, opened.member.into(), opened.session);
        self.set_sender(Some(connection.socket().clone()));
        self.lock_io().connection = Some(connection);
        self.choose_address(&opened);
        Ok(())
    }

    /// Locks window and connection. Held while the helper answers, so not with the big QEMU lock.
    pub fn lock_io(&self) -> MutexGuard<'_, Io> {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        let io = lock(&self.io);
        self.waiters.fetch_sub(1, Ordering::AcqRel);
        io
    }

    /// The same for who has the big QEMU lock. `None`: it is needed for longer.
    pub fn lock_io_soon(&self, patience: &Patience<'_>) -> Option<MutexGuard<'_, Io>> {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        let io = loop {
            match self.io.try_lock() {
                Ok(guard) => break Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => match patience.slice() {
                    Ok(time) => thread::sleep(time.min(Duration::from_millis(1))),
                    Err(_) => break None,
                },
            }
        };
        self.waiters.fetch_sub(1, Ordering::AcqRel);
        io
    }

    /// What is known of the guest. Never held while waiting for anything.
    pub fn guest(&self) -> MutexGuard<'_, Guest> {
        lock(&self.guest)
    }

    /// Brings the window up to what happened since it was used last: resets, and switches of MSI-X.
    /// Writes the status 0 that a reset could not.
    pub fn catch_up(&self, io: &mut Io, patience: &mut Patience<'_>) {
        let (epoch, msix_switches, due) = {
            let guest = self.guest();
            (guest.epoch, guest.msix_switches, guest.reset_due)
        };
        if io.epoch != epoch {
            io.window.device_reset();
            io.epoch = epoch;
        }
        if io.msix_switches != msix_switches {
            io.window.msix_switched();
            io.msix_switches = msix_switches;
        }
        if due {
            self.write_reset(io, patience);
        }
    }

    /// Whether vectors of the VF may have to be written.
    pub fn vectors_due(&self, io: &Io) -> bool {
        self.intx.is_some()
            && (io.window.settle_due()
                || io.driven != io.window.driven()
                || io.turn != self.guest().turn)
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

    /// Takes over what a helper says about the notify address, which may be another than before.
    pub fn choose_address(&self, opened: &OpenReply) {
        let (address, warning) = Address::choose(opened, &self.bars);
        if let Some(warning) = warning {
            self.say(
                &self.log_rare,
                report::warn_report,
                format_args!("{warning}"),
            );
        }
        if self.doorbell.set_address(address) {
            self.main_loop.signal();
        }
    }

    /// A line of the log, as far as `limit` lets it pass.
    pub fn say(&self, limit: &RateLimit, report: fn(&str), text: fmt::Arguments<'_>) {
        limit.report(report, format_args!("{}: {text}", self.label));
    }

    /// A warning that guest or helper can cause.
    pub fn warn(&self, text: fmt::Arguments<'_>) {
        self.say(&self.log, report::warn_report, text);
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
        let traced = CString::new(reason.clone()).unwrap_or_default();
        events::trace_virtio_legacy_vf_lost(&self.name, &traced);
        self.warn(format_args!(
            "{reason}; until it is back at {}, legacy registers read all-ones and writes to them \
             are dropped; traffic goes on",
            self.target.path.display()
        ));
        self.set_reason(reason);
    }

    /// Resets the VF by a status of 0. Whether the VF took it.
    pub fn write_reset(&self, io: &mut Io, patience: &mut Patience<'_>) -> bool {
        let Some(connection) = io.connection.as_mut() else {
            return false;
        };
        match connection.write_status(0, patience) {
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
