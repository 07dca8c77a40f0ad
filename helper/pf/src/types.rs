// SPDX-License-Identifier: GPL-2.0-or-later
//! What callers hand in and get back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_modern_spec::admin::list::OpcodeSet;
use virtio_modern_spec::admin::opcode;
use virtio_pci_spec::ids::MODERN_DEVICE_BASE;
use virtio_pci_spec::{config, legacy, DeviceType};

use crate::error::{OpError, SubmitError};

/// Which legacy registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The legacy header, with the layout of an enabled MSI-X (24 bytes).
    Common,
    /// The device-specific configuration; offset 0 is its first byte.
    Device,
}

impl Space {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Space::Common => "common",
            Space::Device => "device",
        }
    }
}

/// Direction, width and data of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads `len` bytes, 1 to 8.
    Read {
        /// Bytes.
        len: u8,
    },
    /// Writes the first `len` bytes of `data`, little-endian, 1 to 8.
    Write {
        /// The bytes.
        data: [u8; 8],
        /// How many.
        len: u8,
    },
}

/// How long commands of a kind take the device; each kind has admin queues of its own where the
/// device has several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Accesses to registers, for which a guest's processor waits.
    #[default]
    Register,
    /// Commands that move much or take long; they may be late, register accesses must not be so
    /// because of them.
    Long,
}

/// An access to a legacy register of a VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyOp {
    /// Which registers.
    pub space: Space,
    /// Byte offset in them.
    pub offset: u8,
    /// What to do.
    pub access: Access,
}

impl LegacyOp {
    /// A read of `len` bytes.
    pub fn read(space: Space, offset: u8, len: u8) -> Self {
        LegacyOp {
            space,
            offset,
            access: Access::Read { len },
        }
    }

    /// A write of the first `len` bytes of `data`.
    pub fn write(space: Space, offset: u8, data: [u8; 8], len: u8) -> Self {
        LegacyOp {
            space,
            offset,
            access: Access::Write { data, len },
        }
    }

    /// Bytes accessed.
    pub fn len(&self) -> u8 {
        match self.access {
            Access::Read { len } | Access::Write { len, .. } => len,
        }
    }

    /// Whether nothing is accessed; such an operation is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The opcode that performs it.
    pub fn opcode(&self) -> u16 {
        match (self.space, self.access) {
            (Space::Common, Access::Read { .. }) => opcode::LEGACY_COMMON_CFG_READ,
            (Space::Common, Access::Write { .. }) => opcode::LEGACY_COMMON_CFG_WRITE,
            (Space::Device, Access::Read { .. }) => opcode::LEGACY_DEV_CFG_READ,
            (Space::Device, Access::Write { .. }) => opcode::LEGACY_DEV_CFG_WRITE,
        }
    }

    /// Checks that the bytes lie inside one field ("Legacy Interface", driver requirements). What
    /// lies behind the configuration that the specification describes today is the device's to
    /// judge.
    pub fn check(&self, device: Option<DeviceType>) -> Result<(), SubmitError> {
        let bad = SubmitError::NotOneField {
            space: self.space.name(),
            offset: self.offset,
            len: self.len(),
        };
        let (start, len) = (u16::from(self.offset), u16::from(self.len()));
        if len == 0 || len > 8 {
            return Err(bad);
        }
        let end = start + len;
        let inside = match (self.space, device) {
            (Space::Common, _) => legacy::HEADER.iter().any(|f| {
                let from = u16::from(f.offset);
                start >= from && end <= from + u16::from(f.size)
            }),
            (Space::Device, Some(t)) if start < config::full_len(t) => {
                config::field_at(t, start).is_some_and(|f| end <= f.offset + f.len())
            }
            (Space::Device, _) => end <= 256,
        };
        if inside {
            Ok(())
        } else {
            Err(bad)
        }
    }
}

/// The end of a submitted operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The VF.
    pub member: u16,
    /// What the caller gave with the operation.
    pub token: u64,
    /// Data of a read in the first bytes, the rest zero; all zero for a write.
    pub result: Result<[u8; 8], OpError>,
}

/// In whose BAR a notification address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotifyKind {
    /// The PF's: this driver can use it.
    Owner,
    /// The VF's: whoever drives the VF can use it.
    Member,
}

/// Where a VF is notified without a command: a 16-bit little-endian queue index stored there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NotifyAddress {
    /// Whose BAR.
    pub kind: NotifyKind,
    /// BAR number, 1 to 5.
    pub bar: u8,
    /// Byte offset in the BAR, even.
    pub offset: u64,
    /// The offset was checked against the size of the BAR. A member BAR's size is unknown when
    /// the VFs were enabled before this driver started; whoever uses the address must check then.
    pub checked: bool,
}

/// One VF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfInfo {
    /// VF number, from 1.
    pub member: u16,
    /// The device has told the addresses; before it has, there is none. They do not change with a
    /// reset of the PF.
    pub asked: bool,
    /// Address to notify it at, the first usable one of those that the device prefers; `None`: by
    /// command only.
    pub notify: Option<NotifyAddress>,
    /// The first usable address in a BAR of the PF, which [`Pf::notify`](crate::Pf::notify) uses.
    pub owner_notify: Option<NotifyAddress>,
}

