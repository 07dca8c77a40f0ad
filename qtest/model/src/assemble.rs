// SPDX-License-Identifier: GPL-2.0-or-later
//! Putting functions together (features, queues, BARs, configuration space), and the device from them.

use virtio_modern_spec::features::{self as f, bit};
use virtio_pci_spec::DeviceType;

use crate::bars::{BarLayout, BarNeeds};
use crate::config::{ConfigError, Knobs, ModelConfig, SrIovCapability, MAX_VECTORS};
use crate::config_space::{ConfigSpace, Identity, Power, SriovNeeds};
use crate::device::VirtioDevice;
use crate::effect::{FrameSwitch, FunctionId, NoSwitch};
use crate::function::Function;
use crate::function_core::Core;
use crate::model::Model;
use crate::msix::Msix;
use crate::queue::VirtQueue;
use crate::virtio::{QueueNumbers, VirtioState};

/// Feature bits that belong to device types ("Feature Bits").
const DEVICE_BITS: u64 = 0x00ff_ffff | !0 << 50;
/// Longest device configuration that the one-byte offset of an admin command can reach.
const MAX_CONFIG_LEN: u16 = 256;

fn bad(device: &dyn VirtioDevice, why: &str) -> ConfigError {
    ConfigError::Device(device.device_type().name(), why.to_owned())
}

fn ring_bits(k: &Knobs) -> u64 {
    let mut bits = 0;
    for (on, n) in [
        (k.indirect_desc, f::INDIRECT_DESC),
        (k.event_idx, f::EVENT_IDX),
    ] {
        if on {
            bits |= bit(n);
        }
    }
    bits
}

fn modern_offer(k: &Knobs, device: u64, is_pf: bool) -> u64 {
    let mut bits = (device & DEVICE_BITS) | bit(f::VERSION_1) | ring_bits(k);
    for (on, n) in [
        (k.access_platform, f::ACCESS_PLATFORM),
        (k.order_platform, f::ORDER_PLATFORM),
        (k.ring_reset, f::RING_RESET),
        (k.notification_data, f::NOTIFICATION_DATA),
        (is_pf && k.notif_config_data.is_some(), f::NOTIF_CONFIG_DATA),
        (is_pf, f::SR_IOV),
        (is_pf, f::ADMIN_VQ),
    ] {
        if on {
            bits |= bit(n);
        }
    }
    if is_pf && k.offer_everything {
        return u64::MAX;
    }
    bits
}

fn legacy_offer(k: &Knobs, device: u64) -> u32 {
    let mut bits = (device & 0xff_ffff) | ring_bits(k) | bit(f::ANY_LAYOUT);
    for (on, n) in [
        (k.notify_on_empty, f::NOTIFY_ON_EMPTY),
        (k.legacy_unused_bit, f::UNUSED),
    ] {
        if on {
            bits |= bit(n);
        }
    }
    bits as u32
}

/// Queues of a device, then for a PF the gap and the admin queues.
fn make_queues(
    k: &Knobs,
    device: &dyn VirtioDevice,
    is_pf: bool,
) -> Result<(QueueNumbers, Vec<Option<VirtQueue>>), ConfigError> {
    let mut queues = Vec::new();
    for size in device.queue_sizes() {
        queues.push(match size {
            0 => None,
            n => Some(
                VirtQueue::new(*n)
                    .ok_or_else(|| bad(device, "a queue size is no power of two up to 32768"))?,
            ),
        });
    }
    let device_queues =
        u16::try_from(queues.len()).map_err(|_| bad(device, "more than 65535 queues"))?;
    let (gap, num) = if is_pf {
        (k.admin_queue_gap, k.admin_queues)
    } else {
        (0, 0)
    };
    let admin_index = device_queues
        .checked_add(gap)
        .filter(|i| i.checked_add(num).is_some())
        .ok_or_else(|| bad(device, "no queue numbers left for admin queues"))?;
    queues.extend((0..gap).map(|_| None));
    for _ in 0..num {
        queues.push(VirtQueue::new(k.admin_queue_size));
    }
    Ok((
        QueueNumbers {
            device: device_queues,
            admin_index,
            admin_num: num,
        },
        queues,
    ))
}

fn bar_layout(
    config: &ModelConfig,
    device: &dyn VirtioDevice,
    queues: u16,
    vectors: u16,
    is_pf: bool,
) -> BarLayout {
    let k = &config.knobs;
    BarLayout::new(BarNeeds {
        vectors,
        queues,
        multiplier: k.notify_multiplier,
        notification_data: k.notification_data,
        device_len: u64::from(device.config_len()).max(k.device_structure_len.into()),
        legacy_slots: if is_pf { config.total_vfs.into() } else { 1 },
        bar0: !is_pf && k.vf_bar0,
    })
}

