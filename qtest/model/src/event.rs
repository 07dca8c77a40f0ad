// SPDX-License-Identifier: GPL-2.0-or-later
//! The event log: what happened, in order, as records that become one JSON object each.

use std::collections::VecDeque;

use serde::Serialize;

use crate::device::Interface;
use crate::effect::FunctionId;
use crate::queue::RingFault;

/// How a queue notification reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The notification structure of the modern interface.
    Modern,
    /// The legacy notification address in the function's own BAR.
    MemberArea,
    /// The legacy notification address in the owner's BAR.
    OwnerArea,
    /// LEGACY_COMMON_CFG_WRITE at offset 16.
    LegacyRegister,
}

/// What reset a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetCause {
    /// 0 written to device status through the legacy interface.
    LegacyStatus,
    /// 0 written to device status through the modern interface.
    ModernStatus,
    /// Function level reset, or a reset by the front end.
    FunctionLevel,
    /// VF Enable was cleared or set.
    VfEnable,
    /// The function's client went away.
    Disconnected,
    /// It left D3hot and does not keep its state.
    PowerState,
}

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

/// An admin command as the log shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CommandRecord {
    /// Admin queue.
    pub queue: u16,
    /// Opcode.
    pub opcode: u16,
    /// Its name.
    pub name: &'static str,
    /// Group type.
    pub group_type: u16,
    /// Member id.
    pub member: u64,
    /// Register offset of opcodes 2 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u8>,
    /// Access length of opcodes 2 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// The bytes written or read by opcodes 2 to 5, as a little-endian number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    /// Readable bytes.
    pub readable: u64,
    /// Writable bytes.
    pub writable: u64,
    /// Status given (or that would have been given).
    pub status: u16,
    /// Qualifier.
    pub qualifier: u16,
    /// Fault rule that changed the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<u32>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// An admin command was processed.
    Command(CommandRecord),
    /// A queue notification.
    Doorbell {
        /// Queue.
        queue: u16,
        /// How it came.
        via: Via,
    },
    /// An interrupt message was sent.
    Interrupt {
        /// Vector.
        vector: u16,
    },
    /// A function was reset.
    Reset {
        /// Why.
        cause: ResetCause,
    },
    /// Device status was written.
    Status {
        /// Before.
        old: u8,
        /// After.
        new: u8,
        /// By which interface.
        via: Interface,
    },
    /// The device gave up: DEVICE_NEEDS_RESET.
    NeedsReset {
        /// The broken ring, if it was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ring: Option<RingFault>,
        /// The queue, if it was a ring.
        #[serde(skip_serializing_if = "Option::is_none")]
        queue: Option<u16>,
        /// In words.
        reason: String,
    },
    /// Live VFs changed.
    VfEnable {
        /// VFs 1 to this number live; 0: none.
        num_vfs: u16,
    },
    /// A driver broke a rule.
    Violation(Violation),
    /// A line from a device type.
    Device {
        /// What.
        what: &'static str,
        /// A number that belongs to it.
        value: u64,
    },
}

impl Event {
    fn class(&self) -> EventClass {
        match self {
            Event::Command(_) => EventClass::Command,
            Event::Doorbell { .. } => EventClass::Doorbell,
            Event::Interrupt { .. } => EventClass::Interrupt,
            Event::Violation(_) => EventClass::Violation,
            _ => EventClass::State,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventClass {
    Command,
    Doorbell,
    Interrupt,
    Violation,
    State,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Counts all records, also those that were not kept.
    pub seq: u64,
    /// Time the front end gave last, in nanoseconds.
    pub time_ns: u64,
    /// The function it happened at.
    pub function: FunctionId,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Which records are kept. All are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMask {
    /// Admin commands.
    pub commands: bool,
    /// Queue notifications.
    pub doorbells: bool,
    /// Interrupts.
    pub interrupts: bool,
    /// Rule breaks by drivers.
    pub violations: bool,
    /// Resets, status, VF enable, device lines.
    pub state: bool,
}

impl EventMask {
    /// Keep everything.
    pub const ALL: EventMask = EventMask {
        commands: true,
        doorbells: true,
        interrupts: true,
        violations: true,
        state: true,
    };
    /// Keep nothing.
    pub const NONE: EventMask = EventMask {
        commands: false,
        doorbells: false,
        interrupts: false,
        violations: false,
        state: false,
    };
}

impl Default for EventMask {
    fn default() -> Self {
        EventMask::ALL
    }
}

/// A bounded list of records; the oldest go first when nobody takes them.
#[derive(Debug)]
pub(crate) struct EventLog {
    records: VecDeque<Record>,
    pub(crate) mask: EventMask,
    next_seq: u64,
    pub(crate) lost: u64,
}

/// Records kept until the front end takes them.
const MAX_RECORDS: usize = 65536;

impl EventLog {
    pub(crate) fn new(mask: EventMask) -> Self {
        EventLog {
            records: VecDeque::new(),
            mask,
            next_seq: 0,
            lost: 0,
        }
    }

    pub(crate) fn push(&mut self, time_ns: u64, function: FunctionId, event: Event) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let keep = match event.class() {
            EventClass::Command => self.mask.commands,
            EventClass::Doorbell => self.mask.doorbells,
            EventClass::Interrupt => self.mask.interrupts,
            EventClass::Violation => self.mask.violations,
            EventClass::State => self.mask.state,
        };
        if !keep {
            return;
        }
        if self.records.len() >= MAX_RECORDS {
            self.records.pop_front();
            self.lost += 1;
        }
        self.records.push_back(Record {
            seq,
            time_ns,
            function,
            event,
        });
    }

    pub(crate) fn drain(&mut self) -> std::collections::vec_deque::Drain<'_, Record> {
        self.records.drain(..)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }
}
