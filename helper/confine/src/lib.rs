// SPDX-License-Identifier: GPL-2.0-or-later
//! Least privilege for a process that has opened all it needs: another user, no capabilities, few
//! files, few system calls. Works without a service manager; each part can be given up but once.
//!
//! | module | gives up |
//! |---|---|
//! | [`user`] | the user that the process was started as |
//! | [`privileges`] | capabilities, core dumps, being looked at by a debugger |
//! | [`files`] | paths (Landlock, where the kernel has it) |
//! | [`calls`] | system calls (seccomp) |
//!
//! User, capabilities and paths belong to a thread: they are given up while there is but one, and
//! threads that are started afterwards inherit that. The filter of system calls is put on all.

#![forbid(unsafe_code)]

pub mod calls;
pub mod files;
pub mod privileges;
pub mod user;

use rustix::io::Errno;

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A call failed.
    #[error("cannot {what}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// The error.
        #[source]
        source: Errno,
    },
    /// Something is still there afterwards.
    #[error("{0} are still there after they were given up")]
    Left(&'static str),
    /// There is more than one thread.
    #[error("{0} threads are running where one was expected")]
    Threads(usize),
    /// No filter of system calls.
    #[error(
        "system calls cannot be filtered: {0}; a kernel with CONFIG_SECCOMP_FILTER is needed, on \
         x86-64 or aarch64 (--seccomp off does without)"
    )]
    Filter(String),
}

pub(crate) fn failed(what: &'static str) -> impl FnOnce(Errno) -> ConfineError {
    move |source| ConfineError::Call { what, source }
}
