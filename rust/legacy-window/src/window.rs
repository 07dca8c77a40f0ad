// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The state machine: how accesses begin, go on and end.

mod config;
mod header;
mod vectors;

use virtio_pci_spec::bytes::le_value;
use virtio_pci_spec::legacy::{field_at, header_len, Field};
use virtio_pci_spec::DeviceType;

use crate::ahead::Ahead;
use crate::plan::piece;
use crate::saved::{RestoreError, SavedState};
use crate::shadow::Shadow;
use crate::step::{Command, Completion, Effects, FailKind, Outcome, Rejected, Step};
use crate::vectors::{Job, JobPhase, Vectors};

/// Counts over the life of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accesses of the guest.
    pub accesses: u64,
    /// Commands issued.
    pub commands: u64,
    /// Notifications issued.
    pub notifies: u64,
    /// Reads answered from memory.
    pub remembered: u64,
    /// Accesses that were, at least in part, the guest's fault.
    pub rejected: u64,
    /// Commands that failed.
    pub failed: u64,
    /// Accesses while the helper was lost.
    pub lost: u64,
}

/// What the command under way does for a header access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeaderPhase {
    /// Asks which queue is selected, since what the guest writes must be known by its queue.
    Learn,
    /// Selects the queue that the guest has selected.
    Select,
    /// What the guest wants.
    Act,
}

/// What an access is about.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The header field at its offset.
    Header { field: Field, phase: HeaderPhase },
    /// The device configuration: position of the piece in work, bytes done, bytes of the piece,
    /// bytes of its command.
    Config {
        pos: u32,
        done: u8,
        piece: u8,
        asked: u8,
    },
    /// A notification.
    Notify,
    /// A vector that the guest knows nothing of.
    Vector { job: Job, phase: JobPhase },
}

impl Target {
    /// The device configuration from `pos` on, after `done` bytes.
    const fn at(pos: u32, done: u8) -> Self {
        Target::Config {
            pos,
            done,
            piece: 0,
            asked: 0,
        }
    }
}

/// An access under way.
#[derive(Clone, Copy, Debug)]
struct Access {
    target: Target,
    size: u8,
    /// The value to write; `None` for reads.
    write: Option<u64>,
    /// What was read so far.
    read: [u8; 8],
    effects: Effects,
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
    msix: Option<bool>,
    /// The last status seen; for reports, never given to the guest.
    status: u8,
    /// A reset was accepted and no status written since.
    fresh_reset: bool,
    access: Option<Access>,
    counters: Counters,
}

/// All-ones of an access width.
const fn ones(size: u8) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (8 * size as u32)) - 1
    }
}

impl Window {
    /// The window of a device with `config_len` bytes of device configuration.
    pub const fn new(device: DeviceType, config_len: u16) -> Self {
        Window {
            device,
            config_len,
            shadow: Shadow::new(),
            ahead: Ahead::none(),
            exact: false,
            vectors: Vectors::new(false),
            lost: false,
            msix: None,
            status: 0,
            fresh_reset: false,
            access: None,
            counters: Counters {
                accesses: 0,
                commands: 0,
                notifies: 0,
                remembered: 0,
                rejected: 0,
                failed: 0,
                lost: 0,
            },
        }
    }

    /// Counts over the life of the window.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The device status last seen through the window; a report, not a register read.
    pub const fn last_status(&self) -> u8 {
        self.status
    }

    /// The queue that the guest has selected, if that is known.
    pub const fn selected_queue(&self) -> Option<u16> {
        self.shadow.guest_select
    }

    /// Whether accesses are answered without the helper.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The guest reads `size` bytes at `offset` of BAR0; `msix` is its MSI-X Enable bit.
    pub fn begin_read(&mut self, offset: u32, size: u8, msix: bool) -> Step {
        self.begin(offset, size, None, msix)
    }

    /// The guest writes the low `size` bytes of `value` at `offset` of BAR0.
    pub fn begin_write(&mut self, offset: u32, size: u8, value: u64, msix: bool) -> Step {
        self.begin(offset, size, Some(value & ones(size)), msix)
    }

    /// The connection to the helper is gone. An access under way is to be resumed with
    /// [`FailKind::Lost`].
    pub fn lost(&mut self) {
        self.lost = true;
        self.fresh_reset = false;
        self.ahead = Ahead::none();
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
        self.shadow = Shadow::new();
        self.ahead = Ahead::none();
        self.vectors.reset();
        self.status = 0;
        self.fresh_reset = false;
        self.access = None;
    }

    /// MSI-X Enable was switched; needed where it may go off and on between two accesses.
    pub fn msix_switched(&mut self) {
        self.shadow.forget_vectors();
    }

    /// The state that must travel with the device.
    pub const fn state(&self) -> SavedState {
        SavedState::new(
            self.device,
            self.config_len,
            self.shadow.guest_select,
            self.status,
        )
    }

    /// Takes over a saved state.
    ///
    /// # Errors
    /// [`RestoreError`] if it is not of such a device; the window is unchanged then.
    pub fn restore(&mut self, state: SavedState) -> Result<(), RestoreError> {
        let (select, status) = state.check(self.device, self.config_len)?;
        self.device_reset();
        self.shadow.guest_select = select;
        self.status = status;
        Ok(())
    }

