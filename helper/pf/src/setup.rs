// SPDX-License-Identifier: GPL-2.0-or-later
//! From a function that was reset to DRIVER_OK ("Device Initialization", "PCI-specific
//! Initialization And Device Operation").

use std::collections::BTreeSet;

use driver_virtqueue::{Barriers, Layout, QueueConfig, SplitQueue};
use pci_transport::{DmaAddressing, IrqEvent, PciFunction, Width};
use virtio_modern_spec::common as c;
use virtio_modern_spec::features::{
    bit, ACCESS_PLATFORM, ADMIN_VQ, EVENT_IDX, NOTIF_CONFIG_DATA, ORDER_PLATFORM, SR_IOV, VERSION_1,
};
use virtio_pci_spec::{pci, status};

use crate::admin::{AdminQueue, Kick, SLOT_LEN};
use crate::caps::Structures;
use crate::config::{AccessPlatform, PfConfig};
use crate::error::PfError;
use crate::regs::{name, Common};

/// Features without which there is nothing to do here.
const REQUIRED: u64 = bit(VERSION_1) | bit(ADMIN_VQ) | bit(SR_IOV);
/// All features that this driver may accept. None belongs to a device type: the PF's own data path
/// is not used. RING_PACKED, IN_ORDER, NOTIFICATION_DATA, RING_RESET and SUSPEND are left alone.
const WANTED: u64 =
    REQUIRED | bit(ACCESS_PLATFORM) | bit(ORDER_PLATFORM) | bit(NOTIF_CONFIG_DATA) | bit(EVENT_IDX);

const REQUIRED_NAMES: [(u32, &str); 3] = [
    (VERSION_1, "VERSION_1"),
    (ADMIN_VQ, "ADMIN_VQ"),
    (SR_IOV, "SR_IOV"),
];

/// Admin queues that are used, of those that the device has.
pub(crate) const MAX_QUEUES: usize = 4;

/// Which of the interrupt events stands for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vectors {
    pub(crate) queues: [Option<usize>; MAX_QUEUES],
    pub(crate) config: Option<usize>,
}

impl Vectors {
    pub(crate) fn of_queue(&self, queue: usize) -> Option<usize> {
        self.queues.get(queue).copied().flatten()
    }

    /// How many different ones are in use.
    pub(crate) fn count(&self) -> u32 {
        let all = self.queues.iter().chain([&self.config]);
        let used: BTreeSet<usize> = all.copied().flatten().collect();
        u32::try_from(used.len()).unwrap_or(0)
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) offered: u64,
    pub(crate) features: u64,
    pub(crate) admin_index: u16,
    pub(crate) admin_num: u16,
    pub(crate) queue_size: u16,
    pub(crate) vectors: Vectors,
}

/// The features to accept of those offered; an error if one that is needed is missing.
fn choose(function: &dyn PciFunction, offered: u64, config: &PfConfig) -> Result<u64, PfError> {
    let unsuitable = |why: String| PfError::Unsuitable {
        function: function.id().into(),
        why,
    };
    for (number, name) in REQUIRED_NAMES {
        if offered & bit(number) == 0 {
            return Err(unsuitable(format!("it does not offer {name}")));
        }
    }
    if offered & bit(ACCESS_PLATFORM) == 0 && function.dma_addressing() == DmaAddressing::Iommu {
        let why = "it does not offer ACCESS_PLATFORM, so it may take the addresses it is given as \
                   physical ones and bypass the IOMMU";
        match config.access_platform {
            AccessPlatform::Require => {
                return Err(unsuitable(format!(
                    "{why}; to use it anyway, start with --allow-no-access-platform"
                )))
            }
            AccessPlatform::Override => tracing::warn!(function = function.id(), "{why}"),
        }
    }
    Ok(offered & WANTED)
}

/// Turns on memory space and bus mastering and turns off INTx, which is not used.
pub(crate) fn enable_function(function: &dyn PciFunction) -> Result<(), PfError> {
    let at = pci::header::COMMAND as u16;
    let mut command = [0; 2];
    function.config_read(at, &mut command)?;
    let value = u16::from_le_bytes(command)
        | pci::COMMAND_MEMORY
        | pci::COMMAND_MASTER
        | pci::COMMAND_INTX_DISABLE;
    function.config_write(at, &value.to_le_bytes())?;
    Ok(())
}

/// Brings the device from its reset state to DRIVER_OK. The queues are put into `queues` as soon as
/// the device may know of them, so that their memory is kept until the next reset even on failure.
pub(crate) fn bring_up(
    function: &mut dyn PciFunction,
    at: &Structures,
    config: &PfConfig,
    irqs: &mut Vec<IrqEvent>,
    queues: &mut Vec<AdminQueue>,
) -> Result<Negotiated, PfError> {
    let mut progress = 0;
    let result = steps(function, at, config, irqs, queues, &mut progress);
    if let Err(error) = &result {
        // The device is told that the driver gave up, if it can still be told anything.
        let failed = Common::new(function, at.common).set_status(progress | status::FAILED);
        tracing::debug!(function = function.id(), %error, told = failed.is_ok(), "set-up failed");
    }
    result
}

