// SPDX-License-Identifier: GPL-2.0-or-later
//! Privileges are needed to make the socket and to reach the PF, not to serve.

use std::path::Path;

use helper_confine::calls::{self, Allowed};
use helper_confine::files::{self, Restricted};
use helper_confine::privileges::{give_up, one_thread};
use helper_confine::user::{join_group, User};
use helper_server::received;
use pci_transport::vfio::REQUESTS_WHEN_OPEN;

use crate::config::{PfSource, ServeConfig};
use crate::exit::{self, Failure};

/// What is looked at while serving: proofs, and who the other VFs' users are.
const READABLE: [&str; 2] = ["/proc", "/sys"];

fn directory(socket: &Path) -> &Path {
    match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes sure that the socket can be removed at the end, by whoever it is then.
///
/// # Errors
/// If not.
pub(crate) fn check_directory(config: &ServeConfig) -> Result<(), Failure> {
    let Some(user) = &config.privileges.user else {
        return Ok(());
    };
    let dir = directory(&config.socket.path);
    match user.can_remove_from(dir) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::text(exit::SOCKET, cannot_remove(dir, user))),
        Err(e) => Err(Failure::new(exit::RUNTIME, e)),
    }
}

/// Makes it possible to give the socket to its group without the capability to give files away.
pub(crate) fn join_socket_group(config: &ServeConfig) {
    let Some(gid) = config.socket.group else {
        return;
    };
    if rustix::process::geteuid().is_root() {
        // The capability may be there; if not, what fails is the change of the group, which is told.
        if let Err(e) = join_group(gid) {
            tracing::debug!("{e}");
        }
    }
}

fn cannot_remove(dir: &Path, user: &User) -> String {
    let dir = dir.display();
    format!(
        "Directory {dir}: {user}, as whom the helper serves, could not remove the socket there; \
         give it a directory (chown {} {dir}), or serve as another user with --user",
        user.uid
    )
}

/// Gives up all that serving does not need, for good.
///
/// # Errors
/// If something of it is left.
pub(crate) fn drop_all(config: &ServeConfig) -> Result<(), Failure> {
    let fail = |e| Failure::new(exit::RUNTIME, e);
    one_thread().map_err(fail)?;
    let user = config.privileges.user.as_ref();
    give_up(user).map_err(fail)?;
    let paths = READABLE.map(Path::new);
    let restricted = files::restrict(&paths, directory(&config.socket.path))
        .map_err(|e| Failure::new(exit::RUNTIME, e))?;
    if restricted == Restricted::Not {
        tracing::debug!("This kernel has no Landlock: paths are not restricted");
    }
    // With what was given up, and before the filter, which lets no thread be started.
    received::prepare().map_err(|e| Failure::new(exit::RUNTIME, e))?;
    if let Some(unlisted) = config.privileges.seccomp {
        let ioctls: &[u64] = match config.source {
            PfSource::Vfio(_) => &REQUESTS_WHEN_OPEN,
            PfSource::VfioUser(_) => &[],
        };
        let allowed = Allowed {
            ioctls,
            unix_sockets: std::env::var_os("NOTIFY_SOCKET").is_some(),
        };
        calls::filter(allowed, unlisted).map_err(fail)?;
    }
    tracing::info!(
        user = user.map(tracing::field::display),
        landlock = ?restricted,
        seccomp = ?config.privileges.seccomp,
        "Privileges given up"
    );
    Ok(())
}
