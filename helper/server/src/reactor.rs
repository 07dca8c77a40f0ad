// SPDX-License-Identifier: GPL-2.0-or-later
//! The only loop of the process: waits with epoll for clients, the PF, signals and time, and moves
//! messages between sockets and the [`Hub`]. Single-threaded; no call here blocks but the wait.

mod clients;
mod files;
mod spin;
mod timer;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{getrlimit, Resource};

use crate::backend::AccessBackend;
use crate::closing::{self, ClosingLimits, TooFewFiles};
use crate::hub::{Hub, Stage};
use crate::listener::Listener;
use crate::received;
use crate::session::SessionId;
use clients::Clients;
use spin::Spinner;
use timer::Timer;

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const BACKEND: u64 = u64::MAX - 2;
const TIMER: u64 = u64::MAX - 3;

/// Files that are open before serving, if they cannot be counted.
const USED: usize = 64;
/// Events taken per wait.
const BATCH: usize = 128;
/// Time for clients to take the news after the PF has failed.
const FAILED_GRACE: Duration = Duration::from_millis(500);

/// How the loop waits.
#[derive(Clone, Copy, Debug)]
pub struct ReactorConfig {
    /// How long to poll for completions before waiting; without effect on a single processor, which
    /// the device may need.
    pub spin: Duration,
    /// How often [`Notice::Tick`] is given.
    pub tick: Option<Duration>,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        ReactorConfig {
            spin: Duration::from_micros(50),
            tick: None,
        }
    }
}

/// What the caller of [`Reactor::run`] is told meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The configured time has passed.
    Tick {
        /// Connections now.
        connections: usize,
        /// VFs that have an owner.
        open: usize,
    },
    /// Shutdown has begun.
    Stopping,
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, and the PF was reset.
    Stopped,
    /// The host wanted the PF back, and it was reset.
    Returned,
    /// The PF failed.
    PfFailed(String),
    /// The loop itself cannot go on.
    Broken(String),
}

/// What the loop has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReactorCounters {
    /// Waits with epoll.
    pub waits: u64,
    /// Times that polling gave a completion without a wait.
    pub spins_won: u64,
    /// Times that polling gave none.
    pub spins_lost: u64,
}

/// See the module's description.
pub struct Reactor<B> {
    hub: Hub<B>,
    config: ReactorConfig,
    epoll: OwnedFd,
    timer: Timer,
    listener: Option<Listener>,
    stop: OwnedFd,
    clients: Clients,
    accept_after: Option<Instant>,
    failed_at: Option<Instant>,
    next_tick: Option<Instant>,
    /// Own duplicates of the backend's descriptors, so that what is registered stays valid until
    /// it is taken out again.
    backend_fds: Vec<OwnedFd>,
    backend_epoch: Option<u64>,
    spinner: Spinner,
    counters: ReactorCounters,
    events: Vec<epoll::Event>,
}

fn add(epoll: &OwnedFd, fd: impl AsFd, data: u64) -> Result<(), Errno> {
    epoll::add(epoll, fd, EventData::new_u64(data), EventFlags::IN)
}

/// How much may wait to be closed, so that there are always files left for everybody.
fn room_for_closing<B: AccessBackend>(hub: &Hub<B>) -> Result<ClosingLimits, TooFewFiles> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let used = std::fs::read_dir("/proc/self/fd").map_or(USED, Iterator::count);
    let vfs = usize::from(hub.backend().info().num_vfs);
    ClosingLimits::derive(limit, used, vfs, hub.max_unopened())
}

impl<B: AccessBackend> Reactor<B> {
    /// A loop over `listener` and `hub`. It ends when `stop` becomes readable (a second time: at
    /// once).
    ///
    /// # Errors
    /// If epoll fails, or the limit of open files is too low ([`TooFewFiles`]).
    pub fn new(
        hub: Hub<B>,
        listener: Listener,
        stop: OwnedFd,
        config: ReactorConfig,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        add(&epoll, &listener, LISTENER)?;
        let timer = Timer::new()?;
        add(&epoll, &timer, TIMER)?;
        let several = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        let spin = if several { config.spin } else { Duration::ZERO };
        rustix::io::ioctl_fionbio(&stop, true)?;
        add(&epoll, &stop, STOP)?;
        let limits = room_for_closing(&hub).map_err(std::io::Error::other)?;
        Ok(Reactor {
            hub,
            config,
            epoll,
            timer,
            listener: Some(listener),
            stop,
            clients: Clients::new(limits),
            accept_after: None,
            failed_at: None,
            next_tick: config.tick.map(|t| Instant::now() + t),
            backend_fds: Vec::new(),
            backend_epoch: None,
            spinner: Spinner::new(spin),
            counters: ReactorCounters::default(),
            events: Vec::new(),
        })
    }

    /// Serves until stopped or until the PF fails; then shuts the PF down.
    pub fn run(mut self, mut notice: impl FnMut(Notice)) -> Ended {
        // Nothing is accepted that could not be closed.
        let ended = match received::prepare() {
            Err(e) => Ended::Broken(format!("no threads to close files: {e}")),
            Ok(()) => loop {
                match self.turn(&mut notice) {
                    Ok(None) => {}
                    Ok(Some(ended)) => break ended,
                    Err(e) => break Ended::Broken(format!("epoll: {e}")),
                }
            },
        };
        self.listener = None;
        self.clients.hang_up();
        let ended = match (self.hub.backend_mut().shutdown(), ended) {
            (Err(e), Ended::Stopped | Ended::Returned) => {
                Ended::PfFailed(format!("not reset at the end: {e}"))
            }
            (Err(e), other) => {
                tracing::warn!("PF not reset at the end: {e}");
                other
            }
            (Ok(()), other) => other,
        };
        let ReactorCounters {
            waits,
            spins_won,
            spins_lost,
        } = self.counters;
        tracing::debug!(waits, spins_won, spins_lost, "Reactor ended");
        ended
    }

