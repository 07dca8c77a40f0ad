// SPDX-License-Identifier: GPL-2.0-or-later
//! Who is at the other end of a connection.

use std::fmt;
use std::os::fd::AsFd;

/// Credentials of a client, as the kernel tells them (`SO_PEERCRED`): those of the process that
/// called connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Peer {
    /// Process, 0 if it lives in a PID namespace that this process cannot see.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Peer {
    /// The credentials of the process that connected `socket`.
    ///
    /// # Errors
    /// That of getsockopt().
    pub fn of(socket: impl AsFd) -> std::io::Result<Self> {
        // Not through a type that excludes pid 0: the kernel gives 0 for foreign PID namespaces.
        let cred =
            nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Peer {
            pid: cred.pid(),
            uid: cred.uid(),
            gid: cred.gid(),
        })
    }

    /// This process.
    pub fn myself() -> Self {
        Peer {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

/// On whose account something is: a process, as far as it can be told from others. Those of PID
/// namespaces that this process cannot see are one for each user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Its user.
    pub uid: u32,
    /// The process.
    pub pid: i32,
}

impl Peer {
    /// On whose account this peer's doings are.
    pub fn account(&self) -> Account {
        Account {
            uid: self.uid,
            pid: self.pid,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} uid {} gid {}", self.pid, self.uid, self.gid)
    }
}
