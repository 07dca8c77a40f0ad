// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The state machine: how accesses begin, go on and end.

mod config;
mod vectors;

use virtio_pci_spec::bytes::{le_bytes, ones};
use virtio_pci_spec::legacy::{field_of, header_len, Register};
use virtio_pci_spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK};
use virtio_pci_spec::DeviceType;

use crate::ahead::Ahead;
use crate::queues::{Queues, TRACKED};
use crate::registers::{row_at, Read, Row, Shadow, Write};
use crate::step::{
    Command, CommandKind, Completion, Effects, FailKind, Outcome, Rejected, Space, StatusChange,
    Step,
};
use crate::vectors::{Job, JobPhase, Vectors, CONFIG};

/// What the command under way does for a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Asks which queue is selected, since what the guest writes must be known by its queue.
    Learn,
    /// Selects the queue that the guest has selected.
    Select,
    /// What the guest wants.
    Act,
    /// Resets the device, which is what the guest wants by a queue address of 0.
    Reset,
}

/// What an access is about.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// A register.
    Register { row: &'static Row, phase: Phase },
    /// The device configuration from `pos` on: bytes done, bytes of the command under way.
    Config(u32, u8, u8),
    /// A vector that the guest knows nothing of.
    Vector { job: Job, phase: JobPhase },
}

/// An access under way.
#[derive(Clone, Copy, Debug)]
struct Access {
    target: Target,
    size: u8,
    /// The value to write; `None` for reads.
    write: Option<u64>,
    /// Whether the command under way reads.
    reads: bool,
    /// What was read so far of the device configuration.
    read: [u8; 8],
    effects: Effects,
}

impl Access {
    fn new(size: u8, write: Option<u64>) -> Self {
        Access {
            target: Target::Config(0, 0, 0),
            size,
            write: write.map(|value| value & ones(size.into())),
            reads: false,
            read: [0; 8],
            effects: Effects::default(),
        }
    }

    /// Ends the access; `value` counts for reads only, as far as it is wide.
    fn done(self, value: u64) -> Step {
        let value = match self.write {
            Some(_) => 0,
            None => value & ones(self.size.into()),
        };
        let effects = self.effects;
        Step::Done(Completion { value, effects })
    }

    fn rejected(mut self, why: Rejected) -> Step {
        self.effects.rejected = Some(why);
        self.done(u64::MAX)
    }

    fn lost(mut self) -> Step {
        self.effects.lost = true;
        self.done(u64::MAX)
    }
}

impl Command {
    /// Reads, or writes the low `len` bytes of this value.
    pub(crate) fn new(space: Space, offset: u8, len: u8, write: Option<u64>) -> Self {
        let data = write.map(|value| le_bytes(value, len.into()));
        Command {
            space,
            offset,
            len,
            kind: data.map_or(CommandKind::Read, CommandKind::Write),
        }
    }

    /// Reads or writes a whole register of the header.
    pub fn register(register: Register, write: Option<u64>) -> Self {
        let field = field_of(register);
        Self::new(Space::Common, field.offset, field.size, write)
    }
}

/// The register window of one device.
#[derive(Clone, Debug)]
pub struct Window {
    device: DeviceType,
    config_len: u16,
    shadow: Shadow,
    ahead: Ahead,
    /// The device refuses reads that are longer than the guest's.
    exact: bool,
    vectors: Vectors,
    lost: bool,
    broken: bool,
    msix: Option<bool>,
    /// The last status seen; for reports, never given to the guest.
    status: u8,
    /// A reset was accepted and no status written since.
    fresh_reset: bool,
    access: Option<Access>,
}

impl Window {
    /// The window of a device with `config_len` bytes of device configuration.
    pub fn new(device: DeviceType, config_len: u16) -> Self {
        Window {
            device,
            config_len,
            shadow: Shadow::NOTHING,
            ahead: Ahead::default(),
            exact: false,
            vectors: Vectors::UNUSED,
            lost: false,
            broken: false,
            msix: None,
            status: 0,
            fresh_reset: false,
            access: None,
        }
    }

    /// The device status last seen through the window; a report, not a register read.
    pub const fn status(&self) -> u8 {
        self.status
    }

    /// The queues in use: those that got an address, until the next reset.
    pub const fn queues(&self) -> Queues {
        self.vectors.live
    }

    /// Whether the device may interrupt: a queue is in use, or the driver has been ready since the
    /// last reset. Always false without [`emulate_intx`](Self::emulate_intx).
    pub fn driven(&self) -> bool {
        self.vectors.enabled && (self.vectors.ready || self.vectors.live != Queues::NONE)
    }

    /// Whether the device missed a write that its driver relies on; until the driver resets it.
    pub const fn broken(&self) -> bool {
        self.broken
    }

    /// Whether [`begin_settle`](Self::begin_settle) may have something to do.
    pub const fn settle_due(&self) -> bool {
        self.vectors.enabled && self.vectors.due
    }

