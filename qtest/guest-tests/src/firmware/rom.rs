// SPDX-License-Identifier: GPL-2.0-or-later
//! Expansion ROMs (PCI Firmware Specification).

use anyhow::{ensure, Context, Result};
use virtio_pci_spec::bytes::{get_u16, get_u8};

/// Offsets in an image's header, and in the data structure it points to.
const CHECKSUM: usize = 6;
const DATA: usize = 0x18;
const DEVICE: usize = 6;
const LENGTH: usize = 0x10;
const CODE_TYPE: usize = 0x14;
const INDICATOR: usize = 0x15;
/// Unit of the length.
const BLOCK: usize = 512;
/// Code of a PC's BIOS: the bytes of its image add up to 0.
const PC: u8 = 0;
/// Indicator of the last image.
const LAST: u8 = 0x80;

/// The ROM for another device ID, as QEMU makes it for its own cards.
///
/// # Errors
/// When it is no ROM.
pub(crate) fn with_id(rom: &[u8], id: u16) -> Result<Vec<u8>> {
    let mut rom = rom.to_vec();
    let mut start = 0;
    loop {
        let head = rom.get(start..).unwrap_or_default();
        ensure!(head.starts_with(&[0x55, 0xaa]), "no ROM image at {start}");
        let data = start + usize::from(get_u16(&rom, start + DATA).context("the ROM ends")?);
        let structure = rom.get(data..).unwrap_or_default();
        ensure!(structure.starts_with(b"PCIR"), "no PCI data at {data}");
        let place = rom
            .get_mut(data + DEVICE..data + DEVICE + 2)
            .context("the ROM ends")?;
        let mut difference = 0_u8;
        for (byte, new) in place.iter_mut().zip(id.to_le_bytes()) {
            difference = difference.wrapping_add(*byte).wrapping_sub(new);
            *byte = new;
        }
        if get_u8(&rom, data + CODE_TYPE) == Some(PC) {
            let checksum = rom.get_mut(start + CHECKSUM).context("the ROM ends")?;
            *checksum = checksum.wrapping_add(difference);
        }
        let length = usize::from(get_u16(&rom, data + LENGTH).context("the ROM ends")?) * BLOCK;
        if get_u8(&rom, data + INDICATOR).is_none_or(|last| last & LAST != 0) || length == 0 {
            return Ok(rom);
        }
        start += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_gets_the_id_and_keeps_its_sum() {
        let image = |kind: u8, indicator: u8| {
            let mut image = vec![0; BLOCK];
            image[..2].copy_from_slice(&[0x55, 0xaa]);
            image[DATA] = 0x1c;
            image[0x1c..0x24].copy_from_slice(b"PCIR\xf4\x1a\x41\x10");
            image[0x1c + LENGTH] = 1;
            image[0x1c + CODE_TYPE] = kind;
            image[0x1c + INDICATOR] = indicator;
            let sum = image.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            image[CHECKSUM] = image[CHECKSUM].wrapping_sub(sum);
            image
        };
        let rom = [image(PC, 0), image(3, LAST)].concat();
        let changed = with_id(&rom, 0x1000).unwrap();
        assert_eq!(changed.len(), rom.len());
        for start in [0, BLOCK] {
            assert_eq!(changed[start + 0x1c + DEVICE..][..2], [0, 0x10]);
        }
        let sum = changed[..BLOCK]
            .iter()
            .fold(0_u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!(sum, 0);
        // The second image is no PC's, its bytes before the structure stay.
        assert_eq!(changed[BLOCK..][..0x1c], rom[BLOCK..][..0x1c]);
        for bad in [&rom[..0x1c], &rom[..1], &rom[1..]] {
            assert!(with_id(bad, 1).is_err());
        }
    }
}
