// SPDX-License-Identifier: GPL-2.0-or-later
//! System calls, by seccomp: a list of those that serving needs. Any other ends the process, but for
//! a few that are answered with an error, since code that serves can come there and copes with it.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    apply_filter_all_threads, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::ConfineError;

/// What happens at a call that is not on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// The process ends, by SIGSYS.
    Kill,
    /// The kernel logs it and carries it out.
    Log,
}

/// What the list depends on.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Numbers of ioctl().
    pub ioctls: &'a [u64],
    /// New Unix sockets, to tell a service manager something.
    pub unix_sockets: bool,
}

/// Calls that are allowed with any arguments.
const LIST: &[libc::c_long] = &[
    // Clients and the PF's process.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Waiting.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_settime,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Open files: the log, eventfds, registers of the PF, what clients send as proof.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_eventfd2,
    // The socket file is removed at the end.
    libc::SYS_unlinkat,
    // Memory, but for code: see `with_arguments`.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Signals, and threads that end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same by their older names, which newer machines do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Flags of openat() that let more be done than reading.
const WRITING: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter_error(e: impl std::fmt::Display) -> ConfineError {
    ConfineError::Filter(e.to_string())
}

/// The call, if the bits of `mask` in one of its arguments are `value`.
fn if_bits(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, ConfineError> {
    let op = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(filter_error)
}

fn program(
    rules: Rules,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(filter_error)?;
    SeccompFilter::new(rules, other, listed, arch)
        .and_then(BpfProgram::try_from)
        .map_err(filter_error)
}

/// Numbers of the calls that are not deadly, some of them with certain arguments only.
///
/// # Errors
/// If a rule cannot be made.
pub fn numbers(allowed: Allowed<'_>) -> Result<BTreeSet<i64>, ConfineError> {
    Ok(rules(allowed)?.into_keys().collect())
}

/// What is allowed.
fn rules(allowed: Allowed<'_>) -> Result<Rules, ConfineError> {
    let mut rules: Rules = LIST.iter().chain(OLDER).map(|n| (*n, Vec::new())).collect();
    // Refused below, not deadly.
    for refused in [libc::SYS_openat, libc::SYS_clone, libc::SYS_clone3] {
        rules.insert(refused, Vec::new());
    }
    let no_code = || if_bits(2, libc::PROT_EXEC as u64, 0);
    rules.insert(libc::SYS_mmap, vec![no_code()?]);
    rules.insert(libc::SYS_mprotect, vec![no_code()?]);
    // A signal that a thread of this process is to notice, and that ends nothing.
    let urgent = if_bits(2, u32::MAX.into(), libc::SIGURG as u64)?;
    rules.insert(libc::SYS_tgkill, vec![urgent]);
    if !allowed.ioctls.is_empty() {
        let numbers: Result<_, _> = allowed
            .ioctls
            .iter()
            .map(|number| if_bits(1, u32::MAX.into(), *number))
            .collect();
        rules.insert(libc::SYS_ioctl, numbers?);
    }
    if allowed.unix_sockets {
        let unix = if_bits(0, u32::MAX.into(), libc::AF_UNIX as u64)?;
        rules.insert(libc::SYS_socket, vec![unix]);
        rules.insert(libc::SYS_connect, Vec::new());
    }
    Ok(rules)
}

/// What is allowed; the rest is `unlisted`.
fn list(allowed: Allowed<'_>, unlisted: Unlisted) -> Result<BpfProgram, ConfineError> {
    let other = match unlisted {
        Unlisted::Kill => SeccompAction::KillProcess,
        Unlisted::Log => SeccompAction::Log,
    };
    program(rules(allowed)?, other, SeccompAction::Allow)
}

/// Opening for writing, and threads: after a PF has lost its VFs the transport tries to enable them
/// through sysfs, which is for root. It must hear so, not end.
fn refused() -> Result<[BpfProgram; 2], ConfineError> {
    let mut writing = Vec::new();
    // A rule for each bit: one of them is enough.
    for bit in (0..u32::BITS)
        .map(|n| 1 << n)
        .filter(|bit| WRITING & bit != 0)
    {
        writing.push(if_bits(2, bit, bit)?);
    }
    let denied = Rules::from([(libc::SYS_openat, writing), (libc::SYS_clone, Vec::new())]);
    // The C library takes this for an old kernel and calls clone().
    let unknown = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let errno = |number: i32| SeccompAction::Errno(number as u32);
    Ok([
        program(denied, SeccompAction::Allow, errno(libc::EACCES))?,
        program(unknown, SeccompAction::Allow, errno(libc::ENOSYS))?,
    ])
}

/// Puts the filter on all threads of the process, for good.
///
/// # Errors
/// If the kernel cannot.
pub fn filter(allowed: Allowed<'_>, unlisted: Unlisted) -> Result<(), ConfineError> {
    // Made before the first is in force, and the list, which forbids the call itself, last.
    let [denied, unknown] = refused()?;
    for program in [denied, unknown, list(allowed, unlisted)?] {
        apply_filter_all_threads(&program).map_err(filter_error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
