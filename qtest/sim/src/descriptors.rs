// SPDX-License-Identifier: GPL-2.0-or-later
//! How many files this process may have open, and how many it needs.
//!
//! | Whose | Files |
//! |---|---|
//! | the process | [`COMMON`] |
//! | each function | 1, its listening socket, and what its type needs |
//! | each function with a client | 1 more, and as many eventfds as the client attaches or asks for |

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use std::fmt;

/// Files that belong to no function: sockets of the control client, logs, the uplink, and clients that
/// are told to go.
pub const COMMON: u64 = 64;
/// Listening socket and connection.
const SOCKETS: u64 = 2;

/// The process may not open as many files as it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TooFew {
    need: u64,
    vfs: u16,
    have: u64,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooFew { need, vfs, have } = self;
        write!(
            f,
            "{need} file descriptors are needed for {vfs} VFs, the limit is {have}; raise it \
             (ulimit -n)"
        )
    }
}

/// Files for `vfs` VFs and their PF, all of them with a client, if each has `more` beside its sockets.
pub fn needed(vfs: u16, more: u64) -> u64 {
    let functions = u64::from(vfs) + 1;
    COMMON.saturating_add(functions.saturating_mul(SOCKETS.saturating_add(more)))
}

/// Raises the soft limit of this process to [`needed`], where it is lower.
///
/// # Errors
/// The hard limit is lower than that; the soft limit is as high as that then.
pub fn raise(vfs: u16, more: u64) -> Result<(), TooFew> {
    let need = needed(vfs, more);
    let limit = getrlimit(Resource::Nofile);
    let have = limit.maximum.unwrap_or(u64::MAX);
    let wish = need.min(have);
    let mut now = limit.current.unwrap_or(u64::MAX);
    if now < wish {
        let raised = Rlimit {
            current: Some(wish),
            ..limit
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            now = wish;
        }
    }
    match now < need {
        true => Err(TooFew {
            need,
            vfs,
            have: now,
        }),
        false => Ok(()),
    }
}

/// Raises the soft limit as far as it goes, and gives what it then is; `None`: there is none.
pub fn raise_fully() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it there are fewer, and whoever needs one more is told.
    let _raised_or_not = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_need_grows_with_the_functions() {
        assert_eq!(needed(1, 0), 64 + 2 * 2);
        assert_eq!(needed(2048, 0), 64 + 2049 * 2);
        assert_eq!(needed(2048, 5), 64 + 2049 * 7);
        assert_eq!(needed(u16::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn what_cannot_be_had_is_said_with_its_number() {
        let limit = getrlimit(Resource::Nofile).maximum;
        raise(1, 0).unwrap();
        assert!(raise_fully() == limit);
        let Some(hard) = limit else { return };
        let error = raise(1, hard).unwrap_err();
        assert_eq!((error.need, error.have), (64 + 2 * (2 + hard), hard));
        let text = error.to_string();
        assert!(text.contains("needed for 1 VFs, the limit is"), "{text}");
    }
}
