// SPDX-License-Identifier: GPL-2.0-or-later
//! Threads that close what clients sent, and the clients' connections, which may hold more of it.
//!
//! Closing the last reference to a file can take as long as its owner likes: the last user of a VFIO
//! device file resets the device, a socket lingers, also one that is in flight inside another. So no
//! other thread does it. Each close is on the account of the peer it comes from: a peer keeps at most
//! one of these threads, and all peers of a user leave one to the others. One that takes long gets a
//! signal, at which the kernel stops waiting for a socket's peer.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{recv, RecvFlags};

use crate::peer::Account;

/// Threads that close. With the one that serves, these are all of the process.
pub const THREADS: usize = 4;
/// A close that takes longer is interrupted; each time after twice the time, up to the longest.
const PATIENCE: Duration = Duration::from_millis(10);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);
/// Messages that are thrown away before a connection is closed, so that its end is orderly.
const MAX_DISCARDED: usize = 1024;

/// What is to be closed.
#[derive(Debug)]
pub(crate) enum Closing {
    /// A client's file.
    File(OwnedFd),
    /// A client's connection, with what was not read.
    Connection(OwnedFd),
}

/// How much may wait to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosingLimits {
    /// In all.
    pub total: usize,
    /// Of one user.
    pub per_uid: usize,
    /// Of one process.
    pub per_pid: usize,
}

/// Open files that are neither connections nor waiting to be closed: logs, looks at `/proc`.
const RESERVE: usize = 64;
/// Fewest closes that must be able to wait.
const LEAST: usize = 128;
/// Most that may.
const MOST: usize = 4096;

/// The limit of open files is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{limit} open files are too few, {needed} are needed: {used} are open, {vfs} VFs and \
     {connections} other connections may come; raise the limit (ulimit -n, LimitNOFILE=), or lower \
     --max-connections"
)]
pub struct TooFewFiles {
    /// RLIMIT_NOFILE.
    pub limit: usize,
    /// What it would have to be.
    pub needed: usize,
    /// Files that are open already.
    pub used: usize,
    /// VFs, each with a connection.
    pub vfs: usize,
    /// Connections without a VF.
    pub connections: usize,
}

impl ClosingLimits {
    /// What a limit of open files leaves room for.
    ///
    /// # Errors
    /// If that is not enough.
    pub fn derive(
        limit: usize,
        used: usize,
        vfs: usize,
        connections: usize,
    ) -> Result<Self, TooFewFiles> {
        // A connection without a VF may have sent a file.
        let taken = used + RESERVE + vfs + 2 * connections;
        if limit < taken + LEAST {
            return Err(TooFewFiles {
                limit,
                needed: taken + LEAST,
                used,
                vfs,
                connections,
            });
        }
        let total = (limit - taken).min(MOST);
        Ok(ClosingLimits {
            total,
            per_uid: total / 2,
            per_pid: (total / 8).min(LEAST),
        })
    }
}

#[derive(Debug)]
struct Busy {
    account: Account,
    interrupt_at: Instant,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<Account, VecDeque<Closing>>,
    /// Accounts in `waiting`; who was served last is at the end.
    order: VecDeque<Account>,
    /// What each thread is at.
    busy: Vec<Option<Busy>>,
    /// Waiting or being closed.
    by_account: HashMap<Account, usize>,
    by_uid: HashMap<u32, usize>,
    running: usize,
    stopping: bool,
}

