// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! What goes in and out of the window.

pub use virtio_pci_spec::legacy::Space;

/// Direction and data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Read `len` bytes.
    Read,
    /// Write the first `len` of these little-endian bytes; the rest is zero.
    Write([u8; 8]),
}

/// One command for the VF; it stays inside one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Register space.
    pub space: Space,
    /// First byte in that space.
    pub offset: u8,
    /// Bytes, 1 to 4.
    pub len: u8,
    /// Direction and data.
    pub kind: CommandKind,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read succeeded; the first `len` bytes count.
    Data([u8; 8]),
    /// A write succeeded.
    Written,
    /// It failed.
    Failed(FailKind),
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailKind {
    /// The device or the helper refused it; other commands may still work.
    Refused,
    /// The deadline passed; whether the command took effect is not known.
    TimedOut,
    /// The caller did not wait for the answer; what became of the command is not known.
    GivenUp,
    /// The connection to the helper is gone.
    Lost,
    /// The caller reported an outcome that does not fit the command.
    Mismatch,
}

/// Why the window did not act on (part of) an access: the guest's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// Neither 1, 2 nor 4 bytes.
    Width,
    /// Starts inside a header field.
    InsideField,
    /// Writes a read-only field.
    ReadOnly,
    /// Lies, at least in part, behind the device configuration.
    BehindConfig,
}

/// A write of the device status that the device accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusChange {
    /// The status last seen through the window before this write.
    pub old: u8,
    /// The status written.
    pub new: u8,
}

/// What happened during an access, apart from its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The guest wrote the device status and the device accepted it.
    pub status: Option<StatusChange>,
    /// The status written was 0: the device has been reset by its driver.
    pub reset: bool,
    /// The guest did something that has no effect.
    pub rejected: Option<Rejected>,
    /// A command failed; the value has ones in its place, or the write was dropped.
    pub failed: Option<FailKind>,
    /// The helper is lost; the read gave all-ones or the write was dropped.
    pub lost: bool,
    /// The device did not get what the guest wrote, and shows that from now on: see the crate's
    /// documentation.
    pub broke: bool,
}

/// The end of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What a read gives, in the low bytes; 0 for writes.
    pub value: u64,
    /// What else happened.
    pub effects: Effects,
}

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Carry out this command, then resume with its outcome.
    Command(Command),
    /// The access is over.
    Done(Completion),
}
