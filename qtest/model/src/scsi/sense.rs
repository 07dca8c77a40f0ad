// SPDX-License-Identifier: GPL-2.0-or-later
//! Sense data: why a command was not carried out (SPC-4, "Sense data").

/// Status GOOD.
pub const GOOD: u8 = 0;
/// Status CHECK CONDITION: there is sense data.
pub const CHECK_CONDITION: u8 = 2;
/// Bytes of sense data in fixed format.
pub const FIXED_LEN: usize = 18;
/// Bytes of sense data in descriptor format without descriptors.
pub const DESCRIPTOR_LEN: usize = 8;

/// Sense key, additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Qualifier.
    pub ascq: u8,
}

const fn sense(key: u8, asc: u8, ascq: u8) -> Sense {
    Sense { key, asc, ascq }
}

impl Sense {
    /// Nothing to tell.
    pub const NONE: Sense = sense(0, 0, 0);
    /// The medium could not be read.
    pub const READ_ERROR: Sense = sense(3, 0x11, 0);
    /// The medium could not be written.
    pub const WRITE_ERROR: Sense = sense(3, 0x0c, 0);
    /// Unknown operation code.
    pub const INVALID_OPCODE: Sense = sense(5, 0x20, 0);
    /// A block behind the end of the disk.
    pub const LBA_OUT_OF_RANGE: Sense = sense(5, 0x21, 0);
    /// A field of the command that is not supported.
    pub const INVALID_FIELD: Sense = sense(5, 0x24, 0);
    /// There is no such logical unit.
    pub const NO_UNIT: Sense = sense(5, 0x25, 0);
    /// A field of the parameter list that is not supported.
    pub const INVALID_PARAMETER: Sense = sense(5, 0x26, 0);
    /// The parameter list has a wrong length.
    pub const PARAMETER_LENGTH: Sense = sense(5, 0x1a, 0);
    /// There is no medium: the disk has no blocks.
    pub const NO_MEDIUM: Sense = sense(2, 0x3a, 0);
    /// Saved mode pages are not supported.
    pub const SAVING_NOT_SUPPORTED: Sense = sense(5, 0x39, 0);
    /// The unit was powered on.
    pub const POWER_ON: Sense = sense(6, 0x29, 0);
    /// The unit was reset by a task management function.
    pub const UNIT_RESET: Sense = sense(6, 0x29, 3);
    /// The connection was reset by a task management function.
    pub const NEXUS_LOSS: Sense = sense(6, 0x29, 7);
    /// The disk has another size than before.
    pub const CAPACITY_CHANGED: Sense = sense(6, 0x2a, 9);
    /// Logical units came or went.
    pub const LUNS_CHANGED: Sense = sense(6, 0x3f, 0x0e);
    /// The disk is write protected.
    pub const WRITE_PROTECTED: Sense = sense(7, 0x27, 0);

    /// As a current error in fixed format.
    pub fn fixed(self) -> [u8; FIXED_LEN] {
        let mut s = [0; FIXED_LEN];
        for (at, v) in [
            (0, 0x70),
            (2, self.key),
            (7, FIXED_LEN as u8 - 8),
            (12, self.asc),
            (13, self.ascq),
        ] {
            if let Some(b) = s.get_mut(at) {
                *b = v;
            }
        }
        s
    }

    /// As a current error in descriptor format.
    pub fn descriptor(self) -> [u8; DESCRIPTOR_LEN] {
        [0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0]
    }
}