    /// Registers the backend's descriptors if they have changed.
    fn watch_backend(&mut self) -> Result<(), Errno> {
        let epoch = self.hub.backend().fds_epoch();
        if self.backend_epoch == Some(epoch) {
            return Ok(());
        }
        for fd in self.backend_fds.drain(..) {
            let _gone = epoll::delete(&self.epoll, &fd);
        }
        for fd in self.hub.backend().fds() {
            let own = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
            add(&self.epoll, &own, BACKEND)?;
            self.backend_fds.push(own);
        }
        self.backend_epoch = Some(epoch);
        Ok(())
    }

    fn turn(&mut self, notice: &mut impl FnMut(Notice)) -> Result<Option<Ended>, Errno> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        self.watch_backend()?;
        self.wait(&mut events)?;
        let mut now = Instant::now();
        let mut backend = false;
        let only = events.len() == 1;
        for event in &events {
            match event.data.u64() {
                LISTENER => self.accept(now),
                STOP => self.stop(now, notice),
                BACKEND => backend = true,
                TIMER => self.timer.take(),
                id => {
                    let id = SessionId::from_u64(id);
                    self.clients
                        .event(&mut self.hub, &self.epoll, (id, only), event.flags, now);
                }
            }
        }
        self.events = events;
        now = self.work(backend, now);
        self.timers(now, notice);
        Ok(self.ended(now))
    }

    fn accept(&mut self, now: Instant) {
        if let Some(listener) = &self.listener {
            let pause = self
                .clients
                .accept(&mut self.hub, &self.epoll, listener, now);
            if pause.is_some() {
                self.accept_after = pause;
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Result<(), Errno> {
        events.reserve(BATCH);
        // While polling pays, only look for new requests.
        let mut look = self.spinner.busy() && self.hub.in_flight() > 0;
        if !look {
            let now = Instant::now();
            let deadline = [
                closing::started().and_then(|closers| closers.look(now)),
                self.hub.next_deadline(),
                self.accept_after,
                self.clients.next_release(),
                self.next_tick,
                self.failed_at,
            ]
            .into_iter()
            .flatten()
            .min();
            match deadline {
                Some(deadline) if deadline > now => self.timer.set(deadline, now)?,
                Some(_) => look = true,
                None => {}
            }
        }
        self.counters.waits += 1;
        let timeout = look.then_some(Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Lets the PF work and gives out the results. While accesses are in flight, completions are
    /// polled for before anything is waited for.
    fn work(&mut self, backend: bool, now: Instant) -> Instant {
        if !backend && !self.hub.is_due(now) {
            self.clients.flush(&mut self.hub, &self.epoll, now);
            return now;
        }
        // What the descriptors announce is taken by a plain poll only.
        let budget = if !backend && self.hub.in_flight() > 0 {
            self.spinner.budget()
        } else {
            Duration::ZERO
        };
        let ended = self.hub.poll_spinning(budget);
        if budget.is_zero() {
            // Nothing to learn from it.
        } else if ended > 0 {
            self.counters.spins_won += 1;
            self.spinner.won();
        } else {
            self.counters.spins_lost += 1;
            self.spinner.lost();
        }
        let now = Instant::now();
        self.clients.flush(&mut self.hub, &self.epoll, now);
        now
    }

    fn timers(&mut self, now: Instant, notice: &mut impl FnMut(Notice)) {
        self.clients.release(&mut self.hub, &self.epoll, now);
        if self.accept_after.is_some_and(|t| t <= now) {
            self.accept_after = None;
            if let Some(listener) = &self.listener {
                let _registered = add(&self.epoll, listener, LISTENER);
            }
        }
        if let (Some(at), Some(every)) = (self.next_tick, self.config.tick) {
            if at <= now {
                self.next_tick = Some(now + every);
                notice(Notice::Tick {
                    connections: self.hub.connected(),
                    open: self.hub.registry().owned().count(),
                });
            }
        }
        if self.listener.is_some() && matches!(self.hub.stage(), Stage::Draining(_)) {
            self.stop_accepting();
            notice(Notice::Stopping);
        }
        if self.failed_at.is_none() && matches!(self.hub.stage(), Stage::Failed(_)) {
            self.failed_at = Some(now + FAILED_GRACE);
            self.stop_accepting();
        }
    }

    fn ended(&self, now: Instant) -> Option<Ended> {
        match self.hub.stage() {
            Stage::Serving => None,
            Stage::Draining(_) => {
                self.hub
                    .drained(now)
                    .then_some(match self.hub.removal_requested() {
                        true => Ended::Returned,
                        false => Ended::Stopped,
                    })
            }
            Stage::Failed(cause) => {
                let over = self.failed_at.is_some_and(|t| t <= now);
                (over || self.hub.drained(now)).then(|| Ended::PfFailed(cause.clone()))
            }
        }
    }

    fn stop_accepting(&mut self) {
        // Dropping it removes the socket file, so that clients see that nobody serves.
        self.listener = None;
        self.accept_after = None;
    }

    fn stop(&mut self, now: Instant, notice: &mut impl FnMut(Notice)) {
        let mut drain = [0; 64];
        let _drained = rustix::io::read(&self.stop, &mut drain);
        self.stop_accepting();
        self.hub.begin_shutdown(now);
        notice(Notice::Stopping);
    }

    /// What the loop has done so far.
    pub fn counters(&self) -> ReactorCounters {
        self.counters
    }
}
