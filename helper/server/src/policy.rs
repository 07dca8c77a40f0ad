// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may bind a connection to a VF.
//!
//! Reaching the socket (its owner, group and mode) is necessary, never sufficient. A VF that has a
//! VFIO device file is opened by who holds that file. A VF without one (its functions are emulated
//! by another process) is opened by the users and groups listed here.

use crate::peer::Peer;

/// The lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Users that may open VFs which have no VFIO device file.
    pub uids: Vec<u32>,
    /// Groups (the peer's effective one) that may do so.
    pub gids: Vec<u32>,
    /// Users that may open VFs *with* a VFIO device file without showing it. Empty by default; for
    /// kernels that cannot name the device behind such a file.
    pub unproven_uids: Vec<u32>,
}

/// Why a peer may not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Neither its user nor its group is on the list.
    #[error(
        "uid {uid} (gid {gid}) may not open VFs here: start the helper as that user, or with \
         --allow-uid {uid}"
    )]
    NotListed {
        /// The peer's user.
        uid: u32,
        /// The peer's group.
        gid: u32,
    },
    /// The VF's VFIO device file was not attached.
    #[error(
        "The VF's VFIO device file must be sent as proof that it is held (proof 1); to let uid {uid} \
         open without, start the helper with --allow-unproven-uid {uid}"
    )]
    ProofNeeded {
        /// The peer's user.
        uid: u32,
    },
}

impl Policy {
    /// Root and the user that this process runs as.
    pub fn own_user() -> Self {
        let me = rustix::process::geteuid().as_raw();
        let mut uids = vec![0];
        if me != 0 {
            uids.push(me);
        }
        Policy {
            uids,
            gids: Vec::new(),
            unproven_uids: Vec::new(),
        }
    }

    /// Judges an OPEN (or TOKEN) that comes without proof. `vfio_fds`: whether proof would be
    /// possible.
    ///
    /// # Errors
    /// Why not.
    pub fn unproven(&self, peer: Peer, vfio_fds: bool) -> Result<(), Denied> {
        if vfio_fds {
            return if self.unproven_uids.contains(&peer.uid) {
                Ok(())
            } else {
                Err(Denied::ProofNeeded { uid: peer.uid })
            };
        }
        if self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid) {
            Ok(())
        } else {
            Err(Denied::NotListed {
                uid: peer.uid,
                gid: peer.gid,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { pid: 1, uid, gid }
    }

    #[test]
    fn lists_are_for_functions_without_device_files() {
        let p = Policy {
            uids: vec![0, 7],
            gids: vec![30],
            unproven_uids: vec![9],
        };
        assert_eq!(p.unproven(peer(7, 1), false), Ok(()));
        assert_eq!(p.unproven(peer(8, 30), false), Ok(()));
        assert_eq!(
            p.unproven(peer(8, 1), false),
            Err(Denied::NotListed { uid: 8, gid: 1 })
        );
        assert_eq!(p.unproven(peer(9, 1), true), Ok(()));
        for uid in [0, 7, 8] {
            assert_eq!(
                p.unproven(peer(uid, 30), true),
                Err(Denied::ProofNeeded { uid })
            );
        }
    }

    #[test]
    fn default_is_this_user_and_root_only() {
        let p = Policy::own_user();
        let me = Peer::myself();
        assert!(p.uids.contains(&0) && p.uids.contains(&me.uid));
        assert!(p.gids.is_empty() && p.unproven_uids.is_empty());
        assert!(p.unproven(peer(54321, 54321), false).is_err());
    }
}
