// SPDX-License-Identifier: GPL-2.0-or-later
//! Which connection owns which VF: at most one per VF, at most one VF per connection.

use std::time::Instant;

use legacy_vf_proto::Name;

use crate::peer::Peer;
use crate::session::SessionId;

/// The owner of a VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its connection.
    pub session: SessionId,
    /// Its credentials.
    pub peer: Peer,
    /// What it calls itself.
    pub name: Name,
    /// Since when.
    pub since: Instant,
}

/// Why a VF was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// There is no such VF.
    NoSuchVf,
    /// It has an owner.
    Busy(Owner),
}

/// Owners by member id.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Index 0 is member 1.
    owners: Vec<Option<Owner>>,
}

impl Registry {
    /// A registry of `num_vfs` free VFs.
    pub fn new(num_vfs: u16) -> Self {
        Registry {
            owners: vec![None; usize::from(num_vfs)],
        }
    }

    fn index(member: u16) -> Option<usize> {
        usize::from(member).checked_sub(1)
    }

    /// The owner of a VF.
    pub fn owner(&self, member: u16) -> Option<&Owner> {
        self.owners.get(Self::index(member)?)?.as_ref()
    }

    /// VFs that have an owner, ascending.
    pub fn owned(&self) -> impl Iterator<Item = u16> + '_ {
        (1u16..)
            .zip(&self.owners)
            .filter(|(_, o)| o.is_some())
            .map(|(member, _)| member)
    }

    /// Makes `owner` the owner of `member`.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(&mut self, member: u16, owner: Owner) -> Result<(), ClaimError> {
        let slot = Self::index(member)
            .and_then(|i| self.owners.get_mut(i))
            .ok_or(ClaimError::NoSuchVf)?;
        if let Some(holder) = slot {
            return Err(ClaimError::Busy(*holder));
        }
        *slot = Some(owner);
        Ok(())
    }

    /// Frees `member` if `session` owns it.
    pub fn release(&mut self, member: u16, session: SessionId) {
        let slot = Self::index(member).and_then(|i| self.owners.get_mut(i));
        if let Some(slot) = slot {
            if slot.is_some_and(|o| o.session == session) {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(slot: u32) -> Owner {
        Owner {
            session: SessionId {
                slot,
                generation: 1,
            },
            peer: Peer::myself(),
            name: Name::new("test"),
            since: Instant::now(),
        }
    }

    #[test]
    fn one_owner_per_vf() {
        let mut r = Registry::new(2);
        let (a, b) = (owner(1), owner(2));
        assert_eq!(r.claim(1, a), Ok(()));
        assert_eq!(r.claim(1, b), Err(ClaimError::Busy(a)));
        assert_eq!(r.claim(1, a), Err(ClaimError::Busy(a)));
        assert_eq!(r.claim(2, b), Ok(()));
        for bad in [0, 3, u16::MAX] {
            assert_eq!(r.claim(bad, a), Err(ClaimError::NoSuchVf));
        }
        // A stranger frees nothing.
        r.release(1, b.session);
        assert_eq!(r.owner(1), Some(&a));
        r.release(1, a.session);
        assert_eq!(r.owner(1), None);
        assert!(r.owned().eq([2]));
        r.release(0, a.session);
        r.release(9, a.session);
    }
}
