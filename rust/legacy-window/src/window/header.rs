// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! Accesses to the header.

use virtio_pci_spec::bytes::{le_bytes, le_value};
use virtio_pci_spec::legacy::{field_of, AccessKind, Field, Register};
use virtio_pci_spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK, NO_VECTOR};

use super::{ones, Access, HeaderPhase, Target, Window};
use crate::step::{Command, CommandKind, Rejected, Space, StatusChange, Step};
use crate::vectors::Source;

impl Window {
    /// A header read answered from what is known, if it is.
    pub(super) fn remembered(&self, register: Register) -> Option<u64> {
        match register {
            Register::DeviceFeatures => self.shadow.features.map(u64::from),
            Register::QueueSelect => self.shadow.guest_select.map(u64::from),
            Register::QueueSize => self.shadow.size().map(u64::from),
            Register::QueueAddress => self.shadow.address().map(u64::from),
            Register::ConfigVector => self.shadow.config_vector().map(u64::from),
            Register::QueueVector => self.shadow.queue_vector().map(u64::from),
            Register::DriverFeatures
            | Register::QueueNotify
            | Register::DeviceStatus
            | Register::IsrStatus => None,
        }
    }

    pub(super) fn header_read(&mut self, access: Access, field: Field) -> Step {
        if field.register == Register::QueueNotify {
            // Answered here as QEMU's own device does; it is not an error.
            return self.done_with(&access, ones(access.size));
        }
        if self.lost {
            return self.done_lost(access);
        }
        if let Some(value) = self.remembered(field.register) {
            self.counters.remembered = self.counters.remembered.wrapping_add(1);
            return self.done_with(&access, value & ones(access.size));
        }
        self.header_command(access, field)
    }

    pub(super) fn header_write(&mut self, mut access: Access, field: Field, value: u64) -> Step {
        match field.register {
            Register::QueueNotify => {
                access.target = Target::Notify;
                self.counters.notifies = self.counters.notifies.wrapping_add(1);
                self.access = Some(access);
                let [a, b, ..] = value.to_le_bytes();
                return Step::Notify {
                    queue: u16::from_le_bytes([a, b]),
                };
            }
            Register::QueueSelect => {
                let [a, b, ..] = value.to_le_bytes();
                self.shadow.guest_select = Some(u16::from_le_bytes([a, b]));
                access.effects.lost = self.lost;
                return self.done(&access, 0);
            }
            _ if field.access == AccessKind::ReadOnly => {
                access.effects.rejected = Some(Rejected::ReadOnly);
                return self.done(&access, 0);
            }
            _ => {}
        }
        if self.lost {
            return self.done_lost(access);
        }
        if field.register == Register::QueueAddress && value == 0 {
            if self.shadow.pristine {
                self.shadow.guest_select = Some(0);
                return self.done(&access, 0);
            }
            return self.header_command(access, field_of(Register::DeviceStatus));
        }
        let [a, b, ..] = value.to_le_bytes();
        let vector = matches!(
            field.register,
            Register::ConfigVector | Register::QueueVector
        );
        if !(vector && u16::from_le_bytes([a, b]) == NO_VECTOR) {
            self.shadow.pristine = false;
        }
        self.header_command(access, field)
    }

    /// Issues the command for a header field, after that for `queue_select` where it is needed.
    pub(super) fn header_command(&mut self, mut access: Access, field: Field) -> Step {
        let needs_select = matches!(
            field.register,
            Register::QueueAddress | Register::QueueSize | Register::QueueVector
        );
        let by_queue = self.vectors.enabled && access.write.is_some();
        let select = field_of(Register::QueueSelect);
        let first = match self.shadow.guest_select {
            _ if !needs_select => None,
            None => by_queue.then_some((HeaderPhase::Learn, CommandKind::Read)),
            held if held == self.shadow.device_select => None,
            Some(wanted) => {
                let data = le_bytes(u64::from(wanted), select.size.into());
                Some((HeaderPhase::Select, CommandKind::Write(data)))
            }
        };
        if let Some((phase, kind)) = first {
            access.target = Target::Header { field, phase };
            // Whatever becomes of it, the old value no longer counts.
            self.shadow.device_select = None;
            return self.command(
                access,
                Command {
                    space: Space::Common,
                    offset: select.offset,
                    len: select.size,
                    kind,
                },
            );
        }
        access.target = Target::Header {
            field,
            phase: HeaderPhase::Act,
        };
        let kind = match access.write {
            None => CommandKind::Read,
            Some(value) => CommandKind::Write(le_bytes(value, field.size.into())),
        };
        self.command(
            access,
            Command {
                space: Space::Common,
                offset: field.offset,
                len: field.size,
                kind,
            },
        )
    }