/// A VF whose commands the device does not answer, while the PF goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotResponding {
    /// When its first command was given up.
    pub since: Instant,
    /// Trial commands that were not answered either.
    pub retries: u32,
    /// From when on the next operation is sent as a trial.
    pub next_trial: Instant,
    /// A trial is waiting or with the device.
    pub trial: bool,
}

/// The PF as it was found and set up.
#[derive(Clone, Debug)]
pub struct PfInfo {
    /// PCI address or socket path.
    pub id: Arc<str>,
    /// PCI vendor ID.
    pub vendor_id: u16,
    /// PCI device ID.
    pub device_id: u16,
    /// PCI revision ID.
    pub revision: u8,
    /// Type of the PF, if it is one that has a legacy form.
    pub device_type: Option<DeviceType>,
    /// PCIe Device Serial Number; 0 if there is none.
    pub serial: u64,
    /// Features that the device offered.
    pub features_offered: u64,
    /// Features that were accepted.
    pub features: u64,
    /// Index of the first admin queue.
    pub admin_queue_index: u16,
    /// Admin queues that the device has.
    pub admin_queue_num: u16,
    /// Of these, in use.
    pub admin_queues: u16,
    /// Size of the first admin queue, in descriptors.
    pub admin_queue_size: u16,
    /// MSI-X vectors in use, up to one for each queue and one for the configuration; 0: polling.
    pub vectors: u32,
    /// VFs enabled.
    pub num_vfs: u16,
    /// VFs were enabled before this driver started.
    pub vfs_kept: bool,
    /// PCI device ID of the VFs.
    pub vf_device_id: u16,
    /// Type of the VFs, if it is one that has a legacy form.
    pub vf_type: Option<DeviceType>,
    /// Commands that the device offers for the SR-IOV group.
    pub commands_offered: OpcodeSet,
    /// Commands in use for the SR-IOV group.
    pub commands: OpcodeSet,
    /// Times that the PF was initialised and began to serve; what is above may differ after each.
    pub initialisations: u32,
    /// Longest time that one operation can take, retries included.
    pub command_timeout: Duration,
}

impl PfInfo {
    /// Virtio device ID of the VFs. The modern device ID tells the type even where it has no legacy
    /// form.
    pub fn vf_virtio_id(&self) -> u16 {
        self.vf_type.map_or_else(
            || self.vf_device_id.saturating_sub(MODERN_DEVICE_BASE),
            DeviceType::virtio_id,
        )
    }
}

/// How [`Pf::notify`](crate::Pf::notify) did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// By a store to the owner's notification address.
    Address,
    /// By a command, now under way.
    Command,
    /// The same notification was waiting already.
    Merged,
}

/// Something that the clients should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PfEvent {
    /// The PF is being reset; what was in flight has failed. VFs go on.
    Reset {
        /// Why.
        cause: Arc<str>,
    },
    /// The PF works again.
    Recovered {
        /// Resets that it took.
        attempts: u32,
    },
    /// The PF is given up.
    Failed {
        /// Why.
        cause: Arc<str>,
    },
    /// The host wants the function back.
    RemovalRequested,
}

/// What the PF is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PfState {
    /// Coming up for the first time.
    Starting,
    /// Serving commands.
    Running,
    /// Being reset and set up again.
    Recovering,
    /// Given up.
    Failed(Arc<str>),
    /// Shut down.
    Stopped,
}

impl PfState {
    /// For messages and tables.
    pub const fn name(&self) -> &'static str {
        match self {
            PfState::Starting => "starting",
            PfState::Running => "running",
            PfState::Recovering => "recovering",
            PfState::Failed(_) => "failed",
            PfState::Stopped => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Covers: LEG-12
    #[test]
    fn an_operation_stays_inside_one_field() {
        let net = Some(DeviceType::Net);
        let ok = |space, offset, len| LegacyOp::read(space, offset, len).check(net).is_ok();
        // (offset, bytes, allowed) in the header.
        for (offset, len, allowed) in [
            (0, 4, true),
            (2, 2, true),
            (2, 4, false),
            (12, 2, true),
            (12, 4, false),
            (18, 1, true),
            (18, 2, false),
            (19, 1, true),
            (20, 2, true),
            (22, 2, true),
            (23, 2, false),
            (24, 1, false),
            (255, 8, false),
            (0, 0, false),
            (0, 9, false),
        ] {
            assert_eq!(ok(Space::Common, offset, len), allowed, "{offset}+{len}");
        }
        for (offset, len, allowed) in [
            (0, 6, true),
            (4, 4, false),
            (6, 2, true),
            (8, 4, false),
            (26, 2, true),
            // Behind what is known today: the device decides.
            (28, 8, true),
            (255, 1, true),
            (255, 2, false),
        ] {
            assert_eq!(ok(Space::Device, offset, len), allowed, "{offset}+{len}");
        }
        assert!(LegacyOp::read(Space::Device, 4, 4).check(None).is_ok());
    }
}
