// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The registers of the header: what each does, in the one place where accesses are decoded, and what
//! the window remembers of them; the rules are in the crate's documentation.

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
    /// Goes to the device. Its driver does not wait in vain if the device never gets this value.
    Device(Option<u16>),
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

impl Row {
    /// Whether a driver would wait in vain if the device never got this value.
    pub(crate) fn matters(&self, value: u64) -> bool {
        match self.write {
            Write::Device(harmless) => harmless.map(u64::from) != Some(value),
            Write::Rejected | Write::Notify | Write::Select => false,
        }
    }
}

const fn row(
    register: Register,
    read: Read,
    write: Write,
    by_queue: bool,
    broken: Option<u16>,
) -> Row {
    Row {
        field: field_of(register),
        read,
        write,
        by_queue,
        broken,
    }
}

static TABLE: [Row; HEADER.len()] = {
    use Register as R;
    use Write::{Notify, Rejected, Select};
    const SETUP: Write = Write::Device(Some(0));
    const VECTOR: Write = Write::Device(Some(NO_VECTOR));
    [
        row(R::DeviceFeatures, Read::Known, Rejected, false, None),
        row(
            R::DriverFeatures,
            Read::Device,
            Write::Device(None),
            false,
            None,
        ),
        row(R::QueueAddress, Read::Known, SETUP, true, Some(0)),
        row(R::QueueSize, Read::Known, Rejected, true, Some(0)),
        row(R::QueueSelect, Read::Known, Select, false, None),
        row(R::QueueNotify, Read::Ones, Notify, false, None),
        row(R::DeviceStatus, Read::Device, SETUP, false, None),
        row(R::IsrStatus, Read::Isr, Rejected, false, None),
        row(R::ConfigVector, Read::Known, VECTOR, false, Some(NO_VECTOR)),
        row(R::QueueVector, Read::Known, VECTOR, true, Some(NO_VECTOR)),
    ]
};

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

/// Queues with memory of their own; those above are read from the device each time, except for
/// what a reset tells about all queues.
const QUEUES: usize = 64;

/// What is known of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queue {
    size: Option<u32>,
    address: Option<u32>,
    vector: Option<u32>,
}

const UNKNOWN: Queue = Queue {
    size: None,
    address: None,
    vector: None,
};

const AFTER_RESET: Queue = Queue {
    address: Some(0),
    vector: Some(NO_VECTOR as u32),
    ..UNKNOWN
};

impl Queue {
    fn cell(&mut self, register: Register) -> Option<&mut Option<u32>> {
        match register {
            Register::QueueSize => Some(&mut self.size),
            Register::QueueAddress => Some(&mut self.address),
            Register::QueueVector => Some(&mut self.vector),
            _ => None,
        }
    }
}

/// Values that a read can be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    /// Device features.
    features: Option<u32>,
    /// `queue_select` as the guest sees it; `None`: whatever the device holds.
    pub(crate) guest_select: Option<u16>,
    /// `queue_select` as the device holds it; `None`: not known.
    pub(crate) device_select: Option<u16>,
    /// Since the driver's reset nothing was written that a reset would undo.
    pub(crate) pristine: bool,
    config_vector: Option<u32>,
    queues: [Queue; QUEUES],
    /// What holds for queues without memory of their own.
    others: Queue,
}

impl Shadow {
    /// Nothing is known.
    pub(crate) const NOTHING: Self = Shadow {
        features: None,
        guest_select: None,
        device_select: None,
        pristine: false,
        config_vector: None,
        queues: [UNKNOWN; QUEUES],
        others: UNKNOWN,
    };

    /// Anything may have changed; only what the guest itself wrote stays, and the device's features,
    /// which are the same for its life.
    pub(crate) fn forget_queues(&mut self) {
        *self = Shadow {
            features: self.features,
            guest_select: self.guest_select,
            ..Shadow::NOTHING
        };
    }

    /// Like [`Shadow::forget_queues`], and another device may have other features.
    pub(crate) fn forget(&mut self) {
        self.forget_queues();
        self.features = None;
    }

    /// The driver has reset the device.
    pub(crate) fn driver_reset(&mut self) {
        *self = Shadow {
            features: self.features,
            pristine: true,
            config_vector: AFTER_RESET.vector,
            queues: [AFTER_RESET; QUEUES],
            others: AFTER_RESET,
            ..Shadow::NOTHING
        };
    }

    /// MSI-X Enable has changed: the specification does not say what becomes of the vectors.
    pub(crate) fn forget_vectors(&mut self) {
        self.config_vector = None;
        self.others.vector = None;
        for q in &mut self.queues {
            q.vector = None;
        }
    }

    /// What a read of the register would give, if that is known.
    pub(crate) fn get(&self, register: Register) -> Option<u32> {
        match register {
            Register::DeviceFeatures => self.features,
            Register::ConfigVector => self.config_vector,
            Register::QueueSelect => self.guest_select.map(u32::from),
            _ => {
                let index = usize::from(self.guest_select?);
                let mut queue = *self.queues.get(index).unwrap_or(&self.others);
                *queue.cell(register)?
            }
        }
    }

    /// Where a value is kept; `None` if it is not.
    fn cell(&mut self, register: Register) -> Option<&mut Option<u32>> {
        match register {
            Register::DeviceFeatures => Some(&mut self.features),
            Register::ConfigVector => Some(&mut self.config_vector),
            _ => {
                let index = usize::from(self.guest_select?);
                self.queues.get_mut(index)?.cell(register)
            }
        }
    }

    /// The device says which queue is selected.
    pub(crate) fn learn_select(&mut self, queue: u16) {
        self.guest_select = Some(queue);
        self.device_select = Some(queue);
    }

    /// A read of the register gave this.
    pub(crate) fn learn(&mut self, register: Register, value: u32) {
        if let Some(cell) = self.cell(register) {
            *cell = Some(value);
        }
    }

    /// The register was written. What the device made of it is known only where it is no vector.
    pub(crate) fn wrote(&mut self, register: Register, value: u32) {
        let known = match register {
            Register::ConfigVector | Register::QueueVector => {
                Some(value).filter(|v| *v == NO_VECTOR.into())
            }
            _ => None,
        };
        match self.cell(register) {
            Some(cell) => *cell = known,
            None => {
                if let Some(cell) = self.others.cell(register) {
                    *cell = None;
                }
            }
        }
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
