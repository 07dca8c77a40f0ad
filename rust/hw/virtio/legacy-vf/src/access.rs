// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest access to BAR0: the window says what is needed, the connection does it.

use std::{sync::atomic::Ordering, time::Instant};

use legacy_vf_proto::{ErrorCode, Printable, Reply, Request, Space};
use legacy_window::{
    Command, CommandKind, Completion, FailKind, Outcome, Rejected, Space as WindowSpace, Step,
    Window,
};
use pci::report;
use util::{log::Log, log_mask_ln};
use vfio::VfioPciBase;
use virtio_pci_spec::{
    legacy::{field_of, Register},
    status::DRIVER_OK,
};

use crate::{
    events,
    handshake::{LinkError, Refusal},
    link::{Inner, Link},
};

/// An access as the guest made it.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Byte offset in BAR0.
    pub offset: u32,
    /// 1, 2 or 4.
    pub size: u8,
    /// The value written; `None` for a read.
    pub write: Option<u64>,
    /// Whether the guest has MSI-X enabled.
    pub msix: bool,
}

impl Access {
    /// Whether the guest reads the ISR.
    pub fn reads_isr(&self) -> bool {
        let at = u32::from(field_of(Register::IsrStatus).offset);
        self.write.is_none() && self.offset == at
    }

    /// The queue, if this is a notification: a write of any width at the register, as in QEMU's
    /// own legacy device.
    pub fn notification(&self) -> Option<u16> {
        let field = field_of(Register::QueueNotify);
        if self.offset != u32::from(field.offset) {
            return None;
        }
        let [a, b, ..] = self.write?.to_le_bytes();
        Some(if self.size == 1 {
            u16::from(a)
        } else {
            u16::from_le_bytes([a, b])
        })
    }
}

impl Access {
    /// The value, if this writes a queue's address.
    fn queue_address(&self) -> Option<u64> {
        let field = field_of(Register::QueueAddress);
        self.write
            .filter(|_| self.offset == u32::from(field.offset))
    }

    /// Whether it may change which doorbells the guest's driver rings.
    pub fn changes_queues(&self, done: &Completion) -> bool {
        done.effects.status.is_some() || self.queue_address().is_some()
    }
}

impl Link {
    /// Carries out an access, waiting for the helper up to the deadline. Not under the big QEMU
    /// lock, unless the caller has it anyway.
    pub fn access(&self, device: &VfioPciBase, access: Access) -> Completion {
        self.stats.accesses.add();
        let mut inner = self.lock();
        self.catch_up(&mut inner);
        if self.msix_switched.swap(false, Ordering::AcqRel) {
            inner.window.msix_switched();
        }
        let deadline = Instant::now() + self.deadline;
        self.settle_locked(&mut inner, deadline);
        let mut refusal = None;
        let Access {
            offset, size, msix, ..
        } = access;
        let mut step = match access.write {
            None => inner.window.begin_read(offset, size, msix),
            Some(value) => inner.window.begin_write(offset, size, value, msix),
        };
        let done = loop {
            let outcome = match step {
                Step::Done(done) => break done,
                Step::Notify { queue } => {
                    self.notify(device, queue);
                    Outcome::Written
                }
                Step::Command(command) => self.command(&mut inner, command, deadline, &mut refusal),
            };
            step = inner.window.resume(outcome);
        };
        // A queue that has got its address may need a vector.
        self.settle_locked(&mut inner, deadline);
        self.follow_driver(&inner.window, access, &done);
        drop(inner);
        self.account(access, &done, refusal.as_ref());
        done
    }

    /// Notes which queues the guest's driver uses, and whether it runs.
    fn follow_driver(&self, window: &Window, access: Access, done: &Completion) {
        let effects = done.effects;
        if let Some(change) = effects.status {
            if change.new == 0 {
                self.forget_driver();
            }
            let runs = change.new & DRIVER_OK != 0;
            self.driver_ok.store(runs, Ordering::Release);
        }
        if let (Some(value), Some(queue)) = (access.queue_address(), window.selected_queue()) {
            if effects.failed.is_none() && effects.rejected.is_none() && !effects.lost {
                if value == 0 {
                    self.in_use.remove(queue);
                } else {
                    self.in_use.add(queue);
                }
            }
        }
    }