    /// The connection to the helper is gone. An access under way is to be resumed with
    /// [`FailKind::Lost`].
    pub fn lost(&mut self) {
        self.lost = true;
        self.fresh_reset = false;
        self.ahead = Ahead::default();
    }

    /// The connection to the helper works (again); what was learnt before does not count.
    pub fn restored(&mut self) {
        self.lost = false;
        self.exact = false;
        self.shadow.forget();
        self.vectors.retry();
    }

    /// The device was reset from outside: system reset or function level reset.
    pub fn device_reset(&mut self) {
        self.shadow = Shadow::NOTHING;
        self.ahead = Ahead::default();
        self.forget_vectors();
        self.broken = false;
        self.status = 0;
        self.fresh_reset = false;
        self.access = None;
    }

    /// MSI-X Enable was switched; needed where it may go off and on between two accesses.
    pub fn msix_switched(&mut self) {
        self.shadow.forget_vectors();
    }

    /// The guest reads `size` bytes at `offset` of BAR0, or writes the low `size` bytes of `write`;
    /// `msix` is its MSI-X Enable bit.
    pub fn begin(&mut self, offset: u32, size: u8, write: Option<u64>, msix: bool) -> Step {
        let access = Access::new(size, write);
        self.vectors.fresh = None;
        let ahead = core::mem::take(&mut self.ahead);
        if self.msix.replace(msix).is_some_and(|was| was != msix) {
            self.shadow.forget_vectors();
        }
        if !matches!(size, 1 | 2 | 4) {
            return access.rejected(Rejected::Width);
        }
        let Some(pos) = offset.checked_sub(header_len(msix).into()) else {
            return match (row_at(offset, msix), access.write) {
                (None, _) => access.rejected(Rejected::InsideField),
                (Some(row), None) => self.register_read(access, row),
                (Some(row), Some(value)) => self.register_write(access, row, value),
            };
        };
        self.shadow.pristine &= write.is_none();
        if self.lost {
            return access.lost();
        }
        let held = ahead.take(pos, size).filter(|_| write.is_none());
        if let Some((bytes, left)) = held {
            self.ahead = left;
            return access.done(u64::from_le_bytes(bytes));
        }
        self.config(access, pos, 0)
    }

    /// Takes the outcome of the command that the last step asked for.
    pub fn resume(&mut self, outcome: Outcome) -> Step {
        let Some(mut access) = self.access.take() else {
            let mut nobody = Access::new(8, None);
            nobody.effects.failed = Some(FailKind::Mismatch);
            return nobody.done(u64::MAX);
        };
        let outcome = match outcome {
            _ if self.lost => Err(FailKind::Lost),
            Outcome::Failed(kind) => Err(kind),
            Outcome::Data(data) if access.reads => Ok(data),
            Outcome::Written if !access.reads => Ok([0; 8]),
            Outcome::Data(_) | Outcome::Written => Err(FailKind::Mismatch),
        };
        if outcome == Err(FailKind::Lost) {
            self.lost();
        }
        match (access.target, outcome) {
            (Target::Vector { job, phase }, _) => self.vector_resume(access, job, phase, outcome),
            (Target::Config(pos, done, asked), _) => {
                self.config_resume(access, (pos, done, asked), outcome)
            }
            (Target::Register { row, phase }, Ok(data)) => {
                self.register_resume(access, row, phase, data)
            }
            (Target::Register { row, phase }, Err(kind)) => {
                access.effects.failed.get_or_insert(kind);
                // Whether a write took effect is not known.
                self.fresh_reset = false;
                self.shadow.forget_queues();
                if phase == Phase::Select && access.write.is_none() {
                    // What the guest has selected before it reads is a write, too.
                    access.effects.broke = !self.broken;
                    self.broken = true;
                }
                self.missed(&mut access, row);
                access.done(u64::MAX)
            }
        }
    }

    fn register_read(&mut self, access: Access, row: &'static Row) -> Step {
        let known = match row.read {
            Read::Ones => return access.done(u64::MAX),
            _ if self.lost => return access.lost(),
            Read::Known => self.shadow.get(row.field.register),
            Read::Device | Read::Isr => None,
        };
        match (row.broken, known) {
            (Some(shown), _) if self.broken => access.done(shown.into()),
            (_, Some(value)) => access.done(value.into()),
            (_, None) => self.register_command(access, row),
        }
    }

