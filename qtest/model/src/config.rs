// SPDX-License-Identifier: GPL-2.0-or-later
//! What the simulated device is made of, and the ways in which it may be made to differ.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_pci_spec::DeviceType;

use crate::event::EventMask;

/// Most VFs a device can have: they take eight bus numbers behind that of the PF.
pub const MAX_VFS: u16 = 2048;
/// VFs that a PF can have on its own bus without ARI, which has eight functions there.
pub(crate) const VFS_ON_OWN_BUS: u16 = 7;
/// Where a front end that passes on configuration writes has its SR-IOV capability.
pub const FRONT_END_SRIOV: u16 = 0x800;
/// Most MSI-X vectors ("MSI-X Vector Configuration").
pub const MAX_VECTORS: u16 = 0x800;

/// A wrong [`ModelConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Number of VFs.
    #[error("{0} VFs: a device has 1 to {MAX_VFS}")]
    Vfs(u16),
    /// More VFs live from the start than there are.
    #[error("{0} VFs are to live from the start, but there are only {1}")]
    VfsAtStart(u16, u16),
    /// Number of MSI-X vectors.
    #[error("{0} MSI-X vectors: a function has 1 to {MAX_VECTORS}")]
    Vectors(u16),
    /// More capabilities than there is room for.
    #[error("unusable capabilities and power management together have no room")]
    Capabilities,
    /// Notification multiplier.
    #[error("notify_off_multiplier {0:#x} is neither 0 nor an even power of two up to 64 KiB")]
    Multiplier(u32),
    /// Admin queues.
    #[error("{count} admin queues of {size} entries behind {gap} missing queues are not possible")]
    AdminQueues {
        /// How many.
        count: u16,
        /// Entries of each.
        size: u16,
        /// Queue numbers left out before them.
        gap: u16,
    },
    /// What a device type asks for.
    #[error("device of {0}: {1}")]
    Device(&'static str, String),
    /// No implementation of the type.
    #[error("device type {0} is not implemented")]
    NoSuchType(&'static str),
    /// Unknown word.
    #[error("unknown {what} {word:?}; known: {known}")]
    Unknown {
        /// Kind of word.
        what: &'static str,
        /// The word.
        word: String,
        /// What there is.
        known: String,
    },
}

/// A kind of LEGACY_NOTIFY_INFO entry that a driver has to ignore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadEntry {
    /// Reserved flags.
    Flags,
    /// BAR 6.
    Bar6,
    /// BAR 0, which a VF does not have.
    Bar0,
    /// Odd offset.
    Odd,
    /// Offset behind the end of the BAR.
    Range,
}

/// What LEGACY_NOTIFY_INFO answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyLayout {
    /// The command does not exist.
    Absent,
    /// The list is empty.
    Empty,
    /// Only an address in the owner's BAR.
    Owner,
    /// Only an address in the member's BAR.
    #[default]
    Member,
    /// Both, the member's first.
    MemberFirst,
    /// Both, the owner's first.
    OwnerFirst,
    /// Two unusable entries (the named kind and one more), then the member's address.
    BadFirst(BadEntry),
    /// Nothing but unusable entries.
    BadOnly,
}

impl NotifyLayout {
    /// The names that [`FromStr`] takes.
    pub const NAMES: [&'static str; 12] = [
        "absent",
        "empty",
        "owner",
        "member",
        "member-first",
        "owner-first",
        "bad-flags",
        "bad-bar6",
        "bad-bar0",
        "bad-odd",
        "bad-range",
        "bad-only",
    ];
}

impl NotifyLayout {
    /// Addresses in the member's BAR work.
    pub(crate) fn has_member(self) -> bool {
        !matches!(
            self,
            NotifyLayout::Absent
                | NotifyLayout::Empty
                | NotifyLayout::Owner
                | NotifyLayout::BadOnly
        )
    }

    /// Addresses in the owner's BAR work.
    pub(crate) fn has_owner(self) -> bool {
        matches!(
            self,
            NotifyLayout::Owner | NotifyLayout::MemberFirst | NotifyLayout::OwnerFirst
        )
    }
}

impl FromStr for NotifyLayout {
    type Err = ConfigError;

