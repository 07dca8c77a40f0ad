// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The state that must travel with the device.

use core::fmt;

use virtio_pci_spec::DeviceType;

/// Version written by this crate.
const VERSION: u16 = 1;

/// What the window must carry over: what the guest has written and the device has not seen yet.
/// All else is learnt anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// Layout of this structure.
    pub version: u16,
    /// Virtio device ID of the device.
    pub virtio_id: u16,
    /// Bytes of its device configuration.
    pub config_len: u16,
    /// `queue_select` as the guest sees it, if `select_valid`.
    pub queue_select: u16,
    /// Whether the guest has selected a queue since the last reset.
    pub select_valid: bool,
    /// The device status last seen through the window.
    pub status: u8,
}

impl SavedState {
    /// Bytes of the encoded form.
    pub const LEN: usize = 12;

    /// The state as bytes, little-endian; bytes 10 and 11 are zero.
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        let v = self.version.to_le_bytes();
        let t = self.virtio_id.to_le_bytes();
        let c = self.config_len.to_le_bytes();
        let s = self.queue_select.to_le_bytes();
        [
            v[0],
            v[1],
            t[0],
            t[1],
            c[0],
            c[1],
            s[0],
            s[1],
            self.select_valid as u8,
            self.status,
            0,
            0,
        ]
    }

    /// The state in `bytes`; whether it fits the device is for
    /// [`crate::Window::restore`] to say.
    ///
    /// # Errors
    /// [`RestoreError::Malformed`] if the length or a flag is wrong, [`RestoreError::Version`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RestoreError> {
        let [v0, v1, rest @ ..] = bytes else {
            return Err(RestoreError::Malformed);
        };
        let version = u16::from_le_bytes([*v0, *v1]);
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        let [t0, t1, c0, c1, s0, s1, valid, status, 0, 0] = *rest else {
            return Err(RestoreError::Malformed);
        };
        if valid > 1 {
            return Err(RestoreError::Malformed);
        }
        Ok(SavedState {
            version,
            virtio_id: u16::from_le_bytes([t0, t1]),
            config_len: u16::from_le_bytes([c0, c1]),
            queue_select: u16::from_le_bytes([s0, s1]),
            select_valid: valid == 1,
            status,
        })
    }

    pub(crate) const fn new(
        device: DeviceType,
        config_len: u16,
        select: Option<u16>,
        status: u8,
    ) -> Self {
        SavedState {
            version: VERSION,
            virtio_id: device.virtio_id(),
            config_len,
            queue_select: match select {
                Some(s) => s,
                None => 0,
            },
            select_valid: select.is_some(),
            status,
        }
    }

    /// `queue_select` and status, if the state fits the device.
    pub(crate) fn check(
        &self,
        device: DeviceType,
        config_len: u16,
    ) -> Result<(Option<u16>, u8), RestoreError> {
        if self.version != VERSION {
            return Err(RestoreError::Version(self.version));
        }
        if self.virtio_id != device.virtio_id() {
            return Err(RestoreError::DeviceType {
                saved: self.virtio_id,
                here: device.virtio_id(),
            });
        }
        if self.config_len != config_len {
            return Err(RestoreError::ConfigLen {
                saved: self.config_len,
                here: config_len,
            });
        }
        if !self.select_valid && self.queue_select != 0 {
            return Err(RestoreError::Malformed);
        }
        Ok((self.select_valid.then_some(self.queue_select), self.status))
    }
}

/// Why a saved state was refused; the window is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// Not a saved state.
    Malformed,
    /// Written by a version this crate does not know.
    Version(u16),
    /// Of a device of another type.
    DeviceType {
        /// Virtio device ID in the state.
        saved: u16,
        /// Virtio device ID of this device.
        here: u16,
    },
    /// Of a device with another configuration length, so another BAR0.
    ConfigLen {
        /// Bytes in the state.
        saved: u16,
        /// Bytes of this device.
        here: u16,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the saved register window is malformed"),
            Self::Version(v) => write!(f, "the saved register window has version {v}, not {VERSION}"),
            Self::DeviceType { saved, here } => write!(
                f,
                "the saved register window is of virtio device type {saved}, this device is {here}"
            ),
            Self::ConfigLen { saved, here } => write!(
                f,
                "the saved register window has {saved} bytes of device configuration, this device {here}"
            ),
        }
    }
}

impl core::error::Error for RestoreError {}