fn steps(
    function: &mut dyn PciFunction,
    at: &Structures,
    config: &PfConfig,
    irqs: &mut Vec<IrqEvent>,
    queues: &mut Vec<AdminQueue>,
    progress: &mut u8,
) -> Result<Negotiated, PfError> {
    // device_status only ever gains bits.
    let mut advance = |f: &dyn PciFunction, bits: u8| {
        *progress |= bits;
        Common::new(f, at.common).set_status(*progress)
    };
    advance(function, status::ACKNOWLEDGE)?;
    advance(function, status::DRIVER)?;
    let regs = Common::new(function, at.common);
    let mut offered = 0;
    for word in 0..2 {
        regs.write(c::DEVICE_FEATURE_SELECT, word)?;
        offered |= u64::from(regs.read(c::DEVICE_FEATURE)?) << (32 * word);
    }
    let features = choose(function, offered, config)?;
    for word in 0..2 {
        regs.write(c::DRIVER_FEATURE_SELECT, word)?;
        let bits = (features >> (32 * word)) & 0xffff_ffff;
        regs.write(c::DRIVER_FEATURE, bits as u32)?;
    }
    tracing::debug!(
        function = function.id(),
        offered = format_args!("{offered:#x}"),
        accepted = format_args!("{features:#x}"),
        "features"
    );
    advance(function, status::FEATURES_OK)?;
    if regs.status()? & status::FEATURES_OK == 0 {
        return Err(PfError::Unsuitable {
            function: function.id().into(),
            why: format!("it refuses the features {features:#x} that it offered"),
        });
    }
    let (admin_index, admin_num) = admin_queues(function, &regs)?;
    let mut negotiated = Negotiated {
        offered,
        features,
        admin_index,
        admin_num,
        queue_size: 0,
        vectors: Vectors::default(),
    };
    if config.interrupts && irqs.is_empty() {
        let wanted = 1 + usize::from(admin_num).min(MAX_QUEUES);
        *irqs = enable_irqs(function, wanted)?;
    }
    negotiated.vectors.config = config_vector(&Common::new(function, at.common), irqs.len())?;
    for n in 0..usize::from(admin_num).min(MAX_QUEUES) {
        set_up_queue(function, at, config, irqs.len(), n, queues, &mut negotiated)?;
    }
    advance(function, status::DRIVER_OK)?;
    let now = Common::new(function, at.common).status()?;
    if now & (status::DEVICE_NEEDS_RESET | status::DRIVER_OK) != status::DRIVER_OK {
        return Err(PfError::Misbehaved {
            function: function.id().into(),
            register: name(c::DEVICE_STATUS),
            why: format!("{now:#x} after DRIVER_OK was set"),
        });
    }
    Ok(negotiated)
}

/// One interrupt for configuration changes and one for each queue, as far as there are any.
fn enable_irqs(function: &mut dyn PciFunction, wanted: usize) -> Result<Vec<IrqEvent>, PfError> {
    let wanted = u32::try_from(wanted).unwrap_or(2);
    let available = function.irq_count()?.min(wanted);
    if available == 0 {
        return Ok(Vec::new());
    }
    match function.enable_irqs(available) {
        Ok(irqs) => Ok(irqs),
        Err(error) if error.is_fatal() => Err(error.into()),
        Err(error) => {
            tracing::warn!(function = function.id(), %error, "no interrupts");
            Ok(Vec::new())
        }
    }
}

/// Where the admin queues are: valid only with ADMIN_VQ negotiated.
fn admin_queues(function: &dyn PciFunction, regs: &Common<'_>) -> Result<(u16, u16), PfError> {
    let index = regs.read16(c::ADMIN_QUEUE_INDEX)?;
    let num = regs.read16(c::ADMIN_QUEUE_NUM)?;
    let queues = regs.read16(c::NUM_QUEUES)?;
    let misbehaved = |register, why| PfError::Misbehaved {
        function: function.id().into(),
        register: name(register),
        why,
    };
    if num == 0 {
        let why = "0 although ADMIN_VQ was negotiated".into();
        return Err(misbehaved(c::ADMIN_QUEUE_NUM, why));
    }
    if index < queues || u32::from(index) + u32::from(num) > 0x1_0000 {
        let why = format!("{index} with {num} admin queues and {queues} other queues");
        return Err(misbehaved(c::ADMIN_QUEUE_INDEX, why));
    }
    Ok((index, num))
}

/// Routes configuration changes to vector 0, if the device takes it.
fn config_vector(regs: &Common<'_>, vectors: usize) -> Result<Option<usize>, PfError> {
    if vectors == 0 {
        return Ok(None);
    }
    regs.write(c::CONFIG_MSIX_VECTOR, 0)?;
    let took = regs.read16(c::CONFIG_MSIX_VECTOR)?;
    Ok((took == 0).then_some(0))
}

