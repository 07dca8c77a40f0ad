// SPDX-License-Identifier: GPL-2.0-or-later
//! The event log: what happened, in order, as records that become one JSON object each.

use std::collections::VecDeque;

use serde::Serialize;

use crate::effect::{FunctionId, Interface};
use crate::queue::RingFault;
use crate::violation::Violation;

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