    fn from_str(s: &str) -> Result<Self, ConfigError> {
        Ok(match s {
            "absent" => NotifyLayout::Absent,
            "empty" => NotifyLayout::Empty,
            "owner" => NotifyLayout::Owner,
            "member" => NotifyLayout::Member,
            "member-first" => NotifyLayout::MemberFirst,
            "owner-first" => NotifyLayout::OwnerFirst,
            "bad-flags" => NotifyLayout::BadFirst(BadEntry::Flags),
            "bad-bar6" => NotifyLayout::BadFirst(BadEntry::Bar6),
            "bad-bar0" => NotifyLayout::BadFirst(BadEntry::Bar0),
            "bad-odd" => NotifyLayout::BadFirst(BadEntry::Odd),
            "bad-range" => NotifyLayout::BadFirst(BadEntry::Range),
            "bad-only" => NotifyLayout::BadOnly,
            _ => {
                return Err(ConfigError::Unknown {
                    what: "notify layout",
                    word: s.to_owned(),
                    known: Self::NAMES.join(", "),
                })
            }
        })
    }
}

/// Where the simulated device is softer than the specification. Nothing of this is on by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leniency {
    /// `lenient-list`: LIST_QUERY and LIST_USE for the SR-IOV group work while VF Enable is clear.
    /// Linux 7.2's PF driver sends them only once, at DRIVER_OK, before it can enable VFs.
    pub list: bool,
    /// `lenient-width`: accesses of a wrong width to the common configuration are served.
    pub width: bool,
    /// `lenient-chain`: descriptor chains longer than the queue are served, up to 1024
    /// descriptors.
    pub chain: bool,
}

impl Leniency {
    /// Every name with what it does.
    pub const NAMES: [(&'static str, &'static str); 3] = [
        (
            "lenient-list",
            "LIST_QUERY and LIST_USE for the SR-IOV group work while VF Enable is clear",
        ),
        (
            "lenient-width",
            "accesses of a wrong width to the common configuration are served",
        ),
        (
            "lenient-chain",
            "descriptor chains longer than the queue are served",
        ),
    ];

    /// Switches one leniency on by its name.
    ///
    /// # Errors
    /// The name is unknown; the error lists the known ones.
    pub fn enable(&mut self, name: &str) -> Result<(), ConfigError> {
        match name {
            "lenient-list" => self.list = true,
            "lenient-width" => self.width = true,
            "lenient-chain" => self.chain = true,
            _ => {
                return Err(ConfigError::Unknown {
                    what: "leniency",
                    word: name.to_owned(),
                    known: Self::NAMES.map(|(n, _)| n).join(", "),
                })
            }
        }
        Ok(())
    }
}

/// Variations that conforming devices may show, and test shapes that none should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Knobs {
    /// MSI-X vectors of each function; `None`: one per queue and one for the configuration.
    pub msix_vectors: Option<u16>,
    /// Mapping an event to a vector always fails (reads back NO_VECTOR).
    pub vector_mapping_fails: bool,
    /// How long a device or queue reset takes.
    pub reset_delay_ns: u64,
    /// Offer ACCESS_PLATFORM.
    pub access_platform: bool,
    /// Offer ORDER_PLATFORM.
    pub order_platform: bool,
    /// Offer INDIRECT_DESC.
    pub indirect_desc: bool,
    /// Offer EVENT_IDX.
    pub event_idx: bool,
    /// Offer RING_RESET.
    pub ring_reset: bool,
    /// Offer NOTIFICATION_DATA (PF and VFs).
    pub notification_data: bool,
    /// Offer NOTIF_CONFIG_DATA on the PF; the value is that of its first admin queue.
    pub notif_config_data: Option<u16>,
    /// Offer NOTIFY_ON_EMPTY in the legacy view.
    pub notify_on_empty: bool,
    /// Offer bit 30 in the legacy view.
    pub legacy_unused_bit: bool,
    /// Offer every feature bit there is room for, known or not (PF).
    pub offer_everything: bool,
    /// notify_off_multiplier of the modern notification structure.
    pub notify_multiplier: u32,
    /// Number of admin queues; 0 shows ADMIN_VQ without queues.
    pub admin_queues: u16,
    /// Entries of an admin queue.
    pub admin_queue_size: u16,
    /// Queue numbers left out before the first admin queue.
    pub admin_queue_gap: u16,
    /// VFs have a memory BAR0 of their own, so no legacy interface can be put there.
    pub vf_bar0: bool,
    /// Another PCI device ID for the VFs, for one without a transitional form.
    pub vf_device_id: Option<u16>,
    /// Unusable virtio capabilities come before the good ones.
    pub bogus_capabilities: bool,
    /// The device structure is at least this long.
    pub device_structure_len: u32,
    /// The legacy register commands do not exist.
    pub no_legacy_commands: bool,
    /// LIST_USE is refused if it holds anything but the list and legacy commands.
    pub list_use_refuses_full: bool,
    /// More opcodes that LIST_QUERY reports for the SR-IOV group (bit n: opcode n); they are not
    /// implemented.
    pub extra_opcodes: u64,
    /// More bitmap words that LIST_QUERY reports behind the first.
    pub extra_opcode_words: Vec<u64>,
    /// Ask drivers not to notify (used.flags NO_NOTIFY); rings are looked at in every tick.
    pub suppress_kicks: bool,
    /// The PF has an interrupt pin. VFs never have one.
    pub pf_intx: bool,
    /// VFs have a power management capability with D0 and D3hot, in which nothing but their
    /// configuration space answers.
    pub vf_power: bool,
    /// A VF with that capability is reset when it leaves D3hot.
    pub vf_soft_reset: bool,
    /// The front end cannot reset VFs and says so.
    pub vf_no_reset: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs {
            msix_vectors: None,
            vector_mapping_fails: false,
            reset_delay_ns: 0,
            access_platform: true,
            order_platform: true,
            indirect_desc: true,
            event_idx: true,
            ring_reset: true,
            notification_data: false,
            notif_config_data: None,
            notify_on_empty: true,
            legacy_unused_bit: true,
            offer_everything: false,
            notify_multiplier: 4,
            admin_queues: 1,
            admin_queue_size: 128,
            admin_queue_gap: 0,
            vf_bar0: false,
            vf_device_id: None,
            bogus_capabilities: false,
            device_structure_len: 0,
            no_legacy_commands: false,
            list_use_refuses_full: false,
            extra_opcodes: 0,
            extra_opcode_words: Vec::new(),
            suppress_kicks: false,
            pf_intx: false,
            vf_power: false,
            vf_soft_reset: false,
            vf_no_reset: false,
        }
    }
}

