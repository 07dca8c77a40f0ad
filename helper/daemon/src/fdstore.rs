// SPDX-License-Identifier: GPL-2.0-or-later
//! The PF's files, left with the service manager. Closing the last file of a PF resets it, which on
//! most hardware resets its VFs under the guests that use them; kept files let the PF outlive this
//! process (sd_pid_notify_with_fds(3), FileDescriptorStoreMax= of the unit).

use std::os::fd::{BorrowedFd, OwnedFd};

use pci_transport::vfio::{take_inherited, VfioFunction};
use sd_notify::NotifyState;

/// Files that a PF can have.
const MAX_FILES: usize = 8;
/// What the names of these files begin with.
const PREFIX: &str = "pf-";

/// How many files were passed to process `pid`, and their names, from the variables of its
/// environment.
fn passed(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Option<(usize, Vec<String>)> {
    if variable("LISTEN_PID")?.parse() != Ok(pid) {
        return None;
    }
    let count: usize = variable("LISTEN_FDS")?.parse().ok()?;
    let names: Vec<String> = variable("LISTEN_FDNAMES")
        .unwrap_or_default()
        .split(':')
        .map(str::to_owned)
        .collect();
    (count > 0 && count <= MAX_FILES && names.len() == count).then_some((count, names))
}

/// The files that an earlier process left. Must be called before anything else opens files.
pub(crate) fn take() -> Vec<(String, OwnedFd)> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some((count, names)) = passed(std::process::id(), variable) else {
        return Vec::new();
    };
    names
        .into_iter()
        .zip(take_inherited(count))
        .filter_map(|(name, fd)| Some((name.strip_prefix(PREFIX)?.to_owned(), fd)))
        .collect()
}

/// Leaves a function's files with the service manager, if there is one that takes them.
pub(crate) fn keep(function: &VfioFunction) {
    for (name, fd) in function.keepers() {
        let name = format!("{PREFIX}{name}");
        // Without FDPOLL the manager would drop a file that reports an error condition.
        let states = [
            NotifyState::FdStore,
            NotifyState::FdName(&name),
            NotifyState::Custom("FDPOLL=0"),
        ];
        tell(&states, &[fd]);
    }
}

/// Has the service manager close them, so that the host, or the next start, gets the PF.
pub(crate) fn forget(names: &[String]) {
    for name in names {
        let name = format!("{PREFIX}{name}");
        tell(
            &[NotifyState::FdStoreRemove, NotifyState::FdName(&name)],
            &[],
        );
    }
}

fn tell(states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) {
    if let Err(e) = sd_notify::notify_with_fds(false, states, fds) {
        tracing::debug!("Service manager not reached: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_passed_to_this_process_count() {
        let of = |pid: &str, fds: &str, names: &str| {
            let all = [
                ("LISTEN_PID", pid.to_owned()),
                ("LISTEN_FDS", fds.to_owned()),
                ("LISTEN_FDNAMES", names.to_owned()),
            ];
            passed(7, |name| {
                let found = all.iter().find(|(n, _)| *n == name)?;
                Some(found.1.clone())
            })
        };
        let names = vec!["pf-device".to_owned(), "pf-memory-10000000".to_owned()];
        assert_eq!(
            of("7", "2", "pf-device:pf-memory-10000000"),
            Some((2, names))
        );
        for (pid, fds, names) in [
            ("8", "1", "pf-device"),
            ("", "1", "pf-device"),
            ("7", "0", ""),
            ("7", "9", "a:b:c:d:e:f:g:h:i"),
            ("7", "2", "pf-device"),
            ("7", "-1", "pf-device"),
            ("7", "x", "pf-device"),
        ] {
            assert_eq!(of(pid, fds, names), None, "{pid} {fds} {names}");
        }
        assert_eq!(passed(7, |_| None), None);
    }
}
