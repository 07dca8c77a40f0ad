// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What the window remembers of the device; the rules are in the crate's documentation.

use virtio_pci_spec::status::NO_VECTOR;

/// Queues with memory of their own; those above are read from the device each time, except for
/// what a reset tells about all queues.
pub(crate) const QUEUES: usize = 64;

/// What is known of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    size: Option<u16>,
    address: Option<u32>,
    vector: Option<u16>,
}

const UNKNOWN: Queue = Queue {
    size: None,
    address: None,
    vector: None,
};

const AFTER_RESET: Queue = Queue {
    size: None,
    address: Some(0),
    vector: Some(NO_VECTOR),
};

/// Values that a read can be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    /// Device features.
    pub(crate) features: Option<u32>,
    /// `queue_select` as the guest sees it; `None`: whatever the device holds.
    pub(crate) guest_select: Option<u16>,
    /// `queue_select` as the device holds it; `None`: not known.
    pub(crate) device_select: Option<u16>,
    /// Since the driver's reset nothing was written that a reset would undo.
    pub(crate) pristine: bool,
    config_vector: Option<u16>,
    queues: [Queue; QUEUES],
    /// What holds for queues without memory of their own.
    others: Queue,
}

impl Shadow {
    pub(crate) const fn new() -> Self {
        Shadow {
            features: None,
            guest_select: None,
            device_select: None,
            pristine: false,
            config_vector: None,
            queues: [UNKNOWN; QUEUES],
            others: UNKNOWN,
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
        let features = self.features;
        self.forget();
        self.features = features;
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

    fn queue(&self) -> Option<&Queue> {
        let index = usize::from(self.guest_select?);
        Some(self.queues.get(index).unwrap_or(&self.others))
    }

    /// The entry to store a value in that was read for the selected queue.
    fn own_queue(&mut self) -> Option<&mut Queue> {
        let index = usize::from(self.guest_select?);
        self.queues.get_mut(index)
    }

    /// The entries that a write for the selected queue makes unknown.
    fn written_queue(&mut self) -> &mut Queue {
        match self.guest_select.map(usize::from) {
            Some(index) => match self.queues.get_mut(index) {
                Some(q) => q,
                None => &mut self.others,
            },
            None => &mut self.others,
        }
    }

    pub(crate) fn size(&self) -> Option<u16> {
        self.queue()?.size
    }

    pub(crate) fn address(&self) -> Option<u32> {
        self.queue()?.address
    }

    pub(crate) fn queue_vector(&self) -> Option<u16> {
        self.queue()?.vector
    }

    pub(crate) const fn config_vector(&self) -> Option<u16> {
        self.config_vector
    }

    pub(crate) fn learn_size(&mut self, size: u16) {
        if let Some(q) = self.own_queue() {
            q.size = Some(size);
        }
    }

    pub(crate) fn learn_address(&mut self, address: u32) {
        if let Some(q) = self.own_queue() {
            q.address = Some(address);
        }
    }

    pub(crate) fn learn_queue_vector(&mut self, vector: u16) {
        if let Some(q) = self.own_queue() {
            q.vector = Some(vector);
        }
    }

    pub(crate) fn learn_config_vector(&mut self, vector: u16) {
        self.config_vector = Some(vector);
    }

    /// A queue address was written (or may have been).
    pub(crate) fn wrote_address(&mut self) {
        if self.guest_select.is_none() {
            self.forget_queues();
        }
        self.written_queue().address = None;
    }

    /// A queue vector was written (or may have been).
    pub(crate) fn wrote_queue_vector(&mut self, accepted: Option<u16>) {
        if self.guest_select.is_none() {
            self.forget_vectors();
        }
        let known = accepted.filter(|v| *v == NO_VECTOR);
        match self.own_queue() {
            Some(q) => q.vector = known,
            None => self.others.vector = None,
        }
    }

    /// The configuration vector was written (or may have been).
    pub(crate) fn wrote_config_vector(&mut self, accepted: Option<u16>) {
        self.config_vector = accepted.filter(|v| *v == NO_VECTOR);
    }
}