/// Who shows the SR-IOV capability to the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SrIovCapability {
    /// The PF's own configuration space has it, and VFs live by what is written there.
    #[default]
    Own,
    /// A front end adds one of its own. It tells the model by [`crate::Model::set_vf_enable`], or
    /// has its capability at [`FRONT_END_SRIOV`] and passes on the configuration writes there. VFs
    /// answer configuration and BAR accesses at any time.
    FrontEnd,
}

/// A simulated device. Device types take their own options separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// Type of the VFs and of the PF.
    pub vf_type: DeviceType,
    /// TotalVFs, 1 to [`MAX_VFS`].
    pub total_vfs: u16,
    /// PCIe Device Serial Number of the PF and its VFs.
    pub serial: u64,
    /// What LEGACY_NOTIFY_INFO answers.
    pub layout: NotifyLayout,
    /// Where the device is softer than the specification.
    pub leniency: Leniency,
    /// Variations.
    pub knobs: Knobs,
    /// Who shows the SR-IOV capability.
    pub sriov: SrIovCapability,
    /// VFs that live from the start, without anybody enabling them.
    pub vfs_at_start: u16,
    /// Which log records are kept.
    pub events: EventMask,
}

impl ModelConfig {
    /// A strict device of `vf_type` with `total_vfs` VFs.
    pub fn new(vf_type: DeviceType, total_vfs: u16) -> Self {
        ModelConfig {
            vf_type,
            total_vfs,
            serial: 0x5254_00ff_fe77_0001,
            layout: NotifyLayout::default(),
            leniency: Leniency::default(),
            knobs: Knobs::default(),
            sriov: SrIovCapability::default(),
            vfs_at_start: 0,
            events: EventMask::default(),
        }
    }

    /// Checks everything that does not depend on a device type.
    ///
    /// # Errors
    /// The first thing that is not possible.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.total_vfs == 0 || self.total_vfs > MAX_VFS {
            return Err(ConfigError::Vfs(self.total_vfs));
        }
        if self.vfs_at_start > self.total_vfs {
            return Err(ConfigError::VfsAtStart(self.vfs_at_start, self.total_vfs));
        }
        let k = &self.knobs;
        if let Some(n) = k.msix_vectors {
            if n == 0 || n > MAX_VECTORS {
                return Err(ConfigError::Vectors(n));
            }
        }
        if k.bogus_capabilities && k.vf_power {
            return Err(ConfigError::Capabilities);
        }
        let m = k.notify_multiplier;
        let fits_data = !k.notification_data || m % 4 == 0;
        if m != 0 && (!m.is_power_of_two() || m == 1 || m > 0x10000 || !fits_data) {
            return Err(ConfigError::Multiplier(m));
        }
        if k.admin_queues > 16
            || k.admin_queue_gap > 256
            || !k.admin_queue_size.is_power_of_two()
            || k.admin_queue_size > 1024
        {
            return Err(ConfigError::AdminQueues {
                count: k.admin_queues,
                size: k.admin_queue_size,
                gap: k.admin_queue_gap,
            });
        }
        Ok(())
    }
}