    fn begin(&mut self, offset: u32, size: u8, write: Option<u64>, msix: bool) -> Step {
        self.counters.accesses = self.counters.accesses.wrapping_add(1);
        self.vectors.next_access();
        let ahead = core::mem::replace(&mut self.ahead, Ahead::none());
        if self.msix.replace(msix).is_some_and(|was| was != msix) {
            self.shadow.forget_vectors();
        }
        let mut access = Access {
            target: Target::Notify,
            size,
            write,
            read: [0; 8],
            effects: Effects::default(),
        };
        if !matches!(size, 1 | 2 | 4) {
            access.effects.rejected = Some(Rejected::Width);
            return self.done_with(&access, ones(size));
        }
        let header = u32::from(header_len(msix));
        if offset >= header {
            self.shadow.pristine &= write.is_none();
            let pos = offset - header;
            let held = ahead.take(pos, size).filter(|_| write.is_none());
            if let Some((bytes, left)) = held {
                self.ahead = left;
                self.counters.remembered = self.counters.remembered.wrapping_add(1);
                return self.done_with(&access, le_value(&bytes));
            }
            access.target = Target::at(pos, 0);
            return self.config(access);
        }
        let field = u8::try_from(offset)
            .ok()
            .and_then(|o| field_at(o, msix).filter(|f| f.offset == o));
        match field {
            None => {
                access.effects.rejected = Some(Rejected::InsideField);
                self.done_with(&access, ones(size))
            }
            Some(field) => {
                access.target = Target::Header {
                    field,
                    phase: HeaderPhase::Act,
                };
                match write {
                    None => self.header_read(access, field),
                    Some(value) => self.header_write(access, field, value),
                }
            }
        }
    }

    /// Takes the outcome of the command or notification that the last step asked for.
    pub fn resume(&mut self, outcome: Outcome) -> Step {
        let Some(access) = self.access.take() else {
            return Step::Done(Completion {
                value: u64::MAX,
                effects: Effects {
                    failed: Some(FailKind::Mismatch),
                    ..Effects::default()
                },
            });
        };
        if let Target::Vector { job, phase } = access.target {
            return self.vector_resume(access, job, phase, outcome);
        }
        if let Outcome::Failed(kind) = outcome {
            return self.command_failed(access, kind);
        }
        match (access.target, access.write, outcome) {
            (Target::Notify, _, Outcome::Written) => self.done(&access, 0),
            (Target::Header { field, phase }, write, Outcome::Written)
                if phase == HeaderPhase::Select || write.is_some() && phase == HeaderPhase::Act =>
            {
                self.header_written(access, field, phase)
            }
            (Target::Header { field, phase }, write, Outcome::Data(data))
                if phase == HeaderPhase::Learn || write.is_none() && phase == HeaderPhase::Act =>
            {
                self.header_data(access, field, phase, data)
            }
            (
                Target::Config {
                    pos, done, piece, ..
                },
                Some(_),
                Outcome::Written,
            ) => self.config(access.config_next(pos, done, piece)),
            (
                Target::Config {
                    pos,
                    done,
                    piece,
                    asked,
                },
                None,
                Outcome::Data(data),
            ) => {
                let mut access = access.config_next(pos, done, piece);
                access.put(done, &data, piece);
                self.ahead = Ahead::new(pos, &data, piece, asked);
                self.config(access)
            }
            _ => self.command_failed(access, FailKind::Mismatch),
        }
    }

    fn command(&mut self, access: Access, command: Command) -> Step {
        self.counters.commands = self.counters.commands.wrapping_add(1);
        self.access = Some(access);
        Step::Command(command)
    }

    fn done(&mut self, access: &Access, value: u64) -> Step {
        if access.effects.rejected.is_some() {
            self.counters.rejected = self.counters.rejected.wrapping_add(1);
        }
        if access.effects.lost {
            self.counters.lost = self.counters.lost.wrapping_add(1);
        }
        Step::Done(Completion {
            value,
            effects: access.effects,
        })
    }

    /// Ends the access; `value` counts for reads only.
    fn done_with(&mut self, access: &Access, value: u64) -> Step {
        let value = if access.write.is_some() { 0 } else { value };
        self.done(access, value)
    }

    fn done_lost(&mut self, mut access: Access) -> Step {
        access.effects.lost = true;
        self.done_with(&access, ones(access.size))
    }

    fn command_failed(&mut self, mut access: Access, kind: FailKind) -> Step {
        self.counters.failed = self.counters.failed.wrapping_add(1);
        if let Target::Config {
            pos, done, asked, ..
        } = access.target
        {
            let want = access.size.saturating_sub(done);
            let element = piece(self.device, self.config_len, pos, want).len;
            if kind == FailKind::Refused {
                // The guest did not ask for the neighbours; it gets its own bytes without them.
                // Where those are refused, too, it was not the length.
                self.exact = asked > element;
                if self.exact {
                    access.target = Target::at(pos, done);
                    return self.config(access);
                }
            }
        }
        access.effects.failed.get_or_insert(kind);
        if kind == FailKind::Lost {
            self.lost();
        }
        match access.target {
            Target::Notify | Target::Vector { .. } => self.done(&access, 0),
            Target::Header { .. } => {
                // Whether a write took effect is not known.
                self.fresh_reset = false;
                self.shadow.forget_queues();
                self.done_with(&access, ones(access.size))
            }
            Target::Config {
                pos, done, piece, ..
            } => {
                access.put(done, &[0xff; 8], piece);
                access = access.config_next(pos, done, piece);
                if kind == FailKind::Refused {
                    return self.config(access);
                }
                // No time, or nobody, is left for the rest.
                if let Target::Config { done, .. } = access.target {
                    let rest = access.size.saturating_sub(done);
                    access.put(done, &[0xff; 8], rest);
                }
                self.done_with(&access, le_value(&access.read))
            }
        }
    }
}
