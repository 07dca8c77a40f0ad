// SPDX-License-Identifier: GPL-2.0-or-later
//! From options to a simulator whose sockets listen.

use super::clients::spare;
use super::simulator::{FrontCounters, Simulator, Token, MAX_EXTRA};
use crate::descriptors::{self, TooFew};
use crate::dma::files::FileCache;
use crate::event_log::EventLog;
use crate::hardware::{Function, Hardware};
use crate::listener::{listen, make_directory, ListenError};
use crate::server::doorbell::MAX_PER_CONNECTION;
use crate::server::session::SessionOptions;
use crate::uplink::pcap::Pcap;
use crate::uplink::peer::boot::BootDir;
use crate::uplink::peer::Peer;
use crate::uplink::tap::Tap;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vfio_user_wire::REGION_ROM;

/// How the front end behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directory of the sockets; created (mode 0700) if missing.
    pub dir: PathBuf,
    /// Conversations with clients.
    pub session: SessionOptions,
    /// How long to look for work after the last before sleeping.
    pub busy_poll: Duration,
    /// Map memory files that their owner can shrink.
    pub map_unsealed: bool,
    /// Built-in peer on the uplink.
    pub peer: bool,
    /// Directory whose files the built-in peer serves to guests that boot.
    pub boot_dir: Option<PathBuf>,
    /// Tap interface on the uplink.
    pub tap: Option<String>,
    /// Capture file and its size limit in bytes.
    pub pcap: Option<(PathBuf, u64)>,
    /// Event log file and its limit in records.
    pub event_log: Option<(PathBuf, u64)>,
}

/// Why the simulator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A socket or its directory cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A file cannot be written.
    #[error("cannot write {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// The directory with files to boot from cannot be opened.
    #[error("--boot-dir {0}: {1}; give a directory that can be read")]
    BootDir(PathBuf, std::io::Error),
    /// The tap cannot be had.
    #[error("{0}")]
    Tap(String),
    /// Waiting cannot be set up.
    #[error("cannot set up waiting: {0}")]
    Epoll(#[from] Errno),
    /// The process may not open enough descriptors.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
}

impl Simulator {
    /// Makes the sockets and everything else. `signal` becomes readable when the process is asked
    /// to end.
    ///
    /// # Errors
    /// See [`SetupError`]; sockets made so far are removed.
    pub fn new(
        options: &Options,
        hardware: Box<dyn Hardware>,
        signal: UnixStream,
    ) -> Result<Self, SetupError> {
        let vfs = hardware.total_vfs();
        make_room(&*hardware)?;
        let dir = &options.dir;
        make_directory(dir)?;
        let file = |path: &PathBuf| {
            let path = path.clone();
            move |e| SetupError::File(path, e)
        };
        let log = match &options.event_log {
            Some((path, limit)) => EventLog::with_file(path, *limit).map_err(file(path))?,
            None => EventLog::in_memory(),
        };
        let pcap = match &options.pcap {
            Some((path, limit)) => Some(Pcap::create(path, *limit).map_err(file(path))?),
            None => None,
        };
        let boot = options.boot_dir.as_ref();
        let boot =
            boot.map(|path| BootDir::open(path).map_err(|e| SetupError::BootDir(path.clone(), e)));
        let boot = boot.transpose()?;
        let tap = options.tap.as_deref().map(Tap::open).transpose();
        let tap = tap.map_err(SetupError::Tap)?;

        let mut made = MadeSockets::default();
        let mut listeners = Vec::new();
        for index in 0..=usize::from(vfs) {
            let name = Function::from_index(index).socket_name();
            listeners.push(made.listen(&dir.join(name))?);
        }
        let control_listener = made.listen(&dir.join("ctl.sock"))?;

        let mut simulator = Self {
            hardware,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            dir: dir.clone(),
            busy_poll: options.busy_poll,
            poll_until: None,
            session: options.session,
            clients: listeners.iter().map(|_| None).collect(),
            listeners,
            ungreeted: Vec::new(),
            refused: (0..MAX_EXTRA).map(|_| None).collect(),
            control_listener,
            controls: (0..MAX_EXTRA).map(|_| None).collect(),
            signal,
            spare: spare(),
            files: FileCache::new(options.map_unsealed),
            log,
            peer: options.peer.then(|| Peer::new(boot)),
            tap,
            pcap,
            effects: Vec::new(),
            frames_out: VecDeque::new(),
            scratch: Vec::new(),
            counters: FrontCounters::default(),
            started: Instant::now(),
            flush_at: None,
            peer_busy: false,
            stop: false,
        };
        simulator.watch_all()?;
        simulator.drain_effects();
        made.keep();
        Ok(simulator)
    }

    fn watch_all(&mut self) -> Result<(), Errno> {
        self.signal.set_nonblocking(true).map_err(|_| Errno::IO)?;
        self.watch(self.signal.as_fd(), Token::Signal, EventFlags::IN)?;
        for (f, listener) in self.listeners.iter().enumerate() {
            self.watch(listener.as_fd(), Token::Listener(f), EventFlags::IN)?;
        }
        let control = self.control_listener.as_fd();
        self.watch(control, Token::ControlListener, EventFlags::IN)?;
        if let Some(tap) = &self.tap {
            self.watch(tap.fd(), Token::Tap, EventFlags::IN)?;
        }
        for (function, fd) in self.hardware.wakers() {
            self.watch(fd, Token::Backend(function.index()), EventFlags::IN)?;
        }
        Ok(())
    }

    /// Removes the sockets.
    pub fn remove_sockets(&self) {
        for index in 0..self.listeners.len() {
            let name = Function::from_index(index).socket_name();
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        let _ = std::fs::remove_file(self.dir.join("ctl.sock"));
    }
}

/// Sockets made so far; removed again unless all could be made.
#[derive(Default)]
struct MadeSockets(Vec<PathBuf>);

impl MadeSockets {
    fn listen(&mut self, path: &Path) -> Result<OwnedFd, ListenError> {
        let socket = listen(path)?;
        self.0.push(path.to_owned());
        Ok(socket)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for MadeSockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Eventfds that a client of a VF may attach to interrupts or ask for, of whatever kind.
fn eventfds(hardware: &dyn Hardware) -> u64 {
    let vf = Function::Vf(1);
    let bells: usize = (0..REGION_ROM)
        .filter_map(|bar| u8::try_from(bar).ok())
        .map(|bar| hardware.doorbells(vf, bar).len())
        .sum();
    // One more is for the error interrupt.
    u64::from(hardware.vectors(vf)) + 1 + bells.min(MAX_PER_CONNECTION) as u64
}

/// Every function may have a client, or the simulator does not start. Without room for all the
/// eventfds it does: few tests use every VF, and a client that gets none is told.
fn make_room(hardware: &dyn Hardware) -> Result<(), TooFew> {
    let vfs = hardware.total_vfs();
    descriptors::raise(vfs, 0)?;
    if let Err(e) = descriptors::raise(vfs, eventfds(hardware)) {
        tracing::warn!("with a client on every VF that uses all vectors and doorbells, {e}");
    }
    Ok(())
}
