// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The legacy register map of I/O BAR0 ("Legacy Interfaces: A Note on PCI Device Layout").

/// A field of the legacy header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Device features, bits 0 to 31.
    DeviceFeatures,
    /// Driver features, bits 0 to 31.
    DriverFeatures,
    /// Queue address / 4096 of the selected queue.
    QueueAddress,
    /// Size of the selected queue; 0 if it does not exist.
    QueueSize,
    /// Queue selector.
    QueueSelect,
    /// Queue notify: a write of a queue index is the notification.
    QueueNotify,
    /// Device status; writing 0 resets.
    DeviceStatus,
    /// ISR status; reading clears it.
    IsrStatus,
    /// Configuration change vector (only while MSI-X is enabled).
    ConfigVector,
    /// Vector of the selected queue (only while MSI-X is enabled).
    QueueVector,
}

/// Which of a VF's legacy register spaces an admin command goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The legacy common configuration (the header of BAR0, vectors included).
    Common = 0,
    /// The device configuration; offset 0 is its first byte whatever the MSI-X state.
    Device = 1,
}

/// A field of the header: where it lies and how wide it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which register.
    pub register: Register,
    /// Byte offset in BAR0 and in LEGACY_COMMON_CFG commands.
    pub offset: u8,
    /// Width in bytes.
    pub size: u8,
}

const fn field(register: Register, offset: u8, size: u8) -> Field {
    Field {
        register,
        offset,
        size,
    }
}

/// Every field of the header in ascending order; the last two exist only with MSI-X enabled.
pub const HEADER: [Field; 10] = [
    field(Register::DeviceFeatures, 0, 4),
    field(Register::DriverFeatures, 4, 4),
    field(Register::QueueAddress, 8, 4),
    field(Register::QueueSize, 12, 2),
    field(Register::QueueSelect, 14, 2),
    field(Register::QueueNotify, 16, 2),
    field(Register::DeviceStatus, 18, 1),
    field(Register::IsrStatus, 19, 1),
    field(Register::ConfigVector, 20, 2),
    field(Register::QueueVector, 22, 2),
];

/// Length of the header while MSI-X is disabled.
pub const HEADER_LEN: u8 = 20;
/// Length of the header while MSI-X is enabled.
pub const HEADER_LEN_MSIX: u8 = 24;

/// Length of the header, and so the offset of the device configuration.
pub const fn header_len(msix: bool) -> u8 {
    if msix {
        HEADER_LEN_MSIX
    } else {
        HEADER_LEN
    }
}

/// The field that contains byte `offset`, if it belongs to the header in this MSI-X state.
pub fn field_at(offset: u8, msix: bool) -> Option<Field> {
    HEADER
        .into_iter()
        .find(|f| offset >= f.offset && offset < f.offset + f.size)
        .filter(|f| f.offset < header_len(msix))
}

/// The field a register occupies.
pub const fn field_of(register: Register) -> Field {
    let mut i = 0;
    while i + 1 < HEADER.len() && HEADER[i].register as u8 != register as u8 {
        i += 1;
    }
    HEADER[i]
}

/// Size of the virtual I/O BAR0 for a device configuration of `config_len` bytes: the next power
/// of two that holds the MSI-X header and the configuration.
pub const fn bar0_size(config_len: u32) -> u32 {
    (HEADER_LEN_MSIX as u32)
        .saturating_add(config_len)
        .next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_no_gaps() {
        let mut next = 0;
        for (i, f) in HEADER.into_iter().enumerate() {
            assert_eq!(f.offset, next);
            next += f.size;
            assert_eq!(i == 7, next == HEADER_LEN);
        }
        assert_eq!(next, HEADER_LEN_MSIX);
    }

    // Covers: LIO-01, LIO-02
    #[test]
    fn vectors_exist_only_with_msix() {
        assert_eq!(field_at(20, false), None);
        assert_eq!(
            field_at(20, true).map(|f| f.register),
            Some(Register::ConfigVector)
        );
        assert_eq!(
            field_at(23, true).map(|f| f.register),
            Some(Register::QueueVector)
        );
        assert_eq!(field_at(24, true), None);
        assert_eq!(
            field_at(19, false).map(|f| f.register),
            Some(Register::IsrStatus)
        );
        for f in HEADER {
            assert_eq!(field_of(f.register), f);
        }
    }

    // Covers: LIO-10
    #[test]
    fn bar0_sizes_of_all_types() {
        for (len, size) in [
            (28, 64),
            (96, 128),
            (12, 64),
            (0, 32),
            (16, 64),
            (36, 64),
            (40, 64),
            (41, 128),
        ] {
            assert_eq!(bar0_size(len), size);
        }
    }
}
