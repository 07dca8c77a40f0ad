// SPDX-License-Identifier: GPL-2.0-or-later
//! Driver of a virtio PF that acts for its VFs: it brings the PF up, enables VFs, and performs
//! accesses to the VFs' legacy registers as group administration commands on the admin queue.
//!
//! No threads and no event loop inside: the owner calls [`Pf::submit`] and [`Pf::poll`], waits on
//! [`Pf::fds`] until [`Pf::next_deadline`], and hands in the time.

#![forbid(unsafe_code)]

mod admin;
mod bringup;
mod caps;
mod command;
mod config;
mod deadlines;
mod dispatch;
mod engine;
mod error;
mod health;
mod lane;
mod limit;
mod notify;
mod opening;
mod pf;
mod recovery;
mod regs;
mod setup;
mod silence;
mod start;
mod stats;
mod submit;
mod types;
mod watch;

pub use config::{AccessPlatform, ExistingVfs, PfConfig, RecoveryPolicy, RetryPolicy, TrialPolicy};
pub use error::{OpError, PfError, SubmitError};
pub use limit::{RateLimit, INTERVAL};
pub use pf::Pf;
pub use stats::Counters;
pub use types::{
    Access, Class, Completion, LegacyOp, NotResponding, Notified, NotifyAddress, NotifyKind,
    PfEvent, PfInfo, PfState, Space, VfInfo,
};
