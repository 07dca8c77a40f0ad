// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! The legacy register window (I/O BAR0) as a state machine: guest accesses in, commands for the
//! VF out. No I/O, no clocks, no allocation, no QEMU types.
//!
//! An access starts with [`Window::begin`]. While the answer is [`Step::Command`], the caller carries
//! it out and reports with [`Window::resume`]; [`Step::Done`] ends the access. One access is under
//! way at a time: the caller holds a lock around it, which also keeps the guest's program order.
//!
//! # Decoding
//!
//! What a register does when it is read or written stands in one table. [`decode`] tells by it,
//! without a window and so without the lock, what need not pass through the window: notifications,
//! which have no command, and reads of the ISR, which the caller may keep itself. A notification
//! given to [`Window::begin`] has no effect; a read of the ISR is a command there.
//!
//! The header (20 bytes, 24 while MSI-X is enabled) behaves as QEMU's own legacy device does: an
//! access acts on the field that starts at its offset, whatever its width; bytes beyond the field
//! read as zero and are not written; a narrow write stores the value zero-extended. An offset
//! inside a field reads as ones and ignores writes. So the neighbours of a field are never
//! touched: a wide kick does not write the status, and no read but that of offset 19 clears the
//! ISR. Every header command therefore carries exactly one whole field.
//!
//! The device configuration takes any width at any offset. An access is split at the borders of
//! elements, ascending; a part of a scalar stays one command, arrays are written byte by byte. Bytes
//! behind the configuration read as zero and ignore writes.
//!
//! Legacy drivers read the configuration one byte at a time. A read command takes the rest of the
//! field along, as far as an aligned access of 2 or 4 bytes reaches, and the reads that follow in
//! order, with no other access of the window between, are answered from it, each byte once. Apart from that
//! nothing of the device configuration is remembered: legacy drivers re-read it until two reads
//! agree, and each pass asks the device. A device that refuses the longer read is asked for exactly
//! the guest's bytes from then on.
//!
//! # What is remembered
//!
//! Writes always reach the device, except that of `queue_select`, which the window holds back until
//! a command depends on it; a write to the selected queue of a guest that has selected none asks
//! first which one that is. Reads are answered without a command only where the value cannot have
//! changed since it was learnt:
//!
//! | register | learnt from | forgotten at |
//! |---|---|---|
//! | device features | a read | device reset, loss of the helper |
//! | `queue_select` | the guest's write or a read | device reset, driver reset |
//! | queue size | a read | any reset, loss |
//! | queue address | a read; 0 for every queue after a driver reset | a write (the device may refuse it, so the next read is real), any reset, loss |
//! | vectors | a read; `NO_VECTOR` after a driver reset or an accepted write of it | any other write (the mapping may fail, so the next read is real), a change of MSI-X Enable, any reset, loss |
//!
//! "Driver reset" is 0 written to the device status and accepted. If the device still shows another
//! status right afterwards, what was concluded from the reset is forgotten again.
//! `DEVICE_NEEDS_RESET`, a deadline that passed and a refused command make the window forget as if
//! everything could have changed. Status, ISR, driver features and the device configuration are
//! never remembered.
//!
//! # Queue address 0
//!
//! A write of 0 to a queue address resets the whole device, as it does with QEMU's own legacy
//! device: the VF gets a write of 0 to its status. Drivers write it for each queue after their
//! reset; where nothing was written since that the reset would undo, the VF gets nothing.
//!
//! These conclusions hold for a guest that does not use the modern interface of the same function
//! without a reset in between, which the specification does not foresee; every legacy driver
//! starts with a reset.
//!
//! # Writes that the device did not get
//!
//! A legacy driver does not look whether a write took effect. If the device never saw its features,
//! a queue's address or its DRIVER_OK, the driver waits for ever for a queue that does not work.
//! So a write that was refused, whose outcome is not known, or that was dropped because the helper
//! is lost makes the device *broken* ([`Window::broken`], [`Effects::broke`]): one of the driver
//! features, of a queue address or a status other than 0, or of a vector other than `NO_VECTOR`,
//! be it itself or the selection of its queue that failed. Until the driver has reset the device by
//! a status of 0, or it was reset from outside,
//!
//! | register | shows | a write |
//! |---|---|---|
//! | queue size | 0: no such queue | |
//! | queue address | 0 | of 0 resets the device, any other is dropped |
//! | vectors | `NO_VECTOR` | is dropped |
//!
//! and a driver that sets up queues finds none and gives up. The driver of blk may not look again
//! after its only queue; the configuration shows it a `capacity` of 0 and a `blk_size` of 1, which
//! is less than a sector. All else goes on as usual. A queue
//! address of 0 resets the device but does not end this: drivers write it while they clean up after
//! an attempt that failed.
//!
//! # Without the helper
//!
//! After [`Window::lost`] reads give all-ones and writes are dropped, without a command.
//! Notifications go on, since they do not need the helper, and `queue_select` still follows the
//! guest, since a later write of a queue address must not go to the wrong queue. What was dropped
//! may have made the device broken, which shows when the helper is back.
//!
//! # Interrupts without MSI-X
//!
//! A VF has no INTx. While the guest's MSI-X is off, the caller may take the VF's messages itself
//! and turn them into INTx: after [`Window::emulate_intx`], [`Window::serve_vectors`] says whose
//! vectors the VF is to have, and [`Window::begin_settle`] gives the commands that write those that
//! are not so yet. It is asked after each access of the guest, since a queue needs its vector when
//! it gets its address. The window knows which queues are in use and what the guest mapped while it
//! had MSI-X on, and gives that back. A vector that the VF refuses here leaves its source without
//! INTx; where that is a queue and the driver is not ready yet, the caller makes the device broken
//! ([`Window::gives_up`]). A queue that turns out not to exist is no longer in use.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod ahead;
mod plan;
mod queues;
mod registers;
mod step;
mod vectors;
mod window;

pub use queues::Queues;
pub use registers::{decode, Decoded};
pub use step::{
    Command, CommandKind, Completion, Effects, FailKind, Outcome, Rejected, Space, StatusChange,
    Step,
};
pub use vectors::{OwnVectors, Settled, Source};
pub use window::Window;
