// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Device parts: what a member's state is made of ("Device parts", "Device parts admin commands").
//!
//! A part is a header of 16 bytes and a value of any length; parts follow each other without padding. A
//! device puts them in the order of the table of "Device parts order", and takes them in no other.

use core::fmt;

use virtio_pci_spec::bytes::{get_u16, get_u32};

use crate::bytes::{put_u16, put_u32};

/// Bytes of a part's header.
pub const HEADER_LEN: usize = 16;
/// Bytes of a part's selector.
pub const SELECTOR_LEN: usize = 8;
/// Bytes of a [`kind::VQ_CFG`] part.
pub const VQ_CFG_LEN: usize = 32;
/// Bytes of a [`kind::VQ_NOTIFY_CFG`] part.
pub const VQ_NOTIFY_CFG_LEN: usize = 8;

/// Types of parts. Up to 0x1ff they are the same for all device types, up to 0x5ff they are those of one;
/// the rest is reserved.
pub mod kind {
    /// Features that the device offers, as le64 words. Compared with the device's own, never written.
    pub const DEV_FEATURES: u16 = 0x100;
    /// Features that the driver has accepted, as le64 words.
    pub const DRV_FEATURES: u16 = 0x101;
    /// One field of the common configuration, selected by its offset.
    pub const PCI_COMMON_CFG: u16 = 0x102;
    /// The device status, one byte.
    pub const DEVICE_STATUS: u16 = 0x103;
    /// Set-up of a queue, selected by its index.
    pub const VQ_CFG: u16 = 0x104;
    /// Where and how a queue is notified, selected by its index.
    pub const VQ_NOTIFY_CFG: u16 = 0x105;
    /// Network cards: what a control command has set, selected by class and command.
    pub const NET_CVQ_CFG: u16 = 0x200;
    /// First that is reserved.
    pub const RESERVED: u16 = 0x600;

    /// The specification's name of a type, without its prefix.
    pub const fn name(kind: u16) -> &'static str {
        match kind {
            DEV_FEATURES => "DEV_FEATURES",
            DRV_FEATURES => "DRV_FEATURES",
            PCI_COMMON_CFG => "PCI_COMMON_CFG",
            DEVICE_STATUS => "DEVICE_STATUS",
            VQ_CFG => "VQ_CFG",
            VQ_NOTIFY_CFG => "VQ_NOTIFY_CFG",
            NET_CVQ_CFG => "CVQ_CFG",
            _ => "unknown",
        }
    }
}

/// Bits of a part's `flags`.
pub mod flags {
    /// A device may ignore the part when it is set.
    pub const OPTIONAL: u8 = 1;
}

/// Values of `type` of DEV_PARTS_METADATA_GET.
pub mod metadata {
    #![allow(missing_docs)]
    pub const SIZE: u8 = 0;
    pub const COUNT: u8 = 1;
    pub const LIST: u8 = 2;
}

/// Values of `type` of DEV_PARTS_GET.
pub mod get {
    #![allow(missing_docs)]
    pub const SELECTED: u8 = 0;
    pub const ALL: u8 = 1;
}

/// Bits of `flags` of DEV_MODE_SET.
pub mod mode {
    /// The member is to be stopped; without it, to go on.
    pub const STOPPED: u8 = 1;
}

/// Which of several parts of one type it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Selector(pub [u8; SELECTOR_LEN]);

impl Selector {
    /// Of a type that has one part.
    pub const NONE: Selector = Selector([0; SELECTOR_LEN]);

    /// A field of the common configuration, by its byte offset.
    pub fn offset(offset: u32) -> Self {
        let mut out = Self::NONE;
        let _fits = put_u32(&mut out.0, 0, offset);
        out
    }

    /// A queue.
    pub fn queue(index: u16) -> Self {
        let mut out = Self::NONE;
        let _fits = put_u16(&mut out.0, 0, index);
        out
    }

    /// A control command of a network card.
    pub fn control(class: u8, command: u8) -> Self {
        let mut out = Self::NONE;
        out.0[0] = class;
        out.0[1] = command;
        out
    }

    /// The offset of [`Selector::offset`].
    pub fn as_offset(self) -> u32 {
        get_u32(&self.0, 0).unwrap_or(0)
    }

    /// The index of [`Selector::queue`].
    pub fn as_queue(self) -> u16 {
        get_u16(&self.0, 0).unwrap_or(0)
    }

