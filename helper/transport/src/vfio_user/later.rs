// SPDX-License-Identifier: GPL-2.0-or-later
//! A read of a register that nobody waits for: sent, and taken when its reply comes.

use vfio_user_wire::{Header, Limits, RegionAccess, Reply};

use crate::error::{Cause, Error, Place};

/// A read that the peer has.
pub(super) struct Later {
    pub(super) id: u16,
    pub(super) place: Place,
    pub(super) access: RegionAccess,
}

/// What became of it: the register's value, or the peer's refusal.
pub(super) type Came = Result<u32, Error>;

impl Later {
    /// Takes the reply with this read's number. An error breaks the connection.
    pub(super) fn take(
        &self,
        function: &str,
        header: &Header,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<Came, Cause> {
        match Reply::decode(header, payload, limits) {
            Ok(Reply::Error(number)) => Ok(Err(Error::new(
                function,
                self.place.clone(),
                Cause::refused(number),
            ))),
            Ok(Reply::Read { access, data }) if access == self.access => {
                let mut bytes = [0; 4];
                for (dst, src) in bytes.iter_mut().zip(data) {
                    *dst = *src;
                }
                Ok(Ok(u32::from_le_bytes(bytes)))
            }
            Ok(_) => Err(Cause::Protocol("the reply is to another access".into())),
            Err(e) => Err(Cause::Protocol(e.to_string())),
        }
    }
}
