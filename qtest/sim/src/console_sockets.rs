// SPDX-License-Identifier: GPL-2.0-or-later
//! Ports of a console function as Unix stream sockets.
//!
//! Each port listens on a socket of its own and has one client at a time; another one that connects
//! waits until the first is gone. All sockets of a function hang on one `epoll` instance, which the
//! event loop waits on in turn: it is readable when the device has something to do here.

use crate::listener::{listen, ListenError};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::{accept_with, recv, send, RecvFlags, SendFlags, SocketFlags};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use virtio_pf_model::console::backend::Backend;

/// Bytes of a client that wait for the driver at most; then the client waits.
const MAX_INPUT: usize = 64 << 10;

/// The ports of one function.
pub struct ConsoleSockets {
    ports: Vec<Port>,
    epoll: OwnedFd,
    lost: u64,
}

struct Port {
    path: PathBuf,
    listener: OwnedFd,
    client: Option<Client>,
    input: VecDeque<u8>,
    /// Nobody is waited for, since no descriptor was left for the last one who came.
    paused: bool,
}

struct Client {
    socket: OwnedFd,
    /// What is waited for now; `None` while it is not with `epoll` at all.
    waits_for: Option<EventFlags>,
    /// It sends no more.
    ended: bool,
    /// It did not take everything.
    full: bool,
    /// It is gone, but not all it sent is read.
    gone: bool,
}

impl ConsoleSockets {
    /// Listens on a socket for each port.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn listen(paths: impl Iterator<Item = PathBuf>) -> Result<Self, ListenError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
        let mut this = Self {
            ports: Vec::new(),
            epoll: epoll.map_err(ListenError::Waiting)?,
            lost: 0,
        };
        for path in paths {
            let listener = listen(&path)?;
            this.ports.push(Port {
                path,
                listener,
                client: None,
                input: VecDeque::new(),
                paused: false,
            });
        }
        for (n, port) in this.ports.iter().enumerate() {
            let data = EventData::new_u64(2 * n as u64);
            epoll::add(&this.epoll, &port.listener, data, EventFlags::IN)
                .map_err(ListenError::Waiting)?;
        }
        Ok(this)
    }

    /// A descriptor that is readable when [`Backend::poll`] has something to do.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn waker(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    fn port(&mut self, n: u16) -> Option<(&mut Port, &OwnedFd)> {
        let port = self.ports.get_mut(usize::from(n))?;
        Some((port, &self.epoll))
    }
}

impl Port {
    fn accept(&mut self, n: usize, epoll: &OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::MFILE | Errno::NFILE) => {
                // The client stays pending, so the loop would spin on it.
                tracing::error!(
                    "{}: no file descriptor left for a client",
                    self.path.display()
                );
                self.paused = true;
                self.wait_for_clients(n, epoll, false);
                return;
            }
            Err(_) => return,
        };
        if self.client.is_some() {
            // Not asked for; the listener is not waited on while there is a client.
            return;
        }
        // Whoever comes next waits in the listener's queue.
        self.wait_for_clients(n, epoll, false);
        self.client = Some(Client {
            socket,
            waits_for: None,
            ended: false,
            full: false,
            gone: false,
        });
        self.wait(n, epoll);
    }

    /// Tells `epoll` what this port waits for now.
    fn wait(&mut self, n: usize, epoll: &OwnedFd) {
        let room = self.input.len() < MAX_INPUT;
        let Some(client) = &mut self.client else {
            return;
        };
        let wanted = if client.gone {
            // Its end is reported for ever, which helps nobody while there is no room.
            None
        } else {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, room && !client.ended);
            flags.set(EventFlags::OUT, client.full);
            Some(flags)
        };
        if wanted == client.waits_for {
            return;
        }
        let data = EventData::new_u64(2 * n as u64 + 1);
        let done = match (client.waits_for, wanted) {
            (None, Some(flags)) => epoll::add(epoll, &client.socket, data, flags),
            (Some(_), Some(flags)) => epoll::modify(epoll, &client.socket, data, flags),
            (_, None) => epoll::delete(epoll, &client.socket),
        };
        match done {
            Ok(()) => client.waits_for = wanted,
            Err(_) => self.drop_client(n, epoll),
        }
    }

    fn drop_client(&mut self, n: usize, epoll: &OwnedFd) {
        if let Some(client) = self.client.take() {
            let _ = epoll::delete(epoll, &client.socket);
        }
        self.wait_for_clients(n, epoll, true);
    }

    fn wait_for_clients(&self, n: usize, epoll: &OwnedFd, on: bool) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, on);
        let data = EventData::new_u64(2 * n as u64);
        let _ = epoll::modify(epoll, &self.listener, data, flags);
    }

    /// Takes what the client sent, as far as there is room.
    fn receive(&mut self, n: usize, epoll: &OwnedFd) {
        let mut bytes = [0; 4096];
        loop {
            let room = MAX_INPUT.saturating_sub(self.input.len()).min(bytes.len());
            let Some(client) = self.client.as_mut().filter(|c| room > 0 && !c.ended) else {
                break;
            };
            let Some(part) = bytes.get_mut(..room) else {
                break;
            };
            match recv(&client.socket, part, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => client.ended = true,
                Ok((_, got)) => self.input.extend(bytes.iter().take(got)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    client.ended = true;
                    client.gone = true;
                }
            }
        }
        if self.client.as_ref().is_some_and(|c| c.gone && c.ended) {
            self.drop_client(n, epoll);
        }
        self.wait(n, epoll);
    }

    fn client_event(&mut self, n: usize, flags: EventFlags, epoll: &OwnedFd) {
        if let Some(client) = &mut self.client {
            client.gone |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
            client.full &= !flags.contains(EventFlags::OUT);
        }
        self.receive(n, epoll);
    }
}

