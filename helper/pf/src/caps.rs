// SPDX-License-Identifier: GPL-2.0-or-later
//! Finding the virtio structures of a function ("Virtio Structure PCI Capabilities").

use pci_transport::{ConfigImage, PciFunction};
use virtio_modern_spec::common;
use virtio_pci_spec::bytes::{get_u32, get_u8};
use virtio_pci_spec::modern::{cap, cfg_type};
use virtio_pci_spec::pci;

use crate::error::PfError;
use crate::regs::Structure;

/// Shortest common configuration structure of a device without the optional fields.
const COMMON_MIN: u64 = common::QUEUE_NOTIF_CONFIG_DATA;

/// The structures that this driver uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Structures {
    pub(crate) common: Structure,
    pub(crate) notify: Structure,
    pub(crate) notify_multiplier: u32,
}

/// Takes the first usable capability of each kind. One with a reserved type or BAR number, one
/// that is too short for its kind, and one that does not lie inside an implemented BAR are
/// skipped; what reaches beyond the end of its BAR is cut there.
pub(crate) fn find(
    function: &dyn PciFunction,
    image: &ConfigImage,
    bar_size: impl Fn(u8) -> Option<u64>,
) -> Result<Structures, PfError> {
    let mut common_cfg = None;
    let mut notify = None;
    for c in image.capabilities() {
        if c.id != u16::from(pci::CAP_ID_VENDOR) {
            continue;
        }
        let Some((kind, structure)) = parse(image.tail(c.offset), &bar_size) else {
            tracing::debug!(
                function = function.id(),
                at = c.offset,
                "capability skipped"
            );
            continue;
        };
        match kind {
            cfg_type::COMMON if common_cfg.is_none() && structure.len >= COMMON_MIN => {
                common_cfg = Some(structure);
            }
            cfg_type::NOTIFY if notify.is_none() && structure.len >= 2 => {
                let bytes = image.tail(c.offset);
                if get_u8(bytes, cap::CAP_LEN).is_some_and(|len| len >= cap::LEN_EXTENDED) {
                    notify = get_u32(bytes, cap::NOTIFY_MULTIPLIER).map(|m| (structure, m));
                }
            }
            _ => {}
        }
    }
    let missing = |what: &str| PfError::Unsuitable {
        function: function.id().into(),
        why: format!("it has no usable {what} capability"),
    };
    let common = common_cfg.ok_or_else(|| missing("common configuration"))?;
    let (notify, notify_multiplier) = notify.ok_or_else(|| missing("notification"))?;
    // "0 or an even power of 2" ("Notification structure layout").
    if notify_multiplier != 0 && (!notify_multiplier.is_power_of_two() || notify_multiplier == 1) {
        return Err(PfError::Misbehaved {
            function: function.id().into(),
            register: "notify_off_multiplier",
            why: format!("{notify_multiplier} is neither 0 nor an even power of 2"),
        });
    }
    Ok(Structures {
        common,
        notify,
        notify_multiplier,
    })
}

/// Type and place of a virtio capability, if it is one that may be used.
fn parse(bytes: &[u8], bar_size: &impl Fn(u8) -> Option<u64>) -> Option<(u8, Structure)> {
    if get_u8(bytes, cap::CAP_LEN)? < cap::LEN {
        return None;
    }
    let kind = get_u8(bytes, cap::CFG_TYPE)?;
    if !matches!(kind, cfg_type::COMMON | cfg_type::NOTIFY) {
        return None;
    }
    let bar = get_u8(bytes, cap::BAR)?;
    if bar > 5 {
        return None;
    }
    let offset = u64::from(get_u32(bytes, cap::OFFSET)?);
    let len = u64::from(get_u32(bytes, cap::LENGTH)?);
    let room = bar_size(bar)?.checked_sub(offset)?;
    let len = len.min(room);
    (len > 0).then_some((kind, Structure { bar, offset, len }))
}