    /// Carries out a command of the window.
    pub fn command(
        &self,
        inner: &mut Inner,
        command: Command,
        deadline: Instant,
        refusal: &mut Option<Refusal>,
    ) -> Outcome {
        let Some(connection) = inner.connection.as_mut() else {
            return Outcome::Failed(FailKind::Lost);
        };
        let space = match command.space {
            WindowSpace::Common => Space::Common,
            WindowSpace::Device => Space::Device,
        };
        let Command { offset, len, .. } = command;
        let (request, data) = match command.kind {
            CommandKind::Read => (Request::Read { space, offset, len }, 0),
            CommandKind::Write(data) => {
                self.touched.store(true, Ordering::Relaxed);
                let request = Request::Write {
                    space,
                    offset,
                    len,
                    data,
                };
                (request, u64::from_le_bytes(data))
            }
        };
        let is_write = matches!(request, Request::Write { .. });
        events::trace_virtio_legacy_vf_command(
            &self.name,
            space.to_u8().into(),
            offset.into(),
            len.into(),
            is_write,
            data,
        );
        self.stats.commands.add();
        let result = connection.request(
            &request,
            &self.stop,
            deadline,
            &|e| self.event(e),
            |reply| match reply {
                Reply::Read { data: bytes } => Ok(Outcome::Data(bytes)),
                Reply::Write => Ok(Outcome::Written),
                Reply::Error(e) => Err(Refusal {
                    code: e.code,
                    admin_status: e.admin_status,
                    admin_qualifier: e.admin_qualifier,
                    text: Printable(e.text).to_string(),
                }),
                // The client state machine lets no other reply pass.
                _ => Ok(Outcome::Failed(FailKind::Mismatch)),
            },
        );
        let outcome = match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => {
                events::trace_virtio_legacy_vf_command_failed(
                    &self.name,
                    why.code.0.into(),
                    why.admin_status.into(),
                    why.admin_qualifier.into(),
                );
                let kind = if why.code == ErrorCode::TIMED_OUT {
                    FailKind::TimedOut
                } else {
                    FailKind::Refused
                };
                *refusal = Some(why);
                Outcome::Failed(kind)
            }
            Err(error) => {
                if !matches!(error, LinkError::Stopped) {
                    self.lose(inner, &error);
                }
                Outcome::Failed(FailKind::Lost)
            }
        };
        if matches!(outcome, Outcome::Failed(_)) {
            self.stats.failed.add();
        }
        outcome
    }

    /// Counts what happened and tells whom it may concern.
    fn account(&self, access: Access, done: &Completion, refusal: Option<&Refusal>) {
        let Access {
            offset,
            size,
            write,
            ..
        } = access;
        let width = u32::from(size);
        match write {
            None => {
                events::trace_virtio_legacy_vf_read(&self.name, offset, width, done.value);
            }
            Some(value) => {
                events::trace_virtio_legacy_vf_write(&self.name, offset, width, value);
            }
        }
        let effects = done.effects;
        if effects.lost || effects.failed == Some(FailKind::Lost) {
            match write {
                None => self.stats.lost_reads.add(),
                Some(_) => self.stats.lost_writes.add(),
            }
        }
        if let Some(why) = effects.rejected {
            self.stats.rejected.add();
            events::trace_virtio_legacy_vf_rejected(&self.name, offset, width, write.is_some());
            // Bytes behind the configuration are there by design, so nobody's fault.
            if why != Rejected::BehindConfig {
                log_mask_ln!(
                    Log::GuestError,
                    "{}: {} of {size} bytes at BAR0 offset {offset} ignored ({why:?})",
                    self.label,
                    if write.is_some() { "write" } else { "read" }
                );
            }
        }
        if let Some(change) = effects.status {
            events::trace_virtio_legacy_vf_status(&self.name, change.old.into(), change.new.into());
        }
        if let Some(why) = refusal {
            self.log.report(report::warn_report, || {
                let what = if write.is_some() { "write" } else { "read" };
                let device = if why.code == ErrorCode::DEVICE {
                    format!(
                        " (status {}, qualifier {})",
                        why.admin_status, why.admin_qualifier
                    )
                } else {
                    String::new()
                };
                format!(
                    "{}: {what} of {size} bytes at BAR0 offset {offset} failed: {}{device}: {}; \
                     the guest {}",
                    self.label,
                    why.code,
                    why.text,
                    if write.is_some() {
                        "goes on without it"
                    } else {
                        "reads ones"
                    }
                )
            });
        }
    }
}