/// Routes the selected queue, number `n`, to a vector of its own, or to one that it shares, or to
/// none.
fn queue_vector(regs: &Common<'_>, vectors: usize, n: usize) -> Result<Option<usize>, PfError> {
    // All but the first, which tells of the configuration, in turn; then any.
    let own = n.checked_rem(vectors.saturating_sub(1)).map(|n| n + 1);
    let shared = [1, 0]
        .into_iter()
        .filter(|v| *v < vectors && Some(*v) != own);
    for vector in own.into_iter().chain(shared) {
        regs.write(c::QUEUE_MSIX_VECTOR, vector as u32)?;
        if usize::from(regs.read16(c::QUEUE_MSIX_VECTOR)?) == vector {
            return Ok(Some(vector));
        }
    }
    Ok(None)
}

fn set_up_queue(
    function: &mut dyn PciFunction,
    at: &Structures,
    config: &PfConfig,
    vectors: usize,
    n: usize,
    queues: &mut Vec<AdminQueue>,
    negotiated: &mut Negotiated,
) -> Result<(), PfError> {
    // The range was checked: it ends below 2^16.
    let index = negotiated.admin_index.saturating_add(n as u16);
    let id: std::sync::Arc<str> = function.id().into();
    let broken = |source| PfError::Queue {
        function: id.clone(),
        source,
    };
    let misbehaved = |register, why| PfError::Misbehaved {
        function: id.clone(),
        register: name(register),
        why,
    };
    let regs = Common::new(function, at.common);
    regs.write(c::QUEUE_SELECT, index.into())?;
    let offered = regs.read16(c::QUEUE_SIZE)?;
    if offered < 4 {
        let why = format!("{offered} for admin queue {index}");
        return Err(misbehaved(c::QUEUE_SIZE, why));
    }
    if regs.read16(c::QUEUE_ENABLE)? != 0 {
        return Err(misbehaved(c::QUEUE_ENABLE, "set after a reset".into()));
    }
    // A split ring's size is a power of two; a device that offers another one gets the next lower.
    let size = (1u16 << offered.ilog2()).min(config.queue_size).min(32768);
    let place = notify_place(function, at, negotiated, index)?;

    let ring = function.dma_alloc(Layout::new(size).map_err(&broken)?.total)?;
    let slots = match function.dma_alloc(AdminQueue::slots(size) * SLOT_LEN) {
        Ok(slots) => slots,
        Err(e) => {
            // The device was not told of it.
            ring.release_after_reset();
            return Err(e.into());
        }
    };
    let split = SplitQueue::new(
        ring,
        QueueConfig {
            size,
            event_idx: negotiated.features & bit(EVENT_IDX) != 0,
            barriers: if negotiated.features & bit(ORDER_PLATFORM) != 0 {
                Barriers::Platform
            } else {
                Barriers::Processor
            },
        },
    )
    .map_err(&broken)?;
    let addresses = split.addresses();
    let (bar, offset, value) = place;
    let kick = match function.doorbell(bar, offset, Width::B2, value.into())? {
        Some(bell) => Kick::Doorbell(bell),
        None => Kick::Store { bar, offset, value },
    };
    queues.push(AdminQueue::new(split, slots, kick));

    let regs = Common::new(function, at.common);
    regs.write(c::QUEUE_SIZE, size.into())?;
    let took = regs.read16(c::QUEUE_SIZE)?;
    if took != size {
        let why = format!("{took} after {size} was written");
        return Err(misbehaved(c::QUEUE_SIZE, why));
    }
    if n == 0 {
        negotiated.queue_size = size;
    }
    let vector = queue_vector(&regs, vectors, n)?;
    if vector.is_none() {
        tracing::info!(
            function = function.id(),
            index,
            "no interrupt vector: polling"
        );
    }
    if let Some(place) = negotiated.vectors.queues.get_mut(n) {
        *place = vector;
    }
    regs.write64(c::QUEUE_DESC, addresses.desc)?;
    regs.write64(c::QUEUE_DRIVER, addresses.driver)?;
    regs.write64(c::QUEUE_DEVICE, addresses.device)?;
    regs.write(c::QUEUE_ENABLE, 1)?;
    if regs.read16(c::QUEUE_ENABLE)? != 1 {
        return Err(misbehaved(c::QUEUE_ENABLE, "it does not stay set".into()));
    }
    Ok(())
}

/// Where the selected queue is notified, and the value that is stored there.
fn notify_place(
    function: &dyn PciFunction,
    at: &Structures,
    negotiated: &Negotiated,
    index: u16,
) -> Result<(u8, u64, u16), PfError> {
    let regs = Common::new(function, at.common);
    let off = regs.read16(c::QUEUE_NOTIFY_OFF)?;
    // 16 and 32 bits: no overflow.
    let inside = u64::from(off) * u64::from(at.notify_multiplier);
    if inside + 2 > at.notify.len {
        return Err(PfError::Misbehaved {
            function: function.id().into(),
            register: name(c::QUEUE_NOTIFY_OFF),
            why: format!(
                "{off} times {} lies outside the notification structure of {} bytes",
                at.notify_multiplier, at.notify.len
            ),
        });
    }
    let value = if negotiated.features & bit(NOTIF_CONFIG_DATA) != 0 {
        regs.read16(c::QUEUE_NOTIF_CONFIG_DATA)?
    } else {
        index
    };
    Ok((at.notify.bar, at.notify.offset + inside, value))
}
