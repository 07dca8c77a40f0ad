// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Group administration commands ("Group administration commands", "Administration Virtqueues").

pub mod legacy;
pub mod list;
pub mod objects;
pub mod parts;

use crate::bytes::{put_u16, put_u64};
use virtio_pci_spec::bytes::get_u16;

/// Bytes of the device-readable header of every command.
pub const REQUEST_LEN: usize = 24;
/// Bytes of the device-writable header of every command.
pub const REPLY_LEN: usize = 8;

/// Opcodes. Values that are not listed are unsupported, not malformed.
pub mod opcode {
    #![allow(missing_docs)]
    pub const LIST_QUERY: u16 = 0x0000;
    pub const LIST_USE: u16 = 0x0001;
    pub const LEGACY_COMMON_CFG_WRITE: u16 = 0x0002;
    pub const LEGACY_COMMON_CFG_READ: u16 = 0x0003;
    pub const LEGACY_DEV_CFG_WRITE: u16 = 0x0004;
    pub const LEGACY_DEV_CFG_READ: u16 = 0x0005;
    pub const LEGACY_NOTIFY_INFO: u16 = 0x0006;
    pub const CAP_ID_LIST_QUERY: u16 = 0x0007;
    pub const DEVICE_CAP_GET: u16 = 0x0008;
    pub const DRIVER_CAP_SET: u16 = 0x0009;
    pub const RESOURCE_OBJ_CREATE: u16 = 0x000a;
    pub const RESOURCE_OBJ_QUERY: u16 = 0x000b;
    pub const RESOURCE_OBJ_MODIFY: u16 = 0x000c;
    pub const RESOURCE_OBJ_DESTROY: u16 = 0x000d;
    pub const DEV_PARTS_METADATA_GET: u16 = 0x000e;
    pub const DEV_PARTS_GET: u16 = 0x000f;
    pub const DEV_PARTS_SET: u16 = 0x0010;
    pub const DEV_MODE_SET: u16 = 0x0011;

    /// The specification's name of an opcode, without its prefix.
    pub const fn name(opcode: u16) -> &'static str {
        match opcode {
            LIST_QUERY => "LIST_QUERY",
            LIST_USE => "LIST_USE",
            LEGACY_COMMON_CFG_WRITE => "LEGACY_COMMON_CFG_WRITE",
            LEGACY_COMMON_CFG_READ => "LEGACY_COMMON_CFG_READ",
            LEGACY_DEV_CFG_WRITE => "LEGACY_DEV_CFG_WRITE",
            LEGACY_DEV_CFG_READ => "LEGACY_DEV_CFG_READ",
            LEGACY_NOTIFY_INFO => "LEGACY_NOTIFY_INFO",
            CAP_ID_LIST_QUERY => "CAP_ID_LIST_QUERY",
            DEVICE_CAP_GET => "DEVICE_CAP_GET",
            DRIVER_CAP_SET => "DRIVER_CAP_SET",
            RESOURCE_OBJ_CREATE => "RESOURCE_OBJ_CREATE",
            RESOURCE_OBJ_QUERY => "RESOURCE_OBJ_QUERY",
            RESOURCE_OBJ_MODIFY => "RESOURCE_OBJ_MODIFY",
            RESOURCE_OBJ_DESTROY => "RESOURCE_OBJ_DESTROY",
            DEV_PARTS_METADATA_GET => "DEV_PARTS_METADATA_GET",
            DEV_PARTS_GET => "DEV_PARTS_GET",
            DEV_PARTS_SET => "DEV_PARTS_SET",
            DEV_MODE_SET => "DEV_MODE_SET",
            _ => "unknown",
        }
    }
}

/// Group types.
pub mod group {
    /// The owner alone, as member 0.
    pub const SELF: u16 = 0;
    /// The virtual functions of a PF; member ids are VF numbers from 1.
    pub const SRIOV: u16 = 1;
}

/// Command status; values equal Linux errno values.
pub mod status {
    #![allow(missing_docs)]
    pub const OK: u16 = 0;
    pub const ENXIO: u16 = 6;
    pub const EAGAIN: u16 = 11;
    pub const ENOMEM: u16 = 12;
    pub const EBUSY: u16 = 16;
    /// Used by name in the specification, without a number; Linux's value.
    pub const EEXIST: u16 = 17;
    pub const EINVAL: u16 = 22;
    pub const ENOSPC: u16 = 28;

    /// The specification's name of a status.
    pub const fn name(status: u16) -> &'static str {
        match status {
            OK => "OK",
            ENXIO => "ENXIO",
            EAGAIN => "EAGAIN",
            ENOMEM => "ENOMEM",
            EBUSY => "EBUSY",
            EEXIST => "EEXIST",
            EINVAL => "EINVAL",
            ENOSPC => "ENOSPC",
            _ => "unknown",
        }
    }
}

