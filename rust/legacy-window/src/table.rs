// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What each register of the header does: the one place where accesses are decoded.

use virtio_pci_spec::legacy::{field_of, header_len, Field, Register, HEADER};
use virtio_pci_spec::status::NO_VECTOR;

/// What a read of a register gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Ones, without a command; not an error, QEMU's own device does the same.
    Ones,
    /// What is known, or else what the device says.
    Known,
    /// Always what the device says.
    Device,
    /// The same, and the device forgets it.
    Isr,
}

/// What a write of a register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Nothing: read-only.
    Rejected,
    /// Notifies a queue, which needs no command.
    Notify,
    /// Waits in the window until a command depends on it.
    Select,
    /// Goes to the device. Its driver does not wait in vain if the device never gets `harmless`.
    Device { harmless: Option<u16> },
}

/// A register and its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) field: Field,
    pub(crate) read: Read,
    pub(crate) write: Write,
    /// Whether it is one of the selected queue's.
    pub(crate) by_queue: bool,
    /// What it shows of a broken device, which gets no write of it.
    pub(crate) broken: Option<u16>,
}

const fn row(register: Register, read: Read, write: Write) -> Row {
    Row {
        field: field_of(register),
        read,
        write,
        by_queue: false,
        broken: None,
    }
}

impl Row {
    const fn by_queue(self) -> Self {
        Row {
            by_queue: true,
            ..self
        }
    }

    const fn broken(self, shows: u16) -> Self {
        Row {
            broken: Some(shows),
            ..self
        }
    }

    /// Whether a driver would wait in vain if the device never got this value.
    pub(crate) fn matters(&self, value: u64) -> bool {
        match self.write {
            Write::Device { harmless } => harmless.map(u64::from) != Some(value),
            Write::Rejected | Write::Notify | Write::Select => false,
        }
    }
}

const fn written(harmless: u16) -> Write {
    Write::Device {
        harmless: Some(harmless),
    }
}

static TABLE: [Row; HEADER.len()] = [
    row(Register::DeviceFeatures, Read::Known, Write::Rejected),
    row(
        Register::DriverFeatures,
        Read::Device,
        Write::Device { harmless: None },
    ),
    row(Register::QueueAddress, Read::Known, written(0))
        .by_queue()
        .broken(0),
    row(Register::QueueSize, Read::Known, Write::Rejected)
        .by_queue()
        .broken(0),
    row(Register::QueueSelect, Read::Known, Write::Select),
    row(Register::QueueNotify, Read::Ones, Write::Notify),
    row(Register::DeviceStatus, Read::Device, written(0)),
    row(Register::IsrStatus, Read::Isr, Write::Rejected),
    row(Register::ConfigVector, Read::Known, written(NO_VECTOR)).broken(NO_VECTOR),
    row(Register::QueueVector, Read::Known, written(NO_VECTOR))
        .by_queue()
        .broken(NO_VECTOR),
];

/// The register that starts at `offset` of BAR0, if one does.
pub(crate) fn row_at(offset: u32, msix: bool) -> Option<&'static Row> {
    TABLE
        .iter()
        .find(|r| u32::from(r.field.offset) == offset && r.field.offset < header_len(msix))
}

/// What an access to BAR0 is, for who need not ask the window about the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A notification.
    Notify {
        /// Queue index.
        queue: u16,
    },
    /// A read of the ISR.
    Isr,
    /// Anything else.
    Register,
}

/// Decodes an access of `size` bytes at `offset` of BAR0; `write` is the value written. As in
/// QEMU's own legacy device, the offset alone tells the register.
pub fn decode(offset: u32, size: u8, write: Option<u64>) -> Decoded {
    let Some(row) = row_at(offset, false) else {
        return Decoded::Register;
    };
    match (row.read, row.write, write) {
        (_, Write::Notify, Some(value)) => {
            let [low, high, ..] = value.to_le_bytes();
            let high = if size == 1 { 0 } else { high };
            Decoded::Notify {
                queue: u16::from_le_bytes([low, high]),
            }
        }
        (Read::Isr, _, None) => Decoded::Isr,
        _ => Decoded::Register,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: LIO-01, LIO-05
    #[test]
    fn every_register_has_its_row() {
        for (row, field) in TABLE.iter().zip(HEADER) {
            assert_eq!(row.field, field);
            let read_only = row.write == Write::Rejected;
            let shown = matches!(
                field.register,
                Register::DeviceFeatures | Register::QueueSize | Register::IsrStatus
            );
            assert_eq!(read_only, shown);
            let of_queue = matches!(
                field.register,
                Register::QueueAddress | Register::QueueSize | Register::QueueVector
            );
            assert_eq!(row.by_queue, of_queue);
        }
    }
}
