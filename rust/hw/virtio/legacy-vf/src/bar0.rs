// SPDX-License-Identifier: GPL-2.0-or-later

//! A guest access to BAR0: what it is, the window's commands for it, and what follows from it. Runs
//! without the big QEMU lock.

use legacy_vf_proto::ErrorCode;
use legacy_window::{
    decode, Command, CommandKind, Completion, Decoded, FailKind, Outcome, Rejected, StatusChange,
    Step,
};
use pci::with_bql;
use system::bindings::hwaddr;
use util::{log::Log, log_mask_ln};
use virtio_pci_spec::status::{DRIVER, DRIVER_OK};

use crate::{
    config_space,
    connection::{Connection, LinkError, Refusal},
    doorbell::Address,
    events, intx,
    link::{Io, Link, Moved},
    socket::Patience,
    state::{vfio, LegacyVf},
    vf::Kind,
};

/// The guest reads BAR0.
pub fn read<D: LegacyVf>(dev: &D, offset: hwaddr, size: u32) -> u64 {
    access(dev, offset, size, None)
}

/// The guest writes BAR0.
pub fn write<D: LegacyVf>(dev: &D, offset: hwaddr, value: u64, size: u32) {
    access(dev, offset, size, Some(value));
}

fn access<D: LegacyVf>(dev: &D, offset: hwaddr, size: u32, write: Option<u64>) -> u64 {
    let (Ok(offset), Ok(size)) = (u32::try_from(offset), u8::try_from(size)) else {
        return u64::MAX;
    };
    let Some(link) = dev.state().link.get().filter(|link| !link.is_gone()) else {
        return u64::MAX;
    };
    let access = Access {
        offset,
        size,
        write,
    };
    match (decode(offset, size, write), &link.intx) {
        (Decoded::Notify { queue }, _) => {
            notify(dev, link, queue);
            0
        }
        (Decoded::Isr, Some(intx)) if !link.guest().msix => {
            link.counters.accesses.add();
            let isr = intx::read_isr(dev, link, intx);
            events::trace_virtio_legacy_vf_read(&link.name, offset, size.into(), isr.into());
            isr.into()
        }
        _ => register(dev, link, access),
    }
}

/// Delivers a notification of the guest. Takes no lock that another one or a register access holds.
fn notify<D: LegacyVf>(dev: &D, link: &Link, queue: u16) {
    link.counters.notifies.add();
    let sent = match link.doorbell.address() {
        Address::Vf(bar, offset) => {
            events::trace_virtio_legacy_vf_notify(&link.name, queue.into(), 2);
            let lasting = D::KIND == Kind::Host;
            link.doorbell
                .write(vfio(dev), (bar, offset), queue, lasting)
        }
        Address::Helper => {
            events::trace_virtio_legacy_vf_notify(&link.name, queue.into(), 1);
            let patience = Patience::of_vcpu(&link.stop, link.deadline, false);
            link.doorbell.send(queue, patience)
        }
    };
    if let Err(e) = sent {
        link.counters.notify_failures.add();
        events::trace_virtio_legacy_vf_notify_failed(&link.name, queue.into());
        link.warn(format_args!(
            "notification of queue {queue} failed: {e}; see whether the VF, or the process that \
             emulates it, is alive and awake; the guest's buffers wait until it notifies again"
        ));
    }
}

/// An access as the guest made it.
#[derive(Clone, Copy, Debug)]
struct Access {
    /// Byte offset in BAR0.
    offset: u32,
    /// 1, 2 or 4.
    size: u8,
    /// The value written; `None` for a read.
    write: Option<u64>,
}

/// An access that the window decides on, with what follows from it.
fn register<D: LegacyVf>(dev: &D, link: &Link, access: Access) -> u64 {
    let (done, moved) = link.access(access);
    let doorbells =
        moved.doorbells && D::KIND == Kind::Host && vfio(dev).kernel_doorbells_allowed();
    let status = done.effects.status;
    let master = dev.options().bus_master_fixup && status.is_some_and(|change| starts(&change));
    if moved.vectors || doorbells || master {
        with_bql(|| {
            // Unplugged while this waited for the lock.
            if link.is_gone() {
                return;
            }
            intx::hand_over(dev, link);
            intx::forget_told(dev, link, done.effects.reset);
            if doorbells {
                dev.state().doorbells.follow(vfio(dev), dev.bar0(), link);
            }
            if master {
                config_space::enable_bus_master(dev, link);
            }
        });
    }
    if moved.vectors {
        let mut io = link.lock_io();
        let patience = &mut link.patience(&io);
        link.catch_up(&mut io, patience);
        link.write_vectors(&mut io, patience);
        drop(io);
    }
    done.value
}

/// Whether the driver says with this status that it will use the device. Then it must be able to do
/// DMA, whether it has enabled that or not: QEMU's own legacy device does not ask for it, and there
/// are drivers that do not do it.
const fn starts(change: &StatusChange) -> bool {
    change.new & !change.old & (DRIVER | DRIVER_OK) != 0
}

