// SPDX-License-Identifier: GPL-2.0-or-later
//! The socket server of `qemu-virtio-admin-helper`.
//!
//! One process serves one PF. Clients (QEMU devices, the command line) connect to a
//! `SOCK_SEQPACKET` socket, bind their connection to one VF and access its legacy registers.
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`session`] | the protocol: states, order of replies, limits | sockets, VFs, hardware |
//! | [`hub`] | all sessions, who owns which VF, the backend | sockets, file descriptors to wait on |
//! | [`reactor`] | epoll, sockets, timers | the protocol |
//! | [`policy`], [`proof`], [`device_files`] | who may open what | the protocol, sessions |
//! | [`received`] | how to take one file of a client's, and no other | what it is |
//! | [`closing`] | how to be rid of a file without waiting | whose it is, but for an account |
//! | [`registry`] | which session owns which VF | why |
//! | [`backend`] | what the server needs of a PF | how it is done |
//! | [`listener`] | a socket file that is never open to everyone | what is served on it |
//!
//! Nothing here trusts a client or the PF: any bytes lead to a reply or a closed connection, and
//! no client can delay another one, because no call on a client's socket blocks.

#![forbid(unsafe_code)]

pub mod backend;
pub mod closing;
pub mod counters;
pub mod device_files;
#[cfg(feature = "testing")]
pub mod fake;
pub mod histogram;
pub mod hub;
pub mod listener;
mod metrics;
pub mod pace;
pub mod peer;
mod pf_backend;
pub mod policy;
pub mod proof;
pub mod query;
pub mod ratelimit;
pub mod reactor;
pub mod received;
pub mod registry;
pub mod session;
mod wire;

pub use backend::{AccessBackend, Served};
pub use hub::{Hub, HubConfig};
pub use peer::Peer;
pub use pf_backend::PfBackend;
pub use policy::Policy;
pub use reactor::{Ended, Reactor, ReactorConfig};
