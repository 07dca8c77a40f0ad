// SPDX-License-Identifier: GPL-2.0-or-later
//! A server of the protocol 9P2000.L for one directory of this host, as bytes in and bytes out:
//! [`Server::answer`] takes one T-message and makes the R-message. It has no threads and no
//! sockets; every message is carried out before the next one is looked at.
//!
//! The client is not trusted:
//! - It cannot leave the directory. A fid is a file descriptor; names are single components that
//!   are opened beneath it (`openat2` with RESOLVE_BENEATH, no symbolic links, no other file
//!   systems). `..` goes back the way that was walked and stays at the root.
//! - Only regular files and directories can be opened, so that nothing blocks.
//! - Messages, fids, file descriptors and the depth of paths are bounded.
//! - Set-user-ID and set-group-ID bits are never set.
//!
//! Files belong to the user the server runs as; owners are changed only as that user may. Locks,
//! extended attributes, device files and authentication are refused with an error.

#![forbid(unsafe_code)]

mod attributes;
mod fids;
mod files;
mod message;
mod server;
mod tree;
mod wire;

pub use message::{kind, Malformed};
pub use server::{Counts, Server, Settings, DESCRIPTORS_PER_FID, MAX_MSIZE, MIN_MSIZE};