    fn register_write(&mut self, mut access: Access, row: &'static Row, value: u64) -> Step {
        let value = value & ones(row.field.size.into());
        access.write = Some(value);
        match row.write {
            Write::Rejected => return access.rejected(Rejected::ReadOnly),
            Write::Notify => return access.done(0),
            Write::Select => {
                self.shadow.guest_select = u16::try_from(value).ok();
                access.effects.lost = self.lost;
                return access.done(0);
            }
            Write::Device(_) => {}
        }
        if self.lost {
            self.missed(&mut access, row);
            return access.lost();
        }
        if row.field.register == Register::QueueAddress && value == 0 {
            if self.shadow.pristine {
                self.shadow.guest_select = Some(0);
                return access.done(0);
            }
            access.target = Target::Register {
                row,
                phase: Phase::Reset,
            };
            return self.register(access, Register::DeviceStatus, Some(0));
        }
        if self.broken && row.broken.is_some() {
            return access.done(0);
        }
        self.shadow.pristine &= !row.matters(value);
        self.register_command(access, row)
    }

    /// The device did not get what the guest wrote.
    fn missed(&mut self, access: &mut Access, row: &Row) {
        if !self.broken && access.write.is_some_and(|value| row.matters(value)) {
            self.broken = true;
            access.effects.broke = true;
        }
    }

    /// Issues the command for a register, before that those for `queue_select` where it is needed.
    fn register_command(&mut self, mut access: Access, row: &'static Row) -> Step {
        let held = self.shadow.device_select;
        let (phase, write) = match self.shadow.guest_select {
            _ if !row.by_queue => (Phase::Act, access.write),
            None if access.write.is_some() => (Phase::Learn, None),
            Some(wanted) if held != Some(wanted) => (Phase::Select, Some(wanted.into())),
            _ => (Phase::Act, access.write),
        };
        access.target = Target::Register { row, phase };
        if phase == Phase::Act {
            return self.register(access, row.field.register, write);
        }
        // Whatever becomes of it, the old value no longer counts.
        self.shadow.device_select = None;
        self.register(access, Register::QueueSelect, write)
    }

    fn register(&mut self, access: Access, register: Register, write: Option<u64>) -> Step {
        self.command(access, Command::register(register, write))
    }

    fn command(&mut self, mut access: Access, command: Command) -> Step {
        access.reads = command.kind == CommandKind::Read;
        self.access = Some(access);
        Step::Command(command)
    }

    /// Goes on after a command that succeeded.
    fn register_resume(
        &mut self,
        mut access: Access,
        row: &'static Row,
        phase: Phase,
        data: [u8; 8],
    ) -> Step {
        let short = |[a, b, ..]: [u8; 8]| u16::from_le_bytes([a, b]);
        match phase {
            Phase::Learn => {
                self.shadow.learn_select(short(data));
                return self.register_command(access, row);
            }
            Phase::Select => {
                self.shadow.device_select = self.shadow.guest_select;
                return self.register_command(access, row);
            }
            Phase::Reset => {
                self.status_written(&mut access, 0);
                return access.done(0);
            }
            Phase::Act => {}
        }
        let register = row.field.register;
        let bytes = access.write.map_or(data, u64::to_le_bytes);
        let value = u64::from_le_bytes(bytes) & ones(row.field.size.into());
        let [low, ..] = bytes;
        let long = u32::try_from(value).unwrap_or(u32::MAX);
        match access.write {
            None => self.shadow.learn(register, long),
            Some(_) => self.shadow.wrote(register, long),
        }
        match (register, access.write) {
            (Register::QueueSelect, None) => self.shadow.learn_select(short(bytes)),
            (Register::DeviceStatus, None) => self.status_read(low),
            (Register::DeviceStatus, Some(_)) => {
                self.broken &= low != 0;
                self.status_written(&mut access, low);
            }
            (Register::QueueAddress, Some(_)) => {
                if let Some(queue) = self.shadow.guest_select {
                    self.vectors.address_written(queue);
                }
            }
            (Register::ConfigVector, _) => self.vectors.guest_mapped(CONFIG, short(bytes)),
            (Register::QueueVector, _) => {
                if let Some(queue) = self.shadow.guest_select.filter(|q| *q < TRACKED) {
                    self.vectors.guest_mapped(queue, short(bytes));
                }
            }
            _ => {}
        }
        access.done(value)
    }

    fn status_read(&mut self, status: u8) {
        self.status = status;
        let unfinished = self.fresh_reset && status != 0;
        if unfinished || status & DEVICE_NEEDS_RESET != 0 {
            self.shadow.forget_queues();
        }
    }

    /// The device has been reset, in whatever way: no source of interrupts has a vector.
    fn forget_vectors(&mut self) {
        self.vectors = Vectors {
            enabled: self.vectors.enabled,
            ..Vectors::UNUSED
        };
    }

    /// The device took this status.
    fn status_written(&mut self, access: &mut Access, new: u8) {
        access.effects.status = Some(StatusChange {
            old: self.status,
            new,
        });
        access.effects.reset = new == 0;
        self.status = new;
        self.fresh_reset = new == 0;
        if new == 0 {
            self.shadow.driver_reset();
            self.forget_vectors();
        } else {
            self.vectors.ready |= new & DRIVER_OK != 0;
        }
    }
}
