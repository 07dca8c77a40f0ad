// SPDX-License-Identifier: GPL-2.0-or-later

//! What the vCPUs, QEMU's main loop and the link's own thread share over the life of a device: the
//! connection to the helper with the register window, and what is known of the guest, each behind
//! its lock.
//!
//! [`Link::lock_io`] is held while the helper answers, so nobody takes it with the big QEMU lock
//! held, except a reset, which gives up soon. [`Link::guest`] is held by nobody who waits for
//! anything; it may be taken while either of the others is held.
//!
//! A reset begins a new epoch of the guest. An access that began in an older one sends the VF nothing
//! more and changes nothing when it ends, whatever the driver of before had asked for.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fmt, io,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
    },
    thread,
    time::Duration,
};

use legacy_vf_proto::OpenReply;
use legacy_window::{Queues, Window};
use pci::report;
use virtio_pci_spec::status::DRIVER_OK;

use crate::{
    connection::{Connection, LinkError, Target},
    counters::Counters,
    doorbell::{Address, Doorbell},
    events,
    isr::Intx,
    messages,
    ratelimit::RateLimit,
    socket::{EventFd, Patience, Who},
};

/// Locks a mutex; a panic elsewhere would have ended QEMU.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver, as the register window has seen it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Driver {
    /// The device status that it wrote last.
    pub status: u8,
    /// The device may interrupt it.
    pub driven: bool,
    /// Queues to which it has given memory.
    pub queues: Queues,
}

impl Driver {
    /// Whether it has set up the VF.
    pub const fn runs(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// The queues that it may notify.
    pub fn notified(&self) -> Queues {
        if self.runs() {
            self.queues
        } else {
            Queues::default()
        }
    }
}

/// Who is to have the VF's interrupt vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The guest, which has MSI-X on.
    Guest,
    /// This device, for `INTx`.
    Device,
    /// Nobody.
    Nobody,
}

/// What is known of the guest.
#[derive(Default)]
pub struct Guest {
    /// Counts resets of the function.
    pub epoch: u64,
    /// MSI-X Enable.
    pub msix: bool,
    /// Counts its changes.
    pub msix_switches: u64,
    /// The driver.
    pub driver: Driver,
    /// A command has written to the VF since the last reset.
    pub touched: bool,
    /// The VF waits for a status 0 that could not be written yet; nothing else resets it.
    pub reset_due: bool,
    /// The VF lost the state of the driver; until the driver or the machine resets it.
    pub state_lost: bool,
    /// Counts how often the VF's vectors have changed hands.
    pub turn: u64,
    /// The host gave no vectors for `INTx`; not tried again before the next reset.
    pub no_vectors: bool,
    /// Vectors of the guest that are to be told once more: the VF's have changed hands.
    pub tell: BTreeSet<u16>,
    /// Those that were, whose pending bits this device has set if they were masked.
    pub told: BTreeSet<u16>,
}

/// What an access of the guest has changed.
#[derive(Clone, Copy, Default)]
pub struct Moved {
    /// Which queues are notified.
    pub doorbells: bool,
    /// Who is to have the vectors, perhaps; or pending bits are to be forgotten.
    pub vectors: bool,
}

impl Guest {
    /// The function was reset, by whatever means.
    pub fn reset(&mut self) {
        *self = Self {
            epoch: self.epoch + 1,
            msix: self.msix,
            msix_switches: self.msix_switches,
            turn: self.turn,
            reset_due: self.reset_due,
            told: std::mem::take(&mut self.told),
            ..Self::default()
        };
    }

    /// MSI-X Enable is this now.
    pub fn set_msix(&mut self, on: bool) {
        if self.msix != on {
            self.msix = on;
            self.msix_switches += 1;
        }
    }

    /// An access that began in `epoch` has ended, and left `window` like this; `reset` if the driver
    /// reset the device with it.
    ///
    /// `None` if that does not count any more.
    pub fn follow(&mut self, epoch: u64, window: &Window, reset: bool) -> Option<Moved> {
        if self.epoch != epoch {
            return None;
        }
        let before = (self.driver.notified(), self.holder());
        self.driver = Driver {
            status: window.status(),
            driven: window.driven(),
            queues: window.queues(),
        };
        if reset {
            self.no_vectors = false;
            self.state_lost = false;
            self.tell.clear();
        }
        Some(Moved {
            doorbells: before.0 != self.driver.notified(),
            vectors: before.1 != self.holder() || reset && !self.told.is_empty(),
        })
    }

    /// Who is to have the VF's vectors now.
    pub const fn holder(&self) -> Holder {
        if self.msix {
            Holder::Guest
        } else if self.driver.driven && !self.no_vectors {
            Holder::Device
        } else {
            Holder::Nobody
        }
    }
}

/// Window and connection, which belong together: what the window remembers is true only of the
/// connection it was learnt through.
pub struct Io {
    /// The register window.
    pub window: Window,
    /// The connection, unless the helper is lost.
    pub connection: Option<Connection>,
    /// The epoch of [`Guest`] to which the window belongs.
    pub epoch: u64,
    /// The change of MSI-X Enable that the window knows of.
    pub msix_switches: u64,
    /// The change of hands for which the VF's vectors were written last.
    pub turn: u64,
    /// Whether the window said then that the device may interrupt.
    pub driven: bool,
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

    /// Connects to the helper for the first time, and opens the VF. What the helper says about it.
    pub fn connect(&self, limit: Duration) -> Result<OpenReply, LinkError> {
        let patience = &mut Patience::new(&self.stop, limit, Who::User);
        let (connection, opened) = Connection::open(&self.target, patience)?;
        events::trace_virtio_legacy_vf_connected(&self.name, opened.member.into(), opened.session);
        self.doorbell.set_sender(Some(connection.socket.clone()));
        self.lock_io().connection = Some(connection);
        self.choose_address(&opened);
        Ok(opened)
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
            connection.socket.shut_down();
        }
        io.window.lost();
        if self.doorbell.sender().is_none() {
            return;
        }
        self.counters.losses.add();
        if matches!(error, LinkError::Deadline) {
            self.counters.timeouts.add();
        }
        self.doorbell.set_sender(None);
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
        match connection.status(Some(0), patience) {
            Ok(done) => {
                let accepted = done.is_some();
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
    }
}