impl Backend for ConsoleSockets {
    fn poll(&mut self) {
        let mut events = [MaybeUninit::<Event>::uninit(); 32];
        let now = Timespec::default();
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&now)) else {
            return;
        };
        for event in ready.iter() {
            let (flags, raw) = (event.flags, event.data.u64());
            let n = (raw / 2) as usize;
            let Some(port) = self.ports.get_mut(n) else {
                continue;
            };
            match raw % 2 {
                0 => port.accept(n, &self.epoll),
                _ => port.client_event(n, flags, &self.epoll),
            }
        }
    }

    fn connected(&self, port: u16) -> bool {
        let port = self.ports.get(usize::from(port));
        port.and_then(|p| p.client.as_ref())
            .is_some_and(|c| !c.gone)
    }

    fn write(&mut self, n: u16, data: &[u8]) -> usize {
        let Some((port, epoll)) = self.port(n) else {
            return data.len();
        };
        if std::mem::take(&mut port.paused) {
            port.wait_for_clients(n.into(), epoll, true);
        }
        let (mut done, mut lost) = (0, 0);
        while done < data.len() {
            let rest = data.get(done..).unwrap_or_default();
            let Some(client) = port.client.as_mut().filter(|c| !c.gone) else {
                lost = rest.len() as u64;
                done = data.len();
                break;
            };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&client.socket, rest, flags) {
                Ok(sent) => done += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    client.full = true;
                    break;
                }
                // It takes nothing any more; what it sent before that is still read.
                Err(_) => client.gone = true,
            }
        }
        let gone = port.client.as_ref().is_some_and(|c| c.gone);
        match gone {
            true => port.receive(n.into(), epoll),
            false => port.wait(n.into(), epoll),
        }
        self.lost += lost;
        done
    }

    fn has_input(&self, port: u16) -> bool {
        let port = self.ports.get(usize::from(port));
        port.is_some_and(|p| !p.input.is_empty())
    }

    fn read(&mut self, n: u16, buf: &mut [u8]) -> usize {
        let Some((port, epoll)) = self.port(n) else {
            return 0;
        };
        let got = buf.len().min(port.input.len());
        for (to, from) in buf.iter_mut().zip(port.input.drain(..got)) {
            *to = from;
        }
        // There is room now; also for what a client left behind that is gone.
        port.receive(n.into(), epoll);
        got
    }

    fn emergency(&mut self, byte: u8) {
        self.write(0, &[byte]);
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

impl Drop for ConsoleSockets {
    fn drop(&mut self) {
        for port in &self.ports {
            let _ = std::fs::remove_file(&port.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use tempfile::TempDir;

    fn ports(n: usize) -> (ConsoleSockets, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let paths = (0..n).map(|n| dir.path().join(format!("port{n}")));
        (ConsoleSockets::listen(paths).unwrap(), dir)
    }

    fn ready(sockets: &ConsoleSockets) -> bool {
        use rustix::event::{poll, PollFd, PollFlags};
        let mut fds = [PollFd::new(&sockets.epoll, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    fn read(sockets: &mut ConsoleSockets, n: u16, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        let got = sockets.read(n, &mut buf);
        buf.truncate(got);
        buf
    }

    #[test]
    fn bytes_go_both_ways_and_ports_are_apart() {
        let (mut s, dir) = ports(2);
        assert!(!ready(&s) && !s.connected(0));
        assert_eq!(s.write(0, b"lost"), 4);
        let mut a = UnixStream::connect(dir.path().join("port0")).unwrap();
        let mut b = UnixStream::connect(dir.path().join("port1")).unwrap();
        assert!(ready(&s));
        s.poll();
        assert!(s.connected(0) && s.connected(1));
        a.write_all(b"hello").unwrap();
        b.write_all(b"world").unwrap();
        assert!(ready(&s) && !s.has_input(0));
        s.poll();
        assert_eq!(read(&mut s, 0, 3), b"hel");
        assert_eq!(read(&mut s, 1, 9), b"world");
        assert_eq!(read(&mut s, 0, 9), b"lo");
        assert!(!ready(&s) && !s.has_input(0));
        assert_eq!(s.write(1, b"back"), 4);
        s.emergency(b'!');
        let mut got = [0; 4];
        b.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"back");
        a.read_exact(&mut got[..1]).unwrap();
        assert_eq!((got[0], s.lost()), (b'!', 4));
    }

    #[test]
    fn the_next_client_waits_for_the_first_to_go() {
        let (mut s, dir) = ports(1);
        let path = dir.path().join("port0");
        let first = UnixStream::connect(&path).unwrap();
        s.poll();
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"second").unwrap();
        s.poll();
        assert!(!ready(&s) && !s.has_input(0));
        drop(first);
        s.poll();
        assert!(!s.connected(0));
        s.poll();
        s.poll();
        assert!(s.connected(0));
        assert_eq!(read(&mut s, 0, 9), b"second");
    }

    #[test]
    fn nothing_spins_while_the_driver_takes_nothing() {
        let (mut s, dir) = ports(1);
        let mut client = UnixStream::connect(dir.path().join("port0")).unwrap();
        s.poll();
        client.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(n) = client.write(&[7; 4096]) {
            sent += n;
            s.poll();
        }
        assert!(sent > MAX_INPUT);
        s.poll();
        assert!(!ready(&s), "full, so there is nothing to do");
        // The client goes; what it sent is still given, to the last byte.
        drop(client);
        s.poll();
        assert!(!ready(&s), "gone and full");
        let mut got = 0;
        for _ in 0..1000 {
            match read(&mut s, 0, 1000).len() {
                0 => break,
                n => got += n,
            }
            s.poll();
        }
        assert_eq!(got, sent);
        assert!(!s.connected(0));
        // And the port is free again.
        let _again = UnixStream::connect(dir.path().join("port0")).unwrap();
        s.poll();
        assert!(s.connected(0));
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_and_wakes() {
        let (mut s, dir) = ports(1);
        let mut client = UnixStream::connect(dir.path().join("port0")).unwrap();
        s.poll();
        let mut sent = 0;
        loop {
            let n = s.write(0, &[1; 5000]);
            sent += n;
            if n < 5000 {
                break;
            }
        }
        assert!(!ready(&s));
        client.set_nonblocking(true).unwrap();
        let mut buf = vec![0; 1 << 20];
        let mut got = 0;
        while let Ok(n) = client.read(&mut buf) {
            got += n;
        }
        assert_eq!(got, sent);
        assert!(ready(&s));
        s.poll();
        assert!(!ready(&s));
        assert_eq!(s.write(0, &[1; 100]), 100);
        assert_eq!(s.lost(), 0);
    }

    #[test]
    fn a_client_that_only_listens_is_still_there() {
        let (mut s, dir) = ports(1);
        let mut client = UnixStream::connect(dir.path().join("port0")).unwrap();
        client.write_all(b"last words").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        s.poll();
        s.poll();
        assert!(s.connected(0) && !ready(&s));
        assert_eq!(read(&mut s, 0, 99), b"last words");
        assert_eq!(s.write(0, b"answer"), 6);
        let mut got = [0; 6];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"answer");
        drop(client);
        s.poll();
        assert!(!s.connected(0) && !ready(&s));
    }

    #[test]
    fn sockets_are_removed_and_foreign_files_are_not() {
        let (s, dir) = ports(1);
        let path = dir.path().join("port0");
        let taken = ConsoleSockets::listen(std::iter::once(path.clone()));
        assert!(matches!(taken, Err(ListenError::InUse(_))));
        drop(s);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        let file = ConsoleSockets::listen(std::iter::once(path.clone()));
        assert!(matches!(file, Err(ListenError::NotASocket(_))));
        assert!(path.exists());
    }
}