fn subtract<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl State {
    fn may_start(&self, account: Account) -> bool {
        let busy = || self.busy.iter().flatten().map(|b| b.account);
        !busy().any(|a| a == account)
            && busy().filter(|a| a.uid == account.uid).count() + 1 < THREADS
    }

    /// The next thing to close, of an account that has no thread.
    fn next(&mut self) -> Option<(Account, Closing)> {
        let at = (0..self.order.len())
            .find(|at| self.order.get(*at).is_some_and(|a| self.may_start(*a)))?;
        let account = self.order.remove(at)?;
        let queue = self.waiting.get_mut(&account)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&account);
        } else {
            self.order.push_back(account);
        }
        next.map(|closing| (account, closing))
    }

    fn add(&mut self, account: Account, closing: Closing) {
        *self.by_account.entry(account).or_default() += 1;
        *self.by_uid.entry(account.uid).or_default() += 1;
        let queue = self.waiting.entry(account).or_default();
        if queue.is_empty() {
            self.order.push_back(account);
        }
        queue.push_back(closing);
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pending: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, thread: usize, close: impl Fn(Closing)) {
        let mut state = self.lock();
        state.running += 1;
        self.changed.notify_all();
        loop {
            if let Some((account, closing)) = state.next() {
                if let Some(place) = state.busy.get_mut(thread) {
                    *place = Some(Busy {
                        account,
                        interrupt_at: Instant::now() + PATIENCE,
                        patience: PATIENCE,
                    });
                }
                drop(state);
                close(closing);
                self.pending.fetch_sub(1, Ordering::Relaxed);
                state = self.lock();
                if let Some(place) = state.busy.get_mut(thread) {
                    *place = None;
                }
                subtract(&mut state.by_account, &account);
                subtract(&mut state.by_uid, &account.uid);
                self.changed.notify_all();
            } else if state.stopping {
                return;
            } else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// The threads.
#[derive(Debug)]
pub struct Closers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Closers {
    /// Starts the threads and waits until they run.
    fn start(close: impl Fn(Closing) + Clone + Send + 'static) -> std::io::Result<Self> {
        // Only so that it interrupts: the flag is of no interest.
        signal_hook::flag::register(
            signal_hook::consts::SIGURG,
            Arc::new(AtomicBool::new(false)),
        )?;
        let mut closers = Closers {
            shared: Arc::default(),
            threads: Vec::new(),
        };
        closers.shared.lock().busy.resize_with(THREADS, || None);
        for thread in 0..THREADS {
            let (shared, close) = (Arc::clone(&closers.shared), close.clone());
            let run = move || shared.run(thread, close);
            let name = format!("close-{thread}");
            let started = std::thread::Builder::new().name(name).spawn(run)?;
            closers.threads.push(started);
        }
        let state = closers.shared.lock();
        let waited = closers
            .shared
            .changed
            .wait_while(state, |s| s.running < THREADS);
        drop(waited);
        Ok(closers)
    }

    /// Closes it some time later.
    pub(crate) fn close(&self, account: Account, closing: Closing) {
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().add(account, closing);
        self.shared.changed.notify_one();
    }

    /// What waits or is being closed.
    pub fn pending(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Whether something more of this peer's may have to be closed.
    pub(crate) fn admits(&self, account: Account, limits: &ClosingLimits) -> bool {
        if self.pending() < limits.per_pid {
            return true;
        }
        let state = self.shared.lock();
        let pid = state.by_account.get(&account).copied().unwrap_or(0);
        let uid = state.by_uid.get(&account.uid).copied().unwrap_or(0);
        pid < limits.per_pid && uid < limits.per_uid
    }

    /// Interrupts what takes long. Returns when to look again, if there is anything to look at.
    pub fn look(&self, now: Instant) -> Option<Instant> {
        if self.pending() == 0 {
            return None;
        }
        let mut state = self.shared.lock();
        let mut again = now + LONGEST_PATIENCE;
        for (busy, thread) in state.busy.iter_mut().zip(&self.threads) {
            let Some(busy) = busy else {
                again = again.min(now + PATIENCE);
                continue;
            };
            if busy.interrupt_at <= now {
                let _gone = pthread_kill(thread.as_pthread_t(), Signal::SIGURG);
                busy.patience = (busy.patience * 2).min(LONGEST_PATIENCE);
                busy.interrupt_at = now + busy.patience;
            }
            again = again.min(busy.interrupt_at);
        }
        Some(again)
    }
}

impl Drop for Closers {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// A socket of the client's does not linger, if it is not inside another. A connection ends in order
/// if all of it was read: an end with messages left would make the client lose the last reply.
fn close_now(closing: Closing) {
    match closing {
        Closing::File(file) => {
            let _no_socket = rustix::net::sockopt::set_socket_linger(&file, None);
        }
        Closing::Connection(socket) => {
            for _ in 0..MAX_DISCARDED {
                // Without room for them, the kernel closes the files here.
                match recv(&socket, &mut [0u8; 1][..], RecvFlags::DONTWAIT) {
                    Ok((_, 0)) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }
}

static CLOSERS: OnceLock<Closers> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// The process's threads that close; they are started if they are not there yet.
///
/// # Errors
/// If they cannot be started.
pub fn closers() -> std::io::Result<&'static Closers> {
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    match CLOSERS.get() {
        Some(closers) => Ok(closers),
        None => {
            let started = Closers::start(close_now)?;
            Ok(CLOSERS.get_or_init(|| started))
        }
    }
}

/// The same, if they are there.
pub(crate) fn started() -> Option<&'static Closers> {
    CLOSERS.get()
}

/// Closes it some time later, or here if there is no thread for it, which is before serving only.
pub(crate) fn close(account: Account, closing: Closing) {
    match started().map_or_else(closers, Ok) {
        Ok(closers) => closers.close(account, closing),
        Err(_) => close_now(closing),
    }
}

/// Ends a connection: the client sees it at once. The kernel's work with what the client had sent and
/// nobody had read is not waited for.
pub(crate) fn hang_up(account: Account, socket: OwnedFd) {
    let _gone = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
    close(account, Closing::Connection(socket));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::{channel, Receiver, Sender};

    fn account(uid: u32, pid: i32) -> Account {
        Account { uid, pid }
    }

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// Threads that close nothing until told to: what they have begun is in the channel, with what
    /// lets it end.
    fn held() -> (Closers, Receiver<(i32, Sender<()>)>) {
        let (begun, seen) = channel();
        let closers = Closers::start(move |closing| {
            let (go, wait) = channel();
            let (Closing::File(fd) | Closing::Connection(fd)) = &closing;
            begun.send((fd.as_raw_fd(), go)).unwrap();
            let _end = wait.recv();
        })
        .unwrap();
        (closers, seen)
    }

    #[test]
    fn a_stuck_close_keeps_one_thread_and_only_its_own_peer_waiting() {
        let (closers, seen) = held();
        let stuck = account(1, 10);
        for _ in 0..50 {
            closers.close(stuck, Closing::File(file()));
        }
        let (_, _first) = seen.recv().unwrap();
        // Others, one after the other, while it is stuck.
        for pid in 20..40 {
            let other = file();
            let fd = other.as_raw_fd();
            closers.close(account(1, pid), Closing::File(other));
            let (begun, go) = seen.recv().unwrap();
            assert_eq!(begun, fd, "and nothing of the stuck peer");
            drop(go);
        }
        assert!(seen.try_recv().is_err());
        assert!(closers.pending() >= 50);
        let limits = ClosingLimits {
            total: 200,
            per_uid: 60,
            per_pid: 50,
        };
        assert!(!closers.admits(stuck, &limits));
        assert!(closers.admits(account(1, 11), &limits));
        assert!(closers.admits(account(2, 10), &limits));
        for pid in 100..110 {
            closers.close(account(1, pid), Closing::File(file()));
        }
        assert!(!closers.admits(account(1, 11), &limits), "of that user");
        assert!(closers.admits(account(2, 10), &limits));
        drop(_first);
        while closers.pending() > 0 {
            // Each is let go by dropping what came with it.
            let _next = seen.recv_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn one_user_leaves_a_thread_to_others() {
        let (closers, seen) = held();
        for pid in 1..=6 {
            closers.close(account(1, pid), Closing::File(file()));
        }
        let stuck: Vec<_> = (1..THREADS).map(|_| seen.recv().unwrap()).collect();
        let other = file();
        let fd = other.as_raw_fd();
        closers.close(account(2, 1), Closing::File(other));
        let (begun, go) = seen.recv().unwrap();
        assert_eq!(begun, fd);
        drop((go, stuck));
        while closers.pending() > 0 {
            let _next = seen.recv_timeout(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_long_close_is_interrupted() {
        let (begun, seen) = channel();
        let closers = Closers::start(move |_| {
            begun.send(()).unwrap();
            // For ever, but for a signal.
            let nothing = &mut [] as &mut [rustix::event::PollFd<'_>];
            assert_eq!(rustix::event::poll(nothing, None), Err(Errno::INTR));
        })
        .unwrap();
        closers.close(account(1, 1), Closing::File(file()));
        seen.recv().unwrap();
        let mut now = Instant::now();
        while closers.pending() > 0 {
            // At the time of this test; the signal can come before the wait.
            now += LONGEST_PATIENCE;
            closers.look(now);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(closers.look(now), None);
    }

    #[test]
    fn limits_come_from_that_of_open_files() {
        let derive = ClosingLimits::derive;
        let small = derive(1024, 30, 4, 64).unwrap();
        assert_eq!(small.total, 1024 - 30 - 64 - 4 - 128);
        assert!(small.per_pid * 2 < small.per_uid && small.per_uid * 2 <= small.total);
        assert_eq!(derive(20000, 30, 4, 64).unwrap().total, MOST);
        let text = derive(1024, 30, 2048, 64).unwrap_err().to_string();
        assert!(
            text.starts_with("1024 open files are too few, 2398 are needed"),
            "{text}"
        );
    }
}
