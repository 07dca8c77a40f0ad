// SPDX-License-Identifier: GPL-2.0-or-later
//! What drivers must not do, by name.

use serde::Serialize;

/// Something a driver must not do. The device copes; the record shows who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "violation")]
pub enum Violation {
    /// An access of a width or alignment that the field does not have.
    AccessWidth {
        /// Structure.
        structure: &'static str,
        /// Offset in it.
        offset: u64,
        /// Bytes.
        width: usize,
        /// It was a write.
        write: bool,
    },
    /// A write to a read-only field.
    ReadOnlyField {
        /// Structure.
        structure: &'static str,
        /// Offset in it.
        offset: u64,
    },
    /// An access outside every structure of a BAR.
    OutsideStructures {
        /// BAR number.
        bar: u8,
        /// Offset in it.
        offset: u64,
    },
    /// 0 (or something else than 1) written to queue_enable or queue_reset.
    QueueEnableValue {
        /// Queue.
        queue: u16,
        /// Value written.
        value: u16,
    },
    /// A queue size that is no power of two or above the maximum.
    QueueSize {
        /// Queue.
        queue: u16,
        /// Value written.
        value: u16,
    },
    /// A register of a queue written while the queue is enabled.
    QueueLive {
        /// Queue.
        queue: u16,
        /// Offset of the register.
        offset: u64,
    },
    /// A queue enabled with misaligned addresses.
    QueueAlignment {
        /// Queue.
        queue: u16,
    },
    /// A queue that does not exist was set up or notified.
    NoSuchQueue {
        /// Queue.
        queue: u16,
    },
    /// A notification before DRIVER_OK (modern interface).
    NotifyBeforeDriverOk {
        /// Queue.
        queue: u16,
    },
    /// A notification whose value does not fit its address.
    NotifyValue {
        /// Offset in the notification structure.
        offset: u64,
        /// Value written.
        value: u32,
    },
    /// A status bit was cleared without a reset.
    StatusBitCleared {
        /// Status before.
        old: u8,
        /// Value written.
        new: u8,
    },
    /// Status bits set in the wrong order.
    StatusOrder {
        /// Status before.
        old: u8,
        /// Value written.
        new: u8,
    },
    /// Feature bits accepted that were not offered.
    FeaturesNotOffered {
        /// The surplus bits.
        bits: u64,
    },
    /// Features written after FEATURES_OK.
    FeaturesLate,
    /// FEATURES_OK was refused.
    FeaturesRefused {
        /// The set.
        bits: u64,
    },
    /// Device configuration written before the features were negotiated (modern interface).
    ConfigBeforeFeatures {
        /// Offset in the device configuration.
        offset: u16,
    },
    /// A vector outside the MSI-X table.
    VectorOutOfRange {
        /// The vector.
        vector: u16,
    },
    /// A register was touched while a reset was under way.
    AccessDuringReset {
        /// Offset in the common configuration.
        offset: u64,
    },
    /// A write into a virtio capability other than the access window.
    CapabilityWrite {
        /// Offset in configuration space.
        offset: u16,
    },
    /// The PCI configuration access window was set to something it must not reach.
    WindowMisuse {
        /// BAR.
        bar: u8,
        /// Offset.
        offset: u32,
        /// Length.
        length: u32,
    },
    /// VFs enabled although SR_IOV was never negotiated.
    VfsWithoutSrIov,
    /// NumVFs written while VFs are enabled, or larger than TotalVFs.
    NumVfs {
        /// Value written.
        value: u16,
    },
    /// VF Enable cleared while commands for VFs were outstanding.
    VfsDisabledWithCommands {
        /// How many.
        outstanding: usize,
    },
    /// LIST_USE while another command was outstanding.
    ListUseNotAlone {
        /// How many others.
        outstanding: usize,
    },
    /// LIST_USE or a command with an opcode that is not offered.
    OpcodeNotOffered {
        /// First such opcode.
        opcode: u16,
    },
    /// Command parts that are empty or no multiple of 8 bytes long, where they have to be.
    CommandSize {
        /// Opcode.
        opcode: u16,
        /// Readable bytes.
        readable: u64,
        /// Writable bytes.
        writable: u64,
    },
    /// An access that does not lie in one field of the header or device configuration.
    CrossesFields {
        /// Opcode.
        opcode: u16,
        /// Register offset.
        offset: u8,
        /// Bytes.
        len: u64,
    },
    /// A notification by command although LEGACY_NOTIFY_INFO offers an address.
    NotifyByCommand {
        /// Queue.
        queue: u16,
    },
    /// A BAR access while memory decoding is off (COMMAND of the PF, VF MSE for VFs).
    MemorySpaceOff {
        /// BAR number.
        bar: u8,
    },
    /// A BAR access in D3hot.
    Asleep {
        /// BAR number.
        bar: u8,
    },
    /// DMA is needed while Bus Master Enable is clear, or in D3hot.
    BusMasterOff {
        /// Queue.
        queue: u16,
    },
    /// A rule of the device type.
    DeviceRule {
        /// Its name.
        rule: &'static str,
        /// What shows it: a length, an index, a page number.
        value: u64,
    },
}

impl Violation {
    /// The name under which it is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Violation::AccessWidth { .. } => "access_width",
            Violation::ReadOnlyField { .. } => "read_only_field",
            Violation::OutsideStructures { .. } => "outside_structures",
            Violation::QueueEnableValue { .. } => "queue_enable_value",
            Violation::QueueSize { .. } => "queue_size",
            Violation::QueueLive { .. } => "queue_live",
            Violation::QueueAlignment { .. } => "queue_alignment",
            Violation::NoSuchQueue { .. } => "no_such_queue",
            Violation::NotifyBeforeDriverOk { .. } => "notify_before_driver_ok",
            Violation::NotifyValue { .. } => "notify_value",
            Violation::StatusBitCleared { .. } => "status_bit_cleared",
            Violation::StatusOrder { .. } => "status_order",
            Violation::FeaturesNotOffered { .. } => "features_not_offered",
            Violation::FeaturesLate => "features_late",
            Violation::FeaturesRefused { .. } => "features_refused",
            Violation::ConfigBeforeFeatures { .. } => "config_before_features",
            Violation::VectorOutOfRange { .. } => "vector_out_of_range",
            Violation::AccessDuringReset { .. } => "access_during_reset",
            Violation::CapabilityWrite { .. } => "capability_write",
            Violation::WindowMisuse { .. } => "window_misuse",
            Violation::VfsWithoutSrIov => "vfs_without_sr_iov",
            Violation::NumVfs { .. } => "num_vfs",
            Violation::VfsDisabledWithCommands { .. } => "vfs_disabled_with_commands",
            Violation::ListUseNotAlone { .. } => "list_use_not_alone",
            Violation::OpcodeNotOffered { .. } => "opcode_not_offered",
            Violation::CommandSize { .. } => "command_size",
            Violation::CrossesFields { .. } => "crosses_fields",
            Violation::NotifyByCommand { .. } => "notify_by_command",
            Violation::MemorySpaceOff { .. } => "memory_space_off",
            Violation::Asleep { .. } => "asleep",
            Violation::BusMasterOff { .. } => "bus_master_off",
            Violation::DeviceRule { rule, .. } => rule,
        }
    }
}
