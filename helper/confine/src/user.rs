// SPDX-License-Identifier: GPL-2.0-or-later
//! The user to become.

use std::fmt;
use std::path::Path;

use nix::unistd::{Group, User as Account};
use rustix::fs::{accessat, stat, Access, AtFlags, Mode, CWD};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{failed, ConfineError};

/// A user and a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As it was given, for messages.
    pub name: String,
    /// The user.
    pub uid: u32,
    /// The only group.
    pub gid: u32,
}

/// Why there is no such user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Unknown user.
    #[error("no such user")]
    NoUser,
    /// Unknown group.
    #[error("no such group")]
    NoGroup,
    /// A number without an account does not tell its group.
    #[error("no account has this number, so give its group as well, as in {0}:{0}")]
    GroupNeeded(u32),
}

fn account(name: &str) -> Option<Account> {
    match name.parse() {
        Ok(uid) => Account::from_uid(nix::unistd::Uid::from_raw(uid)),
        Err(_) => Account::from_name(name),
    }
    .ok()
    .flatten()
}

impl User {
    /// The user of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Whether this is who runs the process already.
    pub fn is_current(&self) -> bool {
        geteuid().as_raw() == self.uid && getegid().as_raw() == self.gid
    }

    /// Whether this user can remove files from a directory. Asked of the kernel, as that user.
    ///
    /// # Errors
    /// If the process cannot become that user and itself again.
    pub fn can_remove_from(&self, dir: &Path) -> Result<bool, ConfineError> {
        let (me, mine) = (geteuid(), getegid());
        let uid = Uid::from_raw(self.uid);
        set_thread_groups(&[]).map_err(failed("give up groups"))?;
        let asked = self.effective(Gid::from_raw(self.gid), uid).map(|()| {
            let allowed = accessat(
                CWD,
                dir,
                Access::WRITE_OK | Access::EXEC_OK,
                AtFlags::EACCESS,
            );
            allowed.is_ok()
                && stat(dir).is_ok_and(|stat| {
                    let sticky = Mode::from_raw_mode(stat.st_mode).contains(Mode::SVTX);
                    !sticky || stat.st_uid == self.uid
                })
        });
        // Back in the reverse order: only root may choose groups.
        set_thread_res_uid(None, me, None)
            .and_then(|()| set_thread_res_gid(None, mine, None))
            .map_err(failed("become the starting user again"))?;
        asked.map_err(failed(
            "try whether the user can write to the socket's directory",
        ))
    }

    fn effective(&self, gid: Gid, uid: Uid) -> Result<(), Errno> {
        set_thread_res_gid(None, gid, None)?;
        set_thread_res_uid(None, uid, None)
    }

    /// Becomes this user, for good.
    pub(crate) fn become_it(&self) -> Result<(), ConfineError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&[]).map_err(failed("give up groups"))?;
        set_thread_res_gid(gid, gid, gid).map_err(failed("change the group"))?;
        set_thread_res_uid(uid, uid, uid).map_err(failed("change the user"))
    }
}

impl std::str::FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let account = account(name);
        let uid = match (&account, name.parse()) {
            (Some(account), _) => account.uid.as_raw(),
            (None, Ok(uid)) => uid,
            (None, Err(_)) => return Err(UserError::NoUser),
        };
        let gid = match (group, account) {
            (None, Some(account)) => account.gid.as_raw(),
            (None, None) => return Err(UserError::GroupNeeded(uid)),
            (Some(group), _) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => match Group::from_name(group) {
                    Ok(Some(group)) => group.gid.as_raw(),
                    _ => return Err(UserError::NoGroup),
                },
            },
        };
        // The kernel takes this number for "unchanged".
        if uid == u32::MAX || gid == u32::MAX {
            return Err(UserError::NoUser);
        }
        Ok(User {
            name: text.to_owned(),
            uid,
            gid,
        })
    }
}

/// Joins a group, so that a file of this process can be given to it without CAP_CHOWN; needs
/// CAP_SETGID. The process is in no other supplementary group then.
///
/// # Errors
/// Those of setgroups().
pub fn join_group(gid: u32) -> Result<(), ConfineError> {
    set_thread_groups(&[Gid::from_raw(gid)]).map_err(failed("join the socket's group"))
}

/// Leaves all supplementary groups, where that is allowed: who may not is nobody special.
pub(crate) fn leave_groups() -> Result<(), ConfineError> {
    match set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(failed("give up groups")(e)),
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.name, self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers_with_or_without_a_group() {
        let of = |text: &str| text.parse::<User>().map(|user| (user.uid, user.gid));
        assert_eq!(of("root"), Ok((0, 0)));
        assert_eq!(of("0"), Ok((0, 0)));
        assert_eq!(of("root:7"), Ok((0, 7)));
        assert_eq!(of("0:root"), Ok((0, 0)));
        assert_eq!(
            of("4000000001:4000000002"),
            Ok((4_000_000_001, 4_000_000_002))
        );
        assert_eq!(of("4000000001"), Err(UserError::GroupNeeded(4_000_000_001)));
        assert_eq!(of("no-such-user"), Err(UserError::NoUser));
        assert_eq!(of("no-such-user:0"), Err(UserError::NoUser));
        assert_eq!(of("root:no-such-group"), Err(UserError::NoGroup));
        assert_eq!(of("4294967295:0"), Err(UserError::NoUser));
        assert_eq!(of(""), Err(UserError::NoUser));
    }
}