    /// Class and command of [`Selector::control`].
    pub fn as_control(self) -> (u8, u8) {
        (self.0[0], self.0[1])
    }
}

/// The header of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// See [`kind`].
    pub kind: u16,
    /// See [`flags`]; other bits are reserved.
    pub flags: u8,
    /// Which part of this type.
    pub selector: Selector,
    /// Bytes of the value.
    pub len: u32,
}

impl Header {
    /// Encodes the header; the reserved byte is zero.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let _fits = put_u16(&mut out, 0, self.kind) && put_u32(&mut out, 12, self.len);
        out[2] = self.flags;
        out[4..12].copy_from_slice(&self.selector.0);
        out
    }

    /// Decodes the header at the start of `bytes`, if it is whole; reserved bytes are ignored.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_LEN>()?;
        let mut selector = Selector::NONE;
        selector.0.copy_from_slice(&bytes[4..12]);
        Some(Header {
            kind: get_u16(bytes, 0)?,
            flags: bytes[2],
            selector,
            len: get_u32(bytes, 12)?,
        })
    }

    /// Whether a device may ignore the part.
    pub const fn is_optional(&self) -> bool {
        self.flags & flags::OPTIONAL != 0
    }
}

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its header.
    pub header: Header,
    /// Its value, as long as the header says.
    pub value: &'a [u8],
}

/// What is wrong with bytes that should be parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartError {
    /// So many bytes are left, too few for a header.
    Header(usize),
    /// The value of this part does not end before the bytes do.
    Value(Header),
    /// This part comes after one of this type, which must come after it.
    Order(Header, u16),
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartError::Header(left) => {
                write!(f, "{left} bytes are left, a part's header has {HEADER_LEN}")
            }
            PartError::Value(part) => write!(
                f,
                "part {} ({:#x}) says it has {} bytes, which are not there",
                kind::name(part.kind),
                part.kind,
                part.len
            ),
            PartError::Order(part, before) => write!(
                f,
                "part {} ({:#x}) comes after {} ({before:#x})",
                kind::name(part.kind),
                part.kind,
                kind::name(*before)
            ),
        }
    }
}

impl core::error::Error for PartError {}

/// The parts that bytes consist of: see [`parts`].
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    rest: &'a [u8],
    /// The last type with a place in the order.
    last: u16,
}

/// Goes through parts up to the end of `bytes`. After an error nothing follows.
pub fn parts(bytes: &[u8]) -> Parts<'_> {
    Parts {
        rest: bytes,
        last: 0,
    }
}

impl<'a> Parts<'a> {
    fn take(&mut self) -> Result<Part<'a>, PartError> {
        let header = Header::decode(self.rest).ok_or(PartError::Header(self.rest.len()))?;
        let end = usize::try_from(header.len)
            .ok()
            .and_then(|len| HEADER_LEN.checked_add(len));
        let value = end.and_then(|end| self.rest.get(HEADER_LEN..end));
        let value = value.ok_or(PartError::Value(header))?;
        self.rest = self.rest.get(HEADER_LEN + value.len()..).unwrap_or(&[]);
        // The numbers of the types are in the order that the specification asks for.
        let ordered = matches!(header.kind, kind::DEV_FEATURES..=kind::VQ_NOTIFY_CFG);
        if ordered {
            if header.kind < self.last {
                return Err(PartError::Order(header, self.last));
            }
            self.last = header.kind;
        }
        Ok(Part { header, value })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let part = self.take();
        if part.is_err() {
            self.rest = &[];
        }
        Some(part)
    }
}

/// Set-up of a queue: the value of a [`kind::VQ_CFG`] part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VqCfg {
    /// `queue_size`.
    pub size: u16,
    /// `queue_msix_vector`.
    pub vector: u16,
    /// `queue_enable`.
    pub enabled: u16,
    /// `queue_desc`.
    pub descriptors: u64,
    /// `queue_driver`.
    pub driver: u64,
    /// `queue_device`.
    pub device: u64,
}

impl VqCfg {
    /// Encodes the value; reserved bytes are zero.
    pub fn encode(&self) -> [u8; VQ_CFG_LEN] {
        let mut out = [0; VQ_CFG_LEN];
        out[..2].copy_from_slice(&self.size.to_le_bytes());
        out[2..4].copy_from_slice(&self.vector.to_le_bytes());
        out[4..6].copy_from_slice(&self.enabled.to_le_bytes());
        out[8..16].copy_from_slice(&self.descriptors.to_le_bytes());
        out[16..24].copy_from_slice(&self.driver.to_le_bytes());
        out[24..].copy_from_slice(&self.device.to_le_bytes());
        out
    }