    pub(super) fn header_data(
        &mut self,
        access: Access,
        field: Field,
        phase: HeaderPhase,
        data: [u8; 8],
    ) -> Step {
        if phase == HeaderPhase::Learn {
            let [a, b, ..] = data;
            self.shadow.guest_select = Some(u16::from_le_bytes([a, b]));
            self.shadow.device_select = self.shadow.guest_select;
            return self.header_command(access, field);
        }
        let value = le_value(&le_bytes(u64::from_le_bytes(data), field.size.into()));
        let [a, b, c, d, ..] = value.to_le_bytes();
        let (short, long) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([a, b, c, d]));
        match field.register {
            Register::DeviceFeatures => self.shadow.features = Some(long),
            Register::QueueAddress => self.shadow.learn_address(long),
            Register::QueueSize => self.shadow.learn_size(short),
            Register::QueueSelect => {
                self.shadow.guest_select = Some(short);
                self.shadow.device_select = Some(short);
            }
            Register::ConfigVector => {
                self.shadow.learn_config_vector(short);
                self.vectors.guest_mapped(Source::Config, short);
            }
            Register::QueueVector => {
                self.shadow.learn_queue_vector(short);
                self.guest_mapped_queue(short);
            }
            Register::DeviceStatus => self.status_read(a),
            Register::DriverFeatures | Register::QueueNotify | Register::IsrStatus => {}
        }
        self.done_with(&access, value & ones(access.size))
    }

    fn guest_mapped_queue(&mut self, vector: u16) {
        if let Some(queue) = self.shadow.guest_select {
            self.vectors.guest_mapped(Source::Queue(queue), vector);
        }
    }

    pub(super) fn status_read(&mut self, status: u8) {
        self.status = status;
        let unfinished = self.fresh_reset && status != 0;
        if unfinished || status & DEVICE_NEEDS_RESET != 0 {
            self.shadow.forget_queues();
        }
    }

    pub(super) fn header_written(
        &mut self,
        mut access: Access,
        field: Field,
        phase: HeaderPhase,
    ) -> Step {
        if phase == HeaderPhase::Select {
            self.shadow.device_select = self.shadow.guest_select;
            return self.header_command(access, field);
        }
        let value = access.write.unwrap_or(0);
        let [a, b, ..] = value.to_le_bytes();
        let short = u16::from_le_bytes([a, b]);
        match field.register {
            Register::DeviceStatus => {
                access.effects.status = Some(StatusChange {
                    old: self.status,
                    new: a,
                });
                self.status = a;
                self.fresh_reset = a == 0;
                if a == 0 {
                    access.effects.reset = true;
                    self.shadow.driver_reset();
                    self.vectors.reset();
                } else {
                    self.vectors.status_written(a & DRIVER_OK != 0);
                }
            }
            Register::QueueAddress => {
                if let Some(queue) = self.shadow.guest_select {
                    self.vectors.address_written(queue);
                }
                self.shadow.wrote_address();
            }
            Register::ConfigVector => {
                self.shadow.wrote_config_vector(Some(short));
                self.vectors.guest_mapped(Source::Config, short);
            }
            Register::QueueVector => {
                self.shadow.wrote_queue_vector(Some(short));
                self.guest_mapped_queue(short);
            }
            Register::DeviceFeatures
            | Register::DriverFeatures
            | Register::QueueSize
            | Register::QueueSelect
            | Register::QueueNotify
            | Register::IsrStatus => {}
        }
        self.done(&access, 0)
    }
}