/// Status qualifiers; debugging detail of a failed command.
pub mod qualifier {
    #![allow(missing_docs)]
    pub const OK: u16 = 0;
    pub const INVALID_COMMAND: u16 = 1;
    pub const INVALID_OPCODE: u16 = 2;
    pub const INVALID_FIELD: u16 = 3;
    pub const INVALID_GROUP: u16 = 4;
    pub const INVALID_MEMBER: u16 = 5;
    pub const NORESOURCE: u16 = 6;
    pub const TRYAGAIN: u16 = 7;

    /// The specification's name of a qualifier.
    pub const fn name(qualifier: u16) -> &'static str {
        match qualifier {
            OK => "Q_OK",
            INVALID_COMMAND => "Q_INVALID_COMMAND",
            INVALID_OPCODE => "Q_INVALID_OPCODE",
            INVALID_FIELD => "Q_INVALID_FIELD",
            INVALID_GROUP => "Q_INVALID_GROUP",
            INVALID_MEMBER => "Q_INVALID_MEMBER",
            NORESOURCE => "Q_NORESOURCE",
            TRYAGAIN => "Q_TRYAGAIN",
            _ => "unknown",
        }
    }
}

/// The device-readable header: opcode at 0, group type at 2, member id at 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Command opcode.
    pub opcode: u16,
    /// Group type.
    pub group_type: u16,
    /// Member id; 0 where the command does not use it.
    pub member: u64,
}

impl Request {
    /// Encodes the header; reserved bytes are zero.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut out = [0; REQUEST_LEN];
        let [a, b] = self.opcode.to_le_bytes();
        let [c, d] = self.group_type.to_le_bytes();
        out[0] = a;
        out[1] = b;
        out[2] = c;
        out[3] = d;
        let _fits = put_u64(&mut out, 16, self.member);
        out
    }

    /// Decodes the header; bytes that are missing count as zero ("Administration Virtqueues").
    pub fn decode(readable: &[u8]) -> Self {
        let mut buf = [0u8; REQUEST_LEN];
        for (dst, src) in buf.iter_mut().zip(readable) {
            *dst = *src;
        }
        Request {
            opcode: u16::from_le_bytes([buf[0], buf[1]]),
            group_type: u16::from_le_bytes([buf[2], buf[3]]),
            member: virtio_pci_spec::bytes::get_u64(&buf, 16).unwrap_or(0),
        }
    }
}

/// The device-writable header: status at 0, qualifier at 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Command status.
    pub status: u16,
    /// Status qualifier.
    pub qualifier: u16,
}

impl Reply {
    /// Success.
    pub const OK: Reply = Reply {
        status: status::OK,
        qualifier: qualifier::OK,
    };

    /// EINVAL with a qualifier.
    pub const fn invalid(qualifier: u16) -> Self {
        Reply {
            status: status::EINVAL,
            qualifier,
        }
    }

    /// Encodes the header; reserved bytes are zero.
    pub fn encode(&self) -> [u8; REPLY_LEN] {
        let mut out = [0; REPLY_LEN];
        let _fits = put_u16(&mut out, 0, self.status) && put_u16(&mut out, 2, self.qualifier);
        out
    }

    /// Decodes the header from the bytes that the device wrote (`used length` of them); `None` if
    /// not even status and qualifier are there.
    pub fn decode(written: &[u8]) -> Option<Self> {
        Some(Reply {
            status: get_u16(written, 0)?,
            qualifier: get_u16(written, 2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: ADM-01, ADM-02
    #[test]
    fn headers_have_the_offsets_of_the_specification() {
        let r = Request {
            opcode: 0x0102,
            group_type: 0x0304,
            member: 0x1122_3344_5566_7788,
        };
        let b = r.encode();
        assert_eq!(b[..4], [0x02, 0x01, 0x04, 0x03]);
        assert_eq!(b[4..16], [0; 12]);
        assert_eq!(b[16..], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(Request::decode(&b), r);
        let p = Reply {
            status: 22,
            qualifier: 5,
        };
        assert_eq!(p.encode(), [22, 0, 5, 0, 0, 0, 0, 0]);
        assert_eq!(Reply::decode(&p.encode()), Some(p));
    }

    // Covers: AVQ-05
    #[test]
    fn a_short_readable_part_reads_as_zero() {
        let r = Request {
            opcode: 3,
            group_type: 1,
            member: 9,
        };
        assert_eq!(
            Request::decode(&r.encode()[..4]),
            Request { member: 0, ..r }
        );
        assert_eq!(
            Request::decode(&[]),
            Request {
                opcode: 0,
                group_type: 0,
                member: 0
            }
        );
    }
}
