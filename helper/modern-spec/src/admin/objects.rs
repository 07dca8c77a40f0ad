// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Capabilities and resource objects ("Device and driver capabilities", "Device resource objects"): what a
//! command that names one has behind its header.

use virtio_pci_spec::bytes::{get_u16, get_u32, get_u64};

use crate::bytes::{put_u16, put_u32, put_u64};

/// Where the capability's number is in DEVICE_CAP_GET and DRIVER_CAP_SET.
pub const CAPABILITY_ID: usize = 24;
/// Bytes of DEVICE_CAP_GET, and of DRIVER_CAP_SET before the capability's data.
pub const CAPABILITY_LEN: usize = 32;
/// Where the object is named in commands about one.
pub const OBJECT: usize = 24;
/// Bytes of a command about an object that says no more, and before what it says more.
pub const OBJECT_LEN: usize = 32;
/// Bytes of RESOURCE_OBJ_CREATE, MODIFY and QUERY before the object's data.
pub const OBJECT_DATA: usize = 40;

/// Numbers of capabilities.
pub mod capability {
    /// How many objects of [`super::kind::DEV_PARTS`] there can be.
    pub const DEV_PARTS: u16 = 0;
}

/// Types of objects.
pub mod kind {
    /// What reads or writes device parts of a member.
    pub const DEV_PARTS: u16 = 0;
}

/// The capability [`capability::DEV_PARTS`]: how many objects there can be to read parts, and to write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DevPartsCap {
    /// Objects that read.
    pub get: u8,
    /// Objects that write.
    pub set: u8,
}

impl DevPartsCap {
    /// Bytes of it.
    pub const LEN: usize = 2;

    /// Encodes it.
    pub fn encode(&self) -> [u8; Self::LEN] {
        [self.get, self.set]
    }

    /// Decodes it; bytes that are missing count as zero.
    pub fn decode(data: &[u8]) -> Self {
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        DevPartsCap {
            get: byte(0),
            set: byte(1),
        }
    }
}

/// Names an object of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// See [`kind`].
    pub kind: u16,
    /// Its number, which the driver chooses: below the limit, and one of its type.
    pub id: u32,
}

impl ObjectId {
    /// Bytes of it.
    pub const LEN: usize = 8;

    /// Encodes it; reserved bytes are zero.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let _fits = put_u16(&mut out, 0, self.kind) && put_u32(&mut out, 4, self.id);
        out
    }

    /// Decodes it; bytes that are missing count as zero, reserved ones are ignored.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut buf = [0; Self::LEN];
        for (to, from) in buf.iter_mut().zip(bytes) {
            *to = *from;
        }
        ObjectId {
            kind: get_u16(&buf, 0).unwrap_or(0),
            id: get_u32(&buf, 4).unwrap_or(0),
        }
    }
}

/// What an object of [`kind::DEV_PARTS`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartsObject {
    /// Parts are read.
    Get,
    /// Parts are written.
    Set,
}

impl PartsObject {
    /// Bytes of an object's data.
    pub const LEN: usize = 8;

    /// Encodes the object's data; reserved bytes are zero.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self {
            PartsObject::Get => 0,
            PartsObject::Set => 1,
        };
        out
    }

    /// Decodes the object's data; `None` for any other use.
    pub fn decode(data: &[u8]) -> Option<Self> {
        match data.first().copied().unwrap_or(0) {
            0 => Some(PartsObject::Get),
            1 => Some(PartsObject::Set),
            _ => None,
        }
    }
}

/// What RESOURCE_OBJ_CREATE, MODIFY and QUERY have behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRequest {
    /// Which.
    pub object: ObjectId,
    /// Zero, but for types that say otherwise.
    pub flags: u64,
}

impl ObjectRequest {
    /// Bytes of it.
    pub const LEN: usize = ObjectId::LEN + 8;

    /// Encodes it.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let (object, flags) = out.split_at_mut(ObjectId::LEN);
        object.copy_from_slice(&self.object.encode());
        let _fits = put_u64(flags, 0, self.flags);
        out
    }

    /// Decodes it; bytes that are missing count as zero.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut buf = [0; Self::LEN];
        for (to, from) in buf.iter_mut().zip(bytes) {
            *to = *from;
        }
        ObjectRequest {
            object: ObjectId::decode(&buf),
            flags: get_u64(&buf, ObjectId::LEN).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_by_type_and_number() {
        let request = ObjectRequest {
            object: ObjectId {
                kind: 0x102,
                id: 0x0304_0506,
            },
            flags: 7,
        };
        let bytes = request.encode();
        assert_eq!(bytes, [2, 1, 0, 0, 6, 5, 4, 3, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ObjectRequest::decode(&bytes), request);
        assert_eq!(ObjectRequest::decode(&bytes[..8]).object, request.object);
        assert_eq!(ObjectRequest::decode(&bytes[..8]).flags, 0);
        assert_eq!(OBJECT + ObjectRequest::LEN, OBJECT_DATA);
        assert_eq!(OBJECT + ObjectId::LEN, OBJECT_LEN);
    }

    #[test]
    fn an_object_of_parts_reads_or_writes() {
        for (object, first) in [(PartsObject::Get, 0), (PartsObject::Set, 1)] {
            let bytes = object.encode();
            assert_eq!(bytes, [first, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(PartsObject::decode(&bytes), Some(object));
        }
        assert_eq!(PartsObject::decode(&[2]), None);
        assert_eq!(PartsObject::decode(&[]), Some(PartsObject::Get));
        let cap = DevPartsCap { get: 3, set: 1 };
        assert_eq!(cap.encode(), [3, 1]);
        assert_eq!(DevPartsCap::decode(&[3, 1, 9]), cap);
        assert_eq!(DevPartsCap::decode(&[3]).set, 0);
    }
}