fn vector_count(k: &Knobs, queues: &[Option<VirtQueue>]) -> u16 {
    k.msix_vectors.unwrap_or_else(|| {
        let used = queues.iter().flatten().count() + 1;
        used.clamp(2, usize::from(MAX_VECTORS)) as u16
    })
}

impl Function {
    /// Takes from `other` what is the same in both and what nobody changed.
    fn share(&mut self, other: &Self) {
        self.core.config.share(&other.core.config);
        self.core.virtio.queues.share(&other.core.virtio.queues);
    }
}

/// Makes the function `id` around `device`; the PF also needs the BARs of a VF.
fn function(
    config: &ModelConfig,
    id: FunctionId,
    device: Box<dyn VirtioDevice>,
    vf_bars: Option<&BarLayout>,
) -> Result<Function, ConfigError> {
    let k = &config.knobs;
    let is_pf = id == FunctionId::Pf;
    let device_type: DeviceType = device.device_type();
    if device_type != config.vf_type {
        return Err(bad(device.as_ref(), "not the type that was asked for"));
    }
    if device.config_len() > MAX_CONFIG_LEN {
        return Err(bad(device.as_ref(), "configuration of more than 256 bytes"));
    }
    let (numbers, queues) = make_queues(k, device.as_ref(), is_pf)?;
    let vectors = vector_count(k, &queues);
    let bars = bar_layout(config, device.as_ref(), queues.len() as u16, vectors, is_pf);
    let vf_device = k.vf_device_id.unwrap_or(device_type.modern_pci_id());
    let interrupt_pin = is_pf && k.pf_intx;
    let identity = Identity {
        device_type,
        device_id: if is_pf {
            device_type.modern_pci_id()
        } else {
            vf_device
        },
        serial: config.serial,
        vectors,
        multiplier: k.notify_multiplier,
        bogus: k.bogus_capabilities,
        interrupt_pin,
        power: (!is_pf && k.vf_power).then_some(Power {
            soft_reset: k.vf_soft_reset,
        }),
    };
    let sriov = match (vf_bars, config.sriov) {
        (Some(vf_bars), SrIovCapability::Own) => Some(SriovNeeds::Own {
            total: config.total_vfs,
            vf_device,
            vf_bars,
        }),
        (Some(_), SrIovCapability::FrontEnd) => Some(SriovNeeds::FrontEnd),
        (None, _) => None,
    };
    let space = ConfigSpace::new(&identity, &bars, sriov.as_ref());
    let mut virtio = VirtioState::new(
        modern_offer(k, device.features(), is_pf),
        legacy_offer(k, device.legacy_features()),
        numbers,
        queues,
        config.leniency.chain,
    );
    if is_pf {
        virtio.set_config_data_base(k.notif_config_data.unwrap_or(0));
        if k.offer_everything {
            virtio.offered_high = u64::MAX;
        }
    }
    let msix = Msix::new(vectors);
    let mut core = Core::new(id, virtio, space, msix, bars, interrupt_pin);
    core.wants_kicks = !k.suppress_kicks;
    Ok(Function { core, device })
}

impl Model {
    /// Builds the device. `make` is called once for every function; `switch` connects those that
    /// send frames.
    ///
    /// # Errors
    /// The configuration is not possible; the error says what is wrong with it.
    pub fn with_devices(
        config: ModelConfig,
        make: &mut dyn FnMut(FunctionId) -> Result<Box<dyn VirtioDevice>, ConfigError>,
        switch: Box<dyn FrameSwitch>,
    ) -> Result<Model, ConfigError> {
        config.validate()?;
        let mut vfs: Vec<Function> = Vec::with_capacity(config.total_vfs.into());
        for n in 1..=config.total_vfs {
            let id = FunctionId::Vf(n);
            let mut vf = function(&config, id, make(id)?, None)?;
            // Thousands of VFs of which few are used take little memory.
            if let Some(first) = vfs.first() {
                vf.share(first);
            }
            vfs.push(vf);
        }
        let vf_bars = vfs.first().map(|f| f.core.bars);
        let pf_device = make(FunctionId::Pf)?;
        let pf = function(&config, FunctionId::Pf, pf_device, vf_bars.as_ref())?;
        let at_start = config.vfs_at_start;
        let mut model = Model::new(config, pf, vfs, switch);
        if at_start > 0 {
            model.start_vfs(at_start);
        }
        Ok(model)
    }

    /// As [`with_devices`](Self::with_devices) for a type whose functions send no frames. `make` says in
    /// words why there is no such device; `kind` is the name of the type.
    pub(crate) fn without_switch(
        config: ModelConfig,
        kind: &'static str,
        make: &mut dyn FnMut(FunctionId) -> Result<Box<dyn VirtioDevice>, String>,
    ) -> Result<Model, ConfigError> {
        let mut make = |f| make(f).map_err(|why| ConfigError::Device(kind, why));
        Self::with_devices(config, &mut make, Box::new(NoSwitch))
    }
}
