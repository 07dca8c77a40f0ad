// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The messages of the socket between a virtio-legacy-vf device and the helper that owns the PF:
//! values, layouts, limits, errors, and the client's side: encode, decode, and a state machine. Bytes
//! only: no sockets, no clocks, no allocation.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket; integers are little-endian. The
//! normative description is `docs/interop/legacy-vf-helper.md`; its examples are checked against
//! this crate.
//!
//! Neither side trusts the other: decoding accepts any bytes and answers with a message or with the
//! [`Reason`] why it is none.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod client;
pub mod error;
pub mod layout;
pub mod limits;
pub mod message;
mod numbers;
pub mod text;

pub use error::{ErrorCode, Reason};
pub use layout::{flags, Header};
pub use limits::{HEADER_LEN, MAX_MESSAGE, VERSION};
pub use message::{
    decode_incoming, ErrorReply, Event, EventKind, Hello, HelloReply, Incoming, MessageType,
    NotifyKind, Open, OpenReply, Proof, QueryKind, Reply, Request, Space,
};
pub use text::{Name, Printable};

/// A buffer that any message fits in.
pub type MessageBuf = [u8; MAX_MESSAGE];
