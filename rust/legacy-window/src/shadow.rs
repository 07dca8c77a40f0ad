// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What the window remembers of the device; the rules are in the crate's documentation.

use virtio_pci_spec::legacy::Register;
use virtio_pci_spec::status::NO_VECTOR;

/// Queues with memory of their own; those above are read from the device each time, except for
/// what a reset tells about all queues.
const QUEUES: usize = 64;

/// What is known of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    size: Option<u32>,
    address: Option<u32>,
    vector: Option<u32>,
}

const AFTER_RESET: Queue = Queue {
    size: None,
    address: Some(0),
    vector: Some(NO_VECTOR as u32),
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
    pub(crate) fn new() -> Self {
        Shadow {
            features: None,
            guest_select: None,
            device_select: None,
            pristine: false,
            config_vector: None,
            queues: [Queue::default(); QUEUES],
            others: Queue::default(),
        }
    }

    /// Anything may have changed; only what the guest itself wrote stays.
    pub(crate) fn forget(&mut self) {
        *self = Shadow {
            guest_select: self.guest_select,
            ..Shadow::new()
        };
    }

    /// Like [`Shadow::forget`], but the device's features are the same for its life.
    pub(crate) fn forget_queues(&mut self) {
        *self = Shadow {
            features: self.features,
            guest_select: self.guest_select,
            ..Shadow::new()
        };
    }

    /// The driver has reset the device.
    pub(crate) fn driver_reset(&mut self) {
        *self = Shadow {
            features: self.features,
            pristine: true,
            config_vector: AFTER_RESET.vector,
            queues: [AFTER_RESET; QUEUES],
            others: AFTER_RESET,
            ..Shadow::new()
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