impl Link {
    /// Of an access of the guest that begins now.
    pub fn patience(&self, io: &Io) -> Patience<'_> {
        let behind = io.connection.as_ref().is_some_and(Connection::is_behind);
        Patience::of_vcpu(&self.stop, self.deadline, behind)
    }

    /// Carries out an access, waiting for the helper up to the deadline.
    fn access(&self, access: Access) -> (Completion, Moved) {
        self.counters.accesses.add();
        let mut io = self.lock_io();
        let patience = &mut self.patience(&io);
        self.catch_up(&mut io, patience);
        if self.vectors_due(&io) {
            self.write_vectors(&mut io, patience);
        }
        let msix = self.guest().msix;
        let mut refusal = None;
        let mut step = io
            .window
            .begin(access.offset, access.size, access.write, msix);
        let mut done = loop {
            match step {
                Step::Done(done) => break done,
                Step::Command(command) => {
                    let outcome = self.command(&mut io, command, patience, &mut refusal);
                    step = io.window.resume(outcome);
                }
            }
        };
        let followed = self
            .guest()
            .follow(io.epoch, &io.window, done.effects.reset);
        let moved = followed.unwrap_or_default();
        if followed.is_none() {
            // The function was reset meanwhile; what failed is of no interest to anybody.
            (done.effects.failed, done.effects.broke, refusal) = (None, false, None);
        }
        // A queue that has got its address may need a vector; if the vectors are about to change
        // hands, after that.
        if !moved.vectors && self.vectors_due(&io) {
            self.write_vectors(&mut io, patience);
        }
        drop(io);
        if done.effects.reset {
            self.doorbell.forget();
        }
        self.account(access, &done, refusal.as_ref());
        (done, moved)
    }

    /// Carries out a command of the window.
    pub fn command(
        &self,
        io: &mut Io,
        command: Command,
        patience: &mut Patience<'_>,
        refusal: &mut Option<Refusal>,
    ) -> Outcome {
        let data = match command.kind {
            CommandKind::Read => None,
            CommandKind::Write(data) => Some(u64::from_le_bytes(data)),
        };
        let Some(connection) = io.connection.as_mut() else {
            return Outcome::Failed(FailKind::Lost);
        };
        {
            let mut guest = self.guest();
            if guest.epoch != io.epoch {
                // The rest of an access that began before a reset must not reach the VF after it.
                return Outcome::Failed(FailKind::GivenUp);
            }
            guest.touched |= data.is_some();
        }
        events::trace_virtio_legacy_vf_command(
            &self.name,
            command.space as u32,
            command.offset.into(),
            command.len.into(),
            data.is_some(),
            data.unwrap_or(0),
        );
        self.counters.commands.add();
        let kind = match connection.command(&command, patience) {
            Ok(Ok(_)) if data.is_some() => return Outcome::Written,
            Ok(Ok(read)) => return Outcome::Data(read),
            Ok(Err(why)) => {
                events::trace_virtio_legacy_vf_command_failed(
                    &self.name,
                    why.code.0.into(),
                    why.admin_status.into(),
                    why.admin_qualifier.into(),
                );
                let timed_out = why.code == ErrorCode::TIMED_OUT;
                *refusal = Some(why);
                if timed_out {
                    FailKind::TimedOut
                } else {
                    FailKind::Refused
                }
            }
            Err(LinkError::GivenUp) => {
                self.counters.given_up.add();
                FailKind::GivenUp
            }
            Err(error) => {
                if !matches!(error, LinkError::Stopped) {
                    self.lose(io, &error);
                }
                FailKind::Lost
            }
        };
        self.counters.failed.add();
        Outcome::Failed(kind)
    }

    /// Counts what happened and tells whom it may concern.
    fn account(&self, access: Access, done: &Completion, refusal: Option<&Refusal>) {
        let (offset, size, write) = (access.offset, access.size, access.write);
        let width = u32::from(size);
        let (what, name) = (if write.is_some() { "write" } else { "read" }, &self.name);
        match write {
            None => events::trace_virtio_legacy_vf_read(name, offset, width, done.value),
            Some(value) => events::trace_virtio_legacy_vf_write(name, offset, width, value),
        };
        let effects = done.effects;
        if effects.lost || effects.failed == Some(FailKind::Lost) {
            match write {
                None => self.counters.lost_reads.add(),
                Some(_) => self.counters.lost_writes.add(),
            }
        }
        if let Some(why) = effects.rejected {
            self.counters.rejected.add();
            events::trace_virtio_legacy_vf_rejected(name, offset, width, write.is_some());
            // Bytes behind the configuration are there by design, so nobody's fault.
            if why != Rejected::BehindConfig {
                log_mask_ln!(
                    Log::GuestError,
                    "{}: {what} of {size} bytes at BAR0 offset {offset} ignored ({why:?})",
                    self.label,
                );
            }
        }
        if let Some(change) = effects.status {
            events::trace_virtio_legacy_vf_status(name, change.old.into(), change.new.into());
        }
        if effects.broke {
            self.counters.setup_failures.add();
        }
        let consequence = match (effects.broke, write) {
            (true, _) => {
                "; the VF has not got what the driver set up, so the device shows no queues until \
                 the driver resets it"
            }
            (false, Some(_)) => "; the guest goes on without it",
            (false, None) => "; the guest reads ones",
        };
        let why = match (refusal, effects.failed) {
            (Some(why), _) => why.to_string(),
            (None, Some(kind)) if effects.broke => format!("{kind:?}"),
            _ => return,
        };
        self.warn(format_args!(
            "{what} of {size} bytes at BAR0 offset {offset} failed: {why}{consequence}"
        ));
    }
}
