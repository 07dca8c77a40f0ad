// SPDX-License-Identifier: GPL-2.0-or-later
//! The virtio state of one function. The legacy and the modern interface are two views of it.

use virtio_modern_spec::features::{self, bit};
use virtio_pci_spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK, ISR_CONFIG, ISR_QUEUE, NO_VECTOR};

use crate::queue::{ChainRules, Mode, QueueSet, VirtQueue};

/// Descriptors of a chain that `lenient-chain` still takes.
const LENIENT_CHAIN: u32 = 1024;

/// Where the queues of a function lie in its queue numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueNumbers {
    /// num_queues: queues 0 up to this are the device type's.
    pub(crate) device: u16,
    /// First admin queue.
    pub(crate) admin_index: u16,
    /// Number of admin queues.
    pub(crate) admin_num: u16,
}

impl QueueNumbers {
    pub(crate) fn is_admin(&self, queue: u16) -> bool {
        queue >= self.admin_index && queue - self.admin_index < self.admin_num
    }
}

#[derive(Debug)]
pub(crate) struct VirtioState {
    /// Offered on the modern interface, bits 0 to 63.
    pub(crate) offered: u64,
    /// Offered on the modern interface, bits 64 to 127.
    pub(crate) offered_high: u64,
    /// Offered in the legacy view.
    pub(crate) legacy_offered: u32,
    /// As the driver wrote them.
    pub(crate) driver_features: u64,
    pub(crate) driver_features_high: u64,
    pub(crate) device_feature_select: u32,
    pub(crate) driver_feature_select: u32,
    pub(crate) status: u8,
    pub(crate) isr: u8,
    pub(crate) config_vector: u16,
    /// queue_select of the modern interface.
    pub(crate) queue_select: u16,
    /// Queue selector of the legacy interface.
    pub(crate) legacy_select: u16,
    /// Last value written to the legacy notify register.
    pub(crate) legacy_notify: u16,
    generation: u8,
    generation_read: bool,
    /// A reset is under way until this time.
    pub(crate) resetting_until: Option<u64>,
    pub(crate) numbers: QueueNumbers,
    pub(crate) queues: QueueSet,
    lenient_chain: bool,
    /// queue_notif_config_data of the first admin queue, where offered.
    config_data_base: u16,
}

impl VirtioState {
    pub(crate) fn new(
        offered: u64,
        legacy_offered: u32,
        numbers: QueueNumbers,
        queues: Vec<Option<VirtQueue>>,
        lenient_chain: bool,
    ) -> Self {
        VirtioState {
            offered,
            offered_high: 0,
            legacy_offered,
            driver_features: 0,
            driver_features_high: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            isr: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            legacy_select: 0,
            legacy_notify: 0,
            generation: 0,
            generation_read: false,
            resetting_until: None,
            numbers,
            queues: QueueSet::new(queues),
            lenient_chain,
            config_data_base: 0,
        }
    }

    pub(crate) fn set_config_data_base(&mut self, base: u16) {
        self.config_data_base = base;
    }

    /// queue_notif_config_data: different for every queue.
    pub(crate) fn notif_config_data(&self, index: u16) -> u16 {
        let from_admin = index.wrapping_sub(self.numbers.admin_index);
        self.config_data_base.wrapping_add(from_admin)
    }

    /// The queue whose queue_notif_config_data is `data`, if there is one.
    pub(crate) fn queue_of_config_data(&self, data: u16) -> u16 {
        data.wrapping_sub(self.config_data_base)
            .wrapping_add(self.numbers.admin_index)
    }

    /// Everything the driver set, except what shows on the configuration generation.
    pub(crate) fn reset(&mut self) {
        self.driver_features = 0;
        self.driver_features_high = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.status = 0;
        self.isr = 0;
        self.config_vector = NO_VECTOR;
        self.queue_select = 0;
        self.legacy_select = 0;
        self.legacy_notify = 0;
        self.resetting_until = None;
        for q in self.queues.used_mut() {
            q.reset();
        }
    }

    pub(crate) fn queue(&self, index: u16) -> Option<&VirtQueue> {
        self.queues.get(index)
    }

    pub(crate) fn queue_mut(&mut self, index: u16) -> Option<&mut VirtQueue> {
        self.queues.get_mut(index)
    }

    /// The driver has not accepted VERSION_1.
    pub(crate) fn is_legacy(&self) -> bool {
        self.driver_features & bit(features::VERSION_1) == 0
    }

    /// What the accepted features mean: nothing at all for a legacy driver that accepts every bit
    /// blindly, as the probe bit shows.
    pub(crate) fn effective(&self) -> u64 {
        if !self.is_legacy() {
            return self.driver_features;
        }
        if self.driver_features & bit(features::UNUSED) != 0 {
            return 0;
        }
        self.driver_features & features::LEGACY_MASK
    }

    pub(crate) fn has(&self, n: u32) -> bool {
        self.effective() & bit(n) != 0
    }

    pub(crate) fn chain_rules(&self) -> ChainRules {
        ChainRules {
            indirect: self.has(features::INDIRECT_DESC),
            max_len: self.lenient_chain.then_some(LENIENT_CHAIN),
        }
    }

    pub(crate) fn driver_ok(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.status & DEVICE_NEEDS_RESET != 0
    }

    /// Whether queue `index` may be served, as far as the driver's settings go.
    pub(crate) fn queue_live(&self, index: u16) -> bool {
        if self.needs_reset() || self.resetting_until.is_some() {
            return false;
        }
        match self.queue(index).map(|q| q.mode) {
            Some(Mode::Legacy) => true,
            Some(Mode::Modern) => self.driver_ok(),
            Some(Mode::Off) | None => false,
        }
    }

    /// The device configuration changed: the generation shows it to a driver that looked.
    pub(crate) fn config_changed(&mut self) {
        if self.generation_read {
            self.generation = self.generation.wrapping_add(1);
            self.generation_read = false;
        }
    }

    /// A driver reads config_generation.
    pub(crate) fn read_generation(&mut self) -> u8 {
        self.generation_read = true;
        self.generation
    }

    pub(crate) fn set_isr_queue(&mut self) {
        self.isr |= ISR_QUEUE;
    }

    pub(crate) fn set_isr_config(&mut self) {
        self.isr |= ISR_CONFIG;
    }

    pub(crate) fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// Feature bits that decide about rings changed after queues were set up: legacy drivers may
    /// do that.
    pub(crate) fn refresh_rings(&mut self) {
        let event_idx = self.has(features::EVENT_IDX);
        for q in self.queues.used_mut() {
            if q.mode == Mode::Legacy {
                q.set_event_idx(event_idx);
            }
        }
    }

    /// queue_notify_off: every queue has an address of its own where the multiplier allows.
    pub(crate) fn notify_off(&self, index: u16) -> u16 {
        index
    }
}
