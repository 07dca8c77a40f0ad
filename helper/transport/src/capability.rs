// SPDX-License-Identifier: GPL-2.0-or-later
//! Walking the two capability lists of a configuration space, on bytes that were read once.
//!
//! The lists come from the device: loops, pointers into the header or past the end, and lists that
//! never end are all cut off.

use virtio_pci_spec::bytes::{get_u16, get_u32, get_u8};
use virtio_pci_spec::pci;

use crate::error::Error;
use crate::function::PciFunction;

/// Bytes of the configuration space that the classic capability list may use.
const CLASSIC_LEN: usize = 256;
/// First byte after the header.
const HEADER_LEN: usize = 0x40;
/// More capabilities than fit in 192 bytes of at least 4 each.
const MAX_CLASSIC: usize = (CLASSIC_LEN - HEADER_LEN) / 4;
/// More extended capabilities than fit.
const MAX_EXTENDED: usize = (4096 - pci::EXT_CAP_START) / 8;

/// A copy of a configuration space.
#[derive(Clone, Debug)]
pub struct ConfigImage {
    bytes: Vec<u8>,
}

/// A capability: where it starts and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Byte offset of its start.
    pub offset: u16,
    /// Capability ID; extended ones have 16 bits.
    pub id: u16,
}

impl ConfigImage {
    /// Reads all of a function's configuration space.
    pub fn read(function: &dyn PciFunction) -> Result<Self, Error> {
        let mut bytes = vec![0; usize::from(function.config_size()?).min(4096)];
        function.config_read(0, &mut bytes)?;
        Ok(ConfigImage { bytes })
    }

    /// An image of these bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        ConfigImage { bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes from `offset` on; empty if there are none.
    pub fn tail(&self, offset: u16) -> &[u8] {
        self.bytes.get(usize::from(offset)..).unwrap_or(&[])
    }

    /// The capabilities of the classic list, in list order.
    pub fn capabilities(&self) -> Vec<Capability> {
        let classic = self.bytes.get(..CLASSIC_LEN).unwrap_or(&self.bytes);
        let mut found: Vec<Capability> = Vec::new();
        let has_list = get_u16(classic, pci::header::STATUS)
            .is_some_and(|status| status & pci::STATUS_CAP_LIST != 0);
        if !has_list {
            return found;
        }
        let mut next = get_u8(classic, pci::header::CAPABILITY_LIST).unwrap_or(0) & !3;
        while usize::from(next) >= HEADER_LEN
            && found.len() < MAX_CLASSIC
            && !found.iter().any(|c| c.offset == u16::from(next))
        {
            let at = usize::from(next);
            let (Some(id), Some(link)) = (get_u8(classic, at), get_u8(classic, at + 1)) else {
                break;
            };
            // All-ones is what absent hardware answers.
            if id == 0xff {
                break;
            }
            found.push(Capability {
                offset: u16::from(next),
                id: u16::from(id),
            });
            next = link & !3;
        }
        found
    }

    /// The PCI Express extended capabilities, in list order.
    pub fn extended_capabilities(&self) -> Vec<Capability> {
        let mut found: Vec<Capability> = Vec::new();
        let mut next = pci::EXT_CAP_START;
        while next >= pci::EXT_CAP_START
            && found.len() < MAX_EXTENDED
            && !found.iter().any(|c| usize::from(c.offset) == next)
        {
            let Some(header) = get_u32(&self.bytes, next) else {
                break;
            };
            if header == 0 || header == u32::MAX {
                break;
            }
            let id = (header & 0xffff) as u16;
            // ID 0 is a placeholder that only links on.
            if id != 0 {
                found.push(Capability {
                    offset: next as u16,
                    id,
                });
            }
            let link = (header >> 20) as usize & !3;
            if link <= next && link != 0 && id == 0 {
                break;
            }
            next = link;
        }
        found
    }

    /// The first extended capability with this ID.
    pub fn extended(&self, id: u16) -> Option<u16> {
        self.extended_capabilities()
            .into_iter()
            .find(|c| c.id == id)
            .map(|c| c.offset)
    }

    /// The first classic capability with this ID.
    pub fn capability(&self, id: u8) -> Option<u16> {
        self.capabilities()
            .into_iter()
            .find(|c| c.id == u16::from(id))
            .map(|c| c.offset)
    }

    /// Where the MSI-X capability is, and how many vectors its table has.
    pub(crate) fn msix(&self) -> Option<(u16, u32)> {
        let at = self.capability(pci::CAP_ID_MSIX)?;
        let vectors = get_u16(self.tail(at), pci::msix::CONTROL)
            .map_or(0, |c| u32::from(c & pci::msix::CONTROL_SIZE_MASK) + 1);
        Some((at, vectors))
    }

    /// The Device Serial Number; 0 if the function has none.
    pub fn serial(&self) -> u64 {
        let Some(at) = self.extended(pci::EXT_CAP_ID_DSN).map(usize::from) else {
            return 0;
        };
        let low = get_u32(&self.bytes, at + 4).unwrap_or(0);
        let high = get_u32(&self.bytes, at + 8).unwrap_or(0);
        u64::from(high) << 32 | u64::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        b[pci::header::STATUS] = pci::STATUS_CAP_LIST as u8;
        b
    }

    // Covers: MOD-02
    #[test]
    fn classic_lists_that_loop_or_leave_the_space_end() {
        let mut b = image(256);
        b[0x34] = 0x43; // the two low bits are reserved
        (b[0x40], b[0x41]) = (9, 0x50);
        (b[0x50], b[0x51]) = (0x11, 0x40);
        let c = ConfigImage::from_bytes(b.clone()).capabilities();
        assert_eq!(
            c.iter().map(|c| (c.offset, c.id)).collect::<Vec<_>>(),
            [(0x40, 9), (0x50, 0x11)]
        );
        b[0x51] = 0x10; // into the header
        assert_eq!(ConfigImage::from_bytes(b.clone()).capabilities().len(), 2);
        b[0x51] = 0xff;
        assert_eq!(ConfigImage::from_bytes(b.clone()).capabilities().len(), 3);
        b[pci::header::STATUS] = 0;
        assert!(ConfigImage::from_bytes(b).capabilities().is_empty());
        assert!(ConfigImage::from_bytes(vec![0xff; 64])
            .capabilities()
            .is_empty());
        assert!(ConfigImage::from_bytes(vec![0xff; 256])
            .capabilities()
            .is_empty());
        assert!(ConfigImage::from_bytes(vec![]).capabilities().is_empty());
    }

    #[test]
    fn extended_lists_end_and_serial_numbers_are_found() {
        let mut b = image(4096);
        let mut put = |at: usize, v: u32| b[at..at + 4].copy_from_slice(&v.to_le_bytes());
        put(0x100, 0x1481_0010);
        put(0x148, 0x1001_0003); // back to the first
        put(0x14c, 0x0403_0201);
        put(0x150, 0x0807_0605);
        let i = ConfigImage::from_bytes(b);
        assert_eq!(i.extended_capabilities().len(), 2);
        assert_eq!(i.extended(0x10), Some(0x100));
        assert_eq!(i.serial(), 0x0807_0605_0403_0201);
        let small = ConfigImage::from_bytes(image(256));
        assert!(small.extended_capabilities().is_empty());
        assert_eq!(small.serial(), 0);
        // An ID of 0 that links to itself.
        let mut b = image(4096);
        b[0x100..0x104].copy_from_slice(&0x1000_0000u32.to_le_bytes());
        assert!(ConfigImage::from_bytes(b)
            .extended_capabilities()
            .is_empty());
    }
}