    /// Decodes a value, which has exactly [`VQ_CFG_LEN`] bytes.
    pub fn decode(value: &[u8]) -> Option<Self> {
        use virtio_pci_spec::bytes::get_u64;
        if value.len() != VQ_CFG_LEN {
            return None;
        }
        Some(VqCfg {
            size: get_u16(value, 0)?,
            vector: get_u16(value, 2)?,
            enabled: get_u16(value, 4)?,
            descriptors: get_u64(value, 8)?,
            driver: get_u64(value, 16)?,
            device: get_u64(value, 24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn part(kind: u16, selector: Selector, value: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            flags: 0,
            selector,
            len: value.len() as u32,
        };
        let mut out = header.encode().to_vec();
        out.extend(value);
        out
    }

    #[test]
    fn a_header_has_its_bytes_where_the_specification_says() {
        let header = Header {
            kind: kind::DEV_FEATURES,
            flags: flags::OPTIONAL,
            selector: Selector([1, 2, 3, 4, 5, 6, 7, 8]),
            len: 0x0102_0304,
        };
        let bytes = header.encode();
        assert_eq!(bytes, [0, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 3, 2, 1]);
        assert_eq!(Header::decode(&bytes), Some(header));
        assert!(header.is_optional());
        assert_eq!(Header::decode(&bytes[..15]), None);
    }

    #[test]
    fn selectors_leave_what_they_do_not_use_zero() {
        assert_eq!(Selector::offset(18).0, [18, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Selector::queue(0x102).0, [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Selector::control(1, 2).0, [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Selector::offset(70_000).as_offset(), 70_000);
        assert_eq!(Selector::queue(300).as_queue(), 300);
        assert_eq!(Selector::control(1, 2).as_control(), (1, 2));
    }

    #[test]
    fn the_set_up_of_a_queue() {
        let queue = VqCfg {
            size: 256,
            vector: 0xffff,
            enabled: 1,
            descriptors: 0x1000,
            driver: 0x2000,
            device: 0x3_0000_0000,
        };
        let bytes = queue.encode();
        assert_eq!(bytes[..8], [0, 1, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(bytes[24..], [0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(VqCfg::decode(&bytes), Some(queue));
        assert_eq!(VqCfg::decode(&bytes[..31]), None);
        assert_eq!(VqCfg::decode(&[0; 33]), None);
    }

    #[test]
    fn parts_are_gone_through_to_the_exact_end_and_in_order() {
        let status = part(kind::DEVICE_STATUS, Selector::NONE, &[7]);
        let queue = part(kind::VQ_CFG, Selector::queue(0), &[0; 32]);
        let net = part(kind::NET_CVQ_CFG, Selector::control(0, 0), &[1]);
        let all = [status.clone(), net.clone(), queue.clone(), net].concat();
        let kinds: Result<Vec<u16>, _> = parts(&all).map(|p| p.map(|p| p.header.kind)).collect();
        assert_eq!(kinds, Ok(alloc::vec![0x103, 0x200, 0x104, 0x200]));
        assert_eq!(parts(&[]).next(), None);

        let wrong = [queue.clone(), status].concat();
        let errors: Vec<_> = parts(&wrong).filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors[0].to_string(),
            "part DEVICE_STATUS (0x103) comes after VQ_CFG (0x104)"
        );
        let cut = &queue[..queue.len() - 1];
        let error = parts(cut).next().unwrap().unwrap_err().to_string();
        assert_eq!(
            error,
            "part VQ_CFG (0x104) says it has 32 bytes, which are not there"
        );
        let mut more = queue;
        more.extend([0; 3]);
        assert_eq!(parts(&more).nth(1), Some(Err(PartError::Header(3))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parts_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut used = 0;
            for part in parts(&bytes) {
                match part {
                    Ok(part) => {
                        prop_assert_eq!(part.value.len(), part.header.len as usize);
                        used += HEADER_LEN + part.value.len();
                    }
                    Err(_) => return Ok(()),
                }
            }
            prop_assert_eq!(used, bytes.len());
        }
    }
}
