// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! How an access to the device configuration is cut into commands.

use virtio_pci_spec::config::field_at;
use virtio_pci_spec::DeviceType;

/// Admin commands address the device configuration with one byte.
const REACH: u16 = 256;

/// (Part of) one element of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Offset in commands.
    pub(crate) offset: u8,
    /// Bytes, at least 1.
    pub(crate) len: u8,
    pub(crate) writable: bool,
}

/// How long a read at `offset` may be so that it brings the rest of its field with it: the longest
/// that the processor could make there (1, 2 or 4 bytes, aligned) inside the field and the first
/// `config_len` bytes. 1 where the field is not known.
pub(crate) fn stretch(device: DeviceType, config_len: u16, offset: u8) -> u8 {
    let pos = u16::from(offset);
    let Some(field) = field_at(device, pos) else {
        return 1;
    };
    let left = (field.offset + field.len())
        .min(config_len)
        .min(REACH)
        .saturating_sub(pos);
    [4u8, 2]
        .into_iter()
        .find(|len| offset % *len == 0 && u16::from(*len) <= left)
        .unwrap_or(1)
}

/// The first piece of an access to `want` (at least 1) bytes at `pos`; `None` behind the end.
pub(crate) fn piece(device: DeviceType, config_len: u16, pos: u32, want: u8) -> Option<Piece> {
    let end = config_len.min(REACH);
    let offset = u8::try_from(pos).ok().filter(|at| u16::from(*at) < end)?;
    let pos = u16::from(offset);
    // Bytes of fields that this version does not know: one by one, which is inside a field
    // wherever its borders are. Whether they can be written is for the device to say.
    let (left, writable) = match field_at(device, pos) {
        None => (1, true),
        Some(f) => {
            let elem = u16::from(f.elem.max(1));
            (elem - (pos - f.offset) % elem, f.writable)
        }
    };
    let len = left.min(end - pos).min(u16::from(want.max(1)));
    Some(Piece {
        offset,
        len: u8::try_from(len).unwrap_or(1),
        writable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn cut(device: DeviceType, len: u16, mut pos: u32, mut want: u8) -> Vec<(u32, u8, bool)> {
        let mut out = Vec::new();
        while want > 0 {
            let p = piece(device, len, pos, want);
            let bytes = p.map_or(want, |p| p.len);
            assert!(bytes >= 1 && bytes <= want);
            out.push((pos, bytes, p.is_some()));
            pos = pos.wrapping_add(u32::from(bytes));
            want -= bytes;
        }
        out
    }

    // Covers: LIO-04, LEG-12
    #[test]
    fn splits_at_element_borders_and_keeps_parts_of_a_scalar() {
        use DeviceType::{Block, Net};
        let yes = |v: &[(u32, u8)]| v.iter().map(|(a, b)| (*a, *b, true)).collect::<Vec<_>>();
        assert_eq!(cut(Net, 28, 0, 4), yes(&[(0, 1), (1, 1), (2, 1), (3, 1)]));
        assert_eq!(cut(Net, 28, 4, 4), yes(&[(4, 1), (5, 1), (6, 2)]));
        assert_eq!(cut(Net, 28, 7, 4), yes(&[(7, 1), (8, 2), (10, 1)]));
        assert_eq!(cut(Block, 96, 4, 4), yes(&[(4, 4)]));
        assert_eq!(cut(Block, 96, 6, 4), yes(&[(6, 2), (8, 2)]));
        assert_eq!(cut(Block, 96, 1, 2), yes(&[(1, 2)]));
    }

    // Covers: LIO-10
    #[test]
    fn the_configuration_ends_where_the_device_says() {
        use DeviceType::{Entropy, Net, P9};
        assert_eq!(
            cut(Net, 11, 8, 4),
            [(8, 2, true), (10, 1, true), (11, 1, false)]
        );
        assert_eq!(cut(Net, 28, 28, 4), [(28, 4, false)]);
        assert_eq!(cut(Entropy, 0, 0, 2), [(0, 2, false)]);
        assert_eq!(
            cut(P9, 300, 254, 4),
            [(254, 1, true), (255, 1, true), (256, 2, false)]
        );
        assert_eq!(cut(Net, 28, u32::MAX, 1), [(u32::MAX, 1, false)]);
    }

    #[test]
    fn a_read_stretches_over_its_field_and_no_further() {
        use DeviceType::{Block, Console, Net, P9};
        let all = |device, len| {
            (0..8)
                .map(|at| stretch(device, len, at))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(Net, 28), [4, 1, 2, 1, 2, 1, 2, 1]);
        assert_eq!(
            all(Net, 7),
            [4, 1, 2, 1, 2, 1, 1, 1],
            "a short configuration"
        );
        assert_eq!(all(Block, 96), [4, 1, 2, 1, 4, 1, 2, 1]);
        assert_eq!(all(Console, 12), [2, 1, 2, 1, 4, 1, 2, 1]);
        assert_eq!(
            stretch(P9, 300, 252),
            4,
            "the last bytes a command can address"
        );
        assert_eq!(stretch(P9, 300, 254), 2);
        assert_eq!(stretch(Net, 40, 28), 1, "no field there that is known");
    }

    #[test]
    fn unknown_fields_go_byte_by_byte() {
        assert_eq!(
            cut(DeviceType::Net, 40, 26, 4),
            [(26, 2, true), (28, 1, true), (29, 1, true)]
        );
    }
}
